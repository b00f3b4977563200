"""Images and YOLO label files: boxes and polygons, in fractions of image width and height.

Supported structures:

* ``data.yaml`` (or another ``.yaml`` with ``names``) as Ultralytics and Roboflow write it: ``names`` a list or a
  dictionary, ``nc``, ``path``, and ``train``, ``val`` (``valid``) and ``test`` as a folder, a list of folders or a text
  file with one image per line. Paths are relative to ``path`` if that is a folder in the data folder, else to the data
  folder; Roboflow's leading ``../`` is dropped. A path outside the data folder is refused;
* without ``data.yaml``, ``images`` beside ``labels`` at the top level, optionally with split folders in both, or in
  each split folder. ``classes.txt``, in ``labels`` or beside it, as LabelImg and Label Studio write it, names the
  classes, else they are numbers.

A label file has its image's stem and folder, with the last ``images`` in the path replaced by ``labels``, if there is
one. An image with an empty or missing label file is background; a split without label files is refused.

A line is ``class x y width height`` or ``class x1 y1 x2 y2 x3 y3 …``. Keypoints of a data set with ``kpt_shape`` are
not read.

PyYAML, a dependency of timm, reads the ``.yaml`` with ``safe_load``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, final

from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._list_paths import check_inside
from saccade.data.layouts._yolo_lines import MAX_CLASSES, highest_class, read_objects
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
from saccade.imagefiles import is_image, resolve_inside, walk

if TYPE_CHECKING:
    from saccade.data.objects import Objects

__all__ = ["Yolo"]

_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_CLASS_FILE = "classes.txt"


@final
class Yolo(FolderLayout):
    """Images and one label file of objects per image."""

    name = "yolo"
    rank = 40
    targets = ("objects",)
    task_recipes = MappingProxyType({"auto": "boxes", "detect": "boxes"})
    full_resolution = True

    def check_folder(self, root: Path) -> str | None:
        """Return None if there is a YAML file with names and splits or a label folder, else the reason."""
        if _is_classification_set(root):
            return "it has class folders, and no text file with the name of an image"
        if _find_yaml(root) is not None:
            return None
        for images in _image_folders(root).values():
            if any(map(is_image, walk(images))) and any(map(_is_label_file, walk(_label_folder(images)))):
                return None
        return "it has no data.yaml with names and train, and no folders images and labels with text files in labels"

    def survey(self, root: Path) -> Survey:
        """Return images and label files of each split."""
        yaml, hidden, notes, unused = _find_yaml(root), Counter[str](), list[str](), list[str]()
        files = _files_in_yaml(root, yaml, hidden, notes) if yaml else _files_without_yaml(root, hidden)
        if "val" in files and not any(_label_path(root, path).is_file() for path in files["test"][1]):
            unused.append(f"{files['test'][0]!r} has no text files and is not used")
            files["test"] = files.pop("val")
        splits, other_suffixes = keep_images(
            {split: SplitFiles(name, {"": paths}) for split, (name, paths) in files.items()}
        )
        label_of = {path: _label_path(root, path) for split_files in splits.values() for path in split_files.files}
        label_folders = sorted({label_file.parent for label_file in label_of.values()})
        label_files = {label_file for folder in label_folders for label_file in _label_files(folder)}
        other_suffixes[".txt"] -= sum(path in label_files for _, paths in files.values() for path in paths)
        problems = [
            f"no image of {brief(split_files.name or root)} has a text file in "
            f"{brief(label_of[split_files.files[0]].parent.relative_to(root))}"
            for split_files in splits.values()
            if split_files.files and not any(label_of[path] in label_files for path in split_files.files)
        ]
        n_unlabelled = sum(label_file not in label_files for label_file in label_of.values())
        if n_unlabelled and not problems:
            notes.append(f"{n_unlabelled} images have no text file and count as background")
        if n_unpaired := len(label_files - set(label_of.values())):
            notes.append(f"{n_unpaired} text files have no image of their name")
        survey = make_survey(root, splits, +other_suffixes, hidden, notes)
        definition_files = [
            *([yaml.path] if yaml else _first_class_file(root)),
            *sorted(label_files & set(label_of.values())),
        ]
        return replace(
            survey, problems=sorted([*survey.problems, *problems]), definition_files=definition_files, unused=unused
        )

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """Return the objects of each image."""
        from saccade.data.objects import Objects
        from saccade.data.opening import map_files

        yaml, paths = _find_yaml(survey.root), list(sizes)
        names = yaml.names if yaml else _class_names(survey)
        has_keypoints = yaml is not None and "kpt_shape" in yaml.values

        def read(path: Path) -> Any:
            label_file = _label_path(survey.root, path)
            return read_objects(label_file, label_file.relative_to(survey.root).as_posix(), names, has_keypoints)

        notes = ["keypoints are not read"] if has_keypoints else []
        return Objects(dict(zip(paths, map_files(read, paths, notify), strict=True)), sizes, names, notes)


class _DataYaml(NamedTuple):
    """YAML file that describes the data set, its values, and the class names in index order."""

    path: Path
    values: dict[str, Any]
    names: list[str]


def _find_yaml(root: Path) -> _DataYaml | None:
    """Return the YAML file that describes the data set, ``data.yaml`` before others; None without one.

    Raises:
        UserError: ``data.yaml`` or the class names cannot be used.
    """
    paths = sorted(root.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name))
    for path in paths:
        try:
            values = _load_yaml(path)
        except UserError:
            if path.stem == "data":
                raise
            continue  # not a YOLO file
        if isinstance(values, dict) and "names" in values and any(name in values for name in _SPLIT_NAMES):
            return _DataYaml(path, values, _yaml_names(values, path.name))
    return None


def _is_classification_set(root: Path) -> bool:
    """Return True if the folder has a YAML file and class folders, but no label file of an image."""
    if next(root.glob("*.y*ml"), None) is None or ClassFolders().check_folder(root) is not None:
        return False
    return not any(_label_path(root, path).is_file() for path in walk(root) if is_image(path))


def _load_yaml(path: Path) -> Any:
    """Return the values of a YAML file, else raise UserError."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {brief(path)}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        location = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"cannot read {brief(path)}{location}: it is not valid YAML ({brief(error, 120)})") from None


