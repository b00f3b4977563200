"""Pictures of one tensor seen in another order and with padding, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

__all__ = ["Shown"]


class Shown:
    """Pictures of one tensor in an order of their own, with padding in a colour; a slice is a ``Shown`` too.

    Nothing is copied before it is asked for: the tensor may be a mapped file larger than memory.

    Args:
        pixels: uint8 (N, 3, H, W).
        places: which of them.
        inner: of each, (left, top, width, height) of what is no padding; None without padding.
        fill: RGB colour of the padding.
    """

    def __init__(
        self,
        pixels: Tensor,
        places: Sequence[int],
        inner: Sequence[tuple[int, int, int, int]] | None = None,
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.pixels, self.places, self.inner, self.fill = pixels, places, inner, fill

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> Shown: ...
    def __getitem__(self, i: int | slice) -> Tensor | Shown:
        """Picture ``i``, uint8 (3, H, W)."""
        if isinstance(i, slice):
            return Shown(self.pixels, self.places[i], self.inner and self.inner[i], self.fill)
        picture = self.pixels[self.places[i]]
        if self.inner is None:
            return picture
        left, top, width, height = self.inner[i]
        shown = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(1, *picture.shape[1:])
        part = slice(None), slice(top, top + height), slice(left, left + width)
        shown[part] = picture[part]
        return shown
