"""Scores of a network's activation maps on images with a known class, and of the maps of controls.

The map of an image's class is scored by its region or its fixations, and by faithfulness. So are the maps of controls:

    random weights   the map of a copy of the network with random weights
    another class    the network's map of a class that the image does not have
    centre           a Gaussian at the centre of the image
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saccade.explanation.activation_maps import activation_maps
from saccade.explanation.control_maps import centre_prior, random_weights
from saccade.explanation.faithfulness import deletion, insertion
from saccade.explanation.random_maps import random_maps
from saccade.explanation.target_layer import target_layer
from saccade.metrics.gaze import gaze_agreement
from saccade.metrics.localisation import iou_by_threshold, pointing_game
from saccade.metrics.sfd import sfd_sweep

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.tasks.base import Task

__all__ = [
    "CONTROLS",
    "OWN",
    "Examples",
    "class_maps",
    "evenly_spaced",
    "find_examples",
    "has_example",
    "map_score_rows",
]

OWN = "own"
"""Name of the network's map of the image's class."""
CONTROLS = ("random weights", "another class", "centre")
"""Names of the control maps."""
_BATCH_PIXELS = 2**18
"""Largest number of pixels of a batch, so that the feature maps of photographs fit into memory."""


@dataclass(frozen=True)
class Examples:
    """Images whose class is explained.

    Attributes:
        indices: test images (N,).
        images: normalised images (N, C, H, W).
        classes: class of each image as the network counts it; None for a task without classes.
        others: for each image a class that it does not have; None without such a class.
        names: name of each image's class; "" without classes.
        regions: pixels of the class, bool (N, H, W); None unless every image has some.
        points: fixations (n, 2) of each image, x and y in pixels; None without fixations.
        group: group of each image, int64 (N,); None without groups.
        multilabel: True if an image may have several classes.
        without_region: number of images without a region, if others have one; then ``regions`` is None.
    """

    indices: list[int]
    images: Tensor
    classes: list[int] | None
    others: list[int] | None
    names: list[str]
    regions: Tensor | None
    points: list[Tensor] | None
    group: Tensor | None
    multilabel: bool
    without_region: int = 0


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return up to ``count`` of ``range(total)``, evenly spaced from the first to the last.

    >>> evenly_spaced(10, 4), evenly_spaced(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    if count >= total:
        return list(range(total))
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]


def has_example(task: Task, index: int) -> bool:
    """Return True if the test image ``index`` has a class or fixations to explain."""
    if task.target == "fixations":
        return len(task.data.test.target(index)["points"]) > 0
    return bool(task.subjects(index))


def find_examples(task: Task, indices: Sequence[int]) -> Examples | None:
    """Return those of the test images ``indices`` with a class or with fixations; None if there are none.

    The class is the first of ``task.subjects``.
    """
    test, group = task.data.test, task.data.test.codes().get("group")
    kept = [i for i in indices if has_example(task, i)]
    if not kept:
        return None
    has_fixations = task.target == "fixations"
    subjects = [] if has_fixations else [task.subjects(i) for i in kept]
    regions = [own[0].region for own in subjects]
    known = [region for region in regions if region is not None and bool(region.any())]
    return Examples(
        indices=kept,
        images=task.images(kept),
        classes=[own[0].index for own in subjects] or None,
        others=_other_classes(kept, [{subject.index for subject in own} for own in subjects]),
        names=[own[0].name for own in subjects] or [""] * len(kept),
        regions=torch.stack(known) if known and len(known) == len(kept) else None,
        points=[test.target(i)["points"] for i in kept] if has_fixations else None,
        group=None if group is None else group[kept],
        multilabel=task.target == "vector",
        without_region=len(kept) - len(known) if known else 0,
    )


def _other_classes(indices: Sequence[int], present: Sequence[set[int]]) -> list[int] | None:
    """Return for each image one of the other images' classes that it does not have, drawn by its index, or None."""
    every: set[int] = set().union(*present)
    absent = [sorted(every - own) for own in present]
    if not absent or not all(absent):
        return None
    return [random.Random(i).choice(candidates) for i, candidates in zip(indices, absent, strict=True)]