def _yaml_names(values: dict[str, Any], file_name: str) -> list[str]:
    """Return the class names in index order.

    Raises:
        UserError: ``names`` is neither a list nor a dictionary of the indices 0, 1, …; a name is no string or occurs
            twice; or there are not ``nc``.
    """
    names, count = values["names"], values.get("nc")
    if isinstance(names, dict):
        missing_index = next((index for index in range(len(names)) if index not in names), None)
        if missing_index is not None:
            raise UserError(f"{file_name}: names has {len(names)} entries, but none has the index {missing_index}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file_name}: names is a {type(names).__name__}; a list or a dictionary is needed")
    for index, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            description = str(name) if name is None or isinstance(name, bool) else f"a {type(name).__name__}"
            raise UserError(f"{file_name}: the name of class {index} is read as {description}; put it in quotes")
    texts = [str(name) for name in names]
    duplicate = next((name for name, frequency in Counter(texts).items() if frequency > 1), None)
    if duplicate is not None:
        raise UserError(f"{file_name}: names has {brief(duplicate)!r} twice")
    if count is not None and not isinstance(count, int):
        raise UserError(f"{file_name}: nc is a {type(count).__name__}; the number of names, {len(texts)}, is needed")
    if count is not None and count != len(texts):
        raise UserError(f"{file_name}: nc is {count}, but names has {len(texts)} names")
    return texts


def _files_in_yaml(
    root: Path, yaml: _DataYaml, hidden: Counter[str], notes: list[str]
) -> dict[str, tuple[str, list[Path]]]:
    """Return name and files of each split in a YAML file.

    Raises:
        UserError: no training images are named, or a path is outside the folder or missing.
    """
    file_name, base = yaml.path.name, _base_folder(root, yaml, notes)
    split_names = assign_splits(key for key in _SPLIT_NAMES if yaml.values.get(key))
    if "train" not in split_names:
        raise UserError(
            f"{file_name} names no training images; set train to a folder, a list of folders or a list of images"
        )
    splits = {}
    for split, key in split_names.items():
        entries = yaml.values[key] if isinstance(yaml.values[key], list) else [yaml.values[key]]
        paths = [
            _resolve_entry(root, base, _check_text(entry, f"{file_name}, {key}"), f"{file_name}, {key}")
            for entry in entries
        ]
        missing_entry = next((entry for entry, path in zip(entries, paths, strict=True) if not path.exists()), None)
        if missing_entry is not None and not (split == "test" and "val" in split_names):
            raise UserError(f"{file_name} names {brief(missing_entry)!r} as {key}, which does not exist")
        files = [path for path in paths if path.exists() for path in _entry_files(root, base, path, hidden)]
        n_repeated = len(files) - len(set(files))
        if n_repeated:
            notes.append(f"{n_repeated} images of {key} are listed twice; each is used once")
        splits[split] = key, list(dict.fromkeys(files))
    return splits


def _base_folder(root: Path, yaml: _DataYaml, notes: list[str]) -> Path:
    """Return the folder that paths in the YAML file are relative to."""
    text = _check_text(yaml.values.get("path") or "", f"{yaml.path.name}, path")
    folder = Path(os.path.normpath(root / text))
    resolved, resolved_root = folder.resolve(), root.resolve()
    if text and resolved != resolved_root and folder.is_dir() and resolved.is_relative_to(resolved_root):
        # By its text, an absolute path may lie outside a relative or linked root.
        return folder if folder.is_relative_to(root) else root / resolved.relative_to(resolved_root)
    if text and resolved != resolved_root:
        notes.append(
            f"{yaml.path.name} has the path {brief(text)!r}, which is not a folder "
            "in the data folder: paths are relative to the data folder"
        )
    return root


