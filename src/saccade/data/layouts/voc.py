"""Images and XML files of Pascal VOC: boxes.

Understood are

* ``Annotations/NAME.xml`` beside ``JPEGImages/NAME.jpg`` (or ``images``), with the parts that
  ``ImageSets/Main/{train,val,test,trainval}.txt`` list, one name a line; without lists, ``test_part`` is held back;
* the same two folders inside each of ``train``, ``val`` (``valid``) and ``test``, or XML among the images there, as
  Roboflow writes it.

An image has the XML of its name; what ``<filename>`` says is not read. The classes are those of CVAT's ``labelmap.txt``
but for ``background``, else all names that stand in the XML of any part, in the order of the alphabet. Objects that are
marked ``difficult`` are taken and counted in a note. XML with a DOCTYPE is refused.

The masks of such a folder are read by ``voc_masks``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, final

from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._voc_folders import IMAGES, Place, label_map, named, parts_of, stems
from saccade.data.layouts._voc_xml import begins_like_voc, read_annotation
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
    """Images, and an XML file of objects for each."""

    name = "voc"
    rank = 20
    targets = ("objects",)
    also = ("voc_masks",)
    exact = True

    def reason(self, root: Path) -> str | None:
        """Look for XML that begins like VOC's, and for images that belong to it."""
        for place in _places(root).values():
            below = place.beside.glob("*") if place.beside == place.images else walk(place.beside)
            files = (path for path in below if path.suffix.lower() == ".xml")
            if any(map(begins_like_voc, islice(files, 5))) and any(map(is_image, walk(place.images))):
                return None
        return "it has no Annotations with XML of VOC beside JPEGImages, alone or in train, val and test"

    def survey(self, root: Path) -> Survey:
        """The images of each part, and their XML files."""
        hidden, alone, texts = Counter[str](), 0, list[Path]()
        parts = dict[str, SplitFiles]()
        for role, (name, place) in _roles(root).items():
            images, files = stems(place.images, hidden=hidden), stems(place.beside, ".xml")
            lists = parts_of(root, "Main", images) if not name else {}
            for part, (listed, of) in (lists or {role: (name, sorted(images))}).items():
                parts[part] = SplitFiles(listed, {"": [images.get(stem, place.images / f"{stem}.jpg") for stem in of]})
            alone += len(files.keys() - images.keys())
            texts += files.values()
        notes = [f"{alone} XML files have no image of their name"] * (alone > 0)
        deciding = [path for path in (root / "labelmap.txt",) if path.is_file()]
        deciding += [*sorted((root / "ImageSets" / "Main").glob("*.txt")), *sorted(texts)]
        return replace(make_survey(root, parts, None, hidden, notes), definition_files=deciding)

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """The objects of each image."""
        from saccade.data.objects import Objects
        from saccade.data.opening import map_files

        places = [place for _, place in _roles(seen.root).values()]

        def read(path: Path) -> ImageAnnotations:
            place = next(of for of in places if path.is_relative_to(of.images))
            file = place.beside / path.relative_to(place.images).with_suffix(".xml")
            return read_annotation(file, file.relative_to(seen.root).as_posix())

        known = [name for name in label_map(seen.root).names if name != _BACKGROUND]
        paths = list(sizes) if known else seen.files  # all of them, where they decide the classes
        annotated = dict(zip(paths, map_files(read, paths, notify), strict=True))
        names = known or sorted({one.name for found in annotated.values() for one in found.objects})
        return Objects({path: _known(annotated[path], names) for path in sizes}, sizes, names)


def _known(found: ImageAnnotations, names: list[str]) -> ImageAnnotations:
    """``found``, or why a class of it is unknown."""
    odd = next((one for one in found.objects if one.name not in names), None)
    if odd is None:
        return found
    said = f"is of the class {brief(odd.name)!r}.{did_you_mean(odd.name, names)} There are {', '.join(names)}"
    return replace(found, problem=f"has {brief(found.file_name)}, {odd.where} of which {said}")


def _roles(root: Path) -> dict[str, tuple[str, Place]]:
    """Role to the name of a part and its folders."""
    places = _places(root)
    if "" in places:
        return {"train": ("", places[""])}
    return {role: (name, places[name]) for role, name in assign_splits(places).items()}


def _places(root: Path) -> dict[str, Place]:
    """Name of a part to its folders; the name is empty where the folder itself holds the two."""
    images, beside = named(root, IMAGES), named(root, ("annotations",))
    if images and beside:
        return {"": Place(images, beside)}
    parts = {path.name: path for path in subfolders(root) if assign_splits([path.name])}
    found = {}
    for name, path in parts.items():
        images, beside = named(path, IMAGES), named(path, ("annotations",))
        found[name] = Place(images, beside) if images and beside else Place(path, path)
    return found if "train" in assign_splits(found) else {}
