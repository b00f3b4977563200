"""Scenes of handwritten digits: a target to be found among clutter and smaller digits, with nothing to download.

The tradition is the cluttered translated digits of the recurrent attention model (Mnih et al., NeurIPS 2014,
arXiv:1406.6247) and of spatial transformers (Jaderberg et al., NeurIPS 2015, arXiv:1506.02025). The digits are the
1797 real ones of 8×8 pixels that scikit-learn carries (Alpaydin and Kaynak, "Optical Recognition of Handwritten
Digits", UCI, 1998).

A scene holds

* the **target**, one digit 0.5 to 0.7 of the scene's shorter side high, at a random place; its class is the label;
* **distractors**, whole digits of any class, at most 0.7 of the target's side and 0.7 of its brightness, that overlap
  neither the target's frame nor one another's (one that finds no room in sixteen tries is left out). The label stays
  well defined: it is the class of the largest and brightest digit, mirrored or not;
* **clutter**, square cuttings of other digits at the target's scale and brightness, anywhere.

What overlaps is merged by the maximum, so nothing hides the target's ink. The digits of training and test scenes are
disjoint: two thirds and one third of each class, always the same. Scene *i* is a function of the seed, the part, *i*
and the options alone; its target does not even depend on clutter and distractors, and its class is *i* mod 10.
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
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade.data.samples import Target, Targets
from saccade.errors import UserError, did_you_mean
from saccade.recipe import MAX_SEED, Data

__all__ = ["CLASSES", "PARTS", "Scene", "Scenes", "scenes", "source_digits", "targets_of"]

CLASSES = [str(digit) for digit in range(10)]
SIZE = 40
IMAGES = {"train": 5000, "test": 2000}
MOST = {"images": 10_000_000, "size": 2048, "pieces": 1000}
"""Far more than a scene of digits has room for, or than 1797 digits can give."""
SMALLEST = 16
"""Side of the smallest scene: below it a target would have fewer pixels than its source."""

PARTS: tuple[Literal["train", "test"], ...] = ("train", "test")
_TRIES = 16
_INK = 0.3  # what counts as the digit in masks, as a part of full ink


@dataclass(frozen=True)
class Scene:
    """One scene (H, W) with n digits, the target first.

    Attributes:
        image: uint8 (1, H, W).
        label: class of the target, 0 to 9.
        boxes: float32 (n, 4), x1 y1 x2 y2 in pixel edges, tight around the masks.
        box_labels: int64 (n,), the class of each digit.
        masks: bool (n, H, W), where each digit has ink of its own.
    """

    image: Tensor
    label: int
    boxes: Tensor
    box_labels: Tensor
    masks: Tensor


class _Digit(NamedTuple):
    ink: NDArray[np.float64]  # (h, w) in [0, 1]
    level: float
    top: int
    left: int
    label: int


@cache
def _sources() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Ink (1797, 8, 8) in [0, 1] and classes (1797,), read out of the scikit-learn package without importing it."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise UserError(
            "the digits come from scikit-learn, which is not installed: pip install 'saccade-attention[study]'"
        )
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :64].reshape(-1, 8, 8) / 16.0, table[:, 64]


@cache
def _pool(part: str) -> tuple[NDArray[np.int64], ...]:
    """The numbers of the source digits of a part, one array for each class; the split never changes."""
    classes = _sources()[1]
    order = np.argsort(np.random.default_rng(1797).random(len(classes)))
    pools = []
    for label in range(10):
        members = order[classes[order] == label]
        held_back = len(members) // 3
        pools.append(members[:held_back] if part == "test" else members[held_back:])
    return tuple(pools)


def source_digits(part: Literal["train", "test"]) -> list[int]:
    """The numbers, in scikit-learn's table, of the digits a part draws from: two thirds of each class, or the rest."""
    return sorted(int(number) for numbers in _pool(part) for number in numbers)


@cache
def _stretch(side: int) -> NDArray[np.float64]:
    """Bilinear interpolation (side, 8) from eight pixels, with one pixel of empty margin, so that ink fades out."""
    centres = (np.arange(side) + 0.5) * (10 / side) - 1.5
    return np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(8)))


