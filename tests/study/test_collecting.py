"""Results collected from run folders that are written by hand."""

import json

import numpy as np
import pytest
from finished_runs import finish, finished_study
from older_versions import as_before
from safetensors.numpy import load_file, save_file

from saccade import Recipe, UserError
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study


def _change(run, **facts):
    path = run.folder / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.fixture
def study(tmp_path):
    return finished_study(tmp_path / "s")


def test_scores_means_and_differences(study):
    found = collect(study.folder)
    none, se = found.arms
    assert (none.scores, none.mean, none.sd, none.parameters, none.cost) == ((90.0, 91.0, 92.0), 91.0, 1.0, 1000, None)
    assert (se.mean, se.shares_host) == (92.0, True)
    (row,) = found.analysis.differences
    assert row.difference == pytest.approx(1.0)
    assert row.raw == (1.0, 2.0, 0.0)
    # Residuals of score = arm + seed are ∓0.5 (0, +0.5, -0.5 in each arm): 4 · 0.25 / 2 degrees of freedom.
    assert found.analysis.sigma == pytest.approx(0.5**0.5)
    assert (found.complete, found.task, found.metric.name, found.margin) == (True, "classify", "top-1", 1.0)
    assert found.trivial == ("the most frequent class", 10.0)
    first = found.runs[0]
    assert (first.arm, first.seed, first.status, first.folder) == ("none", 0, "done", "none/seed0")
    assert first.scores == {"top-1": 90.0, "top-5": 99.0, "NLL": pytest.approx(0.29)}
    assert first.by_class == {"top-1": [90.0] * 10}
    assert [run.folder for run in found.of("se")] == ["se/seed0", "se/seed1", "se/seed2"]


def test_reference_predictions_are_those_of_the_first_run_that_has_them(study):
    before = collect(study.folder)
    assert before.references == {}
    references = {"experts": {"top-1": 99.5, "NLL": None}}
    for run in study.runs()[2:]:
        _change(run, references=references)
    found = collect(study.folder)
    assert found.references == references
    assert found.reference_scores(found.metric) == {"experts": 99.5}
    assert found.reference_scores(found.others[1].metric) == {}
    assert found.analysis == before.analysis


def test_a_metric_that_changed_after_the_runs_is_named(study):
    assert [note.text for note in collect(study.folder).notes if note.kind == "scores"] == []
    for number, (top1, top5) in enumerate([(90.004, 99.0), (88.0, 99.0), (91.0, 98.0)]):
        scores = json.loads((study.runs()[number].folder / "done.json").read_text())["scores"]
        _change(study.runs()[number], scores=scores | {"top-1": top1, "top-5": top5})
    ours, beside = (note.text for note in collect(study.folder).notes if note.kind == "scores")
    assert ours.startswith("top-1 has changed since the runs (se seed 0: 88.00 %, now 91.00 %). Scores are as the")
    assert beside.startswith("top-5 has changed since the runs (none seed 1: 98.00 %, now 99.00 %). Scores")


def test_other_metrics_get_intervals_and_no_verdict(study):
    top5, nll = collect(study.folder).others
    assert (top5.metric.name, nll.metric.name) == ("top-5", "NLL")
    assert nll.scores["se"] == pytest.approx([0.271, 0.233, 0.252])
    (row,) = nll.differences
    assert row.difference == pytest.approx(0.019)  # lower is better, and turned round
    assert not hasattr(row, "verdict")
    for path in study.folder.glob("se/*/rows.safetensors"):
        rows = load_file(path)
        rows["nll"] += 0.6 * (-1) ** np.arange(100, dtype=np.float32)  # se does well on every other image
        save_file(rows, path)
    (wide,) = collect(study.folder).others[1].differences
    assert wide.difference == row.difference
    assert wide.low < row.low < row.high < wide.high, "the error of the images counts"
    assert top5.differences[0].difference == 0.0


def test_the_metric_of_the_recipe_gives_the_verdicts(study):
    for run in study.runs():
        _change(run, metric="NLL", score="0.3 nats")
    found = collect(study.folder)
    assert found.metric.name == "NLL"
    assert found.arms[0].scores == pytest.approx((0.29, 0.271, 0.252))
    assert [other.metric.name for other in found.others] == ["top-1", "top-5"]
    assert found.trivial == ("the most frequent class", 2.3)
    assert (found.analysis.unit, found.analysis.differences[0].higher_is_better) == ("nats", False)


def test_runs_of_two_metrics_are_not_compared(study):
    _change(study.runs()[0], metric="top-5")
    with pytest.raises(
        UserError, match="cannot be compared, because they were scored on classify by top-1 and classify by top-5"
    ):
        collect(study.folder)


def test_without_finished_runs_the_recipe_gives_task_and_metric(tmp_path):
    plan = Study(Recipe().with_overrides({"task.metric": "top-5"}), arms(["se"]), (0,), tmp_path / "s")
    plan.write()
    found = collect(plan.folder)
    assert (found.task, found.metric.name, found.margin, found.analysis) == ("classify", "top-5", 1.0, None)
    assert [run.status for run in found.runs] == ["missing", "missing"]


def test_a_study_of_earlier_versions_gives_the_same_figures(study):
    today = collect(study.folder)
    as_before(study)
    before = collect(study.folder)
    assert before.study == today.study
    assert [run.done_record is not None for run in study.runs()] == [True] * 6
    assert before.arms == today.arms
    assert before.analysis == today.analysis
    assert (before.task, before.metric, before.trivial) == ("classify", today.metric, None)
    (nll,) = before.others  # what was kept of each image does not tell its loss
    assert nll.scores == pytest.approx({k: pytest.approx(v) for k, v in today.others[1].scores.items()})
    assert nll.differences[0].difference == pytest.approx(today.others[1].differences[0].difference)


