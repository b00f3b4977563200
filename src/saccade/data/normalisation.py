"""What turns pixels into the numbers that a network sees: mean and standard deviation, stated or measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saccade.recipe import Data

__all__ = ["listed", "normalisation", "stated"]

_Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation(spec: Data, channels: int, measured: Callable[[], _Statistics]) -> _Statistics:
    """Mean and standard deviation of each channel, for pixels in [0, 1].

    Args:
        spec: what it states comes first.
        channels: 1 or 3. Grey images take the average of what is stated for three.
        measured: those of the training images; not called where both are stated.
    """
    if spec.mean is not None and spec.std is not None:
        return _by_channel(spec.mean, channels), _by_channel(spec.std, channels)
    mean, std = measured()
    return (
        mean if spec.mean is None else _by_channel(spec.mean, channels),
        std if spec.std is None else _by_channel(spec.std, channels),
    )


def stated(spec: Data) -> str:
    """What a recipe states of how images are shown, as the end of a sentence; empty where it states nothing."""
    parts = [f"{name} {listed(values)}" for name, values in (("mean", spec.mean), ("std", spec.std)) if values]
    if spec.interpolation:
        parts.append(f"{spec.interpolation} interpolation")
    if spec.crop_pct:
        parts.append(f"the middle {100 * spec.crop_pct:g} % of the short side")
    return f"; shown with {', '.join(parts)}" if parts else ""


def listed(values: Sequence[float]) -> str:
    """The numbers of all channels, one where they are the same."""
    return " ".join(f"{value:.3g}" for value in (values[:1] if len(set(values)) == 1 else values))


def _by_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
