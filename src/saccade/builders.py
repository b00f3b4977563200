"""Functions that build a host: their name in a recipe, their arguments, and how a worker process gets them.

A function that Python can import is named ``package.module:function``. Any other, of a notebook, of a script or inside
another function, is kept here as long as the process lives, and reaches worker processes through their pipe.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.machinery import PathFinder
from typing import Any

from saccade.code_digest import code_digest
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["Key", "arguments", "find", "identify", "is_builder", "packed", "passed", "unpack"]

Key = tuple[str, str | None]
"""The name of a function and the digest of its code: ``model.name`` and ``model.code`` of a recipe."""

_CLASSES = ("num_classes", "classes", "n_classes")
_CHANNELS = ("in_chans", "channels", "in_channels")
"""What a function may call the number of classes and of the images' channels."""
_passed: dict[Key, Callable[..., Any]] = {}
"""Functions that callers of this process passed and no import finds."""


def is_builder(name: str) -> bool:
    """Return whether ``name`` is that of a function, not of a network of timm's, which may lie at an address."""
    module, colon, _ = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, module.split(".")))


def identify(builder: Callable[..., Any] | str) -> Key:
    """Return name and digest of a function, or of the one that a name means; one that no import finds is kept.

    Raises:
        UserError: the name does not import, or what it means, or was passed, is no function.
    """
    if isinstance(builder, str):
        builder = re.sub("^torchvision:", "torchvision.models:", builder)  # as other verbs name them
        return builder, code_digest(_imported(builder))
    if not callable(builder) or (hasattr(builder, "state_dict") and not isinstance(builder, type)):
        raise UserError(
            f"model is a {type(builder).__name__}; every run needs a network of its own: pass the name of one, or a "
            "function that builds it, such as lambda num_classes, in_chans: Net(num_classes)"
        )
    named = builder.func if isinstance(builder, partial) else builder
    module = getattr(named, "__module__", None) or type(named).__module__
    label = getattr(named, "__qualname__", type(named).__qualname__)
    key = f"{module}:{label}", code_digest(builder)
    if not _importable(module, label, builder):
        _passed[key] = builder
    return key


def passed(key: Key) -> Callable[..., Any] | None:
    """Return the function that a caller of this process passed under ``key``; None for one that an import finds."""
    return _passed.get(key)


def find(key: Key) -> Callable[..., Any]:
    """Return the function of ``key``.

    Raises:
        UserError: it was passed in another process, does not import, is no function, or has other code now.
    """
    if (kept := _passed.get(key)) is not None:
        return kept
    name, code = key
    found = _imported(name)
    if code is not None and (now := code_digest(found)) != code:
        raise UserError(
            f"the code of {name} is not what it was: its digest is {now}, model.code says {code}. Put the code back, "
            "or begin anew in another folder, from a recipe without model.code"
        )
    return found


def arguments(
    builder: Callable[..., Any], classes: int, channels: int, options: Mapping[str, Any], pretrained: bool = False
) -> dict[str, Any]:
    """Return the keywords that ``builder`` is called with.

    It gets ``num_classes`` (or ``classes``, ``n_classes``), ``in_chans`` (or ``channels``, ``in_channels``) and
    ``pretrained`` where its signature takes them, and all ``options``. Where it only takes ``**options``, it gets
    ``num_classes``, and ``in_chans`` where that is not 3.

    Raises:
        UserError: it does not take one of the options, or needs another argument.
    """
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):  # of a function written in C
        return {"num_classes": classes, "in_chans": channels, **options}
    taken = {key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    found: dict[str, Any] = {}
    for names, value, ordinary in ((_CLASSES, classes, None), (_CHANNELS, channels, 3)):
        name = next((name for name in names if name in taken), None)
        if name is None and open_ended and value != ordinary:
            name = names[0]
        if name is not None:
            found[name] = value
    if pretrained and "pretrained" in taken:
        found["pretrained"] = True
    shown = getattr(builder, "__name__", type(builder).__name__)
    for key in options:
        if key not in taken and not open_ended:
            raise UserError(f"{shown} has no option {key!r}.{did_you_mean(key, taken)}")
    found |= options
    missing = [
        key for key, p in parameters.items()
        if p.default is p.empty and key not in found and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    if missing:
        raise UserError(
            f"{shown} needs a value for {missing[0]!r}; it is called with num_classes and in_chans where it takes "
            f"them, and with model.options, as in --set model.options.{missing[0]}=…"
        )
    return found


def packed(keys: Iterable[Key]) -> bytes:
    """Return those functions of ``keys`` that no import finds, as :func:`unpack` takes them; b"" without any.

    Raises:
        UserError: one holds what cannot be sent to another process.
    """
    sent = {key: _passed[key] for key in keys if key in _passed}
    if not sent:
        return b""
    try:
        import cloudpickle
    except ModuleNotFoundError as error:
        raise UserError(
            "cloudpickle is not installed, which sends a function of a notebook or script to the processes that train: "
            "pip install 'saccade-attention[study]', or put the function into a file and name it module:function"
        ) from error
    try:
        content: bytes = cloudpickle.dumps(sent)
    except Exception as error:  # whatever the objects that it refers to raise
        raise UserError(
            f"{next(iter(sent))[0]} cannot be sent to the processes that train ({brief(error)}); put it into a file "
            "and name it module:function"
        ) from error
    return content


def unpack(content: bytes) -> None:
    """Keep the functions that :func:`packed` gave the parent process, as if they had been passed here.

    Raises:
        UserError: a module that one needs cannot be imported here.
    """
    if not content:
        return
    import cloudpickle

    try:
        _passed.update(cloudpickle.loads(content))
    except Exception as error:  # whatever a user's module raises
        raise UserError(
            f"the function that builds the network needs what this process cannot import: {type(error).__name__}: "
            f"{brief(error)}"
        ) from error


def _importable(module: str, label: str, builder: Callable[..., Any]) -> bool:
    """Return whether a new process finds ``builder`` under its name."""
    if module == "__main__" or not label.isidentifier() or getattr(sys.modules.get(module), label, None) is not builder:
        return False
    top = module.partition(".")[0]
    return top in sys.builtin_module_names or PathFinder.find_spec(top) is not None


def _imported(name: str) -> Callable[..., Any]:
    """Return the function ``package.module:function``.

    Raises:
        UserError: the module does not import, or has no such function.
    """
    module, _, function = name.partition(":")
    if module == "__main__" or not function.isidentifier():
        raise UserError(
            f"{brief(name)} was passed as a function by a process that has ended, and lies in no module; pass it again"
        )
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error
    if not callable(builder := getattr(found, function, None)):
        near = did_you_mean(function, [key for key, value in vars(found).items() if callable(value)])
        raise UserError(f"{name}: the module {module} has no function or class {function!r}.{near}")
    return builder
