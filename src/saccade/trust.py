"""What a file may name: what is on a list of ours. Everything else needs the caller's word.

Importing a module runs it, and so does looking for ``a.b`` (Python imports ``a``). Hence a name out of a file is
compared with lists before anything is looked up. The caller's word is an argument, ``trust``: True for whatever a
file names, or the names that the caller knows. It is never read from a file.
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
    "check_mechanism",
    "check_numbers",
    "check_options",
    "fetching",
    "refusal",
    "together",
    "trusted",
]

Trust = bool | Collection[str]
"""True: all that a file names may run. Names, ``{"my.module:Class"}``: these may. False: only what is listed."""

_CONTROLS = {control.path for control in CONTROLS.values()}
"""The controls are plugged like mechanisms and are in no catalogue."""

_FORBIDDEN = re.compile(r"pretrained|(?<!init)weights|checkpointpath|cachedir|trustremotecode|automap|hfhub")
"""Parts of the options that make a library fetch or open something, without case and punctuation."""
_HARMLESS = frozenset({"pretrainedwindowsize", "pretrainedwindowsizes", "bboxregweights"})
"""Options that only sound like those: numbers of the network itself."""
_DEPTH = 20
"""Levels of nested options; a library's own have at most four."""


def trusted(name: str, trust: Trust) -> bool:
    """Whether the caller vouches for ``name``."""
    return trust if isinstance(trust, bool) else name in ([trust] if isinstance(trust, str) else trust)


def together(trust: Trust, *names: str) -> Trust:
    """Return ``trust`` that also vouches for ``names``, which the caller named."""
    if isinstance(trust, bool):
        return trust or frozenset(names)
    return frozenset([trust] if isinstance(trust, str) else trust) | frozenset(names)


def refusal(what: str, name: str, owner: str) -> UserError:
    """The error for a name that is on no list: what would have been imported, and how to allow it."""
    module = name.partition(":")[0]
    return UserError(
        f"{owner} names the {what} {brief(name)!r}, which is not one of Saccade's: it would import and run the "
        f"module {brief(module)!r}. If you trust the file, say trust=True, or --trust on the command line"
    )


def check_mechanism(name: str, options: Mapping[str, Any], owner: str, trust: Trust) -> None:
    """Raise UserError unless a file may name this mechanism.

    Args:
        name: as the file says it.
        options: the same; that of the control ``shuffled`` names another mechanism, which is checked as well.
        owner: the file, for the message.
        trust: see ``Trust``.

    Raises:
        UserError: the name is neither in the catalogue nor trusted.
    """
    for each in _nested(name, options, owner):
        known = catalog.all_names()
        if trusted(each, trust) or each in _CONTROLS or catalog.canonical(each) in known:
            continue
        if ":" in each:
            raise refusal("mechanism", each, owner)
        if each not in known:
            raise UserError(
                f"{owner}: no mechanism is called {brief(each)!r}.{did_you_mean(each[:60], known)} "
                f"`saccade list` shows all {len(set(known.values()))}."
            )


def _nested(name: str, options: Mapping[str, Any], owner: str) -> Iterator[str]:
    """The mechanism, and the one that its option ``mechanism`` names."""
    for _ in range(_DEPTH):
        yield name
        if "mechanism" not in options:
            return
        name, options = options["mechanism"], options.get("options") or {}
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise UserError(f"{owner}: the option mechanism needs a name and options, found {brief(name)!r}")
    raise UserError(f"{owner}: mechanisms are nested more than {_DEPTH} deep")


def check_options(options: Mapping[str, Any], owner: str, largest: int) -> None:
    """Raise UserError unless these options of a host only say how it is built.

    None and False ask for nothing and are allowed everywhere.

    Args:
        options: out of a file, nested as they may be.
        owner: the file, for the message.
        largest: the largest whole number that can be meant, such as a number of classes.

    Raises:
        UserError: an option fetches weights or opens a file, is the address of something, or is too large.
    """
    check_numbers(options, owner, largest)
    fetched = fetching(options, owner)
    for key, value in _values(options, owner):
        if key == fetched:
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)!r} fetches weights or opens a file; "
                "the weights are those of model.safetensors. If you trust the file, say trust=True, or --trust"
            )
        if isinstance(value, str) and re.search(r"[:/\\]", value):
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)!r} holds an address or a path (':' or "
                "'/'). If you trust the file, say trust=True, or --trust"
            )


def fetching(options: Mapping[str, Any], owner: str) -> str | None:
    """The dotted key of the first option that makes a library fetch weights or open a file; None without one."""
    for key, value in _values(options, owner):
        last = re.sub(r"[\W_]+", "", key.rpartition(".")[2].lower())
        if _FORBIDDEN.search(last) and last not in _HARMLESS and value is not None and value is not False:
            return key
    return None


def check_numbers(options: Mapping[str, Any], owner: str, largest: int) -> None:
    """Raise UserError unless every number in these options, nested as they may be, is at most ``largest``.

    Raises:
        UserError: one is larger, below ``-largest``, or not finite.
    """
    for key, value in _values(options, owner):
        if isinstance(value, (int, float)) and not -largest <= value <= largest:
            raise UserError(
                f"{owner}: the option {brief(key)!r} = {brief(value, 60)} is beyond {largest:,}, the largest "
                "number that the weights leave room for"
            )


def _values(options: Mapping[str, Any], owner: str) -> Iterator[tuple[str, Any]]:
    """All values with their dotted keys, those that hold others included."""
    stack: list[tuple[str, Any, int]] = [(str(key), value, 0) for key, value in options.items()]
    while stack:
        key, value, depth = stack.pop()
        if depth > _DEPTH:
            raise UserError(f"{owner}: the option {brief(key)!r} is nested more than {_DEPTH} deep")
        yield key, value
        if isinstance(value, Mapping):
            stack += [(f"{key}.{inner}", each, depth + 1) for inner, each in value.items()]
        elif isinstance(value, (list, tuple)):
            stack += [(key, each, depth + 1) for each in value]
