"""Images and Pascal VOC XML files: boxes.

Supported structures:

* ``Annotations/NAME.xml`` beside ``JPEGImages/NAME.jpg`` (or ``images``), with the splits that
  ``ImageSets/Main/{train,val,test,trainval}.txt`` list, one name per line; without lists, ``test_part`` is held back
  for testing;
* the same two folders inside each of ``train``, ``val`` (``valid``) and ``test``, or XML among the images there, as
  Roboflow writes it.

Images and XML files are paired by name; ``<filename>`` is not read. The classes are those of CVAT's ``labelmap.txt``
without ``background``, else all names in all XML, in alphabetical order. Objects marked ``difficult`` are used and
counted in a note. XML with a DOCTYPE is refused.

Layout ``voc_masks`` reads the masks of such a folder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._voc_folders import (
    IMAGES,
    FolderPair,
    files_by_relative_stem,
    find_subfolder,
    label_map,
    read_splits,
)
from saccade.data.layouts._voc_xml import read_annotation, starts_like_voc
from saccade.data.survey import SplitFiles, Survey, assign_splits, make_survey, subfolders
from saccade.errors import did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import is_image, walk

if TYPE_CHECKING:
    from saccade.data.annotations import ImageAnnotations
    from saccade.data.objects import Objects

__all__ = ["Voc"]

_BACKGROUND = "background"


@final
class Voc(FolderLayout):
    """Images, and one XML file of objects per image."""

    name = "voc"
    rank = 20
    targets = ("objects",)
    task_recipes = MappingProxyType({"auto": "boxes", "detect": "boxes"})
    alternatives = ("voc_masks",)
    full_resolution = True

    def check_folder(self, root: Path) -> str | None:
        """Return None if there are VOC XML and images, else the reason."""
        for pair in _folders_by_name(root).values():
            candidates = pair.annotations.glob("*") if pair.annotations == pair.images else walk(pair.annotations)
            files = (path for path in candidates if path.suffix.lower() == ".xml")
            if any(map(starts_like_voc, islice(files, 5))) and any(map(is_image, walk(pair.images))):
                return None
        return (
            "it has no Annotations with VOC XML beside JPEGImages, neither at the top level nor in train, val and test"
        )

    def survey(self, root: Path) -> Survey:
        """Return the images and XML files of each split."""
        hidden, n_unpaired, xml_files = Counter[str](), 0, list[Path]()
        splits = dict[str, SplitFiles]()
        for split, (name, pair) in _folders_by_split(root).items():
            images, files = (
                files_by_relative_stem(pair.images, hidden=hidden),
                files_by_relative_stem(pair.annotations, ".xml"),
            )
            lists = read_splits(root, "Main", images) if not name else {}
            for listed_split, (split_name, stems) in (lists or {split: (name, sorted(images))}).items():
                splits[listed_split] = SplitFiles(
                    split_name, {"": [images.get(stem, pair.images / f"{stem}.jpg") for stem in stems]}
                )
            n_unpaired += len(files.keys() - images.keys())
            xml_files += files.values()
        notes = [f"{n_unpaired} XML files have no image of their name"] * (n_unpaired > 0)
        definition_files = [path for path in (root / "labelmap.txt",) if path.is_file()]
        definition_files += [*sorted((root / "ImageSets" / "Main").glob("*.txt")), *sorted(xml_files)]
        return replace(make_survey(root, splits, None, hidden, notes), definition_files=definition_files)

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """Return the objects of each image."""
        from saccade.data.objects import Objects
        from saccade.data.opening import map_files

        pairs = [pair for _, pair in _folders_by_split(survey.root).values()]

        def read(path: Path) -> ImageAnnotations:
            pair = next(pair for pair in pairs if path.is_relative_to(pair.images))
            file = pair.annotations / path.relative_to(pair.images).with_suffix(".xml")
            return read_annotation(file, file.relative_to(survey.root).as_posix())

        mapped_names = [name for name in label_map(survey.root).names if name != _BACKGROUND]
        paths = list(sizes) if mapped_names else survey.files  # without a map, the classes are those of all files
        annotations = dict(zip(paths, map_files(read, paths, notify), strict=True))
        used_names = {annotation.name for image in annotations.values() for annotation in image.objects}
        names = mapped_names or sorted(used_names)
        return Objects({path: _reject_unknown_class(annotations[path], names) for path in sizes}, sizes, names)


def _reject_unknown_class(annotations: ImageAnnotations, names: list[str]) -> ImageAnnotations:
    """Return ``annotations``, with ``problem`` set if an object has an unknown class."""
    unknown = next((annotation for annotation in annotations.objects if annotation.name not in names), None)
    if unknown is None:
        return annotations
    problem = (
        f"is of the class {brief(unknown.name)!r}.{did_you_mean(unknown.name, names)} There are {', '.join(names)}"
    )
    return replace(
        annotations, problem=f"has a faulty annotation: {unknown.where} of {brief(annotations.file_name)} {problem}"
    )


def _folders_by_split(root: Path) -> dict[str, tuple[str, FolderPair]]:
    """Return the split name and folders of each split."""
    pairs = _folders_by_name(root)
    if "" in pairs:
        return {"train": ("", pairs[""])}
    return {split: (name, pairs[name]) for split, name in assign_splits(pairs).items()}


def _folders_by_name(root: Path) -> dict[str, FolderPair]:
    """Return the folders of each split name; the name is "" if ``root`` itself holds the two folders."""
    images, annotations = find_subfolder(root, IMAGES), find_subfolder(root, ("annotations",))
    if images and annotations:
        return {"": FolderPair(images, annotations)}
    split_folders = {path.name: path for path in subfolders(root) if assign_splits([path.name])}
    pairs = {}
    for name, path in split_folders.items():
        images, annotations = find_subfolder(path, IMAGES), find_subfolder(path, ("annotations",))
        pairs[name] = FolderPair(images, annotations) if images and annotations else FolderPair(path, path)
    return pairs if "train" in assign_splits(pairs) else {}
