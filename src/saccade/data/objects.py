"""Boxes with classes and, where every object has an outline, masks: checked and shown with their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade.data.annotations import Annotated, Annotation, Cleaned, LabelError, placed
from saccade.data.labels import Labels
from saccade.data.outlines import polygon_mask, rle_mask
from saccade.data.resizing import Frame
from saccade.data.samples import Target, digest
from saccade.data.sheet import Cell
from saccade.data.survey import Part
from saccade.escaping import brief
from saccade.imagefiles import UnreadableError, open_image

__all__ = ["ObjectTargets", "Objects"]


class Objects(Labels):
    """The objects of images.

    Masks are given where every object has an outline or a mask. A box is no outline, so where one object of the images
    asked about has a box alone, all targets are boxes and labels.

    Args:
        annotated: image to what its file states.
        sizes: upright width and height of the images asked about.
        classes: names, in the order of their numbers.
        notes: sentences on the source.
    """

    def __init__(
        self,
        annotated: Mapping[Path, Annotated],
        sizes: Mapping[Path, tuple[int, int]],
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> None:
        self.classes, self.problems = list(classes), {}
        self._sizes = sizes
        self._objects: dict[Path, list[Annotation]] = {}
        cleaned = Cleaned()
        for path, size in sizes.items():
            found = annotated[path]
            try:
                if found.problem:
                    raise LabelError(found.problem)
                orientation = _orientation(path, size, found)
                self._objects[path] = placed(found, size, orientation, cleaned)
            except LabelError as problem:
                self.problems[path] = str(problem)
            else:
                if orientation > 1:
                    cleaned.add("turned", found.owner, "")
        every = [one for of in self._objects.values() for one in of]
        outlines = sum(one.outlined for one in every)
        self._outlined = outlines == len(every) > 0
        self.notes = [*notes, *cleaned.sentences(), *["no image shows an object"] * (not every)]
        if 0 < outlines < len(every):
            self.notes.append(f"{len(every) - outlines} of {len(every)} objects have no outline: boxes alone are given")

    def targets(self, files: Sequence[Path], frame: Frame) -> ObjectTargets:
        """The objects of ``files`` that the frame shows."""
        number = {name: n for n, name in enumerate(self.classes)}
        return ObjectTargets(
            [self._objects[path] for path in files],
            [self._sizes[path] for path in files],
            frame,
            number,
            self._outlined,
        )

    def fact(self, path: Path) -> str:
        """What stands for all that is known of its objects."""
        return digest(
            [one.name, one.box, [list(of) for of in one.polygons], one.rle and [*one.rle[:2], list(one.rle.counts)]]
            for one in self._objects[path]
        )

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """Class -> how many of the ``good`` images show an object of it."""
        shown = Counter(
            name
            for path in part.files
            if path in good and path not in self.problems
            for name in {one.name for one in self._objects[path]}
        )
        return {name: shown[name] for name in self.classes}

    def cell(self, picture: Tensor, target: Target) -> Cell:
        """The picture with a box in the colour of its class around each object, the first of a class with its name."""
        labels = target["labels"].tolist()
        names = [self.classes[label] for label in labels]
        tags = [brief(name, 20) if name not in names[:n] else "" for n, name in enumerate(names)]
        boxes = [(*box, tag) for box, tag in zip(target["boxes"].tolist(), tags, strict=True)]
        caption = ", ".join(f"{name} {n}" for name, n in Counter(names).most_common()) or "no objects"
        masks = target["masks"].numpy().astype(bool) if "masks" in target else None
        return Cell(picture, brief(caption), boxes, masks, labels)


class ObjectTargets:
    """Objects as a frame shows them, made each time they are asked for.

    Args:
        objects: of each image, in pixels of the upright image.
        sizes: width and height of each.
        frame: what is seen of them.
        numbers: class to its number.
        outlined: whether masks are given.
    """

    def __init__(
        self,
        objects: Sequence[Sequence[Annotation]],
        sizes: Sequence[tuple[int, int]],
        frame: Frame,
        numbers: Mapping[str, int],
        outlined: bool,
    ) -> None:
        self.objects, self.sizes, self.frame, self.numbers, self.outlined = objects, sizes, frame, numbers, outlined

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """The objects of image ``i`` whose boxes, cut to the frame, are at least one pixel wide and high.

        Returns:
            ``boxes`` (n, 4), float32, XYXY; ``labels`` (n,), int64; ``masks`` (n, H, W), uint8, where they are known.
        """
        height, width = self.frame.height, self.frame.width
        (scale_x, shift_x), (scale_y, shift_y) = self.frame.placement(self.sizes[i])
        scale, shift = np.array([scale_x, scale_y]), np.array([shift_x, shift_y])
        corners = np.array([one.box for one in self.objects[i]], np.float64).reshape(-1, 2, 2) * scale + shift
        corners = corners.clip(0, [width, height])
        kept = (corners[:, 1] - corners[:, 0] >= 1).all(1)
        shown = [one for one, inside in zip(self.objects[i], kept, strict=True) if inside]
        boxes = torch.from_numpy(corners[kept].reshape(-1, 4)).float()
        target = {
            "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor([self.numbers[one.name] for one in shown], dtype=torch.int64),
        }
        if self.outlined:
            masks = [self._mask(one, scale, shift) for one in shown]
            target["masks"] = Mask(torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width)))
        return target

    def _mask(self, one: Annotation, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.uint8]:
        if one.rle is None:
            outlines = [(np.asarray(of).reshape(-1, 2) * scale + shift).ravel() for of in one.polygons]
            return polygon_mask(outlines, self.frame.height, self.frame.width)
        image = Image.fromarray(np.ascontiguousarray(rle_mask(one.rle)))
        return (np.asarray(self.frame.mask(image)) == 1).astype(np.uint8)  # the filling of a frame is VOID


def _orientation(path: Path, size: tuple[int, int], found: Annotated) -> int:
    """By which EXIF orientation boxes are to be turned; 1 where they lie on the upright image.

    Raises:
        LabelError: the file states a size that the image has in neither way.
    """
    if found.size is None or found.size == size:
        return 1
    if found.size == size[::-1]:
        try:
            with open_image(path) as image:
                if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) >= 5:
                    return int(orientation)
        except UnreadableError as problem:  # gone meanwhile
            raise LabelError(str(problem)) from None
    raise LabelError(f"is {size[0]}×{size[1]} pixels; {brief(found.owner)} states {found.size[0]}×{found.size[1]}")
