"""Builders: functions of the user that build a network, named in recipes and sent to worker processes.

A function that can be imported is named ``package.module:function``. Any other function, such as one defined in a
notebook or inside another function, is registered here for the life of the process, and pickled for worker processes.
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

__all__ = [
    "BuilderKey", "call_arguments", "find_builder", "find_registered", "identify", "is_builder", "pickle_registered",
    "register_pickled",
]  # fmt: skip

BuilderKey = tuple[str, str | None]
"""Name of a builder and digest of its code: ``model.name`` and ``model.code`` of a recipe."""

_NUM_CLASSES_ARGUMENTS = ("num_classes", "classes", "n_classes")
"""Argument names for the number of classes."""
_IN_CHANS_ARGUMENTS = ("in_chans", "channels", "in_channels")
"""Argument names for the number of image channels."""
_registered: dict[BuilderKey, Callable[..., Any]] = {}
"""Builders given to this process as functions that cannot be imported."""


def is_builder(name: str) -> bool:
    """Return True if ``name`` has the form ``package.module:function``, unlike timm's ``hf-hub:owner/model``."""
    module, colon, _ = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, module.split(".")))


def identify(builder: Callable[..., Any] | str) -> BuilderKey:
    """Return the key of a builder, given as a function or by name; register it if it cannot be imported.

    Raises:
        UserError: the name cannot be imported, or the object is not a function or class.
    """
    if isinstance(builder, str):
        builder = re.sub("^torchvision:", "torchvision.models:", builder)  # the prefix that other commands accept
        return builder, code_digest(_import_builder(builder))
    if not callable(builder) or (hasattr(builder, "state_dict") and not isinstance(builder, type)):
        raise UserError(
            f"model is a {type(builder).__name__}; every run needs a network of its own: pass the name of a network, "
            "or a function that builds it, such as lambda num_classes, in_chans: Net(num_classes)"
        )
    function = builder.func if isinstance(builder, partial) else builder
    module = getattr(function, "__module__", None) or type(function).__module__
    qualname = getattr(function, "__qualname__", type(function).__qualname__)
    key = f"{module}:{qualname}", code_digest(builder)
    if not _is_importable(module, qualname, builder):
        _registered[key] = builder
    return key


def find_registered(key: BuilderKey) -> Callable[..., Any] | None:
    """Return the builder that this process registered under ``key``, or None."""
    return _registered.get(key)


def find_builder(key: BuilderKey) -> Callable[..., Any]:
    """Return the builder of ``key``, registered or imported.

    Raises:
        UserError: the builder was registered in another process, cannot be imported, or has changed.
    """
    if (registered := _registered.get(key)) is not None:
        return registered
    name, code = key
    builder = _import_builder(name)
    if code is not None and (digest := code_digest(builder)) != code:
        raise UserError(
            f"the code of {name} has changed: its digest is {digest}, model.code says {code}. Put the code back, "
            "or start a new run in another folder, from a recipe without model.code"
        )
    return builder


def call_arguments(
    builder: Callable[..., Any], num_classes: int, channels: int, options: Mapping[str, Any], pretrained: bool = False
) -> dict[str, Any]:
    """Return the keyword arguments to call ``builder`` with.

    The arguments are ``options``, and those of ``num_classes``, ``in_chans`` (or synonyms) and ``pretrained`` that the
    signature accepts. A builder that only takes ``**options`` gets ``num_classes``, and ``in_chans`` if not 3.

    Raises:
        UserError: the builder does not accept one of the options, or needs another argument.
    """
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):  # functions written in C have no signature
        return {"num_classes": num_classes, "in_chans": channels, **options}
    accepted = {key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments: dict[str, Any] = {}
    for names, value, default in ((_NUM_CLASSES_ARGUMENTS, num_classes, None), (_IN_CHANS_ARGUMENTS, channels, 3)):
        name = next((name for name in names if name in accepted), None)
        if name is None and accepts_any and value != default:
            name = names[0]
        if name is not None:
            arguments[name] = value
    if pretrained and "pretrained" in accepted:
        arguments["pretrained"] = True
    builder_name = getattr(builder, "__name__", type(builder).__name__)
    for key in options:
        if key not in accepted and not accepts_any:
            raise UserError(f"{builder_name} has no option {key!r}.{did_you_mean(key, accepted)}")
    arguments |= options
    missing = [
        key for key, p in parameters.items()
        if p.default is p.empty and key not in arguments and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    if missing:
        raise UserError(
            f"{builder_name} needs a value for {missing[0]!r}: give it with --set model.options.{missing[0]}=… "
            "(num_classes and in_chans are passed if it takes them)"
        )
    return arguments


def pickle_registered(keys: Iterable[BuilderKey]) -> bytes:
    """Pickle the registered builders among ``keys``, for :func:`register_pickled`; return b"" without any.

    Raises:
        UserError: a builder refers to an object that cannot be pickled, or cloudpickle is not installed.
    """
    builders = {key: _registered[key] for key in keys if key in _registered}
    if not builders:
        return b""
    try:
        import cloudpickle
    except ModuleNotFoundError as error:
        raise UserError(
            "sending a function of a notebook or script to the training processes needs cloudpickle, which is not "
            "installed: pip install 'saccade-attention[study]', or put the function into a file and name it "
            "module:function"
        ) from error
    try:
        content: bytes = cloudpickle.dumps(builders)
    except Exception as error:  # pickling user objects may raise anything
        raise UserError(
            f"{next(iter(builders))[0]} cannot be sent to the training processes ({brief(error)}); put it into a "
            "file and name it module:function"
        ) from error
    return content


def register_pickled(content: bytes) -> None:
    """Register the builders that :func:`pickle_registered` pickled in the parent process.

    Raises:
        UserError: a builder needs a module that cannot be imported here.
    """
    if not content:
        return
    import cloudpickle

    try:
        _registered.update(cloudpickle.loads(content))
    except Exception as error:  # importing user modules may raise anything
        raise UserError(
            f"the function that builds the network cannot be loaded in this process: {type(error).__name__}: "
            f"{brief(error)}"
        ) from error


def _is_importable(module: str, qualname: str, builder: Callable[..., Any]) -> bool:
    """Return True if a new process can import ``builder`` by its name."""
    if module == "__main__" or not qualname.isidentifier():
        return False
    if getattr(sys.modules.get(module), qualname, None) is not builder:
        return False
    top_package = module.partition(".")[0]
    return top_package in sys.builtin_module_names or PathFinder.find_spec(top_package) is not None


def _import_builder(name: str) -> Callable[..., Any]:
    """Import the builder called ``package.module:function``, else raise UserError."""
    module, _, function = name.partition(":")
    if module == "__main__" or not function.isidentifier():
        raise UserError(
            f"{brief(name)} cannot be imported by name; pass the function itself, or put it into a file and name it "
            "module:function"
        )
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error
    if not callable(builder := getattr(imported, function, None)):
        suggestion = did_you_mean(function, [key for key, value in vars(imported).items() if callable(value)])
        raise UserError(f"{name}: the module {module} has no function or class {function!r}.{suggestion}")
    return builder
