"""How an image of any size is brought to the size that a network sees, its mask by the same geometry."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image, ImageOps

from saccade.recipe import Data

__all__ = ["DEFAULT", "Frame", "common_size", "common_square", "lies"]

DEFAULT = (224, 224)
"""(H, W) where neither the recipe nor the images themselves say one."""
_LARGEST = 2048
"""Side up to which images of one size keep it."""


def lies(image: Image.Image) -> bool:
    """Whether the EXIF orientation of ``image`` exchanges width and height."""
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) >= 5)


@dataclass(frozen=True)
class Frame:
    """What a network sees of an image.

    Attributes:
        height: in pixels.
        width: in pixels.
        resize: ``crop``, the short side fits and the middle is cut out; ``pad``, the long side fits and the rest is
            filled; ``stretch``, both sides fit.
        fill: RGB colour of the filling.
        interpolation: of pictures, a name of ``PIL.Image.Resampling`` in small letters.
        crop_pct: of ``crop``: the short side is resized to that of the frame over ``crop_pct``; None cuts first and
            resizes once.
    """

    height: int
    width: int
    resize: Literal["crop", "pad", "stretch"] = "crop"
    fill: tuple[int, int, int] = (0, 0, 0)
    interpolation: str = "bilinear"
    crop_pct: float | None = None

    @classmethod
    def of(cls, spec: Data, size: tuple[int, int]) -> Frame:
        """The frame of ``size`` (height, width) that a recipe asks for."""
        return cls(*size, spec.resize, interpolation=spec.interpolation or "bilinear", crop_pct=spec.crop_pct)

    @property
    def scale_size(self) -> tuple[int, int]:
        """(height, width) that an image is resized to cover, before its middle is cut out."""
        part = self.crop_pct or 1.0
        return math.floor(self.height / part), math.floor(self.width / part)

    def picture(self, image: Image.Image) -> Image.Image:
        """``image`` (mode RGB) in the frame."""
        return self._fitted(image, Image.Resampling[self.interpolation.upper()], self.fill)

    def mask(self, mask: Image.Image) -> Image.Image:
        """``mask`` (mode L) in the frame: each pixel takes the value of the nearest, the filling is ``VOID``."""
        from saccade.data.samples import VOID

        return self._fitted(mask, Image.Resampling.NEAREST, VOID)

    def content(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the part of the frame that an image of ``size`` (width, height) covers."""
        if self.resize != "pad":
            return 0, 0, self.width, self.height
        scale = min(self.width / size[0], self.height / size[1])
        width, height = (max(1, min(round(side * scale), most)) for side, most in zip(size, self._size, strict=True))
        return (self.width - width) // 2, (self.height - height) // 2, width, height

    def placement(self, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of an image of ``size`` (width, height): a point x y of it lies in the frame at ``scale * x + shift``.

        Returns:
            (scale, shift) of x and of y.
        """
        if self.resize == "pad":
            left, top, width, height = self.content(size)
            return (width / size[0], left), (height / size[1], top)
        if self.resize == "crop" and self.crop_pct is not None:
            (width, height), (left, top) = self._cover(size)
            return (width / size[0], -left), (height / size[1], -top)
        scales = self.width / size[0], self.height / size[1]
        if self.resize == "crop":
            scales = max(scales), max(scales)
        x, y = (
            (scale, (shown - scale * side) / 2) for scale, side, shown in zip(scales, size, self._size, strict=True)
        )
        return x, y

    @property
    def _size(self) -> tuple[int, int]:
        return self.width, self.height

    def _fitted(self, image: Image.Image, how: Image.Resampling, fill: int | tuple[int, ...]) -> Image.Image:
        if self.resize == "crop" and self.crop_pct is not None:
            return self._middle(image, how)
        if image.size == self._size:
            return image
        if self.resize == "crop":
            return ImageOps.fit(image, self._size, how)
        if self.resize == "stretch":
            return image.resize(self._size, how)
        left, top, width, height = self.content(image.size)
        page = Image.new(image.mode, self._size, fill)
        page.paste(image.resize((width, height), how), (left, top))
        return page

    def _middle(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        """``image`` resized to cover ``scale_size`` and cut, to the same pixels as timm's transform for testing."""
        size, (left, top) = self._cover(image.size)
        return image.resize(size, how).crop((left, top, left + self.width, top + self.height))

    def _cover(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """To what width and height an image of ``size`` is resized, and the left upper corner of what is cut out."""
        height, width = self.scale_size
        if height == width:
            short, long = height, int(height * max(size) / min(size))
            covering = (short, long) if size[0] <= size[1] else (long, short)
        else:
            scale = max(width / size[0], height / size[1])
            covering = max(width, round(scale * size[0])), max(height, round(scale * size[1]))
        left, top = (round((side - cut) / 2) for side, cut in zip(covering, self._size, strict=True))
        return covering, (left, top)


def common_square(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """(H, W) of images that are all squares of one size, else ``DEFAULT``."""
    size, *others = sizes or [(0, 1)]
    return size if not others and size[0] == size[1] else DEFAULT


def common_size(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """(H, W) of images that are all of one size (width, height) up to 2048 pixels a side, else ``DEFAULT``."""
    size, *others = sizes or [(_LARGEST + 1, 1)]
    return DEFAULT if others or max(size) > _LARGEST else (size[1], size[0])
