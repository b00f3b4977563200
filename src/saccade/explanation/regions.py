"""Score maps against the region of a picture where the object is, beside controls that do not look at the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from saccade.data.opening import upright
from saccade.data.resizing import Frame
from saccade.data.samples import VOID
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.explanation.activation_maps import activation_maps
from saccade.explanation.control_maps import centre_prior, random_weights
from saccade.explanation.prepared_network import Picture, PreparedNetwork
from saccade.imagefiles import UnreadableError, open_image
from saccade.metrics import best_iou, box_region, pointing_game, sfd

__all__ = ["Region", "RegionScore", "RegionScores", "region_mask", "score_regions"]

Region = Tensor | str | Path | tuple[float, float, float, float]
"""A mask bool (H, W) of the network's input, the file of a mask of the picture, whose pixels above 0 are the region, or
a box (x, y, width, height) in pixels of the picture."""


class RegionScore(NamedTuple):
    """Scores of one map: sfd at the threshold 0.5, share of its maxima in the region, and IoU at the best threshold."""

    sfd: float
    pointing: float
    iou: float


@dataclass(frozen=True)
class RegionScores:
    """Scores of the maps of one network on one picture.

    Attributes:
        mask: the region, bool (H, W).
        maps: Maps layer to score.
        controls: Maps layer to control to score: ``centre``, a Gaussian at the centre; ``random weights``, the map of
            the network with random weights; ``another class``, the map of the most probable other class. One whose map
            is 0 everywhere is left out.
    """

    mask: Tensor
    maps: dict[str, RegionScore]
    controls: dict[str, dict[str, RegionScore]]


def region_mask(network: PreparedNetwork, region: Region, picture: Picture) -> Tensor:
    """Return a region as bool (H, W), moved and scaled as the network's picture is.

    Raises:
        UserError: a file cannot be read or has another size than the picture, or nothing of the region is in view.
    """
    height, width = network.pixels(picture).shape[1:]
    if isinstance(region, Tensor):
        if region.dtype != torch.bool or region.shape != (height, width):
            raise UserError(f"a region must be bool ({height}, {width}) like the network's input, got {region.dtype} "
                            f"{tuple(region.shape)}")  # fmt: skip
        mask = region.cpu()
    else:
        size = _size_of(picture)
        frame = network.frame or Frame(height, width, "stretch")
        if isinstance(region, str | Path):
            mask = _read_mask(Path(region), size, frame)
        else:
            x, y, w, h = region
            (scale_x, shift_x), (scale_y, shift_y) = frame.image_to_frame(size)
            box = [
                scale_x * x + shift_x,
                scale_y * y + shift_y,
                scale_x * (x + w) + shift_x,
                scale_y * (y + h) + shift_y,
            ]
            mask = box_region(torch.tensor([box]), (height, width))
    if not bool(mask.any()):
        raise UserError("nothing of the region is in the part of the picture that the network sees")
    return mask


def _size_of(picture: Picture) -> tuple[int, int]:
    """Return (width, height) of a picture before it is resized."""
    if isinstance(picture, Tensor):
        return picture.shape[-1], picture.shape[-2]
    if isinstance(picture, Image.Image):
        return upright(picture).size
    with open_image(Path(picture)) as image:
        return upright(image).size


def _read_mask(path: Path, size: tuple[int, int], frame: Frame) -> Tensor:
    try:
        with open_image(path) as image:
            values = np.asarray(upright(image).convert("L"))
    except UnreadableError as problem:
        raise UserError(f"{brief(path)} {problem}") from None
    if values.shape != size[::-1]:
        raise UserError(f"the mask {brief(path)} has {values.shape[1]}×{values.shape[0]} pixels; the picture has "
                        f"{size[0]}×{size[1]}")  # fmt: skip
    fitted = np.asarray(frame.fit_mask(Image.fromarray((values > 0).astype(np.uint8))))
    return torch.from_numpy((fitted > 0) & (fitted != VOID))


def score_regions(
    network: PreparedNetwork,
    tensor: Tensor,
    mask: Tensor,
    heat_maps: Mapping[str, Tensor],
    label: int | None,
    other: int | None,
    method: str,
) -> RegionScores:
    """Score the maps of a picture, and those of the controls.

    Args:
        network: the network.
        tensor: its input (C, H, W).
        mask: region, bool (H, W).
        heat_maps: Maps layer to map (H, W).
        label: class of the maps.
        other: another class; None for no such control.
        method: name of the method.
    """
    paths = list(dict.fromkeys(layer.partition(" (call ")[0] for layer in heat_maps))

    def maps_of(module: nn.Module, k: int) -> dict[str, Tensor]:
        return activation_maps(module, tensor[None], [k], layers=paths, method=method)

    controls = {layer: {"centre": _score(centre_prior((mask.shape[0], mask.shape[1])), mask)} for layer in heat_maps}
    modules = {"random weights": (random_weights(network.module), label), "another class": (network.module, other)}
    for control, (module, k) in modules.items():
        for layer, values in maps_of(module, k).items() if k is not None else ():
            if values.any():
                controls[layer][control] = _score(values[0], mask)
    return RegionScores(mask, {layer: _score(values, mask) for layer, values in heat_maps.items()}, controls)


def _score(heat_map: Tensor, mask: Tensor) -> RegionScore:
    return RegionScore(
        float(sfd(heat_map, mask)), float(pointing_game(heat_map, mask)), best_iou([heat_map], [mask])[0]
    )
