"""What the statistics need of a metric."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Metric", "difference_unit", "span"]


class Metric(Protocol):
    """A metric of a task; properties, so that a frozen dataclass is one."""

    @property
    def unit(self) -> str:
        """Unit of the scores: "%", "px", "nats", ""."""

    @property
    def digits(self) -> int:
        """Decimals that scores are shown with."""

    @property
    def low(self) -> float | None:
        """Lowest value; None without one."""

    @property
    def high(self) -> float | None:
        """Highest value; None without one."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the scores."""

    @property
    def margin(self) -> float:
        """Default half-width of "equal", in the unit of the scores."""


def difference_unit(metric: Metric) -> str:
    """Unit of differences: "points" for "%", else that of the scores."""
    return "points" if metric.unit == "%" else metric.unit


def span(metric: Metric) -> float | None:
    """Highest less lowest value; None where unbounded."""
    return None if metric.low is None or metric.high is None else metric.high - metric.low
