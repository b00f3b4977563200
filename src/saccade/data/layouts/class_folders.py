"""Class folders: one folder of images for each class.

Supported structures:

* ``train/CLASS/…`` beside ``test/CLASS/…`` and ``val/CLASS/…`` (also called ``training``, ``testing``, ``valid`` and
  ``validation``); without a test split, the validation split is used as test;
* ``CLASS/…``; the fraction ``test_part`` of every class, drawn by ``split_seed``, is held back for testing.

Images may be nested below their class. They are rotated by EXIF, converted to RGB and resized to one size. Transparency
is dropped.

16-bit greyscale is read as 0 to 65535 and reduced to its upper byte, not stretched to each image's own range, which
would change the meaning of brightness; so 12-bit values come out nearly black and must be multiplied by 16 first.
``saccade data`` reports such images.

Hidden files and the files of operating systems (``@eaDir``, ``$RECYCLE.BIN``, ``Thumbs.db`` …) are ignored. Class
names that differ only in Unicode normalisation are one class.

Broken and too large files raise an error that names them; ``skip_bad`` and the validation split leave them out. The
others keep their split. A file linked into two splits or classes is refused; within one class, it is used once.
Byte-identical copies, which published data sets contain, are used and counted in ``Splits.cautions``.

As the least strict layout, it is tried last.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import final

from saccade.data.labels import ClassLabels
from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._other_programs import is_supervisely
from saccade.data.layouts.image_masks import training_pair
from saccade.data.survey import EXPORT_HINT, SplitFiles, Survey, assign_splits, keep_images, make_survey, subfolders
from saccade.errors import did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import SUFFIXES, is_hidden, is_image, walk

__all__ = ["ClassFolders"]

_PACKED_SUFFIXES = (".pkl", ".pickle", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".pt", ".tar", ".gz", ".zip")
"""Suffixes of files that hold many images."""


@final
class ClassFolders(FolderLayout):
    """One folder of images per class, with or without train and test folders."""

    name = "class_folders"
    rank = 90
    targets = ("label",)

    def check_folder(self, root: Path) -> str | None:
        """Return None if two class folders hold images, else the reason."""
        folders = {path.name: path for path in subfolders(root)}
        split_names = assign_splits(folders)
        if split_names and ("train" not in split_names or len(split_names) == 1 < len(folders)):
            present = next(iter(split_names.values()))
            missing_names = ("test", "val", "valid", "validation") if "train" in split_names else ("train", "training")
            others = [name for name in folders if name != present]
            hint = next(filter(None, (did_you_mean(name, missing_names) for name in others)), "")
            others_text = f"; beside it are {', '.join(map(brief, others[:5]))}.{hint}" if others else "."
            return (
                f"it has a folder {present!r} and none called {' or '.join(missing_names)}{others_text} "
                "Add the missing folder, or use class folders only."
            )
        parent = folders[split_names["train"]] if split_names else root
        classes = subfolders(parent)
        with_images = list(islice((folder for folder in classes if any(map(is_image, walk(folder)))), 2))
        if len(with_images) > 1:
            return None
        if not with_images:
            return _no_images(root)
        empty = [brief(folder.name) for folder in classes if folder not in with_images]
        more = f" and {len(empty) - 5} more" if empty[5:] else ""
        hint = f". Did you mean {brief(with_images[0])}?" if len(subfolders(with_images[0])) > 1 else ""
        empty_text = f" (none in {', '.join(empty[:5])}{more})" if empty else ""
        return (
            f"{brief(with_images[0].relative_to(root))} holds images{empty_text}; at least 2 classes are needed{hint}"
        )

    def check_auto_choice(self, root: Path) -> str | None:
        """Decline pairs of image and mask folders, and Supervisely projects."""
        if is_supervisely(root):
            return "it is a Supervisely project; set data.layout = class_folders to read its data sets as classes"
        pair = training_pair(root)
        if pair is None:
            return None
        return (
            f"{' and '.join(brief(folder.relative_to(root)) for folder in pair)} are images and masks, as in "
            "image_masks; set data.layout = class_folders to read them as classes"
        )

    def survey(self, root: Path) -> Survey:
        """Return all files below each class folder."""
        hidden = Counter[str]()
        folders = {path.name: path for path in subfolders(root, hidden)}
        split_names = assign_splits(folders)
        if split_names:
            class_folders = {
                split: (name, _group_by_class(subfolders(folders[name], hidden))) for split, name in split_names.items()
            }
        else:
            class_folders = {"train": ("", _group_by_class(folders.values()))}
        splits = {}
        for split, (name, classes) in class_folders.items():
            files = {
                label: sorted(path for folder in folders_of_class for path in walk(folder, hidden))
                for label, folders_of_class in classes.items()
            }
            splits[split] = SplitFiles(name, files)
        return make_survey(root, *keep_images(splits), hidden, _name_notes(dict(class_folders.values())))

    def load_targets(self, survey: Survey, sizes: object, notify: Notify | None) -> ClassLabels:
        """Return the class of each file."""
        return ClassLabels(survey)


def _group_by_class(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Return ``folders`` by class name, normalised to NFC.

    Linux and Windows write composed letters (é), macOS decomposed ones (e + ´), which look the same.
    """
    classes = defaultdict[str, list[Path]](list)
    for folder in folders:
        classes[unicodedata.normalize("NFC", folder.name)].append(folder)
    return dict(classes)


def _name_notes(splits: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Return notes on folders merged into one class, and on class names that differ only in case."""
    notes = []
    for split_name, classes in splits.items():
        where = f" in {split_name}" if split_name else ""
        notes += [
            f"{len(folders)} folders{where} are the class {name!r}: their names differ in how accents are stored"
            for name, folders in classes.items()
            if len(folders) > 1
        ]
        by_folded_name = defaultdict[str, list[str]](list)
        for name in classes:
            by_folded_name[name.casefold()].append(name)
        notes += [
            f"the classes {' and '.join(map(repr, names))}{where} differ in capital letters only and are kept apart"
            for names in by_folded_name.values()
            if len(names) > 1
        ]
    return notes


def _no_images(root: Path) -> str:
    """Return a clause with the reason why ``root`` has no class folders, and the remedy."""
    for path in sorted(root.glob("*")) + sorted(root.glob("*/*")):
        is_packed = path.suffix.lower() in _PACKED_SUFFIXES or path.name.endswith("-ubyte")
        if path.is_file() and (is_packed or path.name.startswith(("data_batch", "test_batch", "batches.meta"))):
            relative = path.relative_to(root)
            return f"it holds {brief(relative)}, a packed data set, which is not supported: {EXPORT_HINT}"
    n_loose = sum(is_image(path) and not is_hidden(path.name) for path in root.glob("*"))
    content = f"{n_loose} images in it are in no class folder" if n_loose else f"no image ends in {', '.join(SUFFIXES)}"
    return f"it has no class folders with images in them: {content}. One folder per class is needed"
