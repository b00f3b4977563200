"""Detect values of a traced forward pass whose height and width scale with the image."""

from __future__ import annotations

from collections.abc import Collection

from saccade.graph.trace import Trace
from saccade.graph.values import ValueKey

__all__ = ["image_shaped_values", "image_sizes"]


def image_sizes(trace: Trace) -> set[tuple[int, int]]:
    """Return the image's size and the sizes that it is resized to before the first convolution."""
    if trace.image_size is None:
        return set()
    values = trace.values
    preprocessed = set[ValueKey]()
    for key, value in values.items():
        if key not in trace.convolutions and preprocessed.issuperset(value.parents):
            preprocessed.add(key)
    conv_inputs = [values[conv.source].shape for conv in trace.convolutions.values() if conv.source in preprocessed]
    return {trace.image_size} | {(shape[-2], shape[-1]) for shape in conv_inputs}


def image_shaped_values(trace: Trace, image_sizes: Collection[tuple[int, int]]) -> set[ValueKey]:
    """Return the values (B, C, H, W) proportioned like an image size, or scaled or cropped versions of such values.

    Crops and convolutions without padding trim height and width equally.
    """
    keys = set[ValueKey]()
    for key, value in trace.values.items():
        if len(value.shape) != 4:
            continue
        size = value.shape[2], value.shape[3]
        parent_shapes = (trace.values[parent].shape for parent in value.parents if parent in keys)
        if any(_has_proportions(size, image_size) for image_size in image_sizes) or any(
            _has_proportions(size, (shape[2], shape[3])) or _is_trimmed(size, (shape[2], shape[3]))
            for shape in parent_shapes
        ):
            keys.add(key)
    return keys


def _has_proportions(size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    (h, w), (image_height, image_width) = size, image_size
    # Allow one pixel of rounding per side, at the scale of the larger size.
    return abs(h * image_width - w * image_height) <= (image_height + image_width) * max(1.0, h / image_height)


def _is_trimmed(size: tuple[int, int], parent_size: tuple[int, int]) -> bool:
    """Return True if ``size`` is ``parent_size`` divided by 1, 2 or 4, trimmed equally in height and width."""
    (h, w), (height, width) = size, parent_size
    strides = (stride for stride in (1, 2, 4) if h * stride <= height and w * stride <= width)
    return any(abs((height - stride * h) - (width - stride * w)) < stride for stride in strides)
