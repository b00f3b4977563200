"""A network as it is named on the command line, and the size of a picture."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.errors import UserError, did_you_mean
from saccade.image_size import parse_size

if TYPE_CHECKING:
    from torch import nn

__all__ = ["network", "origin", "size_of"]

_MAX_CHANNELS = 1024
"""Over twice the bands of hyperspectral sensors."""
_MAX_SIDE = 8192
"""Four times the largest side of training images; maps of larger ones do not fit into memory."""


def network(name: str, trust: bool = False) -> nn.Module:
    """The network that ``name`` says, with weights only where it is a folder or a function that loads them.

    A name ``package.module:function`` is imported and called, for it was typed by the user: no file may be its source.
    What a folder names may need ``trust``: see ``load``.

    Raises:
        UserError: no network has that name, the folder holds no network, or the function cannot be imported or makes
            something else.
    """
    from saccade.saving import load, rebuild

    if Path(name).is_dir():
        return load(name, trust=trust)
    module, _, function = name.partition(":")
    if function.isidentifier() and module != "torchvision" and all(map(str.isidentifier, module.split("."))):
        return _made(name, module, function)
    return rebuild(origin(name))


def _made(name: str, module: str, function: str) -> nn.Module:
    """What the user's own ``function`` builds; the global random state stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            made = getattr(import_module(module), function)()
        except Exception as error:  # whatever a user's module raises
            raise UserError(f"the network {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, torch.nn.Module):
        raise UserError(f"the network {name!r} is a {type(made).__name__}; needed is a torch.nn.Module")
    return made


def origin(name: str) -> dict[str, str]:
    """How the network called ``name`` is made, as ``saccade.save`` takes it.

    Raises:
        UserError: neither timm nor torchvision has it.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "torchvision":
        from torchvision.models import list_models

        if rest not in list_models():
            raise UserError(f"torchvision has no network {rest!r}.{did_you_mean(rest, list_models())}")
        return {kind: rest}
    from timm.models import is_model, list_models

    import saccade.models  # noqa: F401 (its networks are timm's once it is imported)

    if not is_model(name.partition(".")[0]):
        near = did_you_mean(name, list_models())
        raise UserError(f"{name!r} is neither a folder nor a network of timm's.{near}")
    return {"timm": name}


def size_of(text: str) -> tuple[int, ...]:
    """Channels, height and width, from a text such as 3,224,224.

    Raises:
        UserError: it is no such text.
    """
    size = parse_size(text, "--input")
    if size[0] > _MAX_CHANNELS or max(size[1:]) > _MAX_SIDE:
        raise UserError(f"--input {text}: at most {_MAX_CHANNELS} channels and {_MAX_SIDE} pixels a side can be")
    return size
