"""Images and class masks of Pascal VOC: ``SegmentationClass/NAME.png`` beside ``JPEGImages/NAME.jpg``.

The parts are those of ``ImageSets/Segmentation/{train,val,test,trainval}.txt``; without lists, all images that have a
mask, of which ``test_part`` is held back. Masks are PNG with a palette, whose indices are the classes and 255 no class,
as VOC publishes them, or in the colours of CVAT's ``labelmap.txt`` (``name:r,g,b::`` a line), which names the classes.
In VOC itself, they are its twenty and the background.

A folder with boxes too is ``voc``, unless masks are asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from saccade.data.layouts._mask_folder import MaskFolderLayout
from saccade.data.layouts._voc_folders import IMAGES, Place, label_map, named, parts_of, stems
from saccade.data.survey import SplitFiles, Survey, make_survey
from saccade.events import Notify
from saccade.imagefiles import is_image, walk

if TYPE_CHECKING:
    from saccade.data.masks import Masks

__all__ = ["VocMasks"]


@final
class VocMasks(MaskFolderLayout):
    """Images, and a mask of classes for each."""

    name = "voc_masks"
    rank = 25

    def reason(self, root: Path) -> str | None:
        """Look for the two folders, and for one name that is in both."""
        place = _place(root)
        if place is None:
            return "it has no SegmentationClass with masks beside JPEGImages"
        if stems(place.images).keys() & stems(place.beside).keys():
            return None
        return f"no image in {place.images.name} has a mask of its name in {place.beside.name}"

    def survey(self, root: Path) -> Survey:
        """The images of each part, and their masks."""
        place, hidden = _place(root), Counter[str]()
        if place is None:
            raise ValueError(f"{root} is not of this layout")
        images, masks = stems(place.images, hidden=hidden), stems(place.beside, hidden=hidden)
        lists = parts_of(root, "Segmentation", images) or {"train": ("", sorted(images.keys() & masks.keys()))}
        parts = {
            role: SplitFiles(name, {"": [images.get(stem, place.images / f"{stem}.jpg") for stem in of]})
            for role, (name, of) in lists.items()
        }
        alone = len(masks.keys() - images.keys())
        seen = make_survey(root, parts, None, hidden, [f"{alone} masks have no image of their name"] * (alone > 0))
        deciding = [path for path in (root / "labelmap.txt",) if path.is_file()]
        deciding += sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
        return replace(
            seen,
            masks={images[stem]: path for stem, path in masks.items() if stem in images},
            definition_files=deciding,
        )

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Masks:
        """The mask of each image."""
        from saccade.data.masks import Masks

        return Masks(seen.masks, sizes, label_map(seen.root), seen.root, notify, seen.options.get("void"))


def _place(root: Path) -> Place | None:
    images, masks = named(root, IMAGES), named(root, ("segmentationclass",))
    if images and masks and any(map(is_image, walk(images))) and any(map(is_image, walk(masks))):
        return Place(images, masks)
    return None
