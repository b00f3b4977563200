"""Sections of the report, on artificial results."""

import re
import sys
from dataclasses import replace

import pytest
from made_results import ERROR, arm, context, made

from saccade.study.arms import Arm
from saccade.study.report import sections
from saccade.study.report.page import render_page
from saccade.study.run_notes import StudyNote
from saccade.study.stats import METHOD

SCORES = {"none": [70.0, 65.0, 75.0], "se": [72.5, 66.0, 72.5]}
ERRORS = {"none": [0.71, 0.74, 0.72], "se": [0.61, 0.62, 0.59], "das": [0.9, None, None]}
WIDE = Arm("wide", {"model.options": {"width": 32}})


def _section(name, *args, **more):
    return sections.ordered()[name].content(context(made(*args, **more)))


def _part(text, name):
    """Return the section ``name`` of a page."""
    return re.sub(r"\s+", " ", text[text.index(f'<section id="{name}"') :].partition("</section>")[0])


TOY = '''"""A section that counts the runs."""
from typing import final
from saccade.study.report.sections.base import Section

@final
class Toy(Section):
    """How many runs there are."""
    title, order, template = "Toys <counted>", 15, "<p>{{ n }} runs of {{ arm_label(style) }}</p>"

    def content(self, context):
        n = len(context.results.runs)
        return {"n": n, "style": context.styles["se"]} if n > 2 else None
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Add the section TOY to the package."""
    for name in sections.names():
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    monkeypatch.setattr(sections._REGISTRY, "folder", tmp_path)
    yield
    sys.modules.pop("saccade.study.report.sections.toy", None)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("seeds", [1, 3])
def test_new_file_adds_a_section(seeds):
    page = render_page(context(made({name: scores[:seeds] for name, scores in SCORES.items()})))
    names = re.findall(r'<section id="(\w+)"', page)
    assert ("toy" in names) == (seeds == 3)  # its content is None for fewer runs
    assert ('<a href="#toy">Toys &lt;counted&gt;</a>' in page) == (seeds == 3)
    if seeds == 3:
        assert names.index("toy") == names.index("difference") + 1
        assert '<p>6 runs of <span class="named arm c1">' in page


def test_table_of_contents_lists_the_sections():
    text = render_page(context(made(SCORES)))
    ids = re.findall(r'<section id="(\w+)"', text)
    assert ids == [name for name in sections.ordered() if name in ids]
    assert re.findall(r'<li><a href="#(\w+)">', text) == ids[1:]
    assert set(sections.names()) - set(ids) == {
        "tradeoff",
        "gates",
        "constant_gates",
        "tokens",
        "other_metrics",
        "by_class",
        "given_scores",
        "tuning",
    }


def test_metric_has_its_unit_and_direction():
    results = made(ERRORS, ERROR)
    rows = [{"epoch": n, "scores": {"error": 1.0 - 0.1 * n}, "gates": {}} for n in range(4)]
    text = render_page(context(results, {run.folder: rows for run in results.runs if run.status == "done"}))
    said = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    assert not re.search("top-1|points|per cent", said.replace(METHOD, ""), re.IGNORECASE)
    forest = _part(text, "difference")
    assert "Error on the test images against <b>none</b>, in px. Lower error is better, so + means lower." in forest
    assert '<span class="big">+0.117</span>' in forest
    assert "Test error in px after each epoch" in _part(text, "learning")
    assert ">0.723</b>" in _part(text, "runs")
    plain = _part(render_page(context(made(SCORES))), "difference")
    assert "Top-1 on the test images against <b>none</b>, in percentage points. Bar" in plain


def test_arm_with_another_host_is_marked():
    for arms, marked in (([arm("none"), WIDE], True), ([arm("none"), arm("se")], False)):
        text = render_page(context(made({each.name: [70.0, 71.0] for each in arms}, arms=arms)))
        assert ("another host" in _part(text, "difference")) == marked
        assert ("Another host: it shares seed, data order" in _part(text, "verdicts")) == marked
        assert ("What helps " in text) == marked == ("Does attention help " not in text)
        assert ("model.options = {&#39;width&#39;: 32}" in _part(text, "origin")) == marked


def test_runs_without_a_score_are_listed_once():
    notes = [
        StudyNote("unscored", "se: 1 of 3 runs not run yet."),
        StudyNote("images", "Beware: 2 of 9 runs of images."),
    ]
    found = _section("verdicts", SCORES | {"se": [70.0, None, 71.0]}, notes=notes)["notes"]
    assert [words for _, words in found] == [
        "1 of 6 runs have no score: se seed 1 has not run yet.", "Beware: 2 of 9 runs of images.",
    ]  # fmt: skip


def test_other_metrics_have_an_interval_and_no_verdict():
    text = _part(
        render_page(context(made(SCORES, others=[(ERROR, ERRORS | {"se": [0.61, 0.62, 0.59]})]))), "other_metrics"
    )
    assert "error, px<br>lower is better" in text
    assert re.search(r"<td>0\.607 ± 0\.015<span class=\"second\">\+0\.117 \[\+0\.0", text)
    assert not re.search("helps|hurts|not decided", text)


def test_classes_are_sorted_by_difference():
    by_class = {"none": [50.0] * 30, "se": [50.0 + 0.1 * k * (-1) ** k for k in range(30)]}
    found = _section("by_class", SCORES, by_class=by_class)
    assert [name for name, _ in found["rows"]] == [f"class {k}" for k in range(29, 9, -1)]
    assert found["rows"][0][1] == [("50.00", ""), ("47.10", "−2.90")]
    assert found["classes"] == "20 of 30 classes"
    assert _section("by_class", SCORES, by_class={name: rows[:3] for name, rows in by_class.items()})["classes"] == (
        "All classes"
    )


REFERENCES = {"experts": {"top-1": 72.0, "error": 0.1}, "the future": {"top-1": 99.0}, "nobody": {"top-1": None}}


def _with_references(references=REFERENCES):
    results = made(SCORES, others=[(ERROR, ERRORS | {"none": [0.7, 0.7, 0.7]})], trivial=("the class a", 10.0))
    epochs = {
        run.folder: [{"epoch": e, "scores": {"top-1": 60 + 3.0 * e}, "gates": {}} for e in range(5)]
        for run in results.runs
    }
    return context(replace(results, references=references), epochs)


def test_reference_predictions_follow_the_trivial_answer():
    page, plain = render_page(_with_references()), render_page(_with_references({}))
    runs = _part(page, "runs")
    assert runs.index("the class a, without") < runs.index("experts, for comparison</td> <td>72.00</td>")
    assert "the future, for comparison</td> <td>99.00</td>" in runs
    assert "nobody" not in runs
    assert "<td>experts</td><td>0.100</td>" in _part(page, "other_metrics")
    assert "<td>the future</td><td>–</td>" in _part(page, "other_metrics")
    assert "for comparison" not in plain
    assert _part(page, "difference") == _part(plain, "difference")


def test_reference_lines_do_not_change_the_range_of_the_curves():
    learning, plain = (_part(render_page(_with_references(found)), "learning") for found in (REFERENCES, {}))
    assert len(re.findall('<line [^>]*class="level"', learning)) == len(SCORES)
    assert learning.count("<title>experts: 72.00 %</title>") == len(SCORES)
    assert "</svg>experts, 72.00 %</span>" in learning
    assert "the future" not in learning  # 99 lies far above the curves
    assert 'class="level"' not in plain
    ticks = [re.findall(r'class="tick"[^>]*>([^<]*)<', text) for text in (learning, plain)]
    assert ticks[0] == ticks[1]


def test_names_of_references_are_escaped():
    page = render_page(_with_references({"<script>x": {"top-1": 72.0, "error": 0.1}}))
    assert "<script>x" not in page
    assert page.count("&lt;script&gt;x") == len(("runs", "other metrics", "legend")) + len(SCORES)


def test_trivial_answer_is_the_last_row():
    text = render_page(context(made(SCORES, trivial=("the most frequent class", 10.0))))
    assert "the most frequent class, without looking at the image</td> <td>10.00</td>" in _part(text, "runs")
    assert "without looking" not in render_page(context(made(SCORES)))
