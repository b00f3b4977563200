"""Networks with pretrained weights, by name, with the image settings of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model, list_models
from torch import nn

from saccade.data.resizing import Frame
from saccade.errors import UserError, did_you_mean
from saccade.explanation.prepared_network import PreparedNetwork, prepare
from saccade.models import create_host, find_weight_settings
from saccade.recipe import Model

__all__ = ["prepare_pretrained"]


def prepare_pretrained(name: str, checkpoint: str | None = None, size: int | None = None) -> PreparedNetwork:
    """Return a timm network, or ``torchvision:NAME``, with pretrained weights.

    Args:
        name: name of the network.
        checkpoint: safetensors file of weights for a timm network; None to download those of the library.
        size: side of the input instead of the weights' own.

    Raises:
        UserError: there is no such network, or its weights cannot be read or downloaded.
    """
    prefix, separator, model_name = name.partition(":")
    if separator:
        if prefix != "torchvision" or checkpoint is not None:
            raise UserError(f"{name}: only timm's networks load a checkpoint, and only timm's and torchvision's have "
                            "pretrained weights")  # fmt: skip
        return _torchvision(name, model_name, size)
    config = get_pretrained_cfg(name.partition(".")[0])
    if config is None:
        hint = did_you_mean(name, list_models())
        raise UserError(f"{name!r} is neither a folder nor a timm model.{hint}" if not is_model(name) else
                        f"timm has no pretrained weights of {name}")  # fmt: skip
    model = Model(name=name, pretrained=checkpoint is None, checkpoint=checkpoint)
    settings = find_weight_settings(model)
    options = dict(settings.options) if settings is not None else {}
    with torch.random.fork_rng(devices=[]):
        module = create_host(model.model_copy(update={"options": options}), config.num_classes, 3)
    data: dict[str, Any] = dict(settings.data) if settings is not None else {}
    network = prepare(module.eval(), name, mean=data.get("mean"), std=data.get("std"))
    if network.frame is not None:
        own = data.get("size", (network.frame.height, network.frame.width))
        height, width = (own, own) if isinstance(own, int) else own
        keys = {key: data[key] for key in ("interpolation", "crop_pct") if data.get(key) is not None}
        network = replace(network, frame=Frame(size or height, size or width, **keys))
    return network


def _torchvision(name: str, model_name: str, size: int | None) -> PreparedNetwork:
    """Return a network of torchvision with the size, normalisation and classes of its default weights."""
    from torchvision.models import get_model, get_model_weights, list_models

    if model_name not in list_models():
        raise UserError(f"torchvision has no network {model_name!r}.{did_you_mean(model_name, list_models())}")
    weights = get_model_weights(model_name).DEFAULT
    try:
        module: nn.Module = get_model(model_name, weights=weights)
    except Exception as error:  # a download fails in many ways
        raise UserError(
            f"the pretrained weights of torchvision's {model_name} could not be downloaded: {error}"
        ) from error
    how = weights.transforms()
    network = prepare(module.eval(), name, size=size, class_names=weights.meta.get("categories"))
    if not hasattr(how, "resize_size"):  # a detector resizes its images itself
        return network
    resized = how.resize_size[0]
    side = getattr(how, "crop_size", [resized])[0]
    frame = Frame(size or side, size or side, interpolation=how.interpolation.value, crop_pct=side / resized)
    return replace(network, frame=frame, mean=tuple(how.mean), std=tuple(how.std))
