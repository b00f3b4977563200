"""Class folders: one folder of images for each class.

Understood are

* ``train/CLASS/…`` beside ``test/CLASS/…`` and ``val/CLASS/…`` (``training``; ``testing``; ``valid``, ``validation``);
  where there is no test part, the validation part is it;
* ``CLASS/…`` alone, of which ``test_part`` is held back from every class, drawn by ``split_seed``.

Images lie at any depth below their class, with the endings of torchvision's ``ImageFolder``. They are turned as their
EXIF says, made RGB (grey ones too) and brought to one size. Transparency is dropped. Nothing is unpickled.

16-bit grey is taken for what it says, numbers from 0 to 65535, and keeps its upper byte. No image is stretched to its
own range, which would make brightness mean something else in each; so values of 12 bits in such a file come out nearly
black, and are to be written times 16 instead. ``saccade data`` names images that come out like that.

What a system or a program leaves in a folder (``@eaDir``, ``$RECYCLE.BIN``, ``Thumbs.db`` and their like, all names
with a dot first) is no data. Class names that differ only in how their accents are stored are one class, named in
composed letters; its files are opened where they lie.

A file that is broken, no image or larger than ``imagefiles.LARGEST`` is refused by name; ``skip_bad`` leaves such files
out instead, and in a part to validate they are always left out. The parts are drawn before, so that the others stay
where they are. A file that links put into two parts or
two classes is refused by both its names; within a class it is taken once. Copies, files with the same bytes in both
parts or in two classes, are taken and counted in ``Splits.cautions``: published sets hold some.

This layout asks least, so it is asked last.
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
from saccade.data.layouts._foreign import is_supervisely
from saccade.data.layouts.image_masks import pair_of
from saccade.data.survey import EXPORT_HINT, SplitFiles, Survey, assign_splits, keep_images, make_survey, subfolders
from saccade.errors import did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import ENDINGS, is_hidden, is_image, walk

__all__ = ["ClassFolders"]

_PACKED = (".pkl", ".pickle", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".pt", ".tar", ".gz", ".zip")


@final
class ClassFolders(FolderLayout):
    """One folder of images for each class, in parts or not."""

    name = "class_folders"
    rank = 90
    targets = ("label",)

    def reason(self, root: Path) -> str | None:
        """Look for parts, and for images in two class folders."""
        folders = {path.name: path for path in subfolders(root)}
        roles = assign_splits(folders)
        if roles and ("train" not in roles or len(roles) == 1 < len(folders)):
            only = next(iter(roles.values()))
            wanted = ("test", "val", "valid", "validation") if "train" in roles else ("train", "training")
            others = [name for name in folders if name != only]
            near = next(filter(None, (did_you_mean(name, wanted) for name in others)), "")
            beside = f"; beside it are {', '.join(map(brief, others[:5]))}.{near}" if others else "."
            return (
                f"it has a part {only!r} and none called {' or '.join(wanted)}{beside} "
                "Give both parts, or class folders alone."
            )
        place = folders[roles["train"]] if roles else root
        classes = subfolders(place)
        filled = list(islice((of for of in classes if any(map(is_image, walk(of)))), 2))
        if len(filled) > 1:
            return None
        if not filled:
            return _no_images(root)
        empty = [brief(of.name) for of in classes if of not in filled]
        more = f" and {len(empty) - 5} more" if empty[5:] else ""
        hint = f". Did you mean {brief(filled[0])}?" if len(subfolders(filled[0])) > 1 else ""
        beside = f" (none in {', '.join(empty[:5])}{more})" if empty else ""
        return f"{brief(filled[0].relative_to(root))} holds images{beside}; at least 2 classes are needed{hint}"

    def mistaken(self, root: Path) -> str | None:
        """Folders of images beside masks are no classes, nor are the data sets of a project of Supervisely."""
        if is_supervisely(root):
            return "it is a project of Supervisely; data.layout = class_folders reads its data sets as classes"
        places = pair_of(root)
        if places is None:
            return None
        return (
            f"{' and '.join(brief(place.relative_to(root)) for place in places)} are images and masks, as of "
            "image_masks; data.layout = class_folders reads them as classes"
        )

    def survey(self, root: Path) -> Survey:
        """Every file below each class folder."""
        hidden = Counter[str]()
        folders = {path.name: path for path in subfolders(root, hidden)}
        roles = assign_splits(folders)
        if roles:
            found = {role: (name, _classes(subfolders(folders[name], hidden))) for role, name in roles.items()}
        else:
            found = {"train": ("", _classes(folders.values()))}
        parts = {
            role: SplitFiles(
                name, {label: sorted(path for of in where for path in walk(of, hidden)) for label, where in of.items()}
            )
            for role, (name, of) in found.items()
        }
        return make_survey(root, *keep_images(parts), hidden, _alike(dict(found.values())))

    def label(self, seen: Survey, sizes: object, notify: Notify | None) -> ClassLabels:
        """The class of each file."""
        return ClassLabels(seen)


def _classes(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Class to those of the ``folders`` that are its own.

    One and the same name is written in composed letters by Linux and Windows and in decomposed ones by macOS. Folders
    whose names differ by that alone are one class: nobody can see which is which, so nobody meant two.
    """
    classes = defaultdict[str, list[Path]](list)
    for folder in folders:
        classes[unicodedata.normalize("NFC", folder.name)].append(folder)
    return dict(classes)


def _alike(sources: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Notes on folders that are one class, and on classes that may be meant as one."""
    notes = []
    for part, classes in sources.items():
        where = f" in {part}" if part else ""
        notes += [
            f"{len(folders)} folders{where} are the class {name!r}: their names differ in how accents are stored"
            for name, folders in classes.items()
            if len(folders) > 1
        ]
        by_letters = defaultdict[str, list[str]](list)
        for name in classes:
            by_letters[name.casefold()].append(name)
        notes += [
            f"the classes {' and '.join(map(repr, names))}{where} differ in capital letters only and are kept apart"
            for names in by_letters.values()
            if len(names) > 1
        ]
    return notes


def _no_images(root: Path) -> str:
    """Why ``root`` holds nothing to learn from, and what to do about it."""
    for path in sorted(root.glob("*")) + sorted(root.glob("*/*")):
        packed = path.suffix.lower() in _PACKED or path.name.endswith("-ubyte")
        if path.is_file() and (packed or path.name.startswith(("data_batch", "test_batch", "batches.meta"))):
            inside = path.relative_to(root)
            return f"it holds {brief(inside)}, a packed set: nothing is unpacked or unpickled here; {EXPORT_HINT}"
    loose = sum(is_image(path) and not is_hidden(path.name) for path in root.glob("*"))
    found = f"{loose} images lie in it without a class" if loose else f"no image ends in {', '.join(ENDINGS)}"
    return f"it has no class folders with images in them: {found}. One folder for each class is needed"