class Scenes:
    """A numbered set of scenes.

    Args:
        part: ``train`` or ``test``; decides which source digits are drawn from.
        count: how many scenes.
        size: side of a square scene in pixels, or (H, W); at least 16.
        clutter: cuttings in each scene.
        distractors: smaller, dimmer digits in each scene.
        seed: another seed, other scenes.

    Raises:
        UserError: an argument is out of its range, or scikit-learn is not installed.
    """

    def __init__(
        self,
        part: Literal["train", "test"] = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 40,
        clutter: int = 4,
        distractors: int = 1,
        seed: int = 0,
    ) -> None:
        if part not in PARTS:
            raise UserError(f"digits have the parts {' and '.join(PARTS)}, not {part!r}")
        height, width = size if isinstance(size, tuple) else (size, size)
        for name, value, least, most in (
            ("count", count, 1, MOST["images"]),
            ("size", height, SMALLEST, MOST["size"]), ("size", width, SMALLEST, MOST["size"]),
            ("clutter", clutter, 0, MOST["pieces"]), ("distractors", distractors, 0, MOST["pieces"]),
            ("seed", seed, 0, MAX_SEED),
        ):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"digits: {name} must be an integer of at least {least}, got {value!r}")
            if value > most:
                raise UserError(f"digits: {name} is at most {most}, got {value}")
        self.part = part
        self.count = count
        self.size = height, width
        self.clutter = clutter
        self.distractors = distractors
        self.seed = seed
        self._ink = _sources()[0]
        self._pool = _pool(part)
        self._all = np.sort(np.concatenate(self._pool))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        """Picture ``i``, uint8 (1, H, W)."""
        return torch.from_numpy(self._draw(i)[0])[None]

    @property
    def labels(self) -> list[int]:
        """The class of each scene's target."""
        return [i % 10 for i in range(self.count)]

    def images(self) -> Tensor:
        """All pictures at once, uint8 (count, 1, H, W)."""
        return torch.from_numpy(np.stack([self._draw(i)[0] for i in range(self.count)]))[:, None]

    def scene(self, i: int) -> Scene:
        """Scene ``i`` with all that is known of it."""
        image, digits = self._draw(i)
        masks = np.zeros((len(digits), *self.size), dtype=bool)
        boxes = np.empty((len(digits), 4), dtype=np.float32)
        for mask, box, digit in zip(masks, boxes, digits, strict=True):
            height, width = digit.ink.shape
            mask[digit.top : digit.top + height, digit.left : digit.left + width] = digit.ink >= _INK
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return Scene(
            image=torch.from_numpy(image)[None],
            label=digits[0].label,
            boxes=torch.from_numpy(boxes),
            box_labels=torch.tensor([digit.label for digit in digits]),
            masks=torch.from_numpy(masks),
        )

    def _draw(self, i: int) -> tuple[NDArray[np.uint8], list[_Digit]]:
        """The picture (H, W) and its digits, the target first."""
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        # All chance of a scene in one go; the target's comes first, so that it stays whatever else is asked for.
        amount = 6 + self.distractors * (4 + 2 * _TRIES) + self.clutter * 6
        chance = iter(np.random.default_rng([self.seed, PARTS.index(self.part), i]).random(amount).tolist())
        target = self._target(i % 10, chance)
        digits = [target]
        for _ in range(self.distractors):
            digits += self._distractor(digits, chance)
        canvas = np.zeros(self.size)
        for digit in digits:
            _merge(canvas, digit.level * digit.ink, digit.top, digit.left)
        for _ in range(self.clutter):
            self._add_cutting(canvas, target, chance)
        return np.rint(canvas * 255).astype(np.uint8), digits

    def _target(self, label: int, chance: Iterator[float]) -> _Digit:
        pool = self._pool[label]
        source = pool[int(next(chance) * len(pool))]
        height = self._side(0.5 + 0.2 * next(chance))
        width = int(height * (0.75 + 0.25 * next(chance)))
        ink = _stretch(height) @ self._ink[source] @ _stretch(width).T
        level = 0.8 + 0.2 * next(chance)
        return _Digit(ink, level, *self._place(height, width, chance), label)

    def _distractor(self, digits: list[_Digit], chance: Iterator[float]) -> list[_Digit]:
        """One digit that overlaps none of ``digits``, or none."""
        target = digits[0]
        source = self._all[int(next(chance) * len(self._all))]
        height = max(4, int(target.ink.shape[0] * (0.5 + 0.2 * next(chance))))
        width = max(3, int(height * (0.75 + 0.25 * next(chance))))
        level = target.level * (0.4 + 0.3 * next(chance))
        found = None
        for _ in range(_TRIES):  # uses up its chance in any case: what follows does not depend on the outcome
            top, left = self._place(height, width, chance)
            if found is None and not any(
                top < d.top + d.ink.shape[0] and d.top < top + height
                and left < d.left + d.ink.shape[1] and d.left < left + width
                for d in digits
            ):  # fmt: skip
                found = (top, left)
        if found is None:
            return []
        ink = _stretch(height) @ self._ink[source] @ _stretch(width).T
        return [_Digit(ink, level, *found, int(_sources()[1][source]))]

    def _add_cutting(self, canvas: NDArray[np.float64], target: _Digit, chance: Iterator[float]) -> None:
        """A square out of another digit as large as the target."""
        side = target.ink.shape[0]
        part = max(2, side // 3)
        source = self._all[int(next(chance) * len(self._all))]
        stretch = _stretch(side)
        top, left = (int(next(chance) * (side - part + 1)) for _ in range(2))
        ink = stretch[top : top + part] @ self._ink[source] @ stretch[left : left + part].T
        level = target.level * (0.7 + 0.3 * next(chance))
        _merge(canvas, level * ink, *self._place(part, part, chance))

    def _side(self, part: float) -> int:
        return max(8, round(part * min(self.size)))

    def _place(self, height: int, width: int, chance: Iterator[float]) -> tuple[int, int]:
        """Top and left of something of that size that lies wholly in the scene."""
        top, left = (
            int(next(chance) * (most - side + 1)) for most, side in zip(self.size, (height, width), strict=True)
        )
        return top, left


def _merge(canvas: NDArray[np.float64], patch: NDArray[np.float64], top: int, left: int) -> None:
    place = canvas[top : top + patch.shape[0], left : left + patch.shape[1]]
    np.maximum(place, patch, out=place)


def scenes(spec: Data, part: Literal["train", "test"]) -> Scenes:
    """The scenes of a part as a recipe's ``data`` describes them, drawn with ``split_seed``.

    The options are ``clutter`` and ``distractors``. The size defaults to 40 pixels, the counts to 5000 training and
    2000 test scenes.

    Raises:
        UserError: an unknown option, or a value out of its range.
    """
    known = ("clutter", "distractors")
    for name in spec.options:
        if name not in known:
            raise UserError(
                f"data.options: digits have no option {name!r}.{did_you_mean(name, known)} "
                f"They have {' and '.join(known)}."
            )
    options: dict[str, Any] = {"size": spec.size or SIZE, "seed": spec.split_seed, **spec.options}
    asked = spec.train_images if part == "train" else spec.test_images
    return Scenes(part, asked or IMAGES[part], **options)


class _Drawn:
    """Targets drawn each time they are asked for."""

    def __init__(self, drawn: Scenes, target: Callable[[Scenes, int], Target]) -> None:
        self.drawn, self.target = drawn, target

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, i: int) -> Target:
        return self.target(self.drawn, i)


def targets_of(drawn: Scenes, kind: str, fits: bool) -> Targets:
    """The targets of scenes; masks are kept in memory where all ``fits``."""
    if kind == "label":
        return drawn.labels
    if kind == "none":
        return [None] * len(drawn)
    found = _Drawn(drawn, {"mask": _mask, "objects": _objects}[kind])
    return [found[i] for i in range(len(found))] if fits and kind == "mask" else found


def _mask(drawn: Scenes, i: int) -> Mask:
    """Each digit's ink of its class + 1; all else, clutter too, is background."""
    scene = drawn.scene(i)
    mask = torch.zeros(drawn.size, dtype=torch.uint8)
    for label, ink in zip(scene.box_labels.tolist(), scene.masks, strict=True):
        mask[ink] = label + 1
    return Mask(mask)


def _objects(drawn: Scenes, i: int) -> dict[str, Tensor]:
    scene = drawn.scene(i)
    boxes = BoundingBoxes(scene.boxes, format="XYXY", canvas_size=drawn.size)
    return {"boxes": boxes, "labels": scene.box_labels, "masks": Mask(scene.masks.to(torch.uint8))}
