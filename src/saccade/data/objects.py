"""Object targets (boxes, classes and masks), checked against their images and transformed with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade.data.annotations import Annotation, CleaningCounts, ImageAnnotations, LabelError, clean_objects
from saccade.data.label_names import near_name_notes
from saccade.data.labels import TargetSource
from saccade.data.outlines import polygon_mask, rle_mask
from saccade.data.resizing import Frame
from saccade.data.samples import Target, digest_values
from saccade.data.sheet import Cell
from saccade.data.survey import SplitFiles
from saccade.escaping import brief
from saccade.imagefiles import UnreadableError, open_image

__all__ = ["LazyObjects", "Objects"]

_Floats: TypeAlias = NDArray[np.float64]


class Objects(TargetSource):
    """Target source of annotated objects.

    Targets have masks only if every object of every image in ``sizes`` has polygons or an RLE mask.

    Args:
        annotations: Maps image to the objects in its annotation file.
        sizes: Maps each image in use to its upright (width, height).
        classes: class names, in the order of their indices.
        notes: sentences on the source.
    """

    def __init__(
        self,
        annotations: Mapping[Path, ImageAnnotations],
        sizes: Mapping[Path, tuple[int, int]],
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> None:
        self.classes, self.problems = list(classes), {}
        self._sizes = sizes
        self._objects: dict[Path, list[Annotation]] = {}
        counts = CleaningCounts()
        for path, size in sizes.items():
            image_annotations = annotations[path]
            try:
                if image_annotations.problem:
                    raise LabelError(image_annotations.problem)
                orientation = _box_orientation(path, size, image_annotations)
                self._objects[path] = clean_objects(image_annotations, size, orientation, counts)
            except LabelError as problem:
                self.problems[path] = str(problem)
            else:
                if orientation > 1:
                    counts.add("rotated", image_annotations.file_name, "")
        all_objects = [annotation for objects in self._objects.values() for annotation in objects]
        n_masks = sum(annotation.has_mask for annotation in all_objects)
        self._with_masks = n_masks == len(all_objects) > 0
        self.notes = [*notes, *counts.sentences(), *["no image shows an object"] * (not all_objects)]
        self.notes += near_name_notes(self.classes)
        if 0 < n_masks < len(all_objects):
            n_boxes = len(all_objects) - n_masks
            self.notes.append(f"{n_boxes} of {len(all_objects)} objects have no outline: targets have boxes only")

    def targets(self, files: Sequence[Path], frame: Frame) -> LazyObjects:
        """Return the objects of ``files`` in the coordinates of ``frame``."""
        objects, sizes = [self._objects[path] for path in files], [self._sizes[path] for path in files]
        indices = {name: index for index, name in enumerate(self.classes)}
        return LazyObjects(objects, sizes, frame, indices, self._with_masks)

    def cautions(self, files: Sequence[Path], frame: Frame) -> list[str]:
        """Return a sentence on the objects of ``files`` that lose more than half of their area by cropping, if any."""
        if frame.resize != "crop":
            return []
        n_cut = sum(sum(_is_cut(self._objects[path], self._sizes[path], frame).tolist()) for path in files)
        n_objects = sum(len(self._objects[path]) for path in files)
        if not n_cut:
            return []
        return [
            f"Cropping to {frame.height}×{frame.width} pixels cuts off more than half of {n_cut} of {n_objects} test "
            'objects; data.resize = "pad" shows the whole images.'
        ]

    def fingerprint_entry(self, path: Path) -> str:
        """Return a digest of the objects of ``path``."""
        return digest_values(
            [
                annotation.name,
                annotation.box,
                [list(polygon) for polygon in annotation.polygons],
                annotation.rle and [*annotation.rle[:2], list(annotation.rle.counts)],
            ]
            for annotation in self._objects[path]
        )

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return the number of ``readable`` images of ``split`` with an object of each class."""
        counts = Counter(
            name
            for path in split.files
            if path in readable and path not in self.problems
            for name in {annotation.name for annotation in self._objects[path]}
        )
        return {name: counts[name] for name in self.classes}

    def cell(self, image: Tensor, target: Target) -> Cell:
        """Return a cell of ``image`` (C, H, W) with its boxes, coloured by class; each class is named once."""
        labels = target["labels"].tolist()
        names = [self.classes[label] for label in labels]
        tags = [brief(name, 20) if name not in names[:n] else "" for n, name in enumerate(names)]
        boxes = [(*box, tag) for box, tag in zip(target["boxes"].tolist(), tags, strict=True)]
        caption = ", ".join(f"{name} {n}" for name, n in Counter(names).most_common()) or "no objects"
        masks = target["masks"].numpy().astype(bool) if "masks" in target else None
        return Cell(image, brief(caption), boxes, masks, labels)


