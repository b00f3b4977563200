"""Scores of a study as CSV, for ``saccade judge`` and Claims Reloaded."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from finished_runs import TRIVIAL, finish
from safetensors.numpy import load_file, save_file

from saccade import Recipe, UserError, judge
from saccade.cli import report
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.study.scores.exporting import has_image_scores, write_cases

SCORES = {
    "none": (60.0, 63.0, 58.0),
    "se": (71.0, 77.0, 70.0),
    "cbam": (61.0, 62.0, 57.0),
    "extra for se": (60, 61, 59),
}


def _study(folder, task="classify", groups=False):
    plan = Study(Recipe(), arms(["se", "cbam"], ["extra:se"]), (0, 2, 5), folder)
    plan.write()
    for run in plan.runs():
        score = SCORES[run.arm.name][plan.seeds.index(run.seed)]
        finish(run, score)
        path = run.folder / "rows.safetensors"
        if groups:
            save_file(load_file(path) | {"group": np.arange(100) // 7}, path)
        if task == "segment":
            rng = np.random.default_rng(round(score))
            rows = {key: rng.integers(1, 50, (100, 3)) for key in ("tp", "fp")}
            save_file({**rows, "fn": 60 - rows["tp"]}, path)
            done = json.loads((run.folder / "done.json").read_text())
            done |= {"task": "segment", "metric": "mIoU", "scores": {"mIoU": score, "Dice": score}, "by_class": {}}
            done["trivial"] = TRIVIAL | {"scores": {"mIoU": 20.0}}
            (run.folder / "done.json").write_text(json.dumps(done))
    return plan


def _without_names(row):
    return {key: value for key, value in vars(row).items() if key != "digits"}


@pytest.mark.parametrize("groups", [False, True])
def test_judging_exported_scores_gives_the_same_verdicts(tmp_path, groups):
    ours = collect(_study(tmp_path / "s", groups=groups).folder)
    again = judge(ours.scores(tmp_path / "scores.csv"))
    assert (ours.verdicts["se"].verdict == "helps") == (not groups), "whole groups are the same, so they count as one"
    assert (again.seeds, again.metric.name, again.metric.unit, again.margin) == ((0, 2, 5), "top-1", "%", ours.margin)
    assert again.analysis.images == 100
    for one, other in zip(ours.verdicts.values(), again.verdicts.values(), strict=True):
        expected = {
            key: pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
            for key, value in _without_names(one).items()
        }
        assert {k: v if k != "raw" else pytest.approx(v) for k, v in _without_names(other).items()} == expected
        assert other.sentence() == one.sentence()
    assert one.is_control


def test_a_metric_that_is_not_a_mean_is_written_per_run(tmp_path):
    ours = collect(_study(tmp_path / "s", "segment").folder)
    assert not has_image_scores(ours)
    path = ours.scores(tmp_path / "scores.csv")
    with path.open() as file:
        head, first, *_ = csv.reader(file)
    assert (head, first) == (["arm", "seed", "mIoU [%]"], ["none", "0", "60.0"])
    again = judge(path)
    assert [row.mean for row in again.arms] == [row.mean for row in ours.arms]
    assert again.analysis.images is None


def test_claims_reloaded_format(tmp_path):
    plan = _study(tmp_path / "s")
    ours = collect(plan.folder)
    made = ours.cases(tmp_path / "cases")
    assert [path.name for path in made] == ["seed0.csv", "seed2.csv", "seed5.csv"]
    with made[1].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "ground_truth", "alg_none", "alg_se", "alg_cbam", "alg_extra-for-se"]
    assert len(rows) == 100
    for arm, scores in SCORES.items():
        name = f"alg_{arm.replace(' ', '-')}"
        assert sum(row[name] == row["ground_truth"] for row in rows) == scores[1]
    (plan.run(plan.arms[1], 2).folder / "done.json").unlink()
    assert [path.name for path in write_cases(collect(plan.folder), tmp_path / "fewer")] == ["seed0.csv", "seed5.csv"]


def test_claims_reloaded_format_of_segmentation(tmp_path):
    plan = _study(tmp_path / "s", "segment")
    with write_cases(collect(plan.folder), tmp_path / "cases")[0].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "alg_none", "alg_se", "alg_cbam", "alg_extra-for-se"]
    kept = load_file(plan.runs()[0].folder / "rows.safetensors")
    tp, fp, fn = (kept[key][7] for key in ("tp", "fp", "fn"))
    assert float(rows[7]["alg_none"]) == pytest.approx((2 * tp / (2 * tp + fp + fn)).mean())


def test_the_command(tmp_path):
    folder = _study(tmp_path / "s").folder
    found = CliRunner().invoke(
        report.command, [str(folder), "--scores", str(tmp_path / "a.csv"), "--cases", str(tmp_path / "c")]
    )
    assert found.exit_code == 0, found.output
    assert f"wrote {tmp_path / 'a.csv'}, one row per test image" in found.output
    assert f"wrote 3 files into {tmp_path / 'c'}, one per seed" in found.output
    assert "by itself" not in found.output
    masks = _study(tmp_path / "m", "segment").folder
    found = CliRunner().invoke(
        report.command, [str(masks), "--scores", str(tmp_path / "b.csv"), "--cases", str(tmp_path / "d")]
    )
    assert "one row per run: mIoU is not a mean of per-image values, so images have no scores" in found.output
    assert "the Dice of each image; their mean is not the Dice of the study" in found.output
    assert (tmp_path / "a.csv").read_text().startswith("arm,seed,image,top-1 [%]\nnone,0,0,100.0\n")


def test_errors(tmp_path):
    plan = Study(Recipe(), arms(["se"]), (0,), tmp_path / "s")
    plan.write()
    empty = collect(plan.folder)
    with pytest.raises(UserError, match="no run of this study has a score"):
        empty.scores(tmp_path / "a.csv")
    with pytest.raises(UserError, match="no seed has a finished run of every arm"):
        write_cases(empty, tmp_path / "c")
    ours = collect(_study(tmp_path / "t").folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        ours.scores(tmp_path / "file" / "a.csv")
