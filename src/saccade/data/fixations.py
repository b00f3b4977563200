"""Fixations (points where people looked), transformed together with their images."""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from saccade.data.labels import TargetSource
from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import SplitFiles
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.data.samples import Target

__all__ = ["Fixation", "Fixations"]


class Fixation(NamedTuple):
    """Point at which a person looked.

    Attributes:
        x: distance from the left edge of the image in pixels.
        y: distance from the upper edge in pixels.
        viewer: index of the person; -1 if unknown.
        where: line of the table, for messages.
    """

    x: float
    y: float
    viewer: int
    where: str


@final
class Fixations(TargetSource):
    """Target source of fixations; fixations outside their image are dropped and counted.

    Args:
        points: Maps image to its fixations, in the order of the table.
        sizes: Maps image to its (width, height).
        n_viewers: number of viewers; 0 if the table names none of them.
    """

    def __init__(
        self, points: Mapping[Path, Sequence[Fixation]], sizes: Mapping[Path, tuple[int, int]], n_viewers: int
    ) -> None:
        self.classes, self.problems, self._sizes = [], {}, sizes
        self._points = dict[Path, list[Fixation]]()
        outside = list[tuple[Path, Fixation]]()
        for path, (width, height) in sizes.items():
            is_inside = [0 <= point.x < width and 0 <= point.y < height for point in points[path]]
            self._points[path] = [point for point, ok in zip(points[path], is_inside, strict=True) if ok]
            outside += [(path, point) for point, ok in zip(points[path], is_inside, strict=True) if not ok]
            if not self._points[path]:
                self.problems[path] = (
                    f"has no fixation inside its {width}×{height} pixels; the first of {len(points[path])} is at "
                    f"({points[path][0].x:g}, {points[path][0].y:g}), in {points[path][0].where}"
                )
        count = sum(map(len, self._points.values()))
        self.notes = [f"{count} fixations on {len(sizes)} images" + (f" by {n_viewers} viewers" if n_viewers else "")]
        if outside:
            path, point = outside[0]
            width, height = sizes[path]
            self.notes.append(
                f"{len(outside)} fixations lie outside their images and are dropped: the first at ({point.x:g}, "
                f"{point.y:g}) of {brief(path.name)}, which is {width}×{height}, in {point.where}"
            )

    def targets(self, files: Sequence[Path], frame: Frame) -> list[dict[str, Tensor]]:
        """Return, per file, the points (n, 2) inside ``frame``, in pixels of the frame, and their viewers (n,)."""
        import torch
        from torchvision.tv_tensors import KeyPoints

        targets = []
        for path in files:
            (scale_x, shift_x), (scale_y, shift_y) = frame.image_to_frame(self._sizes[path])
            points = [(scale_x * x + shift_x, scale_y * y + shift_y, viewer) for x, y, viewer, _ in self._points[path]]
            inside = [(x, y, viewer) for x, y, viewer in points if 0 <= x < frame.width and 0 <= y < frame.height]
            coordinates = torch.tensor([(x, y) for x, y, _ in inside], dtype=torch.float32).reshape(-1, 2)
            targets.append(
                {
                    "points": KeyPoints(coordinates, canvas_size=(frame.height, frame.width)),
                    "viewers": torch.tensor([viewer for *_, viewer in inside], dtype=torch.int64),
                }
            )
        return targets

    def cautions(self, files: Sequence[Path], frame: Frame) -> list[str]:
        """Return a sentence on the fixations on ``files`` that cropping cuts off, if any."""
        n_points = sum(len(self._points[path]) for path in files)
        n_cut = n_points - sum(len(target["viewers"]) for target in self.targets(files, frame))
        if frame.resize != "crop" or not n_cut:
            return []
        return [
            f"Cropping to {frame.height}×{frame.width} pixels cuts off {n_cut} of {n_points} fixations on test images; "
            'data.resize = "pad" shows the whole images.'
        ]

    def fingerprint_entry(self, path: Path) -> list[int]:
        """Return the number of points of ``path`` and a CRC-32 of points and viewers."""
        values = np.array([(x, y, viewer) for x, y, viewer, _ in self._points[path]], np.float64)
        return [len(values), zlib.crc32(values.tobytes())]

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return an empty dict."""
        return {}

    def cell(self, image: Tensor, target: Target) -> Cell:
        """Return a cell of ``image`` (C, H, W) with a disc at each point."""
        height, width = image.shape[-2:]
        y, x = np.mgrid[:height, :width]
        radius = max(1.0, max(height, width) / 60)
        points: list[list[float]] = target["points"].tolist()
        discs: Any = np.zeros((1, height, width), np.bool_)
        for point_x, point_y in points:
            discs[0] |= (x + 0.5 - point_x) ** 2 + (y + 0.5 - point_y) ** 2 <= radius**2
        return Cell(image, f"{len(points)} fixations", (), discs)
