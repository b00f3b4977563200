"""Statistical results as data and as sentences.

A positive difference is better. Differences, errors and margins are in ``unit``: "points" for "%", else the metric's
unit, or "".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from saccade.study.blocks import Verdict
from saccade.study.precision import MAX_SEEDS

__all__ = ["Analysis", "ArmScores", "ConfidenceInterval", "Difference", "with_unit"]


@dataclass(frozen=True)
class Difference:
    """Difference of one arm to the baseline; None for a value that cannot be estimated.

    Attributes:
        name: name of the arm.
        baseline: name of the baseline.
        difference: least-squares estimate.
        low: lower end of the confidence interval at level 1 - alpha.
        high: upper end.
        se: standard error.
        se_images: part of ``se`` from the test images; 0 if unknown.
        se_from: source of its larger part, "seeds" or "images".
        df: Satterthwaite degrees of freedom.
        p: uncorrected two-sided p.
        p_holm: Holm's p over the mechanisms; ``p`` for a control.
        verdict: ``helps``, ``hurts``, ``equal`` or ``not decided``; None if the baseline has not learnt the task.
        detectable: true difference that is found with probability 0.8.
        seeds_needed: for ``not decided``, seeds that decide with probability 0.8, up to 100; else None.
        images_needed: for ``not decided``, True if no number of seeds decides with these test images.
        raw: paired differences, one per shared seed.
        seeds: number of shared seeds.
        is_control: True for an arm outside the Holm family.
        comparisons: size of the Holm family.
        margin: largest negligible difference.
        alpha: family-wise error rate.
        unit: unit of the differences.
        digits: minimum number of decimals shown.
        higher_is_better: direction of the scores.
        reason: that of a missing confidence interval.
    """

    name: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    se: float | None
    se_images: float | None
    se_from: Literal["seeds", "images"] | None
    df: float | None
    p: float | None
    p_holm: float | None
    verdict: Verdict | None
    detectable: float | None
    seeds_needed: int | None
    images_needed: bool
    raw: tuple[float, ...]
    seeds: int
    is_control: bool
    comparisons: int
    margin: float
    alpha: float
    unit: str
    digits: int
    higher_is_better: bool
    reason: str | None

    @property
    def verdict_text(self) -> str:
        """Text of the verdict; "not judged" for None."""
        return self.verdict or "not judged"

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """Return the verdict and its numbers in one or two sentences."""
        head, estimate, rest = self.parts()
        return f"{head}. {estimate} {rest}" if estimate else f"{head}. {rest}"

    def parts(self) -> tuple[str, str, str]:
        """Return three parts of the sentence: verdict, difference with unit, and rest."""
        head = f"{self.name}{' (control)' if self.is_control else ''}: {self.verdict_text}"
        if self.difference is None:
            return head, "", str(self.reason)
        if self.low is None or self.high is None:
            return head, _format_difference(self, self.digits), f"against {self.baseline}. {self.reason}"
        digits = _needed_digits(self, self.margin)
        estimate, interval = _format_difference(self, digits), _format_interval(self, digits)
        within = f"±{with_unit(float(self.margin), self.unit)}"
        if self.verdict == "equal":
            advice = "" if self.is_control else ": it can be left out"
            return f"{head} to {self.baseline} within {within}", estimate, f"({interval}){advice}."
        if self.verdict is None:
            return head, estimate, f"({interval})."
        if self.verdict == "not decided":
            return head, estimate, f"({interval}){self._undecided_clause(digits)}"
        corrected = "Holm p" if self.comparisons > 1 else "p"
        within_margin = -self.margin < self.low and self.high < self.margin
        effect = {"helps": "gain", "hurts": "loss"}[self.verdict]
        rest = f"; the {effect} is real but lies within {within}." if within_margin else "."
        return head, estimate, f"({interval}, {corrected} {_format_p(self.p_holm)}){rest}"

    def _undecided_clause(self, digits: int) -> str:
        """Return a clause on the detectable difference and the seeds or images needed for a verdict."""
        clause = ""
        if self.p is not None and self.p < self.alpha:
            clause += (
                "; the interval excludes zero, but the difference is not significant after correction for "
                f"{self.comparisons} comparisons"
            )
        if self.detectable is not None:
            detectable = with_unit(f"{self.detectable:.{digits}f}", self.unit)
            clause += f"; this study could have detected differences of {detectable}"
        if self.seeds_needed is not None:
            return f"{clause}; about {self.seeds_needed} seeds would decide."
        if self.images_needed:
            return f"{clause}; no number of seeds would decide, more test images would."
        return f"{clause}; more than {MAX_SEEDS} seeds would be needed to decide."


@dataclass(frozen=True)
class ConfidenceInterval:
    """Difference of one arm to the baseline without a verdict; attributes as in :class:`Difference`."""

    name: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    raw: tuple[float, ...]
    seeds: int
    alpha: float
    unit: str
    digits: int
    higher_is_better: bool
    reason: str | None

    def sentence(self) -> str:
        """Return the difference and its confidence interval in one sentence."""
        if self.difference is None:
            return f"{self.name}: {self.reason}"
        if self.low is None or self.high is None:
            return f"{self.name}: {_format_difference(self, self.digits)} against {self.baseline}. {self.reason}"
        digits = _needed_digits(self)
        return f"{self.name}: {_format_difference(self, digits)} ({_format_interval(self, digits)})."


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm, in the metric's unit, or None.

    Attributes:
        name: name of the arm.
        mean: mean score.
        sd: standard deviation over seeds.
        scores: one per seed.
    """

    name: str
    mean: float | None
    sd: float | None
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class Analysis:
    """Statistical results of a study.

    Attributes:
        baseline: name of the baseline.
        margin: largest negligible difference.
        alpha: family-wise error rate.
        unit: unit of the differences.
        digits: minimum number of decimals shown.
        arms: scores of every arm, baseline first.
        differences: differences of the other arms.
        sigma: residual SD, or None.
        df: residual degrees of freedom.
        seed_sd: variance component of seeds as an SD.
        largest_residual: largest internally studentised residual.
        largest_residual_at: its (arm, seed).
        seeds: seeds of the study.
        images: number of test images, or None.
        first_look: True for three seeds or fewer.
        notes: caveats of the verdicts.
        not_learnt: warning if the baseline has not learnt the task.
    """

    baseline: str
    margin: float
    alpha: float
    unit: str
    digits: int
    arms: tuple[ArmScores, ...]
    differences: tuple[Difference, ...]
    sigma: float | None
    df: int
    seed_sd: float | None
    largest_residual: float | None
    largest_residual_at: tuple[str, int] | None
    seeds: tuple[int, ...]
    images: int | None
    first_look: bool
    notes: tuple[str, ...]
    not_learnt: str | None = None

    def diagnostics(self) -> str:
        """Return a line with the residual SD, the SD between seeds and the largest residual."""
        if self.sigma is None:
            return "No residual: the runs leave no degrees of freedom to measure the spread with."
        sigma = with_unit(f"{self.sigma:.{self.digits + 1}f}", self.unit)
        line = f"Residual SD {sigma} with {self.df} degrees of freedom"
        if self.seed_sd is not None:
            line += f"; SD between seeds {self.seed_sd:.{self.digits + 1}f}"
        if self.largest_residual is not None and self.largest_residual_at is not None:
            arm, seed = self.largest_residual_at
            line += f"; largest studentised residual {self.largest_residual:.1f} ({arm}, seed {seed})"
        return line + "."

    def to_json(self) -> dict[str, Any]:
        """Return plain values, including the sentences."""
        result = asdict(self)
        for row, difference in zip(result["differences"], self.differences, strict=True):
            row["sentence"] = difference.sentence()
        result["diagnostics"] = self.diagnostics()
        return _tuples_to_lists(result)


