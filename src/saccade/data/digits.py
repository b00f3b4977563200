"""Synthetic scenes of handwritten digits: a target among smaller digits and clutter.

After the cluttered translated digits of Mnih et al., NeurIPS 2014, arXiv:1406.6247, and Jaderberg et al., NeurIPS 2015,
arXiv:1506.02025, with the 1797 digits of 8×8 pixels in scikit-learn (Alpaydin and Kaynak, "Optical Recognition of
Handwritten Digits", UCI, 1998). A scene holds

* the **target**, a digit 0.5 to 0.7 of the scene's shorter side high; its class is the label;
* **distractors**, digits at most 0.7 of the target's size and brightness that overlap no other digit (one that finds no
  room in 16 tries is left out);
* **clutter**, square patches of other digits at the target's scale.

Overlapping ink is merged by the maximum, so nothing hides the target. Training and test scenes use disjoint source
digits, two thirds and one third of each class. Scene *i* depends only on the seed, the split, *i*, the size and the
options ``clutter`` and ``distractors``; its class is *i* mod 10, and its target does not depend on the options.

Fixations are simulated: five viewers look six times each, three times in four at the target, else at a distractor.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

from saccade.data.samples import Regions, Target, Targets
from saccade.errors import UserError, did_you_mean
from saccade.recipe import MAX_SEED, Data

__all__ = ["CLASSES", "SPLITS", "Scene", "Scenes", "make_regions", "make_scenes", "make_targets", "source_digits"]

CLASSES = [str(digit) for digit in range(10)]
SIZE = 40
IMAGES = {"train": 5000, "test": 2000}
MAXIMA = {"images": 10_000_000, "size": 2048, "clutter": 1000, "distractors": 1000}
"""Largest accepted values, far beyond useful ones."""
MIN_SIZE = 16
"""Side of the smallest scene in pixels; in a smaller one a target would have fewer pixels than its source digit."""

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
_POSITION_TRIES = 16
N_VIEWERS, N_FIXATIONS = 5, 6
"""Simulated viewers of a scene, and fixations of each."""
_AT_TARGET = 0.75
_FIXATION_ERROR = 0.05
"""Standard deviation from ink in x and y, as a fraction of the shorter side."""
_FIXATION_STREAM = 1
_INK_THRESHOLD = 0.3
"""Fraction of full ink from which a pixel belongs to a digit's mask."""


@dataclass(frozen=True)
class Scene:
    """One scene with its n digits, the target first.

    Attributes:
        image: uint8 (1, H, W).
        label: class of the target, 0 to 9.
        boxes: tight boxes around the masks, float32 (n, 4), x1 y1 x2 y2 in pixels.
        box_labels: class of each digit, int64 (n,).
        masks: pixels with ink of each digit, bool (n, H, W).
    """

    image: Tensor
    label: int
    boxes: Tensor
    box_labels: Tensor
    masks: Tensor


class _Digit(NamedTuple):
    ink: NDArray[np.float64]  # (h, w) in [0, 1]
    brightness: float
    top: int
    left: int
    label: int


@cache
def _read_source_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ink (1797, 8, 8) in [0, 1] and classes (1797,) from scikit-learn's files."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError(
            "the digits come from scikit-learn, which is not installed: pip install 'saccade-attention[study]'"
        )
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :64].reshape(-1, 8, 8) / 16.0, table[:, 64]


@cache
def _source_indices(split: str) -> tuple[NDArray[np.int64], ...]:
    classes = _read_source_digits()[1]
    order = np.argsort(np.random.default_rng(1797).random(len(classes)))
    indices = []
    for label in range(10):
        members = order[classes[order] == label]
        n_test = len(members) // 3
        indices.append(members[:n_test] if split == "test" else members[n_test:])
    return tuple(indices)


def source_digits(split: Literal["train", "test"]) -> list[int]:
    """Return the indices, in scikit-learn's table, of the source digits of ``split``."""
    return sorted(int(index) for indices in _source_indices(split) for index in indices)


