"""Images and class masks of Pascal VOC: ``SegmentationClass/NAME.png`` beside ``JPEGImages/NAME.jpg``.

The splits are those of ``ImageSets/Segmentation/{train,val,test,trainval}.txt``; without lists, ``test_part`` of the
images with a mask is held back for testing. Masks are palette PNGs (index = class, 255 = no class), as in VOC, or use
the colours of CVAT's ``labelmap.txt`` (one ``name:r,g,b::`` per line), which also names the classes. For VOC itself,
the classes are its 20 object classes and the background.

A folder that also has boxes is read as ``voc``, unless masks are requested.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from saccade.data.layouts._mask_folder import MaskFolderLayout
from saccade.data.layouts._voc_folders import (
    IMAGES,
    FolderPair,
    files_by_relative_stem,
    find_subfolder,
    label_map,
    read_splits,
)
from saccade.data.survey import SplitFiles, Survey, make_survey
from saccade.events import Notify
from saccade.imagefiles import is_image, walk

if TYPE_CHECKING:
    from saccade.data.masks import Masks

__all__ = ["VocMasks"]


@final
class VocMasks(MaskFolderLayout):
    """Images, and one class mask per image."""

    name = "voc_masks"
    rank = 25

    def check_folder(self, root: Path) -> str | None:
        """Return None if an image and a mask share a name, else the reason."""
        pair = _find_pair(root)
        if pair is None:
            return "it has no SegmentationClass with masks beside JPEGImages"
        if files_by_relative_stem(pair.images).keys() & files_by_relative_stem(pair.annotations).keys():
            return None
        return f"no image in {pair.images.name} has a mask of its name in {pair.annotations.name}"

    def survey(self, root: Path) -> Survey:
        """Return images and masks of each split; raise ValueError if ``check_folder`` rejects ``root``."""
        pair, hidden = _find_pair(root), Counter[str]()
        if pair is None:
            raise ValueError(f"{root} is not of this layout")
        images, masks = (
            files_by_relative_stem(pair.images, hidden=hidden),
            files_by_relative_stem(pair.annotations, hidden=hidden),
        )
        lists = read_splits(root, "Segmentation", images) or {"train": ("", sorted(images.keys() & masks.keys()))}
        splits = {
            split: SplitFiles(name, {"": [images.get(stem, pair.images / f"{stem}.jpg") for stem in stems]})
            for split, (name, stems) in lists.items()
        }
        n_unpaired = len(masks.keys() - images.keys())
        notes = [f"{n_unpaired} masks have no image of their name"] * (n_unpaired > 0)
        survey = make_survey(root, splits, None, hidden, notes)
        definition_files = [path for path in (root / "labelmap.txt",) if path.is_file()]
        definition_files += sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
        return replace(
            survey,
            masks={images[stem]: path for stem, path in masks.items() if stem in images},
            definition_files=definition_files,
        )

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Masks:
        """Return the mask of each image."""
        from saccade.data.masks import Masks

        return Masks(survey.masks, sizes, label_map(survey.root), survey.root, notify, survey.options)


def _find_pair(root: Path) -> FolderPair | None:
    """Return the folders of images and masks; None if one is missing or holds no image."""
    images, masks = find_subfolder(root, IMAGES), find_subfolder(root, ("segmentationclass",))
    if images and masks and any(map(is_image, walk(images))) and any(map(is_image, walk(masks))):
        return FolderPair(images, masks)
    return None