def _check_text(value: Any, location: str) -> str:
    """Return ``value`` if it is a string, else raise UserError.

    The message does not show it, because YAML aliases can expand without limit.
    """
    if isinstance(value, str):
        return value
    raise UserError(f"{location} is a {type(value).__name__}; a string is needed")


def _resolve_entry(root: Path, base: Path, text: str, location: str) -> Path:
    """Return the folder or list that an entry names; raise UserError outside ``root``."""
    name = _relative_to_root(root, base, text)
    return root if name == "." else resolve_inside(root, name, location)


def _relative_to_root(root: Path, base: Path, text: str) -> str:
    """Convert a path relative to ``base`` into one relative to ``root``; Roboflow's ``../`` is dropped."""
    posix = text.replace("\\", "/")
    if os.path.isabs(posix):
        absolute = Path(os.path.normpath(posix))
        return absolute.relative_to(root.absolute()).as_posix() if absolute.is_relative_to(root.absolute()) else posix
    if base == root:
        posix = posix.removeprefix("../")
    return (base.relative_to(root) / posix).as_posix()


def _entry_files(root: Path, base: Path, path: Path, hidden: Counter[str]) -> Iterator[Path]:
    """Return the files of a folder, or those that a list names."""
    if path.is_dir():
        yield from sorted(walk(path, hidden))
        return
    file_name = path.relative_to(root).as_posix()
    if path.suffix != ".txt":
        raise UserError(f"{brief(file_name)} is neither a folder nor a list of images (.txt)")
    names = [_relative_to_root(root, path.parent if line.startswith("./") else base, line) for line in read_lines(path)]
    check_inside(root, names, file_name)
    yield from (root / name for name in names)


def _files_without_yaml(root: Path, hidden: Counter[str]) -> dict[str, tuple[str, list[Path]]]:
    """Return name and files of each split, from folder names."""
    folders = _image_folders(root)
    split_names = assign_splits(folders) if "" not in folders else {"train": ""}
    return {split: (name, sorted(walk(folders[name], hidden))) for split, name in split_names.items()}


def _image_folders(root: Path) -> dict[str, Path]:
    """Return the image folders that have a label folder, by split name; the name is "" without splits."""
    folders = {path.name: path for path in subfolders(root)}
    if "images" in folders and "labels" in folders:
        image_folders = {path.name: path for path in subfolders(folders["images"])}
        label_names = {path.name for path in subfolders(folders["labels"])}
        split_folders = {name: path for name, path in image_folders.items() if name in label_names}
        return split_folders if "train" in assign_splits(split_folders) else {"": folders["images"]}
    split_folders = {name: path / "images" for name, path in folders.items() if assign_splits([name])}
    return {name: path for name, path in split_folders.items() if path.is_dir() and _label_folder(path).is_dir()}


def _label_folder(folder: Path) -> Path:
    """Return the folder of label files that belongs to a folder of images."""
    parts = list(folder.parts)
    position = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:position], "labels", *parts[position + 1 :])


def _label_path(root: Path, image: Path) -> Path:
    """Return the path of an image's label file."""
    folder = image.parent
    relative = folder.relative_to(root)
    if "images" in relative.parts:
        folder = root / _label_folder(relative)
    return folder / f"{image.stem}.txt"


def _label_files(folder: Path) -> list[Path]:
    """Return the label files in ``folder``, which need not exist."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [path for name in names if _is_label_file(path := folder / name)]


def _is_label_file(path: Path) -> bool:
    return path.suffix == ".txt" and path.name != _CLASS_FILE


def _first_class_file(root: Path) -> list[Path]:
    """Return the first file of class names, as a list of at most one path."""
    folders = (root, root / "labels", *(root / name / "labels" for name in _SPLIT_NAMES))
    return [path for folder in folders if (path := folder / _CLASS_FILE).is_file()][:1]


def _class_names(survey: Survey) -> list[str]:
    """Return the classes of a source without a YAML file: from ``classes.txt``, else 0 to the highest index.

    Raises:
        UserError: an index reaches ``MAX_CLASSES`` and no file names the classes.
    """
    files = [path for path in survey.definition_files if path.name == _CLASS_FILE]
    if files:
        return read_class_names(files[0])
    count = 1 + max(map(highest_class, survey.definition_files), default=0)
    if count > MAX_CLASSES:
        raise UserError(
            f"{brief(survey.root)} has labels of the class {MAX_CLASSES} or above and no data.yaml or {_CLASS_FILE} "
            "that names the classes; the first number of a line is the class index"
        )
    return [str(n) for n in range(count)]
