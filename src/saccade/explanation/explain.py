"""Explain predictions: where each network looks for a class of each picture, beside its prediction and its gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.explanation.activation_maps import MapsAndOutput, maps_and_output
from saccade.explanation.class_scores import class_count
from saccade.explanation.explanation import Explained, Explanation, Prediction
from saccade.explanation.methods import find_method
from saccade.explanation.prepared_network import Picture, PreparedNetwork, prepare
from saccade.explanation.regions import Region, region_mask, score_regions
from saccade.explanation.target_layer import check_layers, target_layer
from saccade.trust import Trust

__all__ = ["explain"]

Network = nn.Module | str | Path | PreparedNetwork
_BATCH = 8


def explain(
    models: Network | Sequence[Network] | Mapping[str, Network],
    images: Picture | Sequence[Picture],
    *,
    classes: str | int | Sequence[str | int | None] | None = None,
    boxes: Sequence[int | None] | None = None,
    layers: Sequence[str] | None = None,
    method: str = "gradcam",
    regions: Region | Sequence[Region] | None = None,
    top: int = 5,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    trust: Trust = False,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain what networks predict for pictures, by activation maps and the gates of their plugs.

    A network reads a picture as in its training: a saved folder and timm's networks say how.

    Args:
        models: a network, the folder of a run, or several of both; a mapping names them.
        images: files, PIL images, uint8 tensors (C, H, W), or normalised float tensors (C, H, W), one or several.
        classes: class to explain, by name or index, for all images or one per image; None for each prediction.
        boxes: for detectors, number of the box to explain in each image, from 1, the best first, among those of the
            class if one is given.
        layers: paths of layers; None for each network's last feature map.
        method: name of the method, such as ``gradcam``.
        regions: for all images, or one per image, where the object is: a mask or a box, see
            ``saccade.explanation.regions``. Each map then gets its sfd, pointing game and IoU, beside controls.
        top: number of predictions to keep.
        size: input size instead of the network's own.
        mean: mean of each channel instead of the network's own, for pixels in [0, 1].
        std: standard deviation of each channel.
        class_names: names of the classes.
        trust: see ``saccade.load``.
        progress: called with the number of maps done, and of all.

    Raises:
        UserError: a network, picture, class, layer or method does not exist or cannot be used.

    >>> saccade.explain("runs/digits/das/seed0", "seven.png").save("seven.png")                 # doctest: +SKIP
    """
    how = find_method(method)
    pictures = _as_list(images)
    if not pictures:
        raise UserError("no image is given")
    if top < 1:
        raise UserError(f"top = {top}: at least one prediction is kept")
    settings: dict[str, Any] = {"size": size, "mean": mean, "std": std, "class_names": class_names, "trust": trust}
    networks = _prepare_all(models, settings)
    wanted = list(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else None
    per_image = [classes] * len(pictures) if wanted is None else wanted
    if len(per_image) != len(pictures):
        raise UserError(f"{len(per_image)} classes for {len(pictures)} images; give one for all, or one per image")
    if boxes is not None and len(boxes) != len(pictures):
        raise UserError(f"{len(boxes)} boxes for {len(pictures)} images; give one per image")
    areas = _as_regions(regions, len(pictures))
    total, cells = len(networks) * len(pictures), list[list[Explained]]()
    for network in networks:
        labels = [network.class_index(key) for key in per_image]  # type: ignore[arg-type]
        paths = _paths(network, pictures[0], layers)
        column: list[Explained] = []
        for start, stop in pairwise([*range(0, len(pictures), _BATCH), len(pictures)]):
            some = slice(start, stop)
            some_boxes = None if boxes is None else boxes[some]
            column += _explain_some(network, pictures[some], labels[some], some_boxes, paths, method, top)
            if progress is not None:
                progress(len(cells) * len(pictures) + len(column), total)
        if areas is not None:
            column = [
                _scored(network, cell, picture, area, method)
                for cell, picture, area in zip(column, pictures, areas, strict=True)
            ]
        cells.append(column)
    names = [_image_name(picture, i) for i, picture in enumerate(pictures)]
    return Explanation(
        how.title, names, [network.name for network in networks], [list(row) for row in zip(*cells, strict=True)],
        [network.note for network in networks if network.note],
    )  # fmt: skip


def _as_list(images: Any) -> list[Picture]:
    if isinstance(images, Tensor) and images.ndim == 4:
        return list(images)
    if isinstance(images, Iterable) and not isinstance(images, str | Tensor):
        return list(images)
    return [images]


def _as_regions(regions: Any, count: int) -> list[Region] | None:
    """Return one region per image; None without regions."""
    if regions is None:
        return None
    is_box = isinstance(regions, tuple) and len(regions) == 4 and all(isinstance(n, int | float) for n in regions)
    if is_box or isinstance(regions, str | Path | Tensor):
        return [regions] * count
    if len(regions) not in (1, count):
        raise UserError(f"{len(regions)} regions for {count} images; give one for all, or one per image")
    return list(regions) * (count if len(regions) == 1 else 1)


def _scored(network: PreparedNetwork, cell: Explained, picture: Picture, region: Region, method: str) -> Explained:
    """Return ``cell`` with the scores of its maps in a region."""
    mask = region_mask(network, region, picture)
    others = (each.index for each in cell.predictions if each.index != cell.class_index)
    tensor, label = network.tensor(picture), cell.class_index
    scores = score_regions(network, tensor, mask, cell.heat_maps, label, next(others, None), method)
    return replace(cell, region=scores)


def _prepare_all(models: Any, settings: Mapping[str, Any]) -> list[PreparedNetwork]:
    """Return the networks; equal names get a number."""
    pairs: list[tuple[str | None, Any]] = (
        [(None, model) for model in models] if isinstance(models, list | tuple) else []
    )
    if isinstance(models, Mapping):
        pairs = [(str(name), model) for name, model in models.items()]
    elif not isinstance(models, list | tuple):
        pairs = [(None, models)]
    if not pairs:
        raise UserError("no network is given")
    networks, counts = [], dict[str, int]()
    for name, model in pairs:
        network = model if isinstance(model, PreparedNetwork) else prepare(model, name, **settings)
        counts[network.name] = counts.get(network.name, 0) + 1
        number = counts[network.name]
        networks.append(network if number == 1 else replace(network, name=f"{network.name} ({number})"))
    return networks


def _image_name(picture: Picture, number: int) -> str:
    return Path(picture).name if isinstance(picture, str | Path) else f"image {number + 1}"


def _paths(network: PreparedNetwork, picture: Picture, layers: Sequence[str] | None) -> list[str]:
    """Return the layers to explain, by default the last feature map for the first picture."""
    if layers is not None:
        return check_layers(network.module, layers)
    return [target_layer(network.module, network.tensor(picture)[None])]


def _explain_some(
    network: PreparedNetwork,
    pictures: Sequence[Picture],
    labels: Sequence[int | None],
    boxes: Sequence[int | None] | None,
    paths: Sequence[str],
    method: str,
    top: int,
) -> list[Explained]:
    """Explain a few pictures, in one batch if they have one size."""
    tensors = [network.tensor(picture) for picture in pictures]
    pixels = [network.pixels(picture) for picture in pictures]
    one_size = len({tensor.shape for tensor in tensors}) == 1
    groups = [list(range(len(tensors)))] if one_size else [[i] for i in range(len(tensors))]
    explained = []
    for group in groups:
        found = maps_and_output(
            network.module,
            torch.stack([tensors[i] for i in group]),
            [labels[i] for i in group],
            layers=paths,
            method=method,
            boxes=None if boxes is None else [boxes[i] for i in group],
        )
        explained += [_explained(network, found, n, pixels[i], top) for n, i in enumerate(group)]
    return explained


def _explained(network: PreparedNetwork, found: MapsAndOutput, n: int, pixels: Tensor, top: int) -> Explained:
    """Return the explanation of image ``n`` of a batch."""
    label = found.classes[n]
    predictions = _predictions(network, found.output[n], class_count(found.output))
    of_class = [each for each in predictions if each.index == label]
    chosen = of_class[(found.boxes[n] or 1) - 1] if of_class else None
    notes = []
    if label is None:
        notes.append("nothing found")
    elif chosen is None and not isinstance(found.output, Tensor):
        notes.append(f"no {network.class_name(label)} found")
    elif any(not bool(values[n].any()) for values in found.maps.values()):
        notes.append("no part of a map speaks for the class")
    name = "" if label is None else "map" if class_count(found.output) == 1 else network.class_name(label)
    return Explained(
        pixels, label, name, None if chosen is None else chosen.value, tuple(predictions[:top]),
        {layer: values[n] for layer, values in found.maps.items()},
        {site: gate[n] for site, gate in found.gates.items()}, tuple(notes),
    )  # fmt: skip


def _predictions(network: PreparedNetwork, output: Any, count: int | None) -> list[Prediction]:
    """Return what the network predicts for one image, best first.

    A classifier gives probabilities, a segmenter shares of the pixels, a detector scores of its boxes; a map or a
    single value gives nothing.
    """
    if not isinstance(output, Tensor):
        order = output["scores"].argsort(descending=True, stable=True).tolist()
        return [
            Prediction(int(output["labels"][i]), network.class_name(int(output["labels"][i])),
                       float(output["scores"][i]), tuple(output["boxes"][i].tolist()))
            for i in order
        ]  # fmt: skip
    if count is None or count == 1:
        return []
    logits = output.float().cpu()
    if logits.ndim == 3:
        values = torch.bincount(logits.argmax(0).flatten(), minlength=count) / logits[0].numel()
    else:
        values = logits.sigmoid() if network.has_several_labels else logits.softmax(0)
    return [Prediction(int(i), network.class_name(int(i)), float(values[i])) for i in values.argsort(descending=True)]
