"""Networks that their trainer builds anew, without what was put in."""

from __future__ import annotations

import logging

from torch import nn

__all__ = ["warn_of_rebuilding"]

_LOG = logging.getLogger("saccade")


def warn_of_rebuilding(host: nn.Module) -> None:
    """Log a warning if ``host`` carries a yaml that YOLO trainers build it from.

    Signs: a dict ``yaml``, and a Sequential ``model`` whose layers have ``f`` and ``i``.
    """
    layers = host._modules.get("model")
    if not isinstance(getattr(host, "yaml", None), dict) or not isinstance(layers, nn.Sequential):
        return
    if len(layers) and all(hasattr(layer, "f") and hasattr(layer, "i") for layer in layers):
        _LOG.warning(
            "%s carries the yaml that its trainer builds it anew from: YOLO.train() trains a network without what is "
            "put in here. Train by a trainer of saccade.plugged_trainer(Trainer, mechanism, ...); prediction, "
            "export and a training loop of your own keep the plugs",
            type(host).__name__,
        )
