"""The findings of a study as data, and as sentences: what the terminal, the report and ``results.json`` all say.

Differences are oriented so that + is better. They, their errors and margins are in ``unit``: "points" of a percentage,
else the metric's own unit, "" for none. None stands where nothing can be said.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from saccade.study.blocks import Verdict
from saccade.study.precision import MOST_SEEDS

__all__ = ["Analysis", "Arm", "Difference", "Interval", "measure"]


@dataclass(frozen=True)
class Difference:
    """One arm against the baseline; None where it cannot be said.

    Attributes:
        name: the arm.
        baseline: the arm it is compared with.
        difference: least-squares estimate; with all runs there, the mean of ``raw``.
        low: lower end of the interval at 1 - alpha.
        high: upper end.
        se: standard error of the difference.
        se_images: the part of it that the test images leave at any number of seeds; 0 where they are unknown.
        se_from: "seeds" or "images", whichever gives the larger part.
        df: Satterthwaite's degrees of freedom of ``se``.
        p: two-sided, uncorrected.
        p_holm: corrected over the mechanisms; for a control the same as ``p``.
        verdict: "helps", "hurts", "equal" or "not decided"; None where the baseline has not learnt the task.
        detectable: smallest true difference this study would have found with 80 % power.
        seeds_needed: for "not decided", seeds that would probably decide; None if over 100, or for another verdict.
        images_needed: for "not decided", whether no number of seeds would decide on so few test images.
        raw: per-seed differences, in the order of seeds, where both arms have a score.
        seeds: how many those are.
        is_control: outside the Holm family.
        comparisons: size of the family the p is corrected over.
        margin: half-width of "equal".
        alpha: error of the family.
        unit: of the differences.
        digits: decimals at least.
        higher_is_better: of the scores; differences are oriented already.
        reason: why there is no interval; None where there is one.
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
    def word(self) -> str:
        """The verdict in words; "not judged" for None."""
        return self.verdict or "not judged"

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """The verdict in one or two plain sentences with its numbers."""
        head, figure, rest = self.parts()
        return f"{head}. {figure} {rest}" if figure else f"{head}. {rest}"

    def parts(self) -> tuple[str, str, str]:
        """The sentence as its verdict, the difference with its unit ("" without one), and the rest."""
        head = f"{self.name}{' (control)' if self.is_control else ''}: {self.word}"
        if self.difference is None:
            return head, "", str(self.reason)
        if self.low is None or self.high is None:
            return head, _estimate(self, self.digits), f"against {self.baseline}. {self.reason}"
        digits = _digits(self, self.margin)
        figure, interval = _estimate(self, digits), _interval(self, digits)
        within = f"±{measure(float(self.margin), self.unit)}"
        if self.verdict == "equal":
            leave = "" if self.is_control else ": it can be left out"
            return f"{head} to {self.baseline} within {within}", figure, f"({interval}){leave}."
        if self.verdict is None:
            return head, figure, f"({interval})."
        if self.verdict == "not decided":
            return head, figure, f"({interval}){self._outlook(digits)}"
        corrected = "Holm p" if self.comparisons > 1 else "p"
        small = -self.margin < self.low and self.high < self.margin
        effect = {"helps": "gain", "hurts": "loss"}[self.verdict]
        rest = f"; the {effect} is real but lies within {within}." if small else "."
        return head, figure, f"({interval}, {corrected} {_p(self.p_holm)}){rest}"

    def _outlook(self, digits: int) -> str:
        """What an undecided study could have seen, and what would decide."""
        said = ""
        if self.p is not None and self.p < self.alpha:
            said += f"; zero is outside, but not after correction for {self.comparisons} comparisons"
        if self.detectable is not None:
            seen = measure(f"{self.detectable:.{digits}f}", self.unit)
            said += f"; this study could have seen differences of {seen}"
        if self.seeds_needed is not None:
            return f"{said}; about {self.seeds_needed} seeds would decide."
        if self.images_needed:
            return f"{said}; no number of seeds would decide, more test images would."
        return f"{said}; more than {MOST_SEEDS} seeds would be needed to decide."


