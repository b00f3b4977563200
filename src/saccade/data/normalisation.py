"""Per-channel mean and standard deviation for normalisation, from the recipe or the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saccade.recipe import Data

__all__ = ["describe_settings", "format_channels", "normalisation"]

_Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation(spec: Data, channels: int, measure: Callable[[], _Statistics]) -> _Statistics:
    """Return the mean and the standard deviation of each channel, for pixels in [0, 1].

    Args:
        spec: ``data`` section of a recipe, whose ``mean`` and ``std`` take precedence.
        channels: 1 or 3; for 1, three values in ``spec`` are averaged.
        measure: returns mean and std of the training images, if ``spec`` lacks one.
    """
    if spec.mean is not None and spec.std is not None:
        return _per_channel(spec.mean, channels), _per_channel(spec.std, channels)
    mean, std = measure()
    return (
        mean if spec.mean is None else _per_channel(spec.mean, channels),
        std if spec.std is None else _per_channel(spec.std, channels),
    )


def describe_settings(spec: Data) -> str:
    """Return a clause on the normalisation and resizing that ``spec`` sets, or ""."""
    settings = [
        f"{name} {format_channels(values)}" for name, values in (("mean", spec.mean), ("std", spec.std)) if values
    ]
    if spec.interpolation:
        settings.append(f"{spec.interpolation} interpolation")
    if spec.crop_pct:
        settings.append(f"the middle {100 * spec.crop_pct:g} % of the short side")
    return f"; shown with {', '.join(settings)}" if settings else ""


def format_channels(values: Sequence[float]) -> str:
    """Return ``values`` as text, or a single value if all are equal."""
    return " ".join(f"{value:.3g}" for value in (values[:1] if len(set(values)) == 1 else values))


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
