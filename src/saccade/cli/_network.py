"""Networks and image sizes given on the command line."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from saccade import catalog
from saccade.architecture_files import architectures
from saccade.errors import UserError, did_you_mean
from saccade.image_size import parse_size

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_network", "origin", "parse_input_size", "unknown_name"]

_MAX_CHANNELS = 1024
"""Limit of input channels: over twice the bands of hyperspectral sensors."""
_MAX_SIDE = 8192
"""Limit of an image side in pixels; feature maps of larger images do not fit into memory."""


def build_network(name: str, trust: bool = False) -> nn.Module:
    """Build the network ``name``: a timm model, ``torchvision:NAME``, a saved folder or ``package.module:function``.

    The weights are random unless ``name`` is a folder or a function that loads weights. Never pass a name read from a
    file: the function is imported and called. ``trust`` applies to names in a folder; see ``saccade.load``.

    Raises:
        UserError: the name is unknown, the folder holds no network, or the function cannot be imported or does not
            return an nn.Module.
    """
    from saccade.saving import load, rebuild

    if Path(name).is_dir():
        return load(name, trust=trust)
    module_name, _, function_name = name.partition(":")
    is_identifier = all(map(str.isidentifier, [function_name, *module_name.split(".")]))
    if is_identifier and module_name != "torchvision":
        return _call_builder(name, module_name, function_name)
    return rebuild(origin(name))


def _call_builder(name: str, module_name: str, function_name: str) -> nn.Module:
    """Call the user's function and return its network; the global random state is preserved."""
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            model = getattr(import_module(module_name), function_name)()
        except Exception as error:  # a user's module may raise anything
            raise UserError(f"the network {name!r} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"the network {name!r} is a {type(model).__name__}; a torch.nn.Module is needed")
    return model


def origin(name: str) -> dict[str, str]:
    """Return the origin of the network ``name`` as ``saccade.save`` stores it, such as ``{"timm": "resnet18"}``.

    Raises:
        UserError: neither timm nor torchvision has a network of this name.
    """
    prefix, separator, model_name = name.partition(":")
    if separator and prefix == "torchvision":
        from torchvision.models import list_models

        if model_name not in list_models():
            raise UserError(f"torchvision has no network {model_name!r}.{did_you_mean(model_name, list_models())}")
        return {prefix: model_name}
    from timm.models import is_model, list_models

    import saccade.models  # noqa: F401 (the import registers our networks with timm)

    if not is_model(name.partition(".")[0]):
        suggestion = did_you_mean(name, list_models())
        raise UserError(f"{name!r} is neither a folder nor a timm model.{suggestion}")
    return {"timm": name}


def parse_input_size(text: str) -> tuple[int, ...]:
    """Parse the image size (C, H, W) from text such as ``3,224,224``.

    Raises:
        UserError: the text is not a size, or the size is too large.
    """
    size = parse_size(text, "--input")
    if size[0] > _MAX_CHANNELS or max(size[1:]) > _MAX_SIDE:
        raise UserError(f"--input {text}: at most {_MAX_CHANNELS} channels and {_MAX_SIDE} pixels per side are allowed")
    return size


def unknown_name(name: str) -> UserError:
    """Return the error about a ``name`` that is neither a mechanism nor an architecture, with suggestions of both."""
    names = [*catalog.all_names(), *architectures()]
    return UserError(
        f"no mechanism and no architecture is called {name!r}.{did_you_mean(name, names)} `saccade list` shows the "
        "mechanisms, `saccade list --architectures` the networks; name your own as package.module:Class"
    )
