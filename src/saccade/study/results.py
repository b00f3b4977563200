"""What came of a study: its run folders read, judged, and written down as ``results.json``.

The run folders are the only truth; everything here can be made again from them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.controls import CONTROLS
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import left_out
from saccade.runfiles import Costs, Environment, Failed, predictions, read
from saccade.study.plan import BASELINE, Run, Study, write_atomically
from saccade.study.stats import analyse
from saccade.trust import Trust

__all__ = ["collect", "measure_costs", "write_results"]

_SAME = ("device", "accelerator", "cpu", "python", "packages")
"""What of its surroundings should be one for all runs of a study; a difference is said."""


def collect(folder: str | Path) -> dict[str, Any]:
    """The results of the study in ``folder``, as plain dictionaries, lists, strings, numbers and None.

    * ``study``: name, margin, seeds, arms (each with its ``slug``), base recipe, the ``baseline``, whether it is
      ``complete``, and what each kind of ``controls`` in it tells.
    * ``arms``: name -> mechanism, control, one top-1 per seed (None without one), mean and sd, parameters, cost, and
      the seeds whose run ``diverged``, ``failed`` or is ``missing``.
    * ``analysis``: what :class:`saccade.study.stats.Analysis` says; None before any run of ``none`` is finished.
    * ``runs``: one row each: arm, seed, status, top1, test_loss, seconds, parameters, reason, folder (relative), and
      ``constant``, the plugs whose gate or context is the same for every test image: site -> ``gate`` or ``context``.
    * ``notes``: sentences that belong beside the verdicts.

    A run that diverged has no score: the accuracy at which a training broke says nothing of the mechanism when it
    works. It is left out of the mean and named in the notes, because leaving it out flatters its arm.

    Raises:
        UserError: ``folder`` holds no study, a file of it is damaged, or its runs were not made with the same images.
    """
    study = Study.open(folder)
    _check_images(study)
    rows = {(run.arm.name, run.seed): _row(study, run) for run in study.runs()}
    costs = read(study.folder / "costs.json", Costs) or {}
    arms: dict[str, dict[str, Any]] = {}
    for arm in study.arms:
        of = [rows[arm.name, seed] for seed in study.seeds]
        scores = [row["top1"] if row["status"] == "done" else None for row in of]
        known = [score for score in scores if score is not None]
        arms[arm.name] = {
            "mechanism": arm.mechanism,
            "control": arm.control,
            "slug": arm.slug,
            "top1": scores,
            "mean": float(np.mean(known)) if known else None,
            "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            "parameters": next((row["parameters"] for row in of if row["parameters"] is not None), None),
            "cost": costs.get(arm.name),
            **{status: [row["seed"] for row in of if row["status"] == status] for status in _UNSCORED},
        }
    analysis = None
    if arms[BASELINE]["mean"] is not None:
        analysis = analyse(
            {name: arm["top1"] for name, arm in arms.items()},
            baseline=BASELINE,
            controls=frozenset(name for name, arm in arms.items() if arm["control"]),
            correct=_correct(study, rows),
            margin=study.margin,
            seeds=study.seeds,
        ).to_json()
    complete = all(row["status"] in ("done", "diverged") for row in rows.values())
    return {
        "study": {
            **study.to_dict(),
            "name": study.folder.resolve().name,
            "baseline": BASELINE,
            "arms": [{"name": a.name, "mechanism": a.mechanism, "control": a.control, "slug": a.slug}
                     for a in study.arms],
            "complete": complete,
            "controls": {kind: c.shows for kind, c in CONTROLS.items() if kind in {a.control for a in study.arms}},
        },
        "arms": arms,
        "analysis": analysis,
        "notes": [*_notes(study, arms, rows.values()), *(analysis["notes"] if analysis else [])],
        "runs": list(rows.values()),
    }  # fmt: skip


def write_results(folder: str | Path) -> dict[str, Any]:
    """:func:`collect` and write it as ``results.json`` of the study folder.

    Raises:
        UserError: ``folder`` holds no study.
    """
    results = collect(folder)
    write_atomically(Path(folder) / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return results


_UNSCORED = ("diverged", "failed", "missing")


def _row(study: Study, run: Run) -> dict[str, Any]:
    """One run as it stands on disk."""
    done, failed = run.finished, read(run.folder / "failed.json", Failed)
    row: dict[str, Any] = {
        "arm": run.arm.name,
        "seed": run.seed,
        "status": "missing",
        **dict.fromkeys(("top1", "test_loss", "seconds", "parameters", "reason")),
        "constant": {},
        "folder": run.folder.relative_to(study.folder).as_posix(),
    }
    if done is not None:
        row |= {key: done.get(key) for key in ("top1", "test_loss", "seconds", "parameters")}
        row["status"] = "diverged" if done.get("diverged") else "done"
        row["reason"] = _diverged(done["diverged"]) if done.get("diverged") else None
        row["constant"] = done.get("constant", {}) if row["status"] == "done" else {}
        if row["status"] == "diverged":
            row["top1"] = row["test_loss"] = None
    elif failed is not None:
        row |= {"status": "failed", "reason": failed.get("reason")}
    return row


def _diverged(what: dict[str, Any]) -> str:
    """Where a training broke, in words."""
    return str(what.get("message", what))


def _check_images(study: Study) -> None:
    """Runs that learnt from or were judged by other images than each other cannot be compared."""
    known = [(run, done["fingerprint"]) for run in study.runs() if (done := run.finished) and "fingerprint" in done]
    for run, fingerprint in known:
        if fingerprint != known[0][1]:
            raise _other_images(known[0][0], run, "the images changed between them")


def _other_images(one: Run, other: Run, how: str) -> UserError:
    return UserError(
        f"{one.folder} and {other.folder} cannot be compared: {how}. Remove the run folders made with the images that "
        "no longer count, and run the study again."
    )


def _correct(study: Study, rows: dict[tuple[str, int], dict[str, Any]]) -> dict[str, NDArray[np.bool_]] | None:
    """Arm -> (seeds, test images): which test images the last epoch got right; None without any predictions."""
    found: dict[tuple[str, int], NDArray[np.bool_]] = {}
    first: tuple[Run, NDArray[np.integer]] | None = None
    for run in study.runs():
        if rows[run.arm.name, run.seed]["status"] != "done":
            continue
        if saved := predictions(run.folder / "predictions.safetensors"):
            first = first or (run, saved["label"])
            if not np.array_equal(first[1], saved["label"]):
                counts = len(first[1]), len(saved["label"])
                how = (
                    f"they have {counts[0]} and {counts[1]} test images"
                    if counts[0] != counts[1]
                    else ("the labels of their test images differ")
                )
                raise _other_images(first[0], run, how)
            found[run.arm.name, run.seed] = saved["predicted"] == saved["label"]
    if not found:
        return None
    nothing = np.zeros_like(next(iter(found.values())))
    scored = {name for name, _ in found}
    return {
        name: np.stack([found.get((name, seed), nothing) for seed in study.seeds])
        for name in (arm.name for arm in study.arms)
        if name in scored
    }


_SMOKE_TEST = (
    "This is a smoke test. Its images are drawn handwritten digits, made so that it runs anywhere; "
    "these verdicts do not transfer to other data."
)
_SITES = 6
"""At most so many sites are named in a note."""
_NEAR = 0.1
"""Part of a mechanism's parameters by which those of its control ``extra`` may differ without a word."""