def _format_interval(difference: Difference | ConfidenceInterval, digits: int) -> str:
    """Format the confidence interval and its number of seeds."""
    assert difference.low is not None
    assert difference.high is not None
    better = "" if difference.higher_is_better else "+ is better, "
    return (
        f"{100 * (1 - difference.alpha):g} % interval {_format_signed(difference.low, digits)} to "
        f"{_format_signed(difference.high, digits)}, {better}{_format_seeds(difference.seeds)}"
    )


def _format_difference(difference: Difference | ConfidenceInterval, digits: int) -> str:
    """Format the difference with its unit; if lower scores are better, "better" or "worse" replaces the sign."""
    assert difference.difference is not None
    if difference.higher_is_better:
        return with_unit(_format_signed(difference.difference, digits), difference.unit)
    direction = "worse" if difference.difference < 0 else "better"
    return f"{with_unit(f'{abs(difference.difference):.{digits}f}', difference.unit)} {direction}"


def _needed_digits(difference: Difference | ConfidenceInterval, margin: float = 0.0) -> int:
    """Return the number of decimals, at most two more, that keeps rounded bounds on their side of zero and ±margin."""
    for digits in (difference.digits, difference.digits + 1):
        if all(
            (value < boundary) == (round(value, digits) < boundary)
            and (value > boundary) == (round(value, digits) > boundary)
            for value in (difference.low, difference.high)
            if value is not None
            for boundary in (-margin, 0.0, margin)
        ):
            return digits
    return difference.digits + 2


def with_unit(value: float | str, unit: str) -> str:
    """Return the value followed by its unit."""
    return f"{value} {unit}".rstrip()


def _format_signed(value: float, digits: int) -> str:
    """Format ``value`` with its sign; zero is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _format_seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _format_p(value: float | None) -> str:
    return "unknown" if value is None else "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _tuples_to_lists(value: Any) -> Any:
    """Convert tuples to lists recursively, as in JSON."""
    if isinstance(value, dict):
        return {key: _tuples_to_lists(entry) for key, entry in value.items()}
    return [_tuples_to_lists(entry) for entry in value] if isinstance(value, tuple | list) else value
