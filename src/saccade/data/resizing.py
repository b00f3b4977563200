"""Resize images, and masks by the same geometry, to the input size of a network."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image, ImageOps

from saccade.recipe import Data

__all__ = ["DEFAULT_SIZE", "Frame", "common_size", "common_square", "swaps_sides"]

DEFAULT_SIZE = (224, 224)
"""Input size (H, W) if neither the recipe nor the images determine it."""
_MAX_COMMON_SIDE = 2048
"""Longest side in pixels at which images of a common size are not resized."""


def swaps_sides(image: Image.Image) -> bool:
    """Return True if the EXIF orientation of ``image`` swaps width and height."""
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) >= 5)


@dataclass(frozen=True)
class Frame:
    """Input size of a network and the way images are resized to it.

    Attributes:
        height: height in pixels.
        width: width in pixels.
        resize: ``crop``: fit the short side, crop the centre; ``pad``: fit the long side, pad; ``stretch``: fit both.
        fill: RGB colour of the padding.
        interpolation: lower-case name of ``PIL.Image.Resampling``.
        crop_pct: with ``crop``, images are resized to the frame's size / ``crop_pct``, then cropped; None: cropped to
            the frame's aspect ratio, then resized.
    """

    height: int
    width: int
    resize: Literal["crop", "pad", "stretch"] = "crop"
    fill: tuple[int, int, int] = (0, 0, 0)
    interpolation: str = "bilinear"
    crop_pct: float | None = None

    @classmethod
    def from_spec(cls, spec: Data, height_width: tuple[int, int]) -> Frame:
        """Return a frame of ``height_width`` with the resizing of ``spec``."""
        return cls(*height_width, spec.resize, interpolation=spec.interpolation or "bilinear", crop_pct=spec.crop_pct)

    @property
    def resize_size(self) -> tuple[int, int]:
        """Smallest (height, width) of the resized image before cropping."""
        fraction = self.crop_pct or 1.0
        return math.floor(self.height / fraction), math.floor(self.width / fraction)

    def fit_image(self, image: Image.Image) -> Image.Image:
        """Return ``image`` (mode RGB) resized to the frame."""
        return self._fit(image, Image.Resampling[self.interpolation.upper()], self.fill)

    def fit_mask(self, mask: Image.Image) -> Image.Image:
        """Return ``mask`` (mode L) resized to the frame by nearest neighbour; padding is ``VOID``."""
        from saccade.data.samples import VOID

        return self._fit(mask, Image.Resampling.NEAREST, VOID)

    def content_box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return (left, top, width, height) of the frame's region that an image of ``size`` (width, height) covers."""
        if self.resize != "pad":
            return 0, 0, self.width, self.height
        scale = min(self.width / size[0], self.height / size[1])
        width, height = (
            max(1, min(round(side * scale), limit)) for side, limit in zip(size, self._width_height, strict=True)
        )
        return (self.width - width) // 2, (self.height - height) // 2, width, height

    def image_to_frame(self, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (scale, shift) for x and for y: they map image coordinate c to frame coordinate ``scale * c + shift``.

        ``size`` is the (width, height) of the image.
        """
        if self.resize == "pad":
            left, top, width, height = self.content_box(size)
            return (width / size[0], left), (height / size[1], top)
        if self.resize == "crop" and self.crop_pct is not None:
            (width, height), (left, top) = self._resized_size_and_crop_offset(size)
            return (width / size[0], -left), (height / size[1], -top)
        scales = self.width / size[0], self.height / size[1]
        if self.resize == "crop":
            scales = max(scales), max(scales)
        x, y = (
            (scale, (frame_side - scale * side) / 2)
            for scale, side, frame_side in zip(scales, size, self._width_height, strict=True)
        )
        return x, y

    @property
    def _width_height(self) -> tuple[int, int]:
        return self.width, self.height

    def _fit(self, image: Image.Image, resampling: Image.Resampling, fill: int | tuple[int, ...]) -> Image.Image:
        if self.resize == "crop" and self.crop_pct is not None:
            return self._resize_and_crop(image, resampling)
        if image.size == self._width_height:
            return image
        if self.resize == "crop":
            return ImageOps.fit(image, self._width_height, resampling)
        if self.resize == "stretch":
            return image.resize(self._width_height, resampling)
        left, top, width, height = self.content_box(image.size)
        canvas = Image.new(image.mode, self._width_height, fill)
        canvas.paste(image.resize((width, height), resampling), (left, top))
        return canvas

    def _resize_and_crop(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        """Resize to cover ``resize_size`` and crop the centre, exactly like timm's test transform."""
        size, (left, top) = self._resized_size_and_crop_offset(image.size)
        return image.resize(size, resampling).crop((left, top, left + self.width, top + self.height))

    def _resized_size_and_crop_offset(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the (width, height) that an image of ``size`` is resized to, and (left, top) of the crop."""
        height, width = self.resize_size
        if height == width:
            short, long = height, int(height * max(size) / min(size))
            resized = (short, long) if size[0] <= size[1] else (long, short)
        else:
            scale = max(width / size[0], height / size[1])
            resized = max(width, round(scale * size[0])), max(height, round(scale * size[1]))
        left, top = (round((side - crop_side) / 2) for side, crop_side in zip(resized, self._width_height, strict=True))
        return resized, (left, top)


def common_square(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """Return (H, W) of images that are all squares of one size (width, height), else ``DEFAULT_SIZE``."""
    if len(sizes) != 1:
        return DEFAULT_SIZE
    (size,) = sizes
    return size if size[0] == size[1] else DEFAULT_SIZE


def common_size(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """Return (H, W) of images that all have one size (width, height) up to 2048 pixels, else ``DEFAULT_SIZE``."""
    if len(sizes) != 1:
        return DEFAULT_SIZE
    ((width, height),) = sizes
    return DEFAULT_SIZE if max(width, height) > _MAX_COMMON_SIDE else (height, width)
