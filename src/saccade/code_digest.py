"""Hash a function's code together with all user code and values that it references.

The digest ignores comments, docstrings and layout. It covers global names, closures, default values, base classes and
methods, but not the code of installed packages.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import re
import sys
import sysconfig
import textwrap
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["code_digest"]

_MAX_OBJECTS = 10_000
"""Maximum number of objects to hash; a network has hundreds."""
_INSTALLED_PREFIXES = (
    "<frozen",
    *(sysconfig.get_path(key) for key in ("stdlib", "platstdlib")),
    str(Path(__file__).parent),
)
_SITE_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]")
_LITERAL_TYPES = (bool, int, float, complex, str, bytes, type(None), type(...))

NamedObject = tuple[str, Any]
"""Object with the name that refers to it."""


def code_digest(function: Callable[..., Any]) -> str:
    """Return 16 hexadecimal digits that depend on ``function`` and on the user code and values it references.

    Lambdas, and functions without source code, are hashed by their bytecode, which differs between versions of Python.
    """
    texts: set[str] = set()
    visited: dict[int, Any] = {}  # keeps the objects alive so that no id() is reused
    pending: list[NamedObject] = [("", function)]
    while pending and len(visited) < _MAX_OBJECTS:
        name, value = pending.pop()
        try:
            if _is_literal(value):
                texts.add(f"{name} = {value!r}")
                continue
            if id(value) in visited:
                continue
            visited[id(value)] = value
            text, references = _describe(name, value)
        except Exception:  # user objects may raise anything; a list that contains itself recurses
            text, references = f"{name}: {type(value).__qualname__}", []
        texts.add(text)
        pending += references
    return hashlib.sha256("\0".join(sorted(texts)).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _is_literal(value: Any) -> bool:
    """Return True if ``repr(value)`` describes ``value`` completely."""
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    if isinstance(value, dict):
        return all(_is_literal(key) and _is_literal(item) for key, item in value.items())
    return isinstance(value, _LITERAL_TYPES)


def _describe(name: str, value: Any) -> tuple[str, list[NamedObject]]:
    """Return the text to hash for one object, and the objects that it references."""
    if isinstance(value, partial):
        return name, [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    if isinstance(value, MethodType):
        return name, [("function", value.__func__), ("self", value.__self__)]
    if isinstance(value, staticmethod | classmethod):
        return name, [(name, value.__func__)]
    if isinstance(value, property):
        return name, [(name, value.fget), (name, value.fset)]
    if isinstance(value, FunctionType):
        return _describe_function(value)
    if isinstance(value, type):
        return _describe_class(value)
    if isinstance(value, list | tuple | set | frozenset | dict):
        items = value.items() if isinstance(value, dict) else [("", item) for item in value]
        return f"{name}: {type(value).__name__} of {len(value)}", [(f"{name}[{key}]", item) for key, item in items]
    if callable(getattr(value, "__wrapped__", None)):  # functools.lru_cache
        return name, [("wrapped", value.__wrapped__)]
    if callable(getattr(value, "state_dict", None)):  # a network
        tensors = [(f"{name}.{key}", tensor) for key, tensor in value.state_dict().items()]
        return f"{name}: {value!r}", [("class", type(value)), *tensors]
    if callable(getattr(value, "detach", None)):  # a tensor
        array = value.detach().cpu().float().numpy()
        return f"{name}: {value.dtype} {array.shape} {zlib.crc32(array.tobytes())}", []
    if callable(getattr(value, "tobytes", None)):  # a NumPy array
        return f"{name}: {zlib.crc32(value.tobytes())}", []
    label = f"{name}: {getattr(value, '__qualname__', type(value).__qualname__)}"
    if not _is_user_module(type(value).__module__):
        return label, []
    attributes = getattr(value, "__dict__", {}).items()
    return label, [("class", type(value)), *((f"{name}.{key}", attribute) for key, attribute in attributes)]


def _describe_function(function: FunctionType) -> tuple[str, list[NamedObject]]:
    label = f"{function.__module__}:{function.__qualname__}"
    if _is_installed(function.__code__.co_filename):
        return label, []
    references: list[NamedObject] = []
    global_names = set(_names(function.__code__, "LOAD_GLOBAL", "LOAD_NAME"))
    for name in sorted(global_names & function.__globals__.keys()):  # sorted: set order varies between processes
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            references.append((name, value))
        elif _is_user_module(value.__name__):
            attributes = set(_names(function.__code__, "LOAD_ATTR", "LOAD_METHOD"))
            references += [(attribute, vars(value)[attribute]) for attribute in sorted(attributes & vars(value).keys())]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            references.append((name, cell.cell_contents))
        except ValueError:  # the variable is not assigned yet
            continue
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    references += [("default", value) for value in defaults]
    return f"{function.__qualname__}: {_source(function.__code__)}", references


def _describe_class(cls: type) -> tuple[str, list[NamedObject]]:
    label = f"{cls.__module__}:{cls.__qualname__}"
    if not _is_user_module(cls.__module__):
        return label, []
    members = [
        (f"{cls.__qualname__}.{key}", value) for key, value in vars(cls).items()
        if not key.startswith("__") or isinstance(value, FunctionType | classmethod | staticmethod)
    ]  # fmt: skip
    return cls.__qualname__, [*(("base", base) for base in cls.__bases__), *members]


def _is_user_module(module: str) -> bool:
    """Return True if a module belongs neither to Python nor to an installed package."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and not _is_installed(file)


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED_PREFIXES) or _SITE_PACKAGES.search(file) is not None


def _names(code: CodeType, *operations: str) -> Iterator[str]:
    """Yield the names that ``code`` and its nested functions read with one of the bytecode ``operations``."""
    yield from (
        str(instruction.argval) for instruction in dis.get_instructions(code) if instruction.opname in operations
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, *operations)


def _source(code: CodeType) -> str:
    """Return the source without comments and docstrings, or, for a lambda or without source, the bytecode."""
    if code.co_name != "<lambda>":  # the source line of a lambda may contain other code
        try:
            return _strip_docstrings(textwrap.dedent(inspect.getsource(code)))
        except (OSError, TypeError, SyntaxError):
            pass
    constants = [
        _source(c) if isinstance(c, CodeType) else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _strip_docstrings(source: str) -> str:
    """Return ``source`` without docstrings, comments and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
