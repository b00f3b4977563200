"""Read the files of run and study folders, and validate each before any of its values is used.

A folder may come from a damaged disk, an editor or a stranger. A missing file gives None, or [] for ``metrics.jsonl``.
A file that Saccade could not have written raises a UserError that names the file, the fault and the remedy.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from saccade.errors import UserError
from saccade.recipe import Recipe, short_repr
from saccade.runfile_schemas import (
    DELETE_RUN_ADVICE,
    MAX_INT,
    Costs,
    Done,
    Environment,
    EpochRow,
    Failed,
    OldDone,
    OldEpochRow,
    RecipeFile,
    SavedNetwork,
    StudyFile,
)

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows

__all__ = [
    "Costs",
    "Done",
    "Environment",
    "Failed",
    "SavedNetwork",
    "StudyFile",
    "check_epochs",
    "read",
    "read_done",
    "read_epochs",
    "read_recipe",
    "read_rows",
]

_MAX_BYTES = 2**30
"""Maximum size of a file, in bytes."""
_MAX_DEPTH = 32
"""Maximum nesting depth of lists and tables."""


def read(path: Path, schema: type[BaseModel]) -> dict[str, Any] | None:
    """Return the values of a JSON or TOML file that fits ``schema``; None if there is no file.

    Raises:
        UserError: the file cannot be read or parsed, lacks a key, or has a value of a wrong type or range.
    """
    text = _read_text(path, schema)
    if text is None:
        return None
    parse, format_name = (tomllib.loads, "TOML") if path.suffix == ".toml" else (json.loads, "JSON")
    return _validate(path, schema, _parse_text(path, schema, parse, format_name, text), "")


def read_recipe(path: Path) -> Recipe | None:
    """Return the recipe in a run's ``recipe.toml``; None if there is no file.

    Raises:
        UserError: the file does not hold a valid recipe.
    """
    values = read(path, RecipeFile)
    try:
        return None if values is None else Recipe.read(values, str(path))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {DELETE_RUN_ADVICE.format(folder=path.parent)}") from None


def read_done(path: Path) -> dict[str, Any] | None:
    """Return the values of ``done.json`` in the current format; None if there is no file.

    Raises:
        UserError: as :func:`read`.
    """
    text = _read_text(path, Done)
    if text is None:
        return None
    values = _parse_text(path, Done, json.loads, "JSON", text)
    if isinstance(values, dict) and "scores" not in values and "top1" in values:
        old = _validate(path, OldDone, values, "")
        scores = {"top-1": old["top1"], "NLL": old["test_loss"]}
        score = f"{old['top1']:.2f} %"
        values = {"task": "classify", "metric": "top-1", "score": score, "scores": scores, **values}
    done: dict[str, Any] = _validate(path, Done, values, "")
    return done


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, one per epoch; [] if there is no file.

    Raises:
        UserError: as :func:`read`.
    """
    lines = enumerate((_read_text(path, EpochRow) or "").splitlines(), 1)
    return check_epochs(path, [_parse_text(path, EpochRow, json.loads, f"JSON in line {n}", line) for n, line in lines])


def check_epochs(path: Path, values: list[Any]) -> list[dict[str, Any]]:
    """Return ``values`` as the rows of epochs 0, 1, 2, … in the current format; messages name ``path``.

    Raises:
        UserError: a row is invalid or out of order.
    """
    rows = []
    for n, value in enumerate(values, 1):
        row = value
        if isinstance(row, dict) and "scores" not in row and "test_top1" in row:
            old = _validate(path, OldEpochRow, row, f"line {n}: ")
            losses = {} if old.get("train_loss") is None else {"cross-entropy": old["train_loss"]}
            scores = {"top-1": old["test_top1"], "NLL": old.get("test_loss")}
            row = {"losses": losses, "scores": scores, **row}
        rows.append(_validate(path, EpochRow, row, f"line {n}: "))
    for n, row in enumerate(rows):
        if row["epoch"] != n:
            raise _damage_error(path, EpochRow, f"line {n + 1} is of epoch {row['epoch']}; epoch {n} is needed there")
    return rows


def read_rows(folder: Path) -> Rows | None:
    """Return the per-image outputs (one row per test image) of the run in ``folder``, or None.

    The file of earlier versions, ``predictions.safetensors``, has the keys ``predicted`` and ``label``.

    Raises:
        UserError: the file is not a safetensors file, or its tensors disagree on the number of images.
    """
    for path in (folder / "rows.safetensors", folder / "predictions.safetensors"):
        content = _read_bytes(path, Done)
        if content is None:
            continue
        from safetensors import SafetensorError
        from safetensors.torch import load

        from saccade.metrics.rows import count_images

        try:
            rows: Rows = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damage_error(path, Done, f"it is not a safetensors file: {error}") from None
        try:
            count_images(rows)
        except UserError as error:
            raise _damage_error(path, Done, str(error)) from None
        return rows
    return None


def _read_bytes(path: Path, schema: type[BaseModel]) -> bytes | None:
    """Return the content of a regular file; None if there is no file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise _damage_error(path, schema, f"it is {kind}; a file is needed")
        if status.st_size > _MAX_BYTES:
            raise _damage_error(path, schema, f"it has {status.st_size} bytes; at most {_MAX_BYTES} are read")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _read_text(path: Path, schema: type[BaseModel]) -> str | None:
    content = _read_bytes(path, schema)
    try:
        return None if content is None else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damage_error(path, schema, f"byte {error.start} is not UTF-8 text") from None


def _parse_text(path: Path, schema: type[BaseModel], parse: Callable[[str], Any], format_name: str, text: str) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise _damage_error(path, schema, "its values are nested too deeply") from None
    except ValueError as error:
        raise _damage_error(path, schema, f"it is not valid {format_name}: {error}") from None


def _validate(path: Path, schema: type[BaseModel], values: Any, prefix: str) -> Any:
    """Return ``values`` if they fit ``schema``, else raise UserError; ``prefix`` begins the message."""
    if fault := _value_fault(values):
        raise _damage_error(path, schema, prefix + fault)
    try:
        schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise _damage_error(path, schema, f"{prefix}{key} is missing") from None
        value = f"{key} = {short_repr(first['input'])}" if key else f"it holds {short_repr(first['input'])}"
        raise _damage_error(path, schema, f"{prefix}{value}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    return values


def _value_fault(values: Any) -> str:
    """Return a description of the first value that Saccade never writes; "" if there is no such value."""
    level = [values]
    for _ in range(_MAX_DEPTH):
        children: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                children += [*value, *value.values()]
            elif isinstance(value, list):
                children += value
            elif isinstance(value, float) and not math.isfinite(value):
                return f"it holds the number {value}; finite numbers are needed"
            elif isinstance(value, int) and abs(value) > MAX_INT:
                return f"it holds {short_repr(value)}; whole numbers of 64 bits are needed"
            elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                return f"it holds {short_repr(value)}, which is not Unicode text"
        if not children:
            return ""
        level = children
    return "its values are nested too deeply"


def _damage_error(path: Path, schema: type[BaseModel], fault: str) -> UserError:
    advice: str = schema.advice  # type: ignore[attr-defined]
    return UserError(f"{path} is damaged: {fault}. {advice.format(folder=path.parent)}")