def _mismatched(arms: dict[str, dict[str, Any]]) -> list[str]:
    """The controls ``extra`` that could not be made as large, or as small, as their mechanism."""
    notes = []
    for name, arm in arms.items():
        if arm["control"] != "extra" or arm["mechanism"] not in arms:
            continue
        plain, whole, instead = (arms[other]["parameters"] for other in (BASELINE, arm["mechanism"], name))
        if None in (plain, whole, instead):
            continue
        own, extra = whole - plain, instead - plain
        if abs(extra - own) > _NEAR * own:
            notes.append(
                f"{name}: it adds {extra:,} parameters where {arm['mechanism']} adds {own:,}; a plain bottleneck of at "
                "least one unit a site can have no nearer number."
            )
    return notes


def _constant(name: str, runs: Collection[dict[str, Any]]) -> list[str]:
    """A sentence on the gates, and one on the contexts, of arm ``name`` that are the same for every test image."""
    notes = []
    for kind, what in (("gate", "the gate is"), ("context", "what is added is")):
        seeds: dict[str, list[int]] = {}
        for run in runs:
            for site, found in run["constant"].items():
                if run["arm"] == name and found == kind:
                    seeds.setdefault(site, []).append(run["seed"])
        if seeds:
            where = [f"{brief(site)} ({_seeds(of)})" for site, of in list(seeds.items())[:_SITES]]
            if more := len(seeds) - len(where):
                where.append(f"{more} more site{'s' * (more > 1)}")
            *before, last = where
            places = f"{', '.join(before)} and {last}" if before else last
            notes.append(f"{name}: {what} the same for every test image at {places}; the plug ignores the image there.")
    return notes


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _notes(study: Study, arms: dict[str, dict[str, Any]], runs: Collection[dict[str, Any]]) -> list[str]:
    """What a reader of the verdicts must know about the runs behind them."""
    notes = [_SMOKE_TEST] if study.base.data.source == "digits" else []
    notes += _mismatched(arms)
    for name, arm in arms.items():
        for status, words in (("diverged", "diverged"), ("failed", "failed"), ("missing", "not run yet")):
            if seeds := arm[status]:
                said = f"{name}: {len(seeds)} of {len(study.seeds)} runs {words} ({_seeds(seeds)})."
                if status == "diverged" and len(seeds) < len(study.seeds):
                    said += " They have no score and are left out, which flatters this arm."
                notes.append(said)
        notes += _constant(name, runs)
    told = (run.finished for run in study.runs())  # of the same images all: the first run that knows speaks for them
    if words := left_out(next((done["left_out"] for done in told if done and "left_out" in done), {})):
        notes.append(f"The images of all runs: {words}.")
    notes += next((done["cautions"] for run in study.runs() if (done := run.finished) and "cautions" in done), [])
    surroundings = [found for run in study.runs() if (found := read(run.folder / "environment.json", Environment))]
    for key in _SAME:
        values = {str(found.get(key)) if key != "device" else found[key].partition(":")[0] for found in surroundings}
        if len(values) > 1:
            shown = "" if key == "packages" else f": {', '.join(sorted(values))}"
            notes.append(f"The runs were not all made with the same {key}{shown}.")
    return notes


