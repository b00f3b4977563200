"""The two standard errors of a difference in average precision, on small drawn test sets."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import detection_errors
from saccade import UserError
from saccade.metrics.average_precision import METRICS

AP = METRICS[0]


@pytest.fixture(scope="module")
def runs():
    """Rows of two detectors of 40 images with two classes."""
    random = np.random.default_rng(70)
    truths = []
    for _ in range(40):
        n = random.integers(1, 6)
        corner = random.random((n, 2)) * 200
        boxes = np.hstack([corner, corner + 20 + random.random((n, 2)) * 80])
        labels = torch.from_numpy(random.integers(0, 2, n))
        truths.append({"boxes": torch.from_numpy(boxes).float(), "labels": labels})
    return {
        name: detection_errors.draw_detections(truths, 2, quality, seed)
        for seed, (name, quality) in enumerate({"fine": (0.06, 0.9, 1.0), "coarse": (0.09, 0.8, 2.0)}.items())
    }


@pytest.fixture
def folders(runs, tmp_path):
    for name, rows in runs.items():
        (tmp_path / name / "seed0").mkdir(parents=True)
        save_file(rows, tmp_path / name / "seed0/rows.safetensors")
    return [str(tmp_path / name / "seed0") for name in runs]


def test_the_errors_agree(runs):
    fine, coarse = runs.values()
    assert AP.score(fine) > AP.score(coarse) + 5
    scores = detection_errors.bootstrap_scores(AP, runs, 300, 0)
    paired = (scores["fine"] - scores["coarse"]).std(ddof=1)
    jackknife = detection_errors.jackknife_error(AP, fine, coarse)
    assert jackknife == pytest.approx(paired, rel=0.2)
    # Were the images of the two runs drawn apart, the error would be larger.
    apart = (scores["fine"] - np.roll(scores["coarse"], 1)).std(ddof=1)
    assert apart > 1.1 * paired
    assert detection_errors.jackknife_error(AP, fine, fine) == 0


def test_groups_are_drawn_whole(runs):
    one_group = {name: rows | {"group": torch.zeros(40, dtype=torch.int64)} for name, rows in runs.items()}
    scores = detection_errors.bootstrap_scores(AP, one_group, 3, 0)
    assert {name: set(values) for name, values in scores.items()} == {n: {AP.score(r)} for n, r in runs.items()}
    assert len(set(detection_errors.bootstrap_scores(AP, runs, 3, 0)["fine"])) == 3


def test_the_command(folders, capsys, monkeypatch):
    monkeypatch.setattr(detection_errors, "LIMIT", 0.5)
    assert detection_errors.main([*folders, "--resamples", "50"]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.startswith("| fine/seed0 − coarse/seed0 | 40 | +")
    monkeypatch.setattr(detection_errors, "LIMIT", 0.0)
    assert detection_errors.main([*folders, "--resamples", "50"]) == 1
    assert capsys.readouterr().out.splitlines()[2] == line


def test_runs_of_another_study(runs, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no rows.safetensors"):
        detection_errors.main([folders[0], str(tmp_path / "empty")])
    with pytest.raises(UserError, match=r"two of the runs are called fine/seed0"):
        detection_errors.main([folders[0], folders[0]])
    fine = runs["fine"]
    other = fine | {"truth/label": 1 - fine["truth/label"]}
    with pytest.raises(UserError, match="other: 'truth/label' differs from the first run's"):
        detection_errors.check_truths(runs | {"other": other})
    with pytest.raises(UserError, match="other: its rows have no 'scored'"):
        detection_errors.check_truths(runs | {"other": {k: v for k, v in fine.items() if k != "scored"}})
