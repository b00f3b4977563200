"""What the layouts of images with a class mask each share."""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from saccade.data.layouts._folder import FolderLayout
from saccade.data.resizing import common_size

__all__ = ["MaskFolderLayout"]


class MaskFolderLayout(FolderLayout):
    """A layout of image files and mask files."""

    targets = ("mask",)
    exact = True
    options = MappingProxyType({"void": "names of classes whose pixels are in no class; false keeps all classes"})

    def own_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """The images' own size where they have one, square or not: maps are read in full."""
        return common_size(sizes)
