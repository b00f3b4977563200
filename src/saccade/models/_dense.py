"""Dense networks, which output logits (B, K, H, W), and the encoders of dense networks and detectors."""

from __future__ import annotations

import inspect
import sys

from timm.models import get_pretrained_cfg, model_entrypoint

from saccade.builders import is_builder
from saccade.models._detectors import is_detector
from saccade.recipe import Model

__all__ = ["dense_model", "encoder_of", "has_encoder", "is_dense"]


def is_dense(name: str) -> bool:
    """Return True if the network ``name`` outputs logits (B, K, H, W).

    A user function is assumed to return a dense network. A network of timm is dense if the notes of its configuration
    contain ``dense``; a file in ``models/`` sets the notes by
    ``generate_default_cfgs({"NAME.untrained": {..., "notes": ("dense",)}})``.
    """
    if is_builder(name):
        return True
    config = get_pretrained_cfg(name.partition(".")[0])
    return config is not None and "dense" in (config.notes or ())


def has_encoder(name: str) -> bool:
    """Return True if the network ``name`` is a dense network or a detector."""
    return is_dense(name) or is_detector(name)


def dense_model(model: Model) -> Model:
    """Return ``model`` if it outputs logits per pixel, else an FCN with ``model`` as its encoder."""
    if is_dense(model.name):
        return model
    options = {"encoder": model.name, "encoder_options": model.options}
    return model.model_copy(update={"name": "fcn", "options": options})


def encoder_of(model: Model) -> str | None:
    """Return the name of the timm network inside the dense network or detector ``model``; None if it has none.

    It is the option ``encoder``, or its default. With an option ``config``, the network has a backbone of its own.
    """
    if "encoder" in model.options:
        return str(model.options["encoder"])
    if is_builder(model.name) or not has_encoder(model.name):
        return None
    function = model_entrypoint(model.name.partition(".")[0])
    argument = inspect.signature(function).parameters.get("encoder")
    if argument is None or "config" in model.options:
        return None
    default = argument.default or sys.modules[function.__module__].DEFAULT_ENCODER
    return str(default)