def class_maps(
    model: nn.Module, images: Tensor, classes: Sequence[int] | None, layer: str, method: str = "gradcam"
) -> Tensor:
    """Return the maps (N, H, W) in [0, 1] of ``classes`` at ``layer``, in batches of ``images`` (N, C, H, W)."""
    size = max(1, _BATCH_PIXELS // images[0, 0].numel())
    maps = []
    for start in range(0, len(images), size):
        chosen = None if classes is None else list(classes[start : start + size])
        maps.append(activation_maps(model, images[start : start + size], chosen, layers=[layer], method=method)[layer])
    return torch.cat(maps)


def map_score_rows(
    model: nn.Module,
    examples: Examples,
    *,
    steps: int,
    layer: str | None = None,
    method: str = "gradcam",
    seed: int = 0,
) -> dict[str, Rows]:
    """Return the scores of each map (N, …), by the name of the map: ``OWN`` and ``CONTROLS``.

    With regions ``sfd`` (N, 9), ``pointing`` (N,) and ``iou`` (N, 99); with fixations their measures (N,); of the
    network's own map and the centre also ``insertion`` and ``deletion`` (N,), as advantages over a random map. A
    control whose maps are all 0, as of a detector that finds nothing, is left out.

    Args:
        model: a network on the CPU.
        examples: images with their classes.
        steps: steps of insertion and deletion; 0 leaves them out.
        layer: path of the layer; None for the last feature map.
        method: method of the maps.
        seed: seed of random weights and random maps.

    Raises:
        UserError: as for ``activation_maps`` and ``insertion``.
    """
    images, classes = examples.images, examples.classes
    layer = target_layer(model, images[:1]) if layer is None else layer
    maps = {OWN: class_maps(model, images, classes, layer, method)}
    maps["random weights"] = class_maps(random_weights(model, seed), images, classes, layer, method)
    if examples.others is not None:
        maps["another class"] = class_maps(model, images, examples.others, layer, method)
    centre = centre_prior((images.shape[2], images.shape[3])).float()
    maps["centre"] = centre.expand(len(images), -1, -1)
    rows = {name: _agreement(each, examples) for name, each in maps.items() if name == OWN or bool(each.any())}
    if steps and classes is not None:
        for name, own in _advantages(model, examples, (maps[OWN], maps["centre"]), steps, seed).items():
            rows[OWN][name], rows["centre"][name] = own
    return rows


def _advantages(
    model: nn.Module, examples: Examples, maps: Sequence[Tensor], steps: int, seed: int
) -> dict[str, list[Tensor]]:
    """Return ``insertion`` and ``deletion`` (N,) of each of ``maps`` (N, H, W), as advantages over random maps.

    All maps are in one batch, since the calls of a small network take longer than its arithmetic.
    """
    every = torch.cat([*maps, random_maps(maps[0], seed)])
    count = len(maps) + 1
    images, classes = examples.images.repeat(count, 1, 1, 1), (examples.classes or []) * count
    options: dict[str, Any] = {"multilabel": examples.multilabel, "seed": seed, "steps": steps}
    found: dict[str, list[Tensor]] = {}
    for name, function, sign in (("insertion", insertion, 1), ("deletion", deletion, -1)):
        *scores, of_random = function(model, images, every, classes, **options).chunk(count)
        found[name] = [sign * (score - of_random) for score in scores]
    return found


def _agreement(maps: Tensor, examples: Examples) -> Rows:
    """Return the scores (N, …) of ``maps`` (N, H, W) against regions or fixations; {} without either."""
    if examples.regions is not None:
        pairs = zip(maps, examples.regions, strict=True)
        return {
            "sfd": sfd_sweep(maps, examples.regions).values,
            "pointing": pointing_game(maps, examples.regions),
            "iou": torch.stack([iou_by_threshold(map_, region) for map_, region in pairs]),
        }
    return {} if examples.points is None else gaze_agreement(maps, examples.points)
