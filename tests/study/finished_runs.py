"""Folders of finished runs of a classification, written by hand."""

import json

import numpy as np
from safetensors.numpy import save_file

from saccade import Recipe
from saccade.study.arms import arms
from saccade.study.plan import Study

LABELS = np.arange(100, dtype=np.int32) % 10
ENVIRONMENT = {"device": "cpu", "accelerator": None, "cpu": "a", "python": "3.11", "packages": {"torch": "2.11"}}
TRIVIAL = {"answer": "the most frequent class", "scores": {"top-1": 10.0, "top-5": 50.0, "NLL": 2.3}}


def _rows(top1):
    """Rows of a hundred images of which ``top1`` are right."""
    wrong = np.arange(100) >= round(top1)
    predicted = np.where(wrong, (LABELS + 1) % 10, LABELS).astype(np.int32)
    nll = np.where(wrong, 2.0, 0.1).astype(np.float32)
    rank = np.where(wrong, 1 + 6 * (np.arange(100) == 99), 0).astype(np.int32)
    return {"predicted": predicted, "label": LABELS, "rank": rank, "nll": nll}


def finish(run, top1, **more):
    """Write the folder of ``run``; ``more`` goes into done.json."""
    run.folder.mkdir(parents=True)
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    (run.folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    rows = _rows(top1)
    save_file(rows, run.folder / "rows.safetensors")
    scores = {"top-1": top1, "top-5": 99.0, "NLL": float(rows["nll"].mean())}
    done = {
        "task": "classify", "metric": "top-1", "score": f"{top1:.2f} %", "scores": scores, "trivial": TRIVIAL,
        "by_class": {"top-1": [top1] * 10}, "epochs": 3, "seconds": 5.0, "parameters": 1000 + run.seed,
        "diverged": None,
    }  # fmt: skip
    (run.folder / "done.json").write_text(json.dumps(done | more))


SCORES = {("none", 0): 90.0, ("none", 1): 91.0, ("none", 2): 92.0, ("se", 0): 91.0, ("se", 1): 93.0, ("se", 2): 92.0}


def finished_study(folder):
    """Write a study of ``none`` and ``se`` with three seeds, whose runs have ``SCORES``."""
    plan = Study(Recipe(), arms(["se"]), (0, 1, 2), folder, 1.0)
    plan.write()
    for run in plan.runs():
        finish(run, SCORES[run.arm.name, run.seed])
    return plan
