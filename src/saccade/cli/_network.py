"""A network as it is named on the command line, and the size of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saccade.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["network", "origin", "size_of"]

_MAX_CHANNELS = 1024
"""Over twice the bands of hyperspectral sensors."""
_MAX_SIDE = 8192
"""Four times the largest side of training images; maps of larger ones do not fit into memory."""


def network(name: str, trust: bool = False) -> nn.Module:
    """The network that ``name`` says, with weights only where it is a folder; see ``load`` for ``trust``.

    Raises:
        UserError: there is none of that name, or the folder holds none.
    """
    from saccade.saving import load, rebuild

    return load(name, trust=trust) if Path(name).is_dir() else rebuild(origin(name))


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
    try:
        size = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        size = ()
    if len(size) != 3 or min(size) < 1:
        raise UserError(f"--input is three positive integers: channels, height, width, such as 3,224,224; got {text!r}")
    if size[0] > _MAX_CHANNELS or max(size[1:]) > _MAX_SIDE:
        raise UserError(f"--input {text}: at most {_MAX_CHANNELS} channels and {_MAX_SIDE} pixels a side can be")
    return size
