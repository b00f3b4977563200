"""Base class of the layouts with one class mask per image."""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from saccade.data.layouts._folder import FolderLayout
from saccade.data.resizing import common_size

__all__ = ["MaskFolderLayout"]


class MaskFolderLayout(FolderLayout):
    """Layout of image files and mask files."""

    targets = ("mask",)
    full_resolution = True
    options = MappingProxyType({"void": "names of classes to ignore; false ignores none"})

    def default_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """Return the common (H, W) of the images, square or not, so that masks are used at full size."""
        return common_size(sizes)
