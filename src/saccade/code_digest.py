"""A digest of what a function does: of its code and of the user's own code and values that it leads to.

Comments, docstrings and layout do not count. Followed are the names that the code of a function reads, what it closes
over, base classes and methods. Code of installed packages is not followed: their versions are another matter.
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

_MOST = 10_000
"""Objects that are followed; what a network is built from are hundreds."""
_INSTALLED = ("<frozen", *(sysconfig.get_path(key) for key in ("stdlib", "platstdlib")), str(Path(__file__).parent))
_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))

Led = tuple[str, Any]
"""An object, and the name that it was found under."""


def code_digest(function: Callable[..., Any]) -> str:
    """Return 16 hexadecimal digits that change when the code changes that ``function`` leads to.

    Where no source can be read, as of a function typed at a prompt, compiled code counts, which another version of
    Python compiles otherwise.
    """
    facts: set[str] = set()
    seen: dict[int, Any] = {}  # holds the objects, so that no identity is used twice
    waiting: list[Led] = [("", function)]
    while waiting and len(seen) < _MOST:
        name, value = waiting.pop()
        try:
            if _is_plain(value):
                facts.add(f"{name} = {value!r}")
                continue
            if id(value) in seen:
                continue
            seen[id(value)] = value
            fact, further = _facts(name, value)
        except Exception:  # whatever an object raises that is asked; a list that holds itself
            fact, further = f"{name}: {type(value).__qualname__}", []
        facts.add(fact)
        waiting += further
    return hashlib.sha256("\0".join(sorted(facts)).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    """Return whether the representation of ``value`` says all of it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(part) for key, part in value.items())
    return isinstance(value, _PLAIN)


def _facts(name: str, value: Any) -> tuple[str, list[Led]]:
    """Return what is said of one object, and where it leads."""
    if isinstance(value, partial):
        return name, [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    if isinstance(value, MethodType):
        return name, [("function", value.__func__), ("self", value.__self__)]
    if isinstance(value, staticmethod | classmethod):
        return name, [(name, value.__func__)]
    if isinstance(value, property):
        return name, [(name, value.fget), (name, value.fset)]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, list | tuple | set | frozenset | dict):
        parts = value.items() if isinstance(value, dict) else [("", part) for part in value]
        return f"{name}: {type(value).__name__} of {len(value)}", [(f"{name}[{key}]", part) for key, part in parts]
    if callable(getattr(value, "__wrapped__", None)):  # functools.lru_cache
        return name, [("wrapped", value.__wrapped__)]
    if callable(getattr(value, "state_dict", None)):  # a network that is closed over
        values = [(f"{name}.{key}", part) for key, part in value.state_dict().items()]
        return f"{name}: {value!r}", [("class", type(value)), *values]
    if callable(getattr(value, "detach", None)):
        array = value.detach().cpu().float().numpy()
        return f"{name}: {value.dtype} {array.shape} {zlib.crc32(array.tobytes())}", []
    if callable(getattr(value, "tobytes", None)):
        return f"{name}: {zlib.crc32(value.tobytes())}", []
    label = f"{name}: {getattr(value, '__qualname__', type(value).__qualname__)}"
    if not _is_own(type(value).__module__):
        return label, []
    return label, [("class", type(value)), *((f"{name}.{key}", v) for key, v in getattr(value, "__dict__", {}).items())]


def _of_function(function: FunctionType) -> tuple[str, list[Led]]:
    label = f"{function.__module__}:{function.__qualname__}"
    if _is_installed(function.__code__.co_filename):
        return label, []
    led: list[Led] = []
    read = set(_names(function.__code__, "LOAD_GLOBAL", "LOAD_NAME"))
    for name in sorted(read & function.__globals__.keys()):  # in an order that no hash decides
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            led.append((name, value))
        elif _is_own(value.__name__):
            attributes = set(_names(function.__code__, "LOAD_ATTR", "LOAD_METHOD"))
            led += [(each, vars(value)[each]) for each in sorted(attributes & vars(value).keys())]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            led.append((name, cell.cell_contents))
        except ValueError:  # not filled yet
            continue
    led += [("default", value) for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())]
    return f"{function.__qualname__}: {_text(function.__code__)}", led


def _of_class(kind: type) -> tuple[str, list[Led]]:
    label = f"{kind.__module__}:{kind.__qualname__}"
    if not _is_own(kind.__module__):
        return label, []
    own = [
        (f"{kind.__qualname__}.{key}", value) for key, value in vars(kind).items()
        if not key.startswith("__") or isinstance(value, FunctionType | classmethod | staticmethod)
    ]  # fmt: skip
    return kind.__qualname__, [*(("base", base) for base in kind.__bases__), *own]


def _is_own(module: str) -> bool:
    """Return whether a module is the user's, not one of Python or of an installed package."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and not _is_installed(file)


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or _PACKAGES.search(file) is not None


def _names(code: CodeType, *operations: str) -> Iterator[str]:
    """Yield the names that ``code``, and the functions in it, read by one of ``operations``."""
    yield from (str(step.argval) for step in dis.get_instructions(code) if step.opname in operations)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, *operations)


def _text(code: CodeType) -> str:
    """Return the source without comments and docstrings; of a lambda and without source what was compiled."""
    if code.co_name != "<lambda>":  # its line may hold more than the lambda
        try:
            return _bare(textwrap.dedent(inspect.getsource(code)))
        except (OSError, TypeError, SyntaxError):
            pass
    constants = [
        _text(c) if isinstance(c, CodeType) else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _bare(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
