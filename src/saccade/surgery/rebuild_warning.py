"""Warn about networks whose trainer rebuilds them and so loses the plugs."""

from __future__ import annotations

import logging

from torch import nn

__all__ = ["warn_of_rebuilding"]

_LOG = logging.getLogger("saccade")


def warn_of_rebuilding(host: nn.Module) -> None:
    """Log a warning if ``host`` looks like a YOLO network, which its trainer rebuilds from ``host.yaml``."""
    layers = host._modules.get("model")
    if not isinstance(getattr(host, "yaml", None), dict) or not isinstance(layers, nn.Sequential):
        return
    if len(layers) and all(hasattr(layer, "f") and hasattr(layer, "i") for layer in layers):
        _LOG.warning(
            "YOLO.train() rebuilds %s from its yaml, and so trains it without the plugs. Train with the class "
            "that saccade.plugged_trainer(Trainer, mechanism, ...) returns; prediction, export and your own training "
            "loop keep the plugs",
            type(host).__name__,
        )
