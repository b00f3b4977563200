"""How results show themselves, and what they say first where the host has not learnt the task."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from finished_runs import finish
from made_results import arm, context, made

from saccade import Recipe, UserError
from saccade.study.advice import advice_if_not_learnt
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.study.report.page import render_page
from saccade.study.report.table import to_latex, to_markdown
from saccade.study.run_notes import StudyNote

LEARNT = {"none": [70.0, 65.0, 75.0], "se": [82.0, 77.1, 86.9], "das": [70.1, 65.2, 74.8]}
ALARM = (
    "none scores 70.00 %, the trivial answer (the most frequent class) 68.00 %: the host has not learnt the task, so"
)
TRIVIAL = ("the most frequent class", 68.0)


def _unlearnt(**more):
    return made(LEARNT, trivial=TRIVIAL, **more)


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else f" {data}"


class TestShown:
    def test_verdicts_by_name(self):
        found = made(LEARNT)
        assert found.verdicts["se"].verdict == "helps"
        assert str(found.verdicts["se"]) == found.verdicts["se"].sentence()
        assert list(found.verdicts) == ["se", "das"]
        assert made({"none": [None], "se": [70.0]}).verdicts == {}

    def test_as_text(self):
        found = made(LEARNT)
        assert repr(found) == "<StudyResults s: se helps, das equal>"
        assert str(found).splitlines() == [row.sentence() for row in found.verdicts.values()]
        assert found.table() == to_markdown(found)
        assert repr(made({"none": [None], "se": [70.0]})) == "<StudyResults s: no verdict yet>"

    def test_in_a_notebook(self):
        name = "<b>&|"
        found = made(LEARNT | {name: [70.0] * 3}, arms=[arm(n) for n in LEARNT] + [replace(arm("ge"), name=name)])
        found = replace(found, notes=(StudyNote("x", "Beware of <i>."),))
        text = found._repr_html_()
        assert name not in text
        assert "<i>" not in text
        assert "&lt;b&gt;&amp;|" in text
        verdicts = [row.verdict for row in found.verdicts.values()]
        assert re.findall(r'class="badge ([^"]+)"', text) == verdicts
        assert verdicts[0] == "helps"
        assert "http" not in text
        said = _Tags(text).text
        assert "top-1, % against none, 3 seeds" in said
        assert "Beware of <i>." in said
        assert "82.00 ± 4.90" in said
        assert "alarm" not in re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)

    def test_the_report_goes_where_it_is_told(self, tmp_path):
        plan = Study(Recipe(), arms(["se"]), (0, 1), tmp_path / "s")
        plan.write()
        with pytest.raises(UserError, match="every run is missing or failed"):
            collect(plan.folder).report()
        base = Recipe().with_overrides({"data.source": str(tmp_path / "gone")})  # without images there are no pictures
        plan = Study(base, arms(["se"]), (0, 1), tmp_path / "s")
        plan.write()
        for run in plan.runs():
            finish(run, 90.0 + run.seed)
        found = collect(plan.folder)
        assert found.report() == plan.folder / "report.html"
        assert found.report(str(tmp_path / "mine.html")) == tmp_path / "mine.html"
        assert (tmp_path / "mine.html").read_bytes() == (plan.folder / "report.html").read_bytes()
        with pytest.raises(UserError, match="cannot write the report into"):
            found.report(tmp_path / "gone" / "mine.html")


class TestUnlearnt:
    def test_it_is_the_first_sentence_everywhere(self):
        found = _unlearnt()
        assert found.alarm.startswith(ALARM)
        assert found.alarm.endswith("Try more epochs.")
        assert str(found).startswith(ALARM)
        assert to_markdown(found).startswith(f"**{ALARM}")
        assert to_latex(found).partition(r"\caption{")[2].startswith(ALARM.replace("%", r"\%"))
        shown = re.sub(r"\s+", " ", _Tags(found._repr_html_()).text).strip()
        assert shown.replace("\u202f", " ").startswith(ALARM)
        html = render_page(context(found))
        body = re.sub(r"<[^>]*>", " ", html[html.index("<body>") :])
        assert re.sub(r"\s+", " ", body).replace("\u202f", " ").strip().startswith(ALARM)
        assert found.to_json()["alarm"] == found.alarm

    def test_no_verdict_is_given(self):
        found = _unlearnt()
        assert [row.verdict_text for row in found.verdicts.values()] == ["not judged"] * 2
        assert "| not judged |" in to_markdown(found)
        html = render_page(context(found))
        assert 'class="badge' not in html
        assert '<span class="word unjudged">not judged</span>' in html
        assert 'class="badge' not in found._repr_html_()
        assert found.to_json()["analysis"]["differences"][0]["verdict"] is None
        assert repr(found) == "<StudyResults s: se not judged, das not judged>"

    def test_a_host_that_has_learnt_is_judged(self):
        found = made(LEARNT, trivial=("the most frequent class", 33.3))
        assert found.alarm is None
        assert 'class="badge helps"' in render_page(context(found))
        assert 'role="alert"' not in render_page(context(found))
        assert "has not learnt" not in to_markdown(found) + to_latex(found) + str(found) + found._repr_html_()


def _advised(folder, losses, **settings):
    base = Recipe().with_overrides({key.replace("__", "."): value for key, value in settings.items()})
    plan = Study(base, arms(["se"]), (0, 1), folder)
    plan.write()
    run = plan.runs()[0]
    run.folder.mkdir(parents=True)
    lines = [
        {"epoch": n, "losses": {} if loss is None else {"cross-entropy": loss}, "scores": {"top-1": 50.0}, "gates": {}}
        for n, loss in enumerate(losses)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return advice_if_not_learnt(plan)


class TestAdvice:
    def test_a_loss_that_hardly_falls_points_at_the_rate(self, tmp_path):
        said = _advised(tmp_path / "s", [None, 0.7, 0.69], training__lr=0.05, training__epochs=2)
        assert said == (
            "The training loss of its first run hardly fell, from 0.7 to 0.69. Try, one at a time: "
            "(1) --set training.lr=0.005 or 0.15 (it is 0.05); (2) --set training.epochs=6 (it is 2). Check that "
            "labels match images: saccade data digits --show sheet.png"
        )

    def test_a_pretrained_host_keeps_its_norms(self, tmp_path):
        said = _advised(tmp_path / "s", [None, 0.7, 0.2], model__checkpoint="w.safetensors", training__epochs=30)
        assert (
            "fell, from 0.7 to 0.2. Try, one at a time: (1) --set training.freeze=norm (normalisation layers keep"
            in said
        )
        assert "(2) --set training.lr=0.005 (it is 0.05). " in said
        assert "epochs" not in said

    def test_a_loss_that_fell_asks_for_epochs_first(self, tmp_path):
        assert "(1) --set training.epochs=30 (it is 10); (2) --set training.lr" in _advised(
            tmp_path / "s", [None, 0.7, 0.2]
        )

    def test_without_a_curve(self, tmp_path):
        assert _advised(tmp_path / "s", []).startswith("Try, one at a time: (1) --set training.lr")

    def test_it_follows_the_alarm_of_a_study(self, tmp_path):
        plan = Study(Recipe(), arms(["se"]), (0, 1), tmp_path / "s")
        plan.write()
        for run in plan.runs():
            finish(run, 10.0)
        found = collect(plan.folder)
        assert found.alarm.startswith(
            "none scores 10.00 %, the trivial answer (the most frequent class) 10.00 %: the host"
        )
        assert "Try, one at a time" in found.alarm


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ((False, False), "the last epoch"),
        ((True, True), "the epoch chosen on validation images"),
        ((False, True), "the last epoch, or the one chosen on validation images"),
    ],
)
def test_the_scored_epoch_is_named(tmp_path, chosen, said):
    plan = Study(Recipe(), arms(["se"]), (0, 1), tmp_path / "s")
    plan.write()
    for run in plan.runs():
        finish(run, 90.0 + run.seed)
        val = {"top-1": 80.0} if chosen[run.arm.name == "se"] else None
        rows = [{"epoch": n, "losses": {}, "scores": {"top-1": 50.0}, "val": val, "gates": {}} for n in (0, 1)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect(plan.folder)
    assert found.scored_epoch == said
    assert f"top-1 of {said}, mean" in to_latex(found)
    assert f"Top-1 of {said} in per cent." in render_page(context(found))


def test_the_report_may_name_what_the_caller_of_compare_named(monkeypatch):
    seen = []
    monkeypatch.setattr("saccade.study.report.writing.write_page", lambda results, path, trust: seen.append(trust))
    results = replace(made({"none": [90.0, 91.0], "se": [92.0, 93.0]}), trust=frozenset({"my:net"}))
    results.report("page.html")
    results.report("page.html", trust=True)
    assert seen == [frozenset({"my:net"}), True]
