"""Where people looked: points on images, moved with them."""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from saccade.data.labels import Labels
from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import Part
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.data.samples import Target

__all__ = ["Fixation", "Fixations"]


class Fixation(NamedTuple):
    """A point that somebody looked at.

    Attributes:
        x: in pixels of the image, from its left edge.
        y: from its upper edge.
        viewer: number of who looked.
        where: the line, for messages.
    """

    x: float
    y: float
    viewer: int
    where: str


@final
class Fixations(Labels):
    """The fixations of images.

    Args:
        points: image to its fixations, in their order.
        sizes: width and height of the images asked about; points outside are dropped and counted.
        viewers: how many there are; 0 where nothing names them.
    """

    def __init__(
        self, points: Mapping[Path, Sequence[Fixation]], sizes: Mapping[Path, tuple[int, int]], viewers: int
    ) -> None:
        self.classes, self.problems, self._sizes = [], {}, sizes
        self._points = dict[Path, list[Fixation]]()
        outside = list[tuple[Path, Fixation]]()
        for path, (width, height) in sizes.items():
            inside = [0 <= point.x < width and 0 <= point.y < height for point in points[path]]
            within = [point for point, seen in zip(points[path], inside, strict=True) if seen]
            self._points[path] = within
            outside += [(path, point) for point, seen in zip(points[path], inside, strict=True) if not seen]
            if not within:
                self.problems[path] = (
                    f"has no fixation inside its {width}×{height} pixels; the first of {len(points[path])} is at "
                    f"({points[path][0].x:g}, {points[path][0].y:g}), in {points[path][0].where}"
                )
        count = sum(map(len, self._points.values()))
        self.notes = [f"{count} fixations on {len(sizes)} images" + (f" by {viewers} viewers" if viewers else "")]
        if outside:
            path, point = outside[0]
            width, height = sizes[path]
            self.notes.append(
                f"{len(outside)} fixations lie outside their images and are dropped: the first at ({point.x:g}, "
                f"{point.y:g}) of {brief(path.name)}, which is {width}×{height}, in {point.where}"
            )

    def targets(self, files: Sequence[Path], frame: Frame) -> list[dict[str, Tensor]]:
        """The points of each file that ``frame`` shows, (n, 2) in its pixels, and the viewer of each, (n,)."""
        import torch
        from torchvision.tv_tensors import KeyPoints

        found = []
        for path in files:
            (across, left), (down, top) = frame.placement(self._sizes[path])
            points = [(across * x + left, down * y + top, viewer) for x, y, viewer, _ in self._points[path]]
            shown = [(x, y, viewer) for x, y, viewer in points if 0 <= x < frame.width and 0 <= y < frame.height]
            places = torch.tensor([(x, y) for x, y, _ in shown], dtype=torch.float32).reshape(-1, 2)
            found.append(
                {
                    "points": KeyPoints(places, canvas_size=(frame.height, frame.width)),
                    "viewers": torch.tensor([viewer for *_, viewer in shown], dtype=torch.int64),
                }
            )
        return found

    def fact(self, path: Path) -> list[int]:
        """How many points it has, and a checksum of them."""
        values = np.array([(x, y, viewer) for x, y, viewer, _ in self._points[path]], np.float64)
        return [len(values), zlib.crc32(values.tobytes())]

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """No classes."""
        return {}

    def cell(self, picture: Tensor, target: Target) -> Cell:
        """The picture with a disc at each point."""
        height, width = picture.shape[-2:]
        y, x = np.mgrid[:height, :width]
        radius = max(1.0, max(height, width) / 60)
        points: list[list[float]] = target["points"].tolist()
        discs: Any = np.zeros((1, height, width), np.bool_)
        for left, top in points:
            discs[0] |= (x + 0.5 - left) ** 2 + (y + 0.5 - top) ** 2 <= radius**2
        return Cell(picture, f"{len(points)} fixations", (), discs)
