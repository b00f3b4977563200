"""Rebuild a host from a library, from a trusted function, or from a function that the caller passed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade import builders
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.saving.config import HOST_KEYS
from saccade.saving.meta_device import Limits, TooLargeError, call_on_meta_device
from saccade.trust import Trust, check_options, is_trusted, refusal_error

__all__ = ["check_host_name", "imports_unknown_module", "rebuild", "rebuild_on_meta_device"]

HostConfig = Mapping[str, Any]
"""Section ``host`` of a config.json."""

_LIBRARIES = ("saccade.models.", "segmentation_models_pytorch.", "timm.models.", "torchvision.models.")
"""Packages whose network classes a file may name: constructing one runs only library code and downloads nothing."""
_NO_WEIGHTS = {"encoder_weights": None, "weights": None, "weights_backbone": None, "pretrained": False}
"""Maps arguments whose default would download weights to a value that does not."""


def rebuild(host: HostConfig, trust: Trust = True) -> nn.Module:
    """Return a new network as described by ``host``, leaving the global random state unchanged.

    Args:
        host: mapping with one of the keys ``timm``, ``torchvision``, ``call`` and ``passed``, and optionally
            ``options``; ``passed`` also needs ``code``, a digest.
        trust: names outside the known libraries that may be imported; True for all.

    Raises:
        UserError: the network cannot be built, or its name is not trusted.
    """
    return _build_checked(host, lambda: _builder(host, trust, "the host")(**_options(host)))


def rebuild_on_meta_device(host: HostConfig, limits: Limits, subject: str, trust: Trust) -> nn.Module | None:
    """Return the network on the meta device; None if a trusted host cannot be built there.

    ``subject`` begins the messages.

    Raises:
        UserError: the network cannot be built, is not trusted, or is too large.
    """
    build = _builder(host, trust, subject)
    if not _is_host_trusted(host, trust):
        check_options(_options(host), subject, limits.max_option)
    try:
        return _build_checked(host, lambda: call_on_meta_device(lambda: build(**_options(host)), limits, subject))
    except TooLargeError:
        raise
    except UserError:
        if _is_host_trusted(host, trust):
            return None
        raise


def check_host_name(host: HostConfig, subject: str, trust: Trust) -> None:
    """Raise UserError unless a file may name this host; an unknown name is not imported."""
    _builder(host, trust, subject)


def imports_unknown_module(host: HostConfig) -> bool:
    """Return True if ``host`` names a function outside the known libraries."""
    return "call" in host and _library_of(str(host["call"])) is None


def _build_checked(host: HostConfig, build: Callable[[], Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            network = build()
        except UserError:
            raise
        except Exception as error:  # a constructor may raise anything
            reason = f"{type(error).__name__}: {brief(error, 400)}"
            raise UserError(f"the host {brief(dict(host), 400)} cannot be built: {reason}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"the host {brief(dict(host))} is a {type(network).__name__}, not a torch.nn.Module")
    return network


def _options(host: HostConfig) -> dict[str, Any]:
    return dict(host.get("options") or {})


def _is_host_trusted(host: HostConfig, trust: Trust) -> bool:
    """Return True if the caller trusts the host's builder, with any options."""
    return trust is True or host.get("passed") is not None or ("call" in host and is_trusted(str(host["call"]), trust))


def _builder(host: HostConfig, trust: Trust, subject: str) -> Callable[..., Any]:
    """Return the function that builds the host from its options.

    Raises:
        UserError: no function is found, or it is neither from a library nor trusted.
    """
    keys = [key for key in HOST_KEYS if host.get(key) is not None]
    if len(keys) != 1:
        raise UserError(f"a host is named by one of the keys {', '.join(HOST_KEYS)}; got {brief(dict(host))}")
    (key,) = keys
    name, trusted = str(host[key]), _is_host_trusted(host, trust)
    if key == "timm":
        return _timm_builder(name, subject, trusted)
    if key == "torchvision":
        return _torchvision_builder(name, subject)
    if key == "passed":
        return _passed_builder(name, host.get("code"), subject)
    return _import_builder(name) if trusted else _library_builder(name, subject)


def _timm_builder(name: str, subject: str, trusted: bool) -> Callable[..., Any]:
    import timm

    import saccade.models  # noqa: F401 (registers its networks with timm)

    # A name with a colon is an address, such as hf-hub:owner/name.
    if not (trusted and ":" in name) and not timm.is_model(name.partition(".")[0]):
        raise UserError(f"{subject}: timm has no network {brief(name)!r}.{did_you_mean(name[:60], timm.list_models())}")
    return lambda **options: timm.create_model(name, **{**options, "pretrained": False})


def _passed_builder(name: str, code: Any, subject: str) -> Callable[..., Any]:
    """Return the function registered in this process; raise UserError without one."""
    function = builders.find_registered((name, code))
    if function is None:
        raise UserError(
            f"{subject}: its host was built by the function {brief(name)!r}, which was passed to saccade and lies in "
            "no module; give the network that it builds: saccade.load(folder, host=…)"
        )
    return function


def _torchvision_builder(name: str, subject: str) -> Callable[..., Any]:
    from torchvision.models import get_model_builder, list_models

    if name not in list_models():
        raise UserError(
            f"{subject}: torchvision has no network {brief(name)!r}.{did_you_mean(name[:60], list_models())}"
        )
    return _without_weights(get_model_builder(name))


def _library_builder(name: str, subject: str) -> Callable[..., Any]:
    """Return the network class or registered function ``name`` of a known library; import no other package.

    Raises:
        UserError: the library has no such name.
    """
    module, _, attribute = name.partition(":")
    library = _library_of(name)
    if library is None or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise refusal_error("host", name, subject)
    function = _import_builder(name)
    if isinstance(function, type):
        is_network = issubclass(function, nn.Module) and f"{function.__module__}.".startswith(library)
    elif library == "torchvision.models.":
        from torchvision.models import get_model_builder, list_models

        is_network = attribute in list_models() and get_model_builder(attribute) is function
    else:
        from timm.models import is_model, model_entrypoint

        is_network = is_model(attribute) and model_entrypoint(attribute) is function
    if not is_network:
        raise refusal_error("host", name, subject)
    return _without_weights(function)


def _library_of(name: str) -> str | None:
    """Return the prefix of ``name`` that is a known library, or None."""
    module = name.partition(":")[0]
    return next((library for library in _LIBRARIES if f"{module}.".startswith(library)), None)


def _without_weights(builder: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``builder`` with defaults that download no weights."""
    parameters = inspect.signature(builder).parameters
    defaults = {name: value for name, value in _NO_WEIGHTS.items() if name in parameters}
    return lambda **options: builder(**{**defaults, **options})


def _import_builder(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a third-party module may raise anything
        raise UserError(f"the host {brief(name)!r} cannot be imported: {brief(error)}") from None
    if not callable(function):
        raise UserError(f"the host {brief(name)!r} is a {type(function).__name__}; a class or function is needed")
    return function
