"""Build a host by a function of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from saccade import builders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.recipe import Model

__all__ = ["build_own", "saved_as"]

_built: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
"""The parameters of the networks built so far, by identity, as long as they live."""


def build_own(model: Model, classes: int, channels: int) -> nn.Module:
    """Call the function that ``model`` names, for ``classes`` and ``channels``; it may draw from torch's generator.

    Raises:
        UserError: there is no such function, it fails, or what it returns is no network, has layers without a shape,
            or has a parameter that it returned before.
    """
    builder = builders.find((model.name, model.code))
    try:
        keywords = builders.arguments(builder, classes, channels, model.options, model.pretrained)
        host = builder(**keywords)
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"model {model.name}: {type(error).__name__}: {brief(error, 400)}") from error
    if not isinstance(host, nn.Module):
        raise UserError(f"model {model.name} returns a {type(host).__name__}; a torch.nn.Module is needed")
    for name, value in [*host.named_parameters(), *host.named_buffers()]:
        if is_lazy(value):
            raise UserError(
                f"model {model.name}: {name} has no shape yet; run the network once on a picture of {channels} "
                "channels before the function returns it"
            )
    for name, value in host.named_parameters():
        if _built.get(id(value)) is value:
            raise UserError(
                f"model {model.name} returned {name} before: each run needs weights of its own, so build the network "
                "inside the function, or return a copy.deepcopy of it"
            )
    _built.update((id(value), value) for value in host.parameters())
    return host


def saved_as(model: Model, classes: int, channels: int) -> Mapping[str, Any]:
    """Return how :func:`build_own` makes the host, as ``saccade.save`` takes it."""
    key = model.name, model.code
    options = builders.arguments(builders.find(key), classes, channels, model.options)
    if builders.passed(key) is not None:
        return {"passed": model.name, "code": model.code, "options": options}
    return {"call": model.name, "options": options}
