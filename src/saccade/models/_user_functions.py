"""Build a host with a user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from saccade import builders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.recipe import Model

__all__ = ["build_with_function", "function_as_saved"]

_returned_parameters: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
"""Maps id to parameter, for all live parameters of networks that user functions returned."""


def build_with_function(model: Model, num_classes: int, channels: int) -> nn.Module:
    """Return the network from the function that ``model`` names.

    Raises:
        UserError: the function does not exist, fails, or returns an object that is not a Module, a network with lazy
            layers, or a parameter of an earlier network.
    """
    builder = builders.find_builder((model.name, model.code))
    try:
        keywords = builders.call_arguments(builder, num_classes, channels, model.options, model.pretrained)
        host = builder(**({} if model.pretrained else _without_download(builder)), **keywords)
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"model {model.name}: {type(error).__name__}: {brief(error, 400)}") from error
    if not isinstance(host, nn.Module):
        raise UserError(f"model {model.name} returns a {type(host).__name__}; a torch.nn.Module is needed")
    for name, value in [*host.named_parameters(), *host.named_buffers()]:
        if is_lazy(value):
            raise UserError(
                f"model {model.name}: {name} has no shape yet; run the network once on an image of {channels} "
                "channels before the function returns it"
            )
    for name, value in host.named_parameters():
        if _returned_parameters.get(id(value)) is value:
            raise UserError(
                f"model {model.name} returned {name} before: each run needs weights of its own, so build the network "
                "inside the function, or return a copy.deepcopy of it"
            )
    _returned_parameters.update((id(value), value) for value in host.parameters())
    return host


def function_as_saved(model: Model, num_classes: int, channels: int) -> Mapping[str, Any]:
    """Return a description of the host from :func:`build_with_function`, for ``saccade.save``."""
    key = model.name, model.code
    builder = builders.find_builder(key)
    options = builders.call_arguments(builder, num_classes, channels, model.options) | _without_download(builder)
    if builders.find_registered(key) is not None:  # not importable: load() must be given the function
        return {"passed": model.name, "code": model.code, "options": options}
    return {"call": model.name, "options": options}


def _without_download(builder: Callable[..., Any]) -> dict[str, None]:
    """Return the argument that makes a function of torchvision download no weights of its backbone, if it has one."""
    is_torchvision = getattr(builder, "__module__", "").startswith("torchvision.models.")
    return {"weights_backbone": None} if is_torchvision and "weights_backbone" in signature(builder).parameters else {}
