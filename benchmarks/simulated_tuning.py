"""Hold the verdicts of tuned studies against thousands of simulated ones whose truth is known.

    python benchmarks/simulated_tuning.py                       # 20,000 studies a cell or more, about four minutes
    python benchmarks/simulated_tuning.py --arms 2 --values 3 --gap 0 1

No arm does anything: every arm at its best value scores the same. The values differ: each step away from the best one
costs *gap*, in units of the residual SD of a run. The curve is *same* (one best value for all arms) or *shifted* (the
best value of ``none`` lies a step beside that of the others). Every arm chooses by the mean of its tuning runs on
validation images; then every judged run adds its own noise to what its value is worth, and the study goes through
``fit`` and ``compute_verdicts`` of ``saccade.study.blocks``.

The validation images have a taste of their own: what they add to an arm with a value at every seed has *val* times the
variance of a run. ``forecast.ARM_DISAGREEMENT`` / ``RUN_DISAGREEMENT``, 0.03, is the most measured on real images.

Four figures are taken, in per cent, and one in residual SDs:

* any false: studies with at least one "helps" or "hurts". Every judged seed chooses from its own tuning runs, as
  ``saccade.study.tuning`` does.
* all seeds at once: the same where one choice is made for all seeds, from all these tuning runs.
* one for all: the same where one choice is made for all seeds, from as many tuning runs as one seed has here: the usual
  way, and the cheapest.
* found: mechanisms found, at the first step of Holm, that gain ``planned_detectable`` of a study without tuning.
* cost: what an arm loses by choosing with noise, in residual SDs.

The exit status is 1 where *any false* is above 5.5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saccade.study.blocks import Design, Judgement, compute_verdicts, fit
from saccade.study.precision import planned_detectable
from simulated_images import line, share
from simulation import NOISES, noise

Floats = NDArray[np.float64]

MOST_FALSE = 5.5
CURVES = ("same", "shifted")
MORE = {2: 3}
"""Times as many studies: with two arms the error is 5 % by construction, nearest to the bound."""


@dataclass(frozen=True)
class Figures:
    """Shares in per cent over all studies of one cell; the cost in residual SDs."""

    any_false: float
    all_seeds_at_once: float
    one_for_all: float
    found: float
    cost: float


def worth(curve: str, arms: int, values: int, gap: float) -> Floats:
    """What each value is worth to each arm (arms, values), 0 at its best."""
    best = np.full(arms, values // 2)
    if curve == "shifted":
        best[0] -= 1
    return -gap * np.abs(np.arange(values) - best[:, None])


def simulate(
    curve: str, kind: str, arms: int, values: int, repeats: int, seeds: int, gap: float, val: float, studies: int,
    rng: np.random.Generator,
) -> Figures:  # fmt: skip
    """Run the studies and count.

    Args:
        curve: one of ``CURVES``.
        kind: noise of a run, one of ``simulation.NOISES``.
        arms: of a study, ``none`` among them.
        values: in the ladder.
        repeats: tuning runs of each arm and value for each judged seed.
        seeds: judged runs of each arm.
        gap: lost with each step from the best value, in residual SDs.
        val: variance that the validation images leave at any number of seeds, in that of a run.
        studies: how many.
        rng: where all comes from.
    """
    truth = worth(curve, arms, values, gap)
    lasting = np.sqrt(val) * rng.standard_normal((studies, arms, values, 1))
    tuning = noise(kind, (studies, arms, values, seeds * repeats), rng) + truth[..., None] + lasting
    judged = noise(kind, (studies, arms, seeds), rng)
    design = Design.from_present(np.ones((arms, seeds), dtype=bool))

    def scores(choice: NDArray[np.int64]) -> Floats:
        """What the chosen values (studies, arms, seeds or 1) are worth."""
        return np.take_along_axis(np.broadcast_to(truth, (studies, *truth.shape)), choice, axis=2)

    def study(values: Floats) -> Judgement:
        fitted = fit(values + judged, design)
        family = np.ones(arms - 1, dtype=bool)
        return compute_verdicts(
            fitted.differences[:, 1:], fitted.se[:, 1:], design.difference_df[1:], family=family, margin=1.0, alpha=0.05
        )

    def false(values: Floats) -> float:
        return share(np.isin(study(values).verdict, ["helps", "hurts"]).any(axis=1))

    own = scores(tuning.reshape(studies, arms, values, seeds, repeats).mean(axis=-1).argmax(axis=2))
    gain = planned_detectable(1.0, seeds, arms, arms - 1) * (np.arange(arms) > 0)[:, None]
    gained = study(own + gain)
    return Figures(
        any_false=false(own),
        all_seeds_at_once=false(scores(tuning.mean(axis=-1).argmax(axis=2)[..., None])),
        one_for_all=false(scores(tuning[..., :repeats].mean(axis=-1).argmax(axis=2)[..., None])),
        found=share((gained.p < 0.05 / (arms - 1)) & (gained.low > 0)),
        cost=float(-own.mean()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=20_000, help="simulated studies of each cell; two arms get more")
    parser.add_argument("--curve", nargs="+", default=list(CURVES), choices=CURVES)
    parser.add_argument("--noise", nargs="+", default=["normal"], choices=NOISES)
    parser.add_argument("--arms", type=int, nargs="+", default=[2, 4], help="none included")
    parser.add_argument("--values", type=int, nargs="+", default=[3, 5], help="in the ladder")
    parser.add_argument(
        "--repeats", type=int, nargs="+", default=[1, 2, 3], help="tuning runs of a value for each seed"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5], help="judged runs of each arm")
    parser.add_argument("--gap", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5, 2.0], help="in residual SDs")
    parser.add_argument("--val", type=float, nargs="+", default=[0.03], help="in the variance of a run")
    parser.add_argument("--rng", type=int, default=0, help="seed of the simulation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    begun = time.monotonic()
    keys = ("curve", "noise", "arms", "values", "repeats", "seeds", "gap", "val")
    names = list(Figures.__dataclass_fields__)
    print(line(*keys, *(name.replace("_", " ") for name in names)))
    print(line(*["---"] * (len(keys) + len(names))))
    rows: list[dict[str, object]] = []
    worst = dict.fromkeys(names[:3], 0.0)
    for cell in product(*(getattr(args, key) for key in keys)):
        curve, kind, arms, values, repeats, seeds, gap, val = cell
        # Each cell draws from its own numbers, so that it comes out the same among others or alone.
        own = [
            CURVES.index(curve),
            NOISES.index(kind),
            arms,
            values,
            repeats,
            seeds,
            round(100 * gap),
            round(1000 * val),
        ]
        rng = np.random.default_rng([args.rng, *own])
        studies = args.studies * MORE.get(arms, 1)
        found = asdict(simulate(curve, kind, arms, values, repeats, seeds, gap, val, studies, rng))
        worst = {name: max(most, found[name]) for name, most in worst.items()}
        missed = " (!)" if found["any_false"] > MOST_FALSE else ""
        shown = [f"{found[name]:.{2 if name == 'cost' else 1}f}" for name in names]
        print(line(curve, kind, arms, values, repeats, seeds, f"{gap:g}", f"{val:g}", shown[0] + missed, *shown[1:]))
        sys.stdout.flush()
        rows.append({**dict(zip(keys, cell, strict=True)), **found})
    count = sum(float(str(row["any_false"])) > MOST_FALSE for row in rows)
    most = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in worst.items())
    print(f"\nAt most: {most}.")
    print(f"{f'{count} cells are' if count else 'No cell is'} above {MOST_FALSE}; {time.monotonic() - begun:.0f} s.")
    if args.json:
        args.json.write_text(json.dumps({"studies": args.studies, "cells": rows}, indent=1) + "\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