class LazyObjects:
    """Sequence of object targets in frame coordinates, computed on access.

    Args:
        objects: objects of each image, in pixels of the upright image.
        sizes: (width, height) of each image.
        frame: frame that boxes and masks are transformed to.
        indices: Maps class name to class index.
        with_masks: True if targets have masks.
    """

    def __init__(
        self,
        objects: Sequence[Sequence[Annotation]],
        sizes: Sequence[tuple[int, int]],
        frame: Frame,
        indices: Mapping[str, int],
        with_masks: bool,
    ) -> None:
        self.objects, self.sizes, self.frame = objects, sizes, frame
        self.indices, self.with_masks = indices, with_masks

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Return the objects of image ``i`` whose clipped boxes are at least one pixel wide and high.

        Returns:
            ``boxes`` (n, 4), float32, XYXY; ``labels`` (n,), int64; ``masks`` (n, H, W), uint8, if ``with_masks``.
        """
        height, width = self.frame.height, self.frame.width
        corners, scale, shift = _corners(self.objects[i], self.sizes[i], self.frame)
        corners = corners.clip(0, [width, height])
        is_visible: NDArray[np.bool_] = np.all(corners[:, 1] - corners[:, 0] >= 1, axis=1)
        visible = [annotation for annotation, ok in zip(self.objects[i], is_visible, strict=True) if ok]
        visible_boxes = torch.from_numpy(corners[is_visible].reshape(-1, 4)).float()
        target = {
            "boxes": BoundingBoxes(visible_boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor([self.indices[annotation.name] for annotation in visible], dtype=torch.int64),
        }
        if self.with_masks:
            masks = [self._mask(annotation, scale, shift) for annotation in visible]
            target["masks"] = Mask(torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width)))
        return target

    def _mask(
        self, annotation: Annotation, scale: NDArray[np.float64], shift: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        if annotation.rle is None:
            outlines = [(np.asarray(polygon).reshape(-1, 2) * scale + shift).ravel() for polygon in annotation.polygons]
            return polygon_mask(outlines, self.frame.height, self.frame.width)
        mask = Image.fromarray(np.ascontiguousarray(rle_mask(annotation.rle)))
        return (np.asarray(self.frame.fit_mask(mask)) == 1).astype(np.uint8)  # padding is VOID


def _corners(objects: Sequence[Annotation], size: tuple[int, int], frame: Frame) -> tuple[_Floats, _Floats, _Floats]:
    """Return the corners (n, 2, 2) of the boxes in ``frame``, not clipped, and its scale and shift of x and y."""
    (scale_x, shift_x), (scale_y, shift_y) = frame.image_to_frame(size)
    scale, shift = np.array([scale_x, scale_y]), np.array([shift_x, shift_y])
    boxes = np.array([annotation.box for annotation in objects], np.float64)
    return boxes.reshape(-1, 2, 2) * scale + shift, scale, shift


def _is_cut(objects: Sequence[Annotation], size: tuple[int, int], frame: Frame) -> NDArray[np.bool_]:
    """Return True (n,) for the boxes of which ``frame`` shows less than half."""
    corners, _, _ = _corners(objects, size, frame)
    visible = corners.clip(0, [frame.width, frame.height])
    areas, visible_areas = ((ends[:, 1] - ends[:, 0]).prod(1) for ends in (corners, visible))
    return visible_areas < 0.5 * areas


def _box_orientation(path: Path, size: tuple[int, int], annotations: ImageAnnotations) -> int:
    """Return the EXIF orientation to apply to the boxes; 1 if they are upright."""
    if annotations.size is None or annotations.size == size:
        return 1
    if annotations.size == size[::-1]:
        try:
            with open_image(path) as image:
                if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) >= 5:
                    return int(orientation)
        except UnreadableError as problem:  # removed since it was read
            raise LabelError(str(problem)) from None
    width, height = annotations.size
    raise LabelError(f"is {size[0]}×{size[1]} pixels; {brief(annotations.file_name)} states {width}×{height}")
