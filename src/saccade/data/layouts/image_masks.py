"""Images and index masks in two folders, paired by their names without the ending.

Understood are ``images/`` and ``masks/`` (or a name of ``_IMAGES`` and of ``_MASKS``), alone, inside each of ``train``,
``test`` and ``val``, or around them; the form of CamVid, ``train`` beside ``trainannot``; and that of Roboflow,
``NAME_mask.png`` beside ``NAME.jpg`` and ``_classes.csv`` in each part. Alone, ``test_part`` of the images is held
back. A part without masks is not used.

A mask is as large as its image. It holds class indices (a palette keeps its own), 255 where no class is, or colours.
Masks that hold 0 and 255 alone have two classes, background and foreground. A file in the folder names the classes:

* of indices, ``classes.txt``, one name a line in their order, or Roboflow's ``_classes.csv`` (``Pixel Value, Class``);
* of colours, CVAT's ``labelmap.txt`` (``name:r,g,b::``), ``class_dict.csv`` (``name,r,g,b``) or ``label_colors.txt``
  (``r g b name``); a colour that is not in it is refused.

Pixels of a class called ``void``, ``ignore`` or ``unlabelled`` become 255; ``data.options.void`` names others, or is
false.

The two folders look like two class folders, so this layout is asked before ``class_folders``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from saccade.data.colour_maps import find_class_file, read_class_map
from saccade.data.layouts._mask_folder import MaskFolderLayout
from saccade.data.survey import SplitFiles, Survey, assign_splits, keep_images, make_survey, subfolders
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import is_image, walk

if TYPE_CHECKING:
    from saccade.data.masks import Masks

__all__ = ["ImageMasks", "pair_of"]

_PIXEL_VALUES, _MASK = "_classes.csv", "_mask"
"""What Roboflow writes beside images, and after their names."""
_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "annots")


@final
class ImageMasks(MaskFolderLayout):
    """Images and masks of one name in two folders."""

    name = "image_masks"
    rank = 30

    def reason(self, root: Path) -> str | None:
        """Look for the two folders, and for one name that is in both."""
        pair = _pairs(root)[0].get("train")
        if pair is None:
            return (
                "it has no folders images and masks with images in them, alone, in train, test and val, or around them"
            )
        if pair.images_by_stem().keys() & pair.masks_by_stem().keys():
            return None
        images, masks = (brief(place.relative_to(root)) for place in (pair.images, pair.masks))
        return f"no image in {images} has a mask of its name in {masks}"

    def survey(self, root: Path) -> Survey:
        """The images of each part, and their masks."""
        hidden = Counter[str]()
        parts, masks, problems, alone = dict[str, SplitFiles](), dict[Path, Path](), list[str](), 0
        pairs, without = _pairs(root)
        for role, pair in pairs.items():
            images, by_stem = pair.images_by_stem(), pair.masks_by_stem()
            within = {path for paths in by_stem.values() for path in paths}
            parts[role] = SplitFiles(pair.name, {"": sorted(set(walk(pair.images, hidden)) - within)})
            problems += [
                f"{' and '.join(map(brief, paths))} are masks of one name" for paths in by_stem.values() if paths[1:]
            ]
            masks |= {path: by_stem[stem][0] for stem, paths in images.items() if stem in by_stem for path in paths}
            alone += len(by_stem.keys() - images.keys())
        seen = make_survey(
            root, *keep_images(parts), hidden, [f"{alone} masks have no image of their name"] * (alone > 0)
        )
        named = find_class_file([root, pairs["train"].masks, pairs["train"].masks.parent])
        return replace(
            seen, masks=masks, problems=sorted([*seen.problems, *problems]), definition_files=[named] if named else [],
            unused=[f"{name!r} has no masks and is not used" for name in without],
        )  # fmt: skip

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Masks:
        """The mask of each image."""
        from saccade.data.masks import Masks

        named = read_class_map(next(iter(seen.definition_files), None))
        return Masks(seen.masks, sizes, named, seen.root, notify, seen.options.get("void"))


def pair_of(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks to train on, whether or not their names pair; None where there are none."""
    pairs, _ = _pairs(root)
    return (pairs["train"].images, pairs["train"].masks) if "train" in pairs else None


class _Pair(NamedTuple):
    """The folders of images and masks of a part; ``suffix`` is what names of masks have after those of images."""

    name: str
    images: Path
    masks: Path
    suffix: str = ""

    def images_by_stem(self) -> dict[str, list[Path]]:
        """The images by their path in the folder without the ending."""
        stems = _by_stem(self.images)
        return {stem: paths for stem, paths in stems.items() if not self.suffix or not stem.endswith(self.suffix)}

    def masks_by_stem(self) -> dict[str, list[Path]]:
        """The masks by the same path as their images."""
        stems = _by_stem(self.masks)
        return {stem.removesuffix(self.suffix): paths for stem, paths in stems.items() if stem.endswith(self.suffix)}


def _pairs(root: Path) -> tuple[dict[str, _Pair], list[str]]:
    """Role to the two folders of a part, ``train`` alone where there are no parts; and the parts without masks."""
    folders = {path.name: path for path in subfolders(root)}
    images, masks = _named(folders, _IMAGES), _named(folders, _MASKS)
    if images and masks:
        inner = {path.name: path for path in subfolders(masks) if _has_image(path)}
        folders = {path.name: path for path in subfolders(images)}
        found = {name: _Pair(name, path, inner[name]) for name, path in folders.items() if name in inner}
        if not assign_splits(found):
            return {"train": _Pair("", images, masks)}, []
    else:
        found = {name: pair for name, path in folders.items() if (pair := _pair(path, folders))}
    without = [
        name for name, path in folders.items() if name not in found and assign_splits([name]) and _has_image(path)
    ]
    return {role: found[name] for role, name in assign_splits(found).items()}, without


def _pair(part: Path, beside: dict[str, Path]) -> _Pair | None:
    """The folders of images and masks inside a part, or the part itself with the folder of masks beside it."""
    inner = {path.name: path for path in subfolders(part)}
    images, masks = _named(inner, _IMAGES), _named(inner, _MASKS)
    if images and masks:
        return _Pair(part.name, images, masks)
    other = _named(beside, [f"{part.name.lower()}{between}{word}" for word in _MASKS for between in ("", "_", "-")])
    if other:
        return _Pair(part.name, part, other)
    if (part / _PIXEL_VALUES).is_file() and any(path.stem.endswith(_MASK) for path in walk(part) if is_image(path)):
        return _Pair(part.name, part, part, _MASK)
    return None


def _named(folders: dict[str, Path], names: Collection[str]) -> Path | None:
    """The folder of the first of ``names`` that holds an image."""
    return next(
        (path for word in names for name, path in folders.items() if name.lower() == word and _has_image(path)), None
    )


def _has_image(folder: Path) -> bool:
    return any(map(is_image, walk(folder)))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The images below ``folder`` by their path in it without the ending."""
    found = defaultdict[str, list[Path]](list)
    for path in filter(is_image, walk(folder)):
        found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(found)
