"""Check the names in a file: classes and functions that are not known need the caller's trust.

An import runs the module's code, and even a search for ``a.b`` imports ``a``. So names are compared with lists first.
Trust is an argument of the caller and is never read from a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from saccade import catalog
from saccade.controls import CONTROLS
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = [
    "Trust",
    "add_trust",
    "check_mechanism",
    "check_numbers",
    "check_options",
    "find_fetching_option",
    "is_trusted",
    "refusal_error",
]

Trust = bool | Collection[str]
"""Unknown names that a file may import: True for all, False for none, or a list such as ``["my.module:Class"]``."""

_CONTROLS = {control.path for control in CONTROLS.values()}
"""Paths of the controls, which are plugged like mechanisms but are not in the catalogue."""

_FETCHING = re.compile(r"pretrained|(?<!init)weights|checkpointpath|cachedir|trustremotecode|automap|hfhub")
"""Pattern of options that make a library download or open files, in lower case without punctuation."""
_NOT_FETCHING = frozenset({"pretrainedwindowsize", "pretrainedwindowsizes", "bboxregweights"})
"""Names that match ``_FETCHING`` but are hyperparameters of the network."""
_MAX_DEPTH = 20
"""Maximum nesting depth of options; the libraries nest at most four levels."""


def is_trusted(name: str, trust: Trust) -> bool:
    """Return True if ``trust`` allows ``name``."""
    return trust if isinstance(trust, bool) else name in ([trust] if isinstance(trust, str) else trust)


def add_trust(trust: Trust, *names: str) -> Trust:
    """Return ``trust`` extended by ``names``."""
    if isinstance(trust, bool):
        return trust or frozenset(names)
    return frozenset([trust] if isinstance(trust, str) else trust) | frozenset(names)


def refusal_error(noun: str, name: str, owner: str) -> UserError:
    """Return the error for an unknown name in the file ``owner``; ``noun`` is "mechanism" or "host"."""
    module = name.partition(":")[0]
    return UserError(
        f"{owner} names the {noun} {brief(name)!r}, which is not one of Saccade's: it would import and run the "
        f"module {brief(module)!r}. If you trust the file, say trust=True, or --trust on the command line"
    )


def check_mechanism(name: str, options: Mapping[str, Any], owner: str, trust: Trust) -> None:
    """Raise UserError unless the file ``owner`` may name this mechanism, and those nested in its option ``mechanism``.

    A name must be in the catalogue, a control or trusted.
    """
    for mechanism in _nested_mechanisms(name, options, owner):
        short_names = catalog.all_names()
        if is_trusted(mechanism, trust) or mechanism in _CONTROLS or catalog.canonical(mechanism) in short_names:
            continue
        if ":" in mechanism:
            raise refusal_error("mechanism", mechanism, owner)
        if mechanism not in short_names:
            raise UserError(
                f"{owner}: no mechanism is called {brief(mechanism)!r}.{did_you_mean(mechanism[:60], short_names)} "
                f"`saccade list` shows all {len(set(short_names.values()))}."
            )


def _nested_mechanisms(name: str, options: Mapping[str, Any], owner: str) -> Iterator[str]:
    """Yield ``name``, then the mechanism that its option ``mechanism`` names, and so on."""
    for _ in range(_MAX_DEPTH):
        yield name
        if "mechanism" not in options:
            return
        name, options = options["mechanism"], options.get("options") or {}
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise UserError(f"{owner}: the option mechanism needs a name and options, found {brief(name)!r}")
    raise UserError(f"{owner}: mechanisms are nested more than {_MAX_DEPTH} deep")


def check_options(options: Mapping[str, Any], owner: str, largest: int) -> None:
    """Raise UserError unless the options of a host, in the file ``owner``, are safe.

    None may load weights or a file, hold an address or path, or a number above ``largest``.
    """
    check_numbers(options, owner, largest)
    fetching_option = find_fetching_option(options, owner)
    for key, value in _nested_values(options, owner):
        if key == fetching_option:
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)!r} fetches weights or opens a file; "
                "the weights are those of model.safetensors. If you trust the file, say trust=True, or --trust"
            )
        if isinstance(value, str) and re.search(r"[:/\\]", value):
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)!r} holds an address or a path (':' or "
                "'/'). If you trust the file, say trust=True, or --trust"
            )


def find_fetching_option(options: Mapping[str, Any], owner: str) -> str | None:
    """Return the dotted key of an option that makes a library fetch weights or open a file, or None."""
    for key, value in _nested_values(options, owner):
        last_part = re.sub(r"[\W_]+", "", key.rpartition(".")[2].lower())
        is_enabled = value is not None and value is not False
        if _FETCHING.search(last_part) and last_part not in _NOT_FETCHING and is_enabled:
            return key
    return None


def check_numbers(options: Mapping[str, Any], owner: str, largest: int) -> None:
    """Raise UserError unless each number in ``options``, however nested, is at most ``largest`` in absolute value."""
    for key, value in _nested_values(options, owner):
        if isinstance(value, (int, float)) and not -largest <= value <= largest:
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)} is beyond {largest:,}, the limit "
                "derived from the sizes of the saved weights"
            )


def _nested_values(options: Mapping[str, Any], owner: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of all nested values, containers included."""
    stack: list[tuple[str, Any, int]] = [(str(key), value, 0) for key, value in options.items()]
    while stack:
        key, value, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise UserError(f"{owner}: the option {brief(key)!r} is nested more than {_MAX_DEPTH} deep")
        yield key, value
        if isinstance(value, Mapping):
            stack += [(f"{key}.{name}", item, depth + 1) for name, item in value.items()]
        elif isinstance(value, (list, tuple)):
            stack += [(key, item, depth + 1) for item in value]