@dataclass(frozen=True)
class Interval:
    """One arm against the baseline by a metric that is reported but not judged; attributes as of ``Difference``."""

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
        """The difference and its interval, without a verdict."""
        if self.difference is None:
            return f"{self.name}: {self.reason}"
        if self.low is None or self.high is None:
            return f"{self.name}: {_estimate(self, self.digits)} against {self.baseline}. {self.reason}"
        digits = _digits(self)
        return f"{self.name}: {_estimate(self, digits)} ({_interval(self, digits)})."


@dataclass(frozen=True)
class Arm:
    """Scores of one arm.

    Attributes:
        name: the arm.
        mean: mean score over the seeds that have one, in the metric's unit and direction; None without any.
        sd: standard deviation over seeds (the seeds' own effect included); None below two.
        scores: one per seed of the study, None where the run has none.
    """

    name: str
    mean: float | None
    sd: float | None
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class Analysis:
    """The answer of a study.

    Attributes:
        baseline: the arm all others are compared with.
        margin: half-width of "equal".
        alpha: error of the Holm family.
        unit: of the differences.
        digits: decimals at least.
        arms: mean and spread of every arm, in the order given.
        differences: one per arm but the baseline, in the order given.
        sigma: pooled residual SD; None without degrees of freedom.
        df: residual degrees of freedom.
        seed_sd: SD between seeds that all arms share (variance component, 0 where sigma explains it all).
        largest_residual: largest residual in units of its own standard error (internally studentised).
        largest_residual_at: (arm, seed) of that residual.
        seeds: the seeds.
        images: test images behind the scores; None where they were not given.
        first_look: three seeds or fewer.
        notes: sentences the reader must see beside the verdicts.
        not_learnt: the sentence that stands before everything else where the baseline is within noise of the trivial
            answer; None where it is not.
    """

    baseline: str
    margin: float
    alpha: float
    unit: str
    digits: int
    arms: tuple[Arm, ...]
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
        """The fit in one line."""
        if self.sigma is None:
            return "No residual: the runs leave no degrees of freedom to measure the spread with."
        sigma = measure(f"{self.sigma:.{self.digits + 1}f}", self.unit)
        line = f"Residual SD {sigma} with {self.df} degrees of freedom"
        if self.seed_sd is not None:
            line += f"; SD between seeds {self.seed_sd:.{self.digits + 1}f}"
        if self.largest_residual is not None and self.largest_residual_at is not None:
            arm, seed = self.largest_residual_at
            line += f"; largest standardised residual {self.largest_residual:.1f} ({arm}, seed {seed})"
        return line + "."

    def to_json(self) -> dict[str, Any]:
        """A plain dict of lists, strings, numbers and None, with the sentences in it."""
        plain = asdict(self)
        for row, difference in zip(plain["differences"], self.differences, strict=True):
            row["sentence"] = difference.sentence()
        plain["diagnostics"] = self.diagnostics()
        return _lists(plain)


def _interval(row: Difference | Interval, digits: int) -> str:
    """The interval and the seeds behind it."""
    assert row.low is not None
    assert row.high is not None
    better = "" if row.higher_is_better else "+ is better, "
    return (
        f"{100 * (1 - row.alpha):g} % interval {_signed(row.low, digits)} to {_signed(row.high, digits)}, "
        f"{better}{_seeds(row.seeds)}"
    )


def _estimate(row: Difference | Interval, digits: int) -> str:
    """The difference with its unit; where lower scores are better, "better" or "worse" takes the place of the sign."""
    assert row.difference is not None
    if row.higher_is_better:
        return measure(_signed(row.difference, digits), row.unit)
    side = "worse" if row.difference < 0 else "better"
    return f"{measure(f'{abs(row.difference):.{digits}f}', row.unit)} {side}"


def _digits(row: Difference | Interval, margin: float = 0.0) -> int:
    """Decimals at which the rounded interval still lies on the true side of zero and of ±margin: two more at most."""
    for digits in (row.digits, row.digits + 1):
        if all(
            (value < line) == (round(value, digits) < line) and (value > line) == (round(value, digits) > line)
            for value in (row.low, row.high)
            if value is not None
            for line in (-margin, 0.0, margin)
        ):
            return digits
    return row.digits + 2


def measure(value: float | str, unit: str) -> str:
    """The value with its unit."""
    return f"{value} {unit}".rstrip()


def _signed(value: float, digits: int) -> str:
    """With its sign, and zero without a minus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _p(value: float | None) -> str:
    return "unknown" if value is None else "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _lists(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, tuple | list) else value
