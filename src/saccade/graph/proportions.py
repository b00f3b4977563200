"""The values of a traced forward that follow the picture in height and width."""

from __future__ import annotations

from collections.abc import Collection

from saccade.graph.trace import Trace
from saccade.graph.values import Key

__all__ = ["following", "pictures"]


def pictures(trace: Trace) -> set[tuple[int, int]]:
    """Return the sizes of the picture given, and of what the host makes of it before its first convolution."""
    if trace.picture is None:
        return set()
    values = trace.values
    raw = set[Key]()
    for key, value in values.items():
        if key not in trace.convolutions and raw.issuperset(value.parents):
            raw.add(key)
    first = [values[conv.source].shape for conv in trace.convolutions.values() if conv.source in raw]
    return {trace.picture} | {(shape[-2], shape[-1]) for shape in first}


def following(trace: Trace, pictures: Collection[tuple[int, int]]) -> set[Key]:
    """Return the values (B, C, H, W) of the proportions of one of ``pictures``, or made of such a value as a map is.

    Convolutions without padding and crops take as many pixels of the height as of the width.
    """
    found = set[Key]()
    for key, value in trace.values.items():
        if len(value.shape) != 4:
            continue
        size = value.shape[2], value.shape[3]
        before = (trace.values[parent].shape for parent in value.parents if parent in found)
        if any(_scaled(size, picture) for picture in pictures) or any(
            _scaled(size, (shape[2], shape[3])) or _trimmed(size, (shape[2], shape[3])) for shape in before
        ):
            found.add(key)
    return found


def _scaled(size: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Return whether ``size`` has the proportions of ``picture``."""
    (h, w), (height, width) = size, picture
    # One pixel of rounding on either side, at the scale of whichever of the two is larger.
    return abs(h * width - w * height) <= (height + width) * max(1.0, h / height)


def _trimmed(size: tuple[int, int], before: tuple[int, int]) -> bool:
    """Return whether ``size`` is ``before``, its half or its quarter, less equally many pixels of height and width."""
    (h, w), (height, width) = size, before
    steps = (step for step in (1, 2, 4) if h * step <= height and w * step <= width)
    return any(abs((height - step * h) - (width - step * w)) < step for step in steps)