@cache
def _interpolation_matrix(side: int) -> NDArray[np.float64]:
    """Return a matrix (side, 8) that linearly resizes 8 pixels, with a blank pixel at either end."""
    centres = (np.arange(side) + 0.5) * (10 / side) - 1.5
    return np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(8)))


class Scenes:
    """Sequence of scenes, drawn on access.

    Args:
        split: ``train`` or ``test``; selects the source digits.
        count: number of scenes.
        size: side of a square scene in pixels, or (H, W); at least 16.
        clutter: number of patches of other digits per scene.
        distractors: number of smaller, dimmer digits per scene.
        seed: seed of the scenes.

    Raises:
        UserError: an argument is out of its range, or scikit-learn is not installed.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 40,
        clutter: int = 4,
        distractors: int = 1,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"digits have the splits {' and '.join(SPLITS)}, not {split!r}")
        height, width = size if isinstance(size, tuple) else (size, size)
        for name, value, minimum, maximum in (
            ("count", count, 1, MAXIMA["images"]),
            ("size", height, MIN_SIZE, MAXIMA["size"]), ("size", width, MIN_SIZE, MAXIMA["size"]),
            ("clutter", clutter, 0, MAXIMA["clutter"]), ("distractors", distractors, 0, MAXIMA["distractors"]),
            ("seed", seed, 0, MAX_SEED),
        ):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise UserError(f"digits: {name} must be an integer of at least {minimum}, got {value!r}")
            if value > maximum:
                raise UserError(f"digits: {name} is at most {maximum}, got {value}")
        self.split = split
        self.count = count
        self.size = height, width
        self.clutter = clutter
        self.distractors = distractors
        self.seed = seed
        self._sources, self._source_labels = _read_source_digits()
        self._indices_by_class = _source_indices(split)
        self._indices = np.sort(np.concatenate(self._indices_by_class))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        """Return image ``i``, uint8 (1, H, W)."""
        return torch.from_numpy(self._draw(i)[0])[None]

    @property
    def labels(self) -> list[int]:
        """Class of each scene's target."""
        return [i % 10 for i in range(self.count)]

    def images(self) -> Tensor:
        """Return all images, uint8 (count, 1, H, W)."""
        return torch.from_numpy(np.stack([self._draw(i)[0] for i in range(self.count)]))[:, None]

    def scene(self, i: int) -> Scene:
        """Return scene ``i`` with its boxes and masks."""
        image, digits = self._draw(i)
        masks = np.zeros((len(digits), *self.size), dtype=bool)
        boxes = np.empty((len(digits), 4), dtype=np.float32)
        for mask, box, digit in zip(masks, boxes, digits, strict=True):
            height, width = digit.ink.shape
            has_ink = digit.ink >= _INK_THRESHOLD
            mask[digit.top : digit.top + height, digit.left : digit.left + width] = has_ink
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return Scene(
            image=torch.from_numpy(image)[None],
            label=digits[0].label,
            boxes=torch.from_numpy(boxes),
            box_labels=torch.tensor([digit.label for digit in digits]),
            masks=torch.from_numpy(masks),
        )

    def present(self, i: int) -> list[int]:
        """Return the classes of the target and the distractors of scene ``i``; clutter does not count."""
        return [digit.label for digit in self._draw(i)[1]]

    def _draw(self, i: int) -> tuple[NDArray[np.uint8], list[_Digit]]:
        """Return the image (H, W) of scene ``i`` and its digits, the target first."""
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        # All numbers are drawn at once, those of the target first, so that the target does not depend on the options.
        n_uniforms = 6 + self.distractors * (4 + 2 * _POSITION_TRIES) + self.clutter * 6
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), i])
        uniforms = iter(rng.random(n_uniforms).tolist())
        target = self._draw_target(i % 10, uniforms)
        digits = [target]
        for _ in range(self.distractors):
            digits += self._draw_distractor(digits, uniforms)
        canvas = np.zeros(self.size)
        for digit in digits:
            _merge(canvas, digit.brightness * digit.ink, digit.top, digit.left)
        for _ in range(self.clutter):
            self._add_clutter(canvas, target, uniforms)
        return np.rint(canvas * 255).astype(np.uint8), digits

    def _draw_target(self, label: int, uniforms: Iterator[float]) -> _Digit:
        indices = self._indices_by_class[label]
        source = indices[int(next(uniforms) * len(indices))]
        height = max(8, round((0.5 + 0.2 * next(uniforms)) * min(self.size)))
        width = int(height * (0.75 + 0.25 * next(uniforms)))
        ink = self._resize_source(source, height, width)
        brightness = 0.8 + 0.2 * next(uniforms)
        return _Digit(ink, brightness, *self._draw_position(height, width, uniforms), label)

    def _draw_distractor(self, digits: list[_Digit], uniforms: Iterator[float]) -> list[_Digit]:
        """Return a digit that overlaps none of ``digits``, in a list; empty if there is no room."""
        target = digits[0]
        source = self._indices[int(next(uniforms) * len(self._indices))]
        height = max(4, int(target.ink.shape[0] * (0.5 + 0.2 * next(uniforms))))
        width = max(3, int(height * (0.75 + 0.25 * next(uniforms))))
        brightness = target.brightness * (0.4 + 0.3 * next(uniforms))
        position = None
        for _ in range(_POSITION_TRIES):  # no break: later numbers must not depend on the tries needed
            top, left = self._draw_position(height, width, uniforms)
            if position is None and not any(
                top < d.top + d.ink.shape[0] and d.top < top + height
                and left < d.left + d.ink.shape[1] and d.left < left + width
                for d in digits
            ):  # fmt: skip
                position = (top, left)
        if position is None:
            return []
        ink = self._resize_source(source, height, width)
        return [_Digit(ink, brightness, *position, int(self._source_labels[source]))]

    def _add_clutter(self, canvas: NDArray[np.float64], target: _Digit, uniforms: Iterator[float]) -> None:
        """Merge into ``canvas`` (H, W) a square patch cut from a digit that is resized to the target's height."""
        side = target.ink.shape[0]
        patch_side = max(2, side // 3)
        source = self._indices[int(next(uniforms) * len(self._indices))]
        matrix = _interpolation_matrix(side)
        top, left = (int(next(uniforms) * (side - patch_side + 1)) for _ in range(2))
        rows, columns = matrix[top : top + patch_side], matrix[left : left + patch_side]
        ink = rows @ self._sources[source] @ columns.T
        brightness = target.brightness * (0.7 + 0.3 * next(uniforms))
        _merge(canvas, brightness * ink, *self._draw_position(patch_side, patch_side, uniforms))

    def _resize_source(self, source: int, height: int, width: int) -> NDArray[np.float64]:
        return _interpolation_matrix(height) @ self._sources[source] @ _interpolation_matrix(width).T

    def _draw_position(self, height: int, width: int, uniforms: Iterator[float]) -> tuple[int, int]:
        top, left = (
            int(next(uniforms) * (scene_side - side + 1))
            for scene_side, side in zip(self.size, (height, width), strict=True)
        )
        return top, left


def _merge(canvas: NDArray[np.float64], patch: NDArray[np.float64], top: int, left: int) -> None:
    region = canvas[top : top + patch.shape[0], left : left + patch.shape[1]]
    np.maximum(region, patch, out=region)


def make_scenes(spec: Data, split: Literal["train", "test"]) -> Scenes:
    """Return the scenes of ``split``, seeded by ``split_seed``, for the ``data`` section of a recipe.

    Raises:
        UserError: an unknown option, or a value out of its range.
    """
    known_options = ("clutter", "distractors")
    for name in spec.options:
        if name not in known_options:
            raise UserError(
                f"data.options: digits have no option {name!r}.{did_you_mean(name, known_options)} "
                f"They have {' and '.join(known_options)}."
            )
    options: dict[str, Any] = {"size": spec.size or SIZE, "seed": spec.split_seed, **spec.options}
    count = spec.train_images if split == "train" else spec.test_images
    return Scenes(split, count or IMAGES[split], **options)


class _LazyTargets:
    def __init__(self, scenes: Scenes, make_target: Callable[[Scenes, int], Target]) -> None:
        self.scenes, self.make_target = scenes, make_target

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> Target:
        return self.make_target(self.scenes, i)


def make_targets(scenes: Scenes, kind: str, fits_in_memory: bool) -> Targets:
    """Return the targets of ``scenes`` of the ``kind`` label, vector, mask, objects, fixations or none.

    If ``fits_in_memory``, vectors, masks and fixations are computed at once and kept.
    """
    if kind == "label":
        return scenes.labels
    if kind == "none":
        return [None] * len(scenes)
    makers = {"vector": _make_vector, "mask": _make_mask, "objects": _make_objects, "fixations": _make_fixations}
    targets = _LazyTargets(scenes, makers[kind])
    return [targets[i] for i in range(len(targets))] if fits_in_memory and kind != "objects" else targets


def make_regions(scenes: Scenes, kind: str) -> Regions | None:
    """Return the ink (H, W) of the target of a label, and of every class of a vector."""
    makers = {"label": _make_target_region, "vector": _make_class_regions}
    return _LazyTargets(scenes, makers[kind]) if kind in makers else None


def _make_target_region(scenes: Scenes, i: int) -> dict[int, Tensor]:
    scene = scenes.scene(i)
    return {scene.label: scene.masks[0]}


def _make_class_regions(scenes: Scenes, i: int) -> dict[int, Tensor]:
    scene = scenes.scene(i)
    return {k: scene.masks[scene.box_labels == k].any(0) for k in scene.box_labels.unique().tolist()}


def _make_vector(scenes: Scenes, i: int) -> Tensor:
    """Return a vector (10,), float32, with 1 for each class of the target and the distractors."""
    vector = torch.zeros(len(CLASSES))
    vector[scenes.present(i)] = 1
    return vector


def _make_mask(scenes: Scenes, i: int) -> Mask:
    """Return a mask (H, W): the class + 1 in pixels with a digit's ink, 0 elsewhere."""
    scene = scenes.scene(i)
    mask = torch.zeros(scenes.size, dtype=torch.uint8)
    for label, digit_mask in zip(scene.box_labels.tolist(), scene.masks, strict=True):
        mask[digit_mask] = label + 1
    return Mask(mask)


def _make_objects(scenes: Scenes, i: int) -> dict[str, Tensor]:
    scene = scenes.scene(i)
    boxes = BoundingBoxes(scene.boxes, format="XYXY", canvas_size=scenes.size)
    return {"boxes": boxes, "labels": scene.box_labels, "masks": Mask(scene.masks.to(torch.uint8))}


def _make_fixations(scenes: Scenes, i: int) -> dict[str, Tensor]:
    """Return simulated fixations (n, 2) and their viewers (n,)."""
    masks = scenes.scene(i).masks.numpy()
    rng = np.random.default_rng([scenes.seed, SPLITS.index(scenes.split), i, _FIXATION_STREAM])
    count = N_VIEWERS * N_FIXATIONS
    digits = np.where(rng.random(count) < _AT_TARGET, 0, rng.integers(1, max(2, len(masks)), count)) % len(masks)
    height, width = scenes.size
    points = np.empty((count, 2))
    for point, digit, uniform in zip(points, digits, rng.random(count), strict=True):
        rows, columns = np.nonzero(masks[digit])
        pixel = int(uniform * len(rows))
        point[:] = columns[pixel] + 0.5, rows[pixel] + 0.5
    points += rng.normal(0, _FIXATION_ERROR * min(height, width), (count, 2))
    points = points.clip(0, np.nextafter(np.array([width, height], np.float32), np.float32(0)))
    return {
        "points": KeyPoints(torch.from_numpy(points).float(), canvas_size=(height, width)),
        "viewers": torch.arange(N_VIEWERS).repeat_interleave(N_FIXATIONS),
    }
