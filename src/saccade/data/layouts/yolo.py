"""Images and text files of YOLO: boxes and polygons, in parts of the image's sides.

Understood are

* ``data.yaml`` (or another ``.yaml`` with ``names``) as Ultralytics and Roboflow write it: ``names`` a list or a
  dictionary, ``nc``, ``path``, and ``train``, ``val`` (``valid``) and ``test`` as a folder, a list of folders or a text
  file with one image a line. Paths begin at ``path`` where that is a folder in here, else at the folder itself; the
  leading ``../`` that Roboflow writes is dropped. None leads out of the folder;
* without it, ``images`` beside ``labels``, alone, around ``train``, ``test`` and ``val`` or inside each of them, and
  ``classes.txt`` in ``labels`` or beside it, as LabelImg and Label Studio write it. Without names, the classes are
  numbers.

The text file of an image has its name, in the folder whose path says ``labels`` where that of the image says
``images``; beside the image where no folder of its path is called ``images``. An image whose text file is empty or
missing is background; a part without any text file is refused.

A line is ``class x y width height`` or ``class x1 y1 x2 y2 x3 y3 …``. Of a set with ``kpt_shape`` the boxes are read
and the keypoints are not.

PyYAML, which timm brings, reads the ``.yaml`` by ``safe_load``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._listed import check_inside
from saccade.data.layouts._yolo_lines import MOST_CLASSES, highest_class, read_labels
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.survey import (
    SplitFiles,
    Survey,
    assign_splits,
    keep_images,
    make_survey,
    read_class_names,
    read_lines,
    subfolders,
)
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import inside, is_image, walk

if TYPE_CHECKING:
    from saccade.data.objects import Objects

__all__ = ["Yolo"]

_PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")
_NAMES = "classes.txt"


@final
class Yolo(FolderLayout):
    """Images and one text file of objects for each."""

    name = "yolo"
    rank = 40
    targets = ("objects",)
    exact = True

    def reason(self, root: Path) -> str | None:
        """Look for a YAML file with names and parts, or for text files in ``labels`` beside ``images``."""
        if _is_of_classes(root):
            return "it has class folders, and no text file with the name of an image"
        if _yaml(root) is not None:
            return None
        for images in _plain(root).values():
            if any(map(is_image, walk(images))) and any(map(_is_label, walk(_labels_of(images)))):
                return None
        return "it has no data.yaml with names and train, and no folders images and labels with text files in labels"

    def survey(self, root: Path) -> Survey:
        """The images of each part, and their text files."""
        yaml, hidden, notes, unused = _yaml(root), Counter[str](), list[str](), list[str]()
        files = _listed(root, yaml, hidden, notes) if yaml else _lying(root, hidden)
        if "val" in files and not any(_label_file(root, path).is_file() for path in files["test"][1]):
            unused.append(f"{files['test'][0]!r} has no text files and is not used")
            files["test"] = files.pop("val")
        parts, others = keep_images({role: SplitFiles(name, {"": of}) for role, (name, of) in files.items()})
        labels = {path: _label_file(root, path) for part in parts.values() for path in part.files}
        found = {text for folder in sorted({text.parent for text in labels.values()}) for text in _labels_in(folder)}
        others[".txt"] -= sum(path in found for _, of in files.values() for path in of)  # text files among images
        problems = [
            f"no image of {brief(part.name or root)} has a text file in "
            f"{brief(labels[part.files[0]].parent.relative_to(root))}"
            for part in parts.values()
            if part.files and not any(labels[path] in found for path in part.files)
        ]
        without = sum(text not in found for text in labels.values())
        if without and not problems:
            notes.append(f"{without} images have no text file and count as background")
        if alone := len(found - set(labels.values())):
            notes.append(f"{alone} text files have no image of their name")
        seen = make_survey(root, parts, +others, hidden, notes)
        deciding = [*([yaml.path] if yaml else _name_files(root)), *sorted(found & set(labels.values()))]
        return replace(seen, problems=sorted([*seen.problems, *problems]), definition_files=deciding, unused=unused)

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """The objects of each image."""
        from saccade.data.objects import Objects
        from saccade.data.opening import map_files

        yaml, paths = _yaml(seen.root), list(sizes)
        names = yaml.names if yaml else _names(seen)
        keypoints = yaml is not None and "kpt_shape" in yaml.values

        def read(path: Path) -> Any:
            text = _label_file(seen.root, path)
            return read_labels(text, text.relative_to(seen.root).as_posix(), names, keypoints)

        notes = ["the keypoints of its lines are not read"] if keypoints else []
        return Objects(dict(zip(paths, map_files(read, paths, notify), strict=True)), sizes, names, notes)


class _Yaml(NamedTuple):
    path: Path
    values: dict[str, Any]
    names: list[str]


def _yaml(root: Path) -> _Yaml | None:
    """The YAML file that describes the set, ``data.yaml`` before others; None without one.

    Raises:
        UserError: it cannot be read, or its names cannot be used.
    """
    found = sorted(root.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name))
    for path in found:
        try:
            values = _loaded(path)
        except UserError:
            if path.stem == "data":
                raise
            continue  # of another program
        if isinstance(values, dict) and "names" in values and any(part in values for part in _PARTS):
            return _Yaml(path, values, _names_of(values, path.name))
    return None


def _is_of_classes(root: Path) -> bool:
    """Whether a folder with a YAML file holds class folders without labels, as a set to classify."""
    if next(root.glob("*.y*ml"), None) is None or ClassFolders().reason(root) is not None:
        return False
    return not any(_label_file(root, path).is_file() for path in walk(root) if is_image(path))


def _loaded(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {brief(path)}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"cannot read {brief(path)}{where}: it is not valid YAML ({brief(error, 120)})") from None


def _names_of(values: dict[str, Any], owner: str) -> list[str]:
    """The names of the classes in the order of their indices.

    Raises:
        UserError: they are no list and no dictionary of the indices 0, 1, …; one is no text; a name stands twice;
            there are not ``nc`` of them.
    """
    names, count = values["names"], values.get("nc")
    if isinstance(names, dict):
        lacking = next((n for n in range(len(names)) if n not in names), None)
        if lacking is not None:
            raise UserError(f"{owner}: names has {len(names)} entries and none of the index {lacking}")
        names = [names[n] for n in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{owner}: names is of the type {type(names).__name__}; a list or a dictionary is needed")
    for n, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            said = str(name) if name is None or isinstance(name, bool) else f"a {type(name).__name__}"
            raise UserError(f"{owner}: the name of class {n} is read as {said}; put it in quotes")
    words = [str(name) for name in names]
    twice = next((name for name, n in Counter(words).items() if n > 1), None)
    if twice is not None:
        raise UserError(f"{owner}: names has {brief(twice)!r} twice")
    if count is not None and not isinstance(count, int):
        raise UserError(
            f"{owner}: nc is of the type {type(count).__name__}; the number of names, {len(words)}, is needed"
        )
    if count is not None and count != len(words):
        raise UserError(f"{owner}: nc is {count}, and names has {len(words)}")
    return words


def _listed(root: Path, yaml: _Yaml, hidden: Counter[str], notes: list[str]) -> dict[str, tuple[str, list[Path]]]:
    """Role to the name and the files of each part that a YAML file names.

    Raises:
        UserError: it names no images to train on, or a path that leaves the folder or is not there.
    """
    owner, base = yaml.path.name, _base(root, yaml, notes)
    roles = assign_splits(key for key in _PARTS if yaml.values.get(key))
    if "train" not in roles:
        raise UserError(f"{owner} names no images to train on; train is a folder, folders or a list of images")
    found = {}
    for role, key in roles.items():
        entries = yaml.values[key] if isinstance(yaml.values[key], list) else [yaml.values[key]]
        places = [_place(root, base, _text(entry, f"{owner}, {key}"), f"{owner}, {key}") for entry in entries]
        gone = next((entry for entry, place in zip(entries, places, strict=True) if not place.exists()), None)
        if gone is not None and not (role == "test" and "val" in roles):
            raise UserError(f"{owner} names {brief(gone)!r} as {key}, which is not there")
        files = [path for place in places if place.exists() for path in _files(root, base, place, hidden)]
        again = len(files) - len(set(files))
        if again:
            notes.append(f"{again} images of {key} are listed twice and are taken once")
        found[role] = key, list(dict.fromkeys(files))
    return found


def _base(root: Path, yaml: _Yaml, notes: list[str]) -> Path:
    """Where paths begin."""
    text = _text(yaml.values.get("path") or "", f"{yaml.path.name}, path")
    place = Path(os.path.normpath(root / text))
    if text and place != root and place.is_dir() and place.resolve().is_relative_to(root.resolve()):
        return place
    if text and place.resolve() != root.resolve():
        notes.append(
            f"{yaml.path.name} has the path {brief(text)!r}, which is no folder in it: paths begin at the data folder"
        )
    return root


def _text(value: Any, owner: str) -> str:
    """``value``, which is not written out where it is no text: an alias of YAML can stand for any amount of it."""
    if isinstance(value, str):
        return value
    raise UserError(f"{owner} is of the type {type(value).__name__}; a text is needed")


def _place(root: Path, base: Path, text: str, owner: str) -> Path:
    """The folder or list that an entry names.

    Raises:
        UserError: it leaves ``root``.
    """
    name = _from(root, base, text)
    return root if name == "." else inside(root, name, owner)


def _from(root: Path, base: Path, text: str) -> str:
    """A path that begins at ``base`` as one that begins at ``root``; the ``../`` of Roboflow is dropped."""
    plain = text.replace("\\", "/")
    if os.path.isabs(plain):
        whole = Path(os.path.normpath(plain))
        return whole.relative_to(root.absolute()).as_posix() if whole.is_relative_to(root.absolute()) else plain
    if base == root:
        plain = plain.removeprefix("../")
    return (base.relative_to(root) / plain).as_posix()


def _files(root: Path, base: Path, place: Path, hidden: Counter[str]) -> Iterator[Path]:
    """The files of a folder, or those that a list names."""
    if place.is_dir():
        yield from sorted(walk(place, hidden))
        return
    owner = place.relative_to(root).as_posix()
    if place.suffix != ".txt":
        raise UserError(f"{brief(owner)} is no folder and no list of images (.txt)")
    names = [_from(root, place.parent if line.startswith("./") else base, line) for line in read_lines(place)]
    check_inside(root, names, owner)
    yield from (root / name for name in names)


def _lying(root: Path, hidden: Counter[str]) -> dict[str, tuple[str, list[Path]]]:
    """Role to the name and the files of each part, of folders alone."""
    folders = _plain(root)
    roles = assign_splits(folders) if "" not in folders else {"train": ""}
    return {role: (name, sorted(walk(folders[name], hidden))) for role, name in roles.items()}


def _plain(root: Path) -> dict[str, Path]:
    """Name of a part to its folder of images that has one of labels; the name is empty where there are no parts."""
    folders = {path.name: path for path in subfolders(root)}
    if "images" in folders and "labels" in folders:
        inner = {path.name: path for path in subfolders(folders["images"])}
        labelled = {path.name for path in subfolders(folders["labels"])}
        parts = {name: path for name, path in inner.items() if name in labelled}
        return parts if "train" in assign_splits(parts) else {"": folders["images"]}
    parts = {name: path / "images" for name, path in folders.items() if assign_splits([name])}
    return {name: path for name, path in parts.items() if path.is_dir() and _labels_of(path).is_dir()}


def _labels_of(folder: Path) -> Path:
    """The folder of text files of a folder of images."""
    parts = list(folder.parts)
    place = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :])


def _label_file(root: Path, image: Path) -> Path:
    """The text file of an image."""
    folder = image.parent
    within = folder.relative_to(root)
    if "images" in within.parts:
        folder = root / _labels_of(within)
    return folder / f"{image.stem}.txt"


def _labels_in(folder: Path) -> list[Path]:
    """The text files that lie in ``folder``, which need not be there."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [path for name in names if _is_label(path := folder / name)]


def _is_label(path: Path) -> bool:
    return path.suffix == ".txt" and path.name != _NAMES


def _name_files(root: Path) -> list[Path]:
    places = (root, root / "labels", *(root / part / "labels" for part in _PARTS))
    return [path for place in places if (path := place / _NAMES).is_file()][:1]


def _names(seen: Survey) -> list[str]:
    """The classes of a source without a YAML file: by their names, or by the highest index."""
    files = [path for path in seen.definition_files if path.name == _NAMES]
    if files:
        return read_class_names(files[0])
    count = 1 + max(map(highest_class, seen.definition_files), default=0)
    if count > MOST_CLASSES:
        raise UserError(
            f"{brief(seen.root)} has labels of the class {MOST_CLASSES} or above and no data.yaml or {_NAMES} that "
            "names the classes; the first number of a line is the index of a class"
        )
    return [str(n) for n in range(count)]
