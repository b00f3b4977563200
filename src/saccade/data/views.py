"""Lazy selection of images from a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

__all__ = ["ImageView"]


class ImageView:
    """Sequence of images selected from a tensor, with padding in a given colour.

    Images of a perhaps memory-mapped tensor are copied on access only.

    Args:
        pixels: uint8 (N, 3, H, W).
        indices: indices into ``pixels``.
        content_boxes: (left, top, width, height) of each image without padding; None if there is no padding.
        fill: RGB colour of the padding.
    """

    def __init__(
        self,
        pixels: Tensor,
        indices: Sequence[int],
        content_boxes: Sequence[tuple[int, int, int, int]] | None = None,
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.pixels, self.indices, self.content_boxes, self.fill = pixels, indices, content_boxes, fill

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> ImageView: ...
    def __getitem__(self, i: int | slice) -> Tensor | ImageView:
        """Return image ``i``, uint8 (3, H, W)."""
        if isinstance(i, slice):
            return ImageView(self.pixels, self.indices[i], self.content_boxes and self.content_boxes[i], self.fill)
        image = self.pixels[self.indices[i]]
        if self.content_boxes is None:
            return image
        left, top, width, height = self.content_boxes[i]
        padded = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(1, *image.shape[1:])
        content = slice(None), slice(top, top + height), slice(left, left + width)
        padded[content] = image[content]
        return padded
