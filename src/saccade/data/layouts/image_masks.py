"""Images and index masks in two folders, paired by their names without suffix.

Supported structures:

* ``images/`` and ``masks/`` (or other names, see ``_IMAGES`` and ``_MASKS``) at the top level, optionally
  with ``train``, ``test`` and ``val`` inside both, or inside each split folder;
* CamVid: ``train`` beside ``trainannot``;
* Roboflow: ``NAME_mask.png`` beside ``NAME.jpg``, and ``_classes.csv`` in each split.

Without splits, ``test_part`` of the images is held back for testing. A split without masks is not used.

A mask has the size of its image; two images of one name are refused. It holds class indices (in palette images the
palette index; 255 = no class) or colours. Values of only 0 and 255 are the classes background and foreground. A file
in the folder names the classes:

* for class indices: ``classes.txt``, one name per line in index order, or Roboflow's ``_classes.csv`` (``Pixel Value,
  Class``);
* for colours: CVAT's ``labelmap.txt`` (``name:r,g,b::``), ``class_dict.csv`` (``name,r,g,b``) or ``label_colors.txt``
  (``r g b name``); any other colour is refused.

Pixels of a class called ``void``, ``ignore`` or ``unlabelled``, or as in ``data.options.void`` (false: none), become
255.

The two folders look like two class folders, so this layout is tried before ``class_folders``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable
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

__all__ = ["ImageMasks", "training_pair"]

_ROBOFLOW_CLASSES, _ROBOFLOW_ENDING = "_classes.csv", "_mask"
"""Name of Roboflow's class file, and the ending of the stems of its masks."""
_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "annots")


@final
class ImageMasks(MaskFolderLayout):
    """Images and masks of the same name in two folders."""

    name = "image_masks"
    rank = 30

    def check_folder(self, root: Path) -> str | None:
        """Return None if an image and a mask share a name, else the reason."""
        pair = _pairs_by_split(root)[0].get("train")
        if pair is None:
            return (
                "it has no folders images and masks with images in them, neither at the top level nor in train, test "
                "and val"
            )
        if pair.images_by_stem().keys() & pair.masks_by_stem().keys():
            return None
        images, masks = (brief(folder.relative_to(root)) for folder in (pair.images, pair.masks))
        return f"no image in {images} has a mask of its name in {masks}"

    def survey(self, root: Path) -> Survey:
        """Return images and masks of each split."""
        hidden = Counter[str]()
        splits, masks, problems, n_unpaired = dict[str, SplitFiles](), dict[Path, Path](), list[str](), 0
        used = set[Path]()
        pairs, maskless = _pairs_by_split(root)
        for split, pair in pairs.items():
            images, masks_by_stem = pair.images_by_stem(), pair.masks_by_stem()
            mask_paths = {path for paths in masks_by_stem.values() for path in paths}
            splits[split] = SplitFiles(pair.name, {"": sorted(set(walk(pair.images, hidden)) - mask_paths)})
            used |= {*splits[split].files, *mask_paths}
            problems += [
                f"{' and '.join(map(brief, paths))} are masks of the same name"
                for paths in masks_by_stem.values()
                if paths[1:]
            ]
            problems += [
                f"{' and '.join(map(brief, sorted(paths)))} are images of the same name, and one mask is theirs"
                for stem, paths in images.items()
                if paths[1:] and stem in masks_by_stem
            ]
            masks |= {
                path: masks_by_stem[stem][0]
                for stem, paths in images.items()
                if stem in masks_by_stem
                for path in paths
            }
            n_unpaired += len(masks_by_stem.keys() - images.keys())
        notes = [f"{n_unpaired} masks have no image of their name"] * (n_unpaired > 0)
        class_file = find_class_file([root, *pairs["train"].class_folders])
        problems += _differing_class_files(root, class_file, pairs.values())
        notes += _unused_images_note(root, used, maskless, pairs["train"].masks)
        survey = make_survey(root, *keep_images(splits), hidden, notes)
        return replace(
            survey,
            masks=masks,
            problems=sorted([*survey.problems, *problems]),
            definition_files=[class_file] if class_file else [],
            unused=[f"{name!r} has no masks and is not used" for name in maskless],
        )

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Masks:
        """Return the mask of each image."""
        from saccade.data.masks import Masks

        classes = read_class_map(next(iter(survey.definition_files), None))
        return Masks(survey.masks, sizes, classes, survey.root, notify, survey.options)


def training_pair(root: Path) -> tuple[Path, Path] | None:
    """Return the folders of training images and masks, whether or not their names match, or None."""
    pairs, _ = _pairs_by_split(root)
    return (pairs["train"].images, pairs["train"].masks) if "train" in pairs else None


