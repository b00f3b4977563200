"""Make a host again: by the entry of a library, by a function that the caller vouches for, or by one it passed."""

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
from saccade.saving.config import KINDS
from saccade.saving.sketch import Limits, TooLargeError, sketched
from saccade.trust import Trust, check_options, refusal, trusted

__all__ = ["check_named", "of_library", "rebuild", "sketch"]

Host = Mapping[str, Any]

_LIBRARIES = ("saccade.models.", "segmentation_models_pytorch.", "timm.models.", "torchvision.models.")
"""Packages whose network classes a file may name: building one runs only their own code and fetches nothing."""
_WEIGHTS = {"encoder_weights": None, "weights": None, "weights_backbone": None, "pretrained": False}
"""Arguments whose default would fetch weights, and the values that do not."""


def rebuild(host: Host, trust: Trust = True) -> nn.Module:
    """Return a new network of the kind ``host`` says. The global random state stays as it is.

    Args:
        host: names one of ``timm``, ``torchvision``, ``call``, ``passed``, with ``options``; ``passed`` with ``code``.
        trust: what may run besides the networks of the libraries; not True where ``host`` comes from a file.

    Raises:
        UserError: ``host`` names something that cannot be made or is not trusted.
    """
    return _made(host, lambda: _maker(host, trust, "the host")(**_options(host)))


def sketch(host: Host, limits: Limits, owner: str, trust: Trust) -> nn.Module | None:
    """``rebuild`` on the meta device, where nothing is allocated; None where a trusted host cannot be built there.

    Args:
        host: as for ``rebuild``.
        limits: how large it may become.
        owner: the file that names it.
        trust: as for ``rebuild``.

    Raises:
        UserError: it cannot be made, is not trusted, or becomes too large.
    """
    make = _maker(host, trust, owner)
    if not _vouched(host, trust):
        check_options(_options(host), owner, limits.largest)
    try:
        return _made(host, lambda: sketched(lambda: make(**_options(host)), limits, owner))
    except TooLargeError:
        raise
    except UserError:
        if _vouched(host, trust):
            return None
        raise


def check_named(host: Host, owner: str, trust: Trust) -> None:
    """Raise UserError unless a file may name this host.

    Raises:
        UserError: no library has such a network, and the name is not trusted. It was not imported.
    """
    _maker(host, trust, owner)


def of_library(host: Host) -> bool:
    """Return whether ``host`` is looked for in a library, and needs no trust."""
    return "call" not in host or _home(str(host["call"])) is not None


def _made(host: Host, make: Callable[[], Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            made = make()
        except UserError:
            raise
        except Exception as error:  # whatever the constructor of a network raises
            reason = f"{type(error).__name__}: {brief(error, 400)}"
            raise UserError(f"the host {brief(dict(host), 400)} cannot be made: {reason}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"the host {brief(dict(host))} is a {type(made).__name__}, no torch.nn.Module")
    return made


def _options(host: Host) -> dict[str, Any]:
    return dict(host.get("options") or {})


def _vouched(host: Host, trust: Trust) -> bool:
    """Return whether the caller trusts whatever the host is made by, options included."""
    return trust is True or host.get("passed") is not None or ("call" in host and trusted(str(host["call"]), trust))


def _maker(host: Host, trust: Trust, owner: str) -> Callable[..., Any]:
    """Return what makes the host, given its options.

    Raises:
        UserError: nothing does, or it is neither of a library nor trusted.
    """
    kinds = [key for key in KINDS if host.get(key) is not None]
    if len(kinds) != 1:
        raise UserError(f"a host is named by one of the keys {', '.join(KINDS)}; got {brief(dict(host))}")
    (kind,) = kinds
    name, own = str(host[kind]), _vouched(host, trust)
    if kind == "timm":
        return _of_timm(name, owner, own)
    if kind == "torchvision":
        return _of_torchvision(name, owner)
    if kind == "passed":
        return _passed(name, host.get("code"), owner)
    return _imported(name) if own else _of_library(name, owner)


def _of_timm(name: str, owner: str, vouched: bool) -> Callable[..., Any]:
    import timm

    import saccade.models  # noqa: F401 (its networks are timm's once it is imported)

    # A name with a colon is an address, such as hf-hub:owner/name.
    if not (vouched and ":" in name) and not timm.is_model(name.partition(".")[0]):
        raise UserError(f"{owner}: timm has no network {brief(name)!r}.{did_you_mean(name[:60], timm.list_models())}")
    return lambda **options: timm.create_model(name, **{**options, "pretrained": False})


def _passed(name: str, code: Any, owner: str) -> Callable[..., Any]:
    """Return the function that the caller of this process passed; no module holds it."""
    found = builders.find_registered((name, code))
    if found is None:
        raise UserError(
            f"{owner}: its host was built by the function {brief(name)!r}, which was passed to saccade and lies in no "
            "module; give the network that it builds: saccade.load(folder, host=…)"
        )
    return found


def _of_torchvision(name: str, owner: str) -> Callable[..., Any]:
    from torchvision.models import get_model_builder, list_models

    if name not in list_models():
        raise UserError(f"{owner}: torchvision has no network {brief(name)!r}.{did_you_mean(name[:60], list_models())}")
    return _without_weights(get_model_builder(name))


def _of_library(name: str, owner: str) -> Callable[..., Any]:
    """Return the class or registered function ``name`` of a library, which makes a network.

    Raises:
        UserError: it makes no network. A package that does not belong to the libraries is not imported.
    """
    module, _, attribute = name.partition(":")
    home = _home(name)
    if home is None or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise refusal("host", name, owner)
    found = _imported(name)
    if isinstance(found, type):
        fine = issubclass(found, nn.Module) and f"{found.__module__}.".startswith(home)
    elif home == "torchvision.models.":
        from torchvision.models import get_model_builder, list_models

        fine = attribute in list_models() and get_model_builder(attribute) is found
    else:
        from timm.models import is_model, model_entrypoint

        fine = is_model(attribute) and model_entrypoint(attribute) is found
    if not fine:
        raise refusal("host", name, owner)
    return _without_weights(found)


def _home(name: str) -> str | None:
    """The library whose module ``name`` begins with."""
    module = name.partition(":")[0]
    return next((home for home in _LIBRARIES if f"{module}.".startswith(home)), None)


def _without_weights(maker: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``maker`` so that it fetches no weights unless its options say so."""
    asked = {name: without for name, without in _WEIGHTS.items() if name in inspect.signature(maker).parameters}
    return lambda **options: maker(**{**asked, **options})


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a stranger's module raises
        raise UserError(f"the host {brief(name)!r} cannot be imported: {brief(error)}") from None
    if not callable(found):
        raise UserError(f"the host {brief(name)!r} is a {type(found).__name__}, which makes no network")
    return found