def test_rows_without_needed_columns_are_damaged(study):
    path = study.runs()[2].folder / "rows.safetensors"
    rows = load_file(path)
    del rows["predicted"]
    save_file(rows, path)
    with pytest.raises(UserError, match=r"seed1: the rows of the test images hold label, nll, rank; 'predicted' is"):
        collect(study.folder)


def test_an_arm_with_another_model_has_another_host(tmp_path):
    others = ["wide: model.options.width=32", "large: data.size=48"]
    plan = Study(Recipe(), arms(["se"], [], others), (0, 1), tmp_path / "s")
    plan.write()
    for run in plan.runs():
        finish(run, 90.0 + run.seed, fingerprint="of 48" if run.arm.name == "large" else "of 40")
    found = collect(plan.folder)
    shared = {row.arm.name: row.shares_host for row in found.arms}
    assert shared == {"none": True, "se": True, "wide": False, "large": False}
    assert [note.text.partition(":")[0] for note in found.notes if note.kind == "hosts"] == ["wide and large"]
    said = found.to_json()["arms"]["wide"]
    assert (said["settings"], said["shares_host"]) == ({"model.options.width": 32}, False)
    _change(plan.run(plan.arms[3], 1), fingerprint="of 40")
    with pytest.raises(UserError, match=r"large/seed0 and .*large/seed1 cannot be compared: the images changed"):
        collect(plan.folder)


def test_the_error_of_the_images_is_added(study):
    (row,) = collect(study.folder).analysis.differences
    for path in study.folder.rglob("rows.safetensors"):
        path.unlink()
    (free,) = collect(study.folder).analysis.differences
    assert (free.se_from, free.se_images) == ("seeds", 0)
    assert row.se_images > 0
    assert row.se == pytest.approx((free.se**2 + row.se_images**2) ** 0.5)
    assert row.df > free.df


def test_a_diverged_run_has_no_score_and_is_named(study):
    _change(study.run(study.arms[1], 1), diverged={"message": "loss of epoch 3 is nan"})
    found = collect(study.folder)
    assert found.arms[1].scores == (91.0, None, 92.0)
    assert found.arms[1].mean == 91.5
    (note,) = (note.text for note in found.notes if note.kind == "unscored")
    assert note.startswith("se: 1 of 3 runs diverged (seed 1).")
    assert "flatters" in note
    (run,) = (run for run in found.runs if run.status == "diverged")
    assert (run.arm, run.seed, run.scores, run.reason) == ("se", 1, {}, "loss of epoch 3 is nan")
    assert found.complete


def test_failed_and_missing_runs_are_named(study):
    for arm, seed in ((study.arms[1], 0), (study.arms[0], 2)):
        (study.run(arm, seed).folder / "done.json").unlink()
    (study.run(study.arms[1], 0).folder / "failed.json").write_text('{"reason": "ValueError: no luck"}')
    found = collect(study.folder)
    assert found.complete is False
    said = [note.text for note in found.notes if note.kind == "unscored"]
    assert said == ["none: 1 of 3 runs not run yet (seed 2).", "se: 1 of 3 runs failed (seed 0)."]
    assert [run.reason for run in found.runs if run.status == "failed"] == ["ValueError: no luck"]


def test_without_a_baseline_there_are_no_verdicts(study):
    for seed in study.seeds:
        (study.run(study.arms[0], seed).folder / "done.json").unlink()
    found = collect(study.folder)
    assert (found.analysis, found.others, found.arms[1].mean) == (None, (), 92.0)


def test_runs_of_other_images_are_not_compared(study):
    first, second, third, *_ = study.runs()
    for run in (first, third):
        _change(run, fingerprint="aa")
    assert collect(study.folder).analysis  # the others do not say
    _change(third, fingerprint="bb")
    with pytest.raises(UserError, match="the images changed between them") as refused:
        collect(study.folder)
    assert f"{first.folder} and {third.folder} cannot be compared" in str(refused.value)
    assert str(second.folder) not in str(refused.value)


@pytest.mark.parametrize(
    ("count", "step", "words"),
    [(90, 1, "they have 100 and 90 test images"), (100, -1, "the labels of their test images differ")],
)
def test_rows_of_other_images_are_not_compared(study, count, step, words):
    first, second, *_ = study.runs()
    path = second.folder / "rows.safetensors"
    save_file({key: np.ascontiguousarray(value[:count][::step]) for key, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match=words) as refused:
        collect(study.folder)
    assert f"{first.folder} and {second.folder}" in str(refused.value)


def test_means_over_other_classes_are_not_compared(study):
    first, second, third, *_ = study.runs()
    for run, scored in ((first, [True, True]), (second, [True, True])):
        _add_rows(run, scored=np.tile(scored, (100, 1)))
    assert collect(study.folder).analysis  # runs of earlier versions do not say
    _add_rows(third, scored=np.tile([True, False], (100, 1)))
    with pytest.raises(UserError, match="the scored classes of their test images differ") as refused:
        collect(study.folder)
    assert f"{first.folder} and {third.folder}" in str(refused.value)


def _add_rows(run, **columns):
    path = run.folder / "rows.safetensors"
    save_file(load_file(path) | columns, path)


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(UserError, match="is not a study"):
        collect(tmp_path)
