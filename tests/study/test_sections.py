"""The sections of the report on results that no training made: any metric, any arm, and a section from a file alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_results import ERROR, TOP1, arm, context, made

import saccade
from saccade.metrics.metric import Metric
from saccade.study.arms import Arm
from saccade.study.report import sections
from saccade.study.report.page import page
from saccade.study.report.sections.pictures import _choice
from saccade.study.run_notes import StudyNote
from saccade.study.stats import METHOD

SCORES = {"none": [70.0, 65.0, 75.0], "se": [72.5, 66.0, 72.5]}
ERRORS = {"none": [0.71, 0.74, 0.72], "se": [0.61, 0.62, 0.59], "das": [0.9, None, None]}
WIDE = Arm("wide", {"model.options": {"width": 32}})


def _section(name, *args, **more):
    return sections.ordered()[name].content(context(made(*args, **more)))


def _part(text, name):
    """The section ``name`` of a page."""
    return re.sub(r"\s+", " ", text[text.index(f'<section id="{name}"') :].partition("</section>")[0])


TOY = '''"""A section that counts the runs."""
from typing import final
from saccade.study.report.sections.base import Section

@final
class Toy(Section):
    """How many runs there are."""
    title, order, template = "Toys <counted>", 15, "<p>{{ n }} runs of {{ named(style) }}</p>"

    def content(self, context):
        n = len(context.results.runs)
        return {"n": n, "style": context.styles["se"]} if n > 2 else None
'''
WRITE = """
from made_results import context, made
from saccade.study.report.page import page
print(page(context(made(%r))))
"""


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_section_is_one_file(tmp_path, seeds):
    tree = tmp_path / "saccade"
    shutil.copytree(Path(saccade.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "study" / "report" / "sections" / "toy.py").write_text(TOY)
    script = WRITE % {name: scores[:seeds] for name, scores in SCORES.items()}
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}", "PATH": ""}
    told = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True, check=True).stdout
    found = re.findall(r'<section id="(\w+)"', told)
    assert ("toy" in found) == (seeds == 3)  # its content is None for so few runs
    assert ('<a href="#toy">Toys &lt;counted&gt;</a>' in told) == (seeds == 3)
    if seeds == 3:
        assert found.index("toy") == found.index("difference") + 1
        assert '<p>6 runs of <span class="named arm c1">' in told


def test_the_contents_name_what_the_page_holds():
    text = page(context(made(SCORES)))
    ids = re.findall(r'<section id="(\w+)"', text)
    assert ids == [name for name in sections.ordered() if name in ids]
    assert re.findall(r'<li><a href="#(\w+)">', text) == ids[1:]
    assert set(sections.names()) - set(ids) == {
        "tradeoff",
        "gates",
        "other_metrics",
        "by_class",
        "given_scores",
        "tuning",
    }


def test_any_metric_is_named_with_its_unit_and_its_way():
    results = made(ERRORS, ERROR)
    rows = [{"epoch": n, "scores": {"error": 1.0 - 0.1 * n}, "gates": {}} for n in range(4)]
    text = page(context(results, {run.folder: rows for run in results.runs if run.status == "done"}))
    said = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    assert not re.search("top-1|points|per cent", said.replace(METHOD, ""), re.IGNORECASE)
    forest = _part(text, "difference")
    assert (
        "Error on the test images against <b>none</b>, in px. Lower error is better, so + stands for lower." in forest
    )
    assert '<span class="big">+0.117</span>' in forest
    assert "Test error in px after each epoch" in _part(text, "learning")
    assert ">0.723</b>" in _part(text, "runs")
    plain = _part(page(context(made(SCORES))), "difference")
    assert "Top-1 on the test images against <b>none</b>, in percentage points. Bar" in plain


def test_an_arm_with_another_host_is_marked():
    for arms, marked in (([arm("none"), WIDE], True), ([arm("none"), arm("se")], False)):
        text = page(context(made({each.name: [70.0, 71.0] for each in arms}, arms=arms)))
        assert ("another host" in _part(text, "difference")) == marked
        assert ("Another host: it shares seed, data order" in _part(text, "verdicts")) == marked
        assert ("What helps " in text) == marked == ("Does attention help " not in text)
        assert ("model.options = {&#39;width&#39;: 32}" in _part(text, "origin")) == marked


def test_runs_without_a_score_are_said_once():
    notes = [
        StudyNote("unscored", "se: 1 of 3 runs not run yet."),
        StudyNote("images", "Beware: 2 of 9 runs of images."),
    ]
    found = _section("verdicts", SCORES | {"se": [70.0, None, 71.0]}, notes=notes)["notes"]
    assert [words for _, words in found] == [
        "1 of 6 runs have no score: se seed 1 is not run yet.", "Beware: 2 of 9 runs of images.",
    ]  # fmt: skip


def test_other_metrics_get_an_interval_and_no_verdict():
    text = _part(page(context(made(SCORES, others=[(ERROR, ERRORS | {"se": [0.61, 0.62, 0.59]})]))), "other_metrics")
    assert "error, px<br>lower is better" in text
    assert re.search(r"<td>0\.607 ± 0\.015<span class=\"second\">\+0\.117 \[\+0\.0", text)
    assert not re.search("helps|hurts|not decided", text)


def test_the_classes_that_differ_most_come_first():
    by_class = {"none": [50.0] * 30, "se": [50.0 + 0.1 * k * (-1) ** k for k in range(30)]}
    found = _section("by_class", SCORES, by_class=by_class)
    assert [name for name, _ in found["rows"]] == [f"class {k}" for k in range(29, 9, -1)]
    assert found["rows"][0][1] == [("50.00", ""), ("47.10", "−2.90")]
    assert found["which"] == "20 of 30 classes"
    assert _section("by_class", SCORES, by_class={name: rows[:3] for name, rows in by_class.items()})["which"] == (
        "All classes"
    )


def test_the_trivial_answer_stands_below_the_runs():
    text = page(context(made(SCORES, trivial=("the most frequent class", 10.0))))
    assert "the most frequent class, without looking at the image</td> <td>10.00</td>" in _part(text, "runs")
    assert "without looking" not in page(context(made(SCORES)))


class _Task:
    def __init__(self, *metrics):
        self.metrics = metrics


RAGGED = Metric(name="mAP", unit="%", margin=1.0, score=lambda rows: 0.0)
LABELS = torch.zeros(9, dtype=torch.int64)


@pytest.mark.parametrize(
    ("metric", "one", "other", "differ"),
    [
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9).clamp(max=7)}, {8}),
        (RAGGED, {"a": torch.ones(9, 2)}, {"a": torch.ones(9, 2).index_fill_(0, torch.tensor([3, 4]), 0)}, {3, 4}),
        (
            RAGGED,
            {"f/offsets": torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2, 2]), "f/s": torch.tensor([1.0, 1.0]), "l": LABELS},
            {"f/offsets": torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 3, 3]), "f/s": torch.tensor([1, 0, 0.5]), "l": LABELS},
            {1, 2},
        ),
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9)}, set()),
    ],
)  # fmt: skip
def test_half_of_the_images_are_those_that_networks_differ_on(metric, one, other, differ):
    chosen, words = _choice(9, _Task(metric), [one, None, other])
    assert len(set(chosen)) == 6
    assert set(chosen[len(chosen) - len(differ) :]) == differ if differ else "at random" in words
    assert _choice(9, _Task(metric), [one])[1] == "6 test images, drawn at random."
    with pytest.raises(saccade.UserError, match="scored on 9 test images; there are 8 now"):
        _choice(8, _Task(metric), [one])
