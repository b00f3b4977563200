"""Whole simulated test sets, for ``benchmarks/simulation.py``: right and wrong answers, read as ``analyse`` reads them.

Images are of different difficulty, each arm has its own strong and weak images, and runs differ as a whole. All arms
are equally good on the population of images, so every "helps" or "hurts" is false. It shows that the image variance
which ``variance_components`` reads from right and wrong answers is the true one, and that intervals hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saccade.study.blocks import Design, Judgement, compute_verdicts, fit
from saccade.study.precision import ImageError, image_floor, squared_image_error, standard_error, variance_components

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """Figures of studies whose test sets are drawn, per cent but the first.

    Attributes:
        image_variance: mean of what the images were read to leave, in units of what the seeds leave.
        read: mean squared standard error by the variance of the estimates.
        any_false: as in ``Figures``.
        coverage: as in ``Figures``.
        coverage_larger: the same with the larger of the two errors alone, as it was.
        coverage_seeds: the same with the error of the seeds alone.
    """

    image_variance: float
    read: float
    any_false: float
    coverage: float
    coverage_larger: float
    coverage_seeds: float


def simulate_images(
    seeds: int,
    studies: int,
    images: int,
    rng: np.random.Generator,
    *,
    taste: float,
    run_sd: float,
    mechanisms: int = 3,
    alpha: float = 0.05,
) -> Drawn:
    """Draw whole test sets, read them as ``analyse`` does, and count.

    An image is right when difficulty + taste of the arm + scatter of the run + the run as a whole exceeds zero.

    Args:
        seeds: runs of each arm.
        studies: how many.
        images: test images of a study, drawn anew for each.
        rng: where all comes from.
        taste: SD of what an arm lastingly makes of an image; the same for all arms, ``none`` too.
        run_sd: SD of a whole run, in the same unit as the run's scatter on one image (1).
        mechanisms: arms beside none.
        alpha: as in a study.
    """
    design = Design.from_present(np.ones((1 + mechanisms, seeds), dtype=bool))
    estimates, errors, parts = [], [], []
    for _ in range(studies):
        arm = 3.2 + 2.2 * rng.standard_normal(images) + taste * rng.standard_normal((1 + mechanisms, 1, images))
        run = run_sd * rng.standard_normal((1 + mechanisms, seeds, 1))
        right = arm + run + rng.standard_normal((1 + mechanisms, seeds, images)) > 0
        fitted = fit(100 * right.mean(axis=2), design)
        between, within = variance_components(100.0 * right[1:] - 100.0 * right[0])
        estimates.append(fitted.differences[1:])
        errors.append(fitted.se[1:])
        parts.append(squared_image_error(between, within, seeds, images))
    d, from_seeds, lasting = np.array(estimates), np.array(errors), np.array(parts)
    df = design.difference_df[1:]
    se, whole_df, lasting_se = standard_error(
        from_seeds, df, ImageError(lasting, images - 1, image_floor(images, 100.0))
    )
    family = np.ones(mechanisms, dtype=bool)

    def tests(se: Floats, df: Floats) -> Judgement:
        return compute_verdicts(d, se, df, family=family, margin=1.0, alpha=alpha)

    def coverage(found: Judgement) -> float:
        return share((found.low <= 0) & (found.high >= 0))

    whole = tests(se, whole_df)
    return Drawn(
        image_variance=float(np.square(lasting_se).mean() / np.square(from_seeds).mean()),
        read=100 * float(np.square(se).mean() / np.square(d).mean()),
        any_false=share(np.isin(whole.verdict, ["helps", "hurts"]).any(axis=1)),
        coverage=coverage(whole),
        coverage_larger=coverage(tests(np.maximum(from_seeds, lasting_se), df)),
        coverage_seeds=coverage(tests(from_seeds, df)),
    )


def all_test_sets(seed_counts: Sequence[int], studies: int, images: int, rng_seed: int) -> list[dict[str, object]]:
    """Print the table, and return its rows."""
    names = list(Drawn.__dataclass_fields__)
    print(line("taste", "run SD", "seeds", *(name.replace("_", " ") for name in names)))
    print(line(*["---"] * (len(names) + 3)))
    rows: list[dict[str, object]] = []
    for taste, run_sd in ((0.0, 0.05), (0.5, 0.05), (1.0, 0.05), (1.5, 0.05)):
        for seeds in seed_counts:
            rng = np.random.default_rng([rng_seed, seeds])
            figures = asdict(simulate_images(seeds, studies, images, rng, taste=taste, run_sd=run_sd))
            print(line(taste, run_sd, seeds, *show(figures, [])), flush=True)
            rows.append({"taste": taste, "run_sd": run_sd, "seeds": seeds, **figures})
    return rows


def line(*cells: object) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def show(figures: dict[str, float], wrong: list[str]) -> list[str]:
    """The cells of a table line, with a mark at what is not as asked."""
    return [f"{value:.1f}{' !' if name in wrong else ''}" for name, value in figures.items()]


def share(hits: ArrayLike) -> float:
    """Per cent of hits."""
    return 100 * float(np.asarray(hits, dtype=np.float64).mean())