class _ImageMaskFolders(NamedTuple):
    """Image folder and mask folder of one split; mask names add ``mask_ending`` to image stems."""

    name: str
    images: Path
    masks: Path
    mask_ending: str = ""

    @property
    def class_folders(self) -> list[Path]:
        """Folders of a class file of this split."""
        return [self.masks, self.masks.parent]

    def images_by_stem(self) -> dict[str, list[Path]]:
        """Return images; keys are paths relative to the folder without suffix."""
        stems = _by_stem(self.images)
        return {
            stem: paths for stem, paths in stems.items() if not self.mask_ending or not stem.endswith(self.mask_ending)
        }

    def masks_by_stem(self) -> dict[str, list[Path]]:
        """Return masks; keys are those of their images."""
        stems = _by_stem(self.masks)
        return {
            stem.removesuffix(self.mask_ending): paths
            for stem, paths in stems.items()
            if stem.endswith(self.mask_ending)
        }


def _differing_class_files(root: Path, class_file: Path | None, pairs: Iterable[_ImageMaskFolders]) -> list[str]:
    """Return one sentence per split whose class file lists other classes than ``class_file``.

    Raises:
        UserError: a class file is unreadable.
    """
    others = {
        file: pair.name for pair in pairs if (file := find_class_file(pair.class_folders)) not in (None, class_file)
    }
    if class_file is None or not others:
        return []
    classes = read_class_map(class_file)
    return [
        f"{brief(path.relative_to(root))} lists {brief(', '.join(other.names))}; "
        f"{brief(class_file.relative_to(root))} lists {brief(', '.join(classes.names))}, and one list is needed: write "
        "the masks of all splits with the same classes, then make the files equal"
        for path in others
        if path is not None
        and ((other := read_class_map(path)).names, other.colours) != (classes.names, classes.colours)
    ]


def _unused_images_note(root: Path, used: Container[Path], maskless: Collection[str], masks: Path) -> list[str]:
    """Return a note on the images that are neither images nor masks of a split, as a list."""
    folders = Counter(
        path.relative_to(root).parent
        for path in walk(root)
        if is_image(path) and path not in used and not set(maskless) & set(path.relative_to(root).parts)
    )
    if not folders:
        return []
    places = ", ".join(f"{brief(folder)} ({count})" for folder, count in folders.most_common(5))
    more = f" and {len(folders) - 5} other folders" if len(folders) > 5 else ""
    mask_folder = brief(masks.relative_to(root))
    return [f"{folders.total()} images are not used, in {places}{more}; masks are read from {mask_folder}"]


def _pairs_by_split(root: Path) -> tuple[dict[str, _ImageMaskFolders], list[str]]:
    """Return the folder pair of each split, and the names of splits without masks.

    Without split folders, the split is ``train``.
    """
    folders = {path.name: path for path in subfolders(root)}
    images, masks = _find_folder(folders, _IMAGES), _find_folder(folders, _MASKS)
    if images and masks:
        mask_folders = {path.name: path for path in subfolders(masks) if _has_image(path)}
        folders = {path.name: path for path in subfolders(images)}
        pairs = {
            name: _ImageMaskFolders(name, path, mask_folders[name])
            for name, path in folders.items()
            if name in mask_folders
        }
        if not assign_splits(pairs):
            return {"train": _ImageMaskFolders("", images, masks)}, []
    else:
        pairs = {name: pair for name, path in folders.items() if (pair := _split_pair(path, folders))}
    maskless = [
        name for name, path in folders.items() if name not in pairs and assign_splits([name]) and _has_image(path)
    ]
    return {split: pairs[name] for split, name in assign_splits(pairs).items()}, maskless


def _split_pair(split_folder: Path, siblings: dict[str, Path]) -> _ImageMaskFolders | None:
    """Return the image and mask folders inside a split folder, else the folder and its mask folder.

    Roboflow stores masks in the split folder itself.
    """
    folders = {path.name: path for path in subfolders(split_folder)}
    images, masks = _find_folder(folders, _IMAGES), _find_folder(folders, _MASKS)
    if images and masks:
        return _ImageMaskFolders(split_folder.name, images, masks)
    mask_names = [f"{split_folder.name.lower()}{separator}{word}" for word in _MASKS for separator in ("", "_", "-")]
    if sibling := _find_folder(siblings, mask_names):
        return _ImageMaskFolders(split_folder.name, split_folder, sibling)
    if not (split_folder / _ROBOFLOW_CLASSES).is_file():
        return None  # before the walk: the folder may hold many images
    if any(path.stem.endswith(_ROBOFLOW_ENDING) for path in walk(split_folder) if is_image(path)):
        return _ImageMaskFolders(split_folder.name, split_folder, split_folder, _ROBOFLOW_ENDING)
    return None


def _find_folder(folders: dict[str, Path], names: Collection[str]) -> Path | None:
    """Return the folder of the first of ``names`` that holds an image."""
    return next(
        (path for word in names for name, path in folders.items() if name.lower() == word and _has_image(path)), None
    )


def _has_image(folder: Path) -> bool:
    return any(map(is_image, walk(folder)))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the images below ``folder``; keys are relative paths without suffix."""
    files = defaultdict[str, list[Path]](list)
    for path in filter(is_image, walk(folder)):
        files[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(files)