BATCH = 16
"""Images of the second latency: what a network costs when it is not fed one by one."""


def measure_costs(folder: str | Path, again: bool = False, trust: Trust = False) -> None:
    """Measure what each arm costs on this machine and keep it as ``costs.json``.

    An entry is a :class:`saccade.cost.Cost` at batch 1, with ``batch`` and ``latency_ms`` of a larger batch under
    ``batched``. The arms take turns on the clock, so that what else the machine does hits them alike; where one has
    no entry yet, or ``again`` is asked for, all are measured. Meant for when all runs have ended. ``trust`` is that of
    ``saccade.load``.

    Raises:
        UserError: ``folder`` holds no study.
    """
    from dataclasses import asdict

    import torch

    from saccade.cost import measure_all
    from saccade.saving import describe, load

    study = Study.open(folder)
    saved: dict[str, Path] = {}
    for run in study.runs():
        if run.arm.name not in saved and run.finished and (run.folder / "model.safetensors").exists():
            saved[run.arm.name] = run.folder
    # Of costs that are made anew, the old ones are not looked at: they may be damaged.
    if not saved or (not again and saved.keys() <= (read(study.folder / "costs.json", Costs) or {}).keys()):
        return
    models = [load(place, trust=trust) for place in saved.values()]
    inputs = {place: tuple(describe(place)["input"]) for place in saved.values()}
    size = next(iter(inputs.values()))
    for place, other in inputs.items():
        if other != size:
            raise UserError(
                f"{place}/config.json is damaged: input is {list(other)}, the other arms have {list(size)}. Delete the "
                f"folder {place} and give the same command again: that run is done anew."
            )
    threads = torch.get_num_threads()
    torch.set_num_threads(study.base.training.threads)
    try:
        one, many = (measure_all(models, size, batch=batch) for batch in (1, BATCH))
    finally:
        torch.set_num_threads(threads)
    costs = {
        name: asdict(single) | {"batched": {"batch": batch.batch, "latency_ms": asdict(batch.latency_ms)}}
        for name, single, batch in zip(saved, one, many, strict=True)
    }
    write_atomically(study.folder / "costs.json", json.dumps(costs, indent=1) + "\n")
