"""Read the files of run and study folders: each is validated whole before a value of it is used.

A folder may have been damaged by a disk, edited by hand or sent by a stranger. A missing file is None; a file that is
not what saccade writes is a UserError of one line that names the file, what was found, what is needed and what to do.
Keys of later versions are let through; keys that only later versions write may be missing.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from saccade.controls import ControlName
from saccade.errors import UserError
from saccade.recipe import MAX_EPOCHS, Recipe, described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Costs",
    "Done",
    "Environment",
    "Failed",
    "StudyFile",
    "make_folders",
    "predictions",
    "read",
    "read_recipe",
    "read_rows",
    "rows",
]

_MAX_BYTES = 2**30
"""A larger file is not read: the predictions of a hundred million images fit."""
_MAX_DEPTH = 32
_MAX_INT = 2**63
_INTEGERS = {"I32": "<i4", "I64": "<i8"}
_AGAIN = "Delete the folder {folder} and give the same command again: that run is done anew."

Count = Annotated[int, Field(ge=0, lt=_MAX_INT)]
Figure = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]
"""What float32 holds: figures of a training are computed in it."""
Percent = Annotated[float, Field(ge=0, le=100)]
Duration = Annotated[float, Field(ge=0, le=1e12)]


class _File(BaseModel):
    """``mend`` is what the user can do about a damaged one."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    mend: ClassVar[str] = _AGAIN


class _Divergence(_File):
    message: str = ""


class Done(_File):
    """``done.json`` of a run."""

    top1: Percent
    test_loss: Figure | None
    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    seconds: Duration
    parameters: Count
    diverged: _Divergence | None
    start: str | None = None
    fingerprint: str = ""
    left_out: dict[str, dict[str, Count]] = Field(default_factory=dict)
    cautions: list[str] = Field(default_factory=list)
    constant: dict[str, Literal["gate", "context"]] = Field(default_factory=dict)


class Failed(_File):
    """``failed.json`` of a run."""

    mend: ClassVar[str] = "Delete that file."
    reason: str | None = None
    traceback: str | None = None


class Environment(_File):
    """``environment.json`` of a run."""

    device: str
    accelerator: str | None = None
    cpu: str | None = None
    python: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)


class _RecipeFile(_File):
    """``recipe.toml`` of a run, before :class:`saccade.recipe.Recipe` reads it."""


class _Movement(_File):
    kind: Literal["gate", "context", "change"] = "gate"
    mean: Figure | None
    std: Figure | None
    a: Figure | None


class Row(_File):
    """A line of ``metrics.jsonl``: the figures of one epoch."""

    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    train_loss: Figure | None = None
    train_top1: Percent | None = None
    test_loss: Figure | None = None
    test_top1: Percent | None
    lr: Figure | None = None
    seconds: Duration = 0.0
    memory_mb: Figure | None = None
    gates: dict[str, _Movement]


class _Latency(_File):
    median: Annotated[float, Field(gt=0, le=1e12)]
    low: Annotated[float, Field(gt=0, le=1e12)]
    high: Annotated[float, Field(gt=0, le=1e12)]


class _Batched(_File):
    batch: Annotated[int, Field(ge=1, lt=_MAX_INT)]
    latency_ms: _Latency


class _Cost(_Batched):
    parameters: Count
    macs: Annotated[int, Field(ge=1, lt=_MAX_INT)]
    threads: Annotated[int, Field(ge=1, lt=_MAX_INT)]
    device: str
    batched: _Batched


class Costs(RootModel[dict[str, _Cost]]):
    """``costs.json`` of a study: arm -> what it costs."""

    mend: ClassVar[str] = "Delete that file: the next report measures the costs anew."


class _Arm(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    mechanism: str
    control: ControlName | None = None
    where: str | None = None


class StudyFile(_File):
    """``study.toml`` of a study; the recipe in it has a reader of its own."""

    mend: ClassVar[str] = "Put the file back as it was, or give the study a new folder with --out."
    margin: float
    seeds: list[int]
    arms: list[_Arm]
    recipe: dict[str, Any]


def read(path: Path, form: type[BaseModel]) -> dict[str, Any] | None:
    """The values of a JSON or TOML file as they stand there, found to be of ``form``; None without the file.

    Raises:
        UserError: it cannot be read, is no JSON or TOML, or has a wrong key, type or range.
    """
    text = _text(path, form)
    if text is None:
        return None
    parse, language = (tomllib.loads, "TOML") if path.suffix == ".toml" else (json.loads, "JSON")
    return _checked(path, form, _parsed(path, form, parse, language, text), "")


def read_recipe(path: Path) -> Recipe | None:
    """The recipe of a run folder; None without the file.

    Raises:
        UserError: it is no recipe.
    """
    values = read(path, _RecipeFile)
    try:
        return None if values is None else Recipe.read(values, str(path))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {_AGAIN.format(folder=path.parent)}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, epochs in their order; [] without the file.

    Raises:
        UserError: as :func:`read`.
    """
    lines = (_text(path, Row) or "").splitlines()
    return rows(path, [_parsed(path, Row, json.loads, f"JSON in line {n}", line) for n, line in enumerate(lines, 1)])


def rows(path: Path, values: list[Any]) -> list[dict[str, Any]]:
    """``values`` that stand in ``path``, found to be the rows of epochs 0, 1, 2, …

    Raises:
        UserError: one is not.
    """
    found = [_checked(path, Row, value, f"line {n}: ") for n, value in enumerate(values, 1)]
    for n, row in enumerate(found):
        if row["epoch"] != n:
            raise _damaged(path, Row, f"line {n + 1} is of epoch {row['epoch']}; epoch {n} is needed there")
    return found


def predictions(path: Path) -> dict[str, NDArray[np.integer]] | None:
    """``predicted`` and ``label`` of each test image, (N,) integers of at least 0; None without the file.

    Raises:
        UserError: it is no safetensors file, or holds tensors of another name, shape, type or range.
    """
    content = _bytes(path, Done)
    if content is None:
        return None
    import numpy as np
    from safetensors import SafetensorError, deserialize

    try:
        tensors = dict(deserialize(content))
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, Done, f"it is no safetensors file: {error}") from None
    found: dict[str, NDArray[np.integer]] = {}
    for name in ("predicted", "label"):
        if name not in tensors:
            raise _damaged(path, Done, f"it holds {', '.join(sorted(tensors)) or 'nothing'}; {name!r} is needed")
        kind, shape = tensors[name]["dtype"], tuple(tensors[name]["shape"])
        if kind not in _INTEGERS or len(shape) != 1 or shape[0] < 1:
            what = f"{name!r} is {kind} of shape {shape}"
            raise _damaged(path, Done, f"{what}; whole numbers (I32 or I64), one for each test image, are needed")
        found[name] = np.frombuffer(tensors[name]["data"], dtype=_INTEGERS[kind])
        if (least := int(found[name].min())) < 0:
            raise _damaged(path, Done, f"{name!r} holds {least}; classes are counted from 0")
    counts = len(found["predicted"]), len(found["label"])
    if counts[0] != counts[1]:
        raise _damaged(path, Done, f"it has {counts[0]} predictions for {counts[1]} labels; as many are needed")
    return found


def make_folders(path: Path) -> list[Path]:
    """Make ``path`` and the folders above it that are missing; return those made, the innermost first.

    ``Path.mkdir(parents=True)`` calls itself for every level, and fails a thousand levels down.

    Raises:
        OSError: one cannot be made; those made before it are gone again.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        path.mkdir(exist_ok=True)  # FileExistsError where it is a file
    except OSError:
        for folder in missing:
            with suppress(OSError):  # never made
                folder.rmdir()
        raise
    return missing


def _bytes(path: Path, form: type[BaseModel]) -> bytes | None:
    """Return the whole content of a regular file, None if there is no such file."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait without end
            what = "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise _damaged(path, form, f"it is {what}; a file is needed")
        if facts.st_size > _MAX_BYTES:
            raise _damaged(path, form, f"it has {facts.st_size} bytes; at most {_MAX_BYTES} are read")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _text(path: Path, form: type[BaseModel]) -> str | None:
    content = _bytes(path, form)
    try:
        return None if content is None else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, form, f"byte {error.start} is no UTF-8 text") from None


def _parsed(path: Path, form: type[BaseModel], parse: Callable[[str], Any], language: str, text: str) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise _damaged(path, form, "its values are nested too deeply") from None
    except ValueError as error:
        raise _damaged(path, form, f"it is no {language}: {error}") from None


def _checked(path: Path, form: type[BaseModel], values: Any, where: str) -> Any:
    """``values``, found to be of ``form``.

    Raises:
        UserError: the first key that is not, with what was found there.
    """
    if what := _unsound(values):
        raise _damaged(path, form, where + what)
    try:
        form.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise _damaged(path, form, f"{where}{key} is missing") from None
        found = f"{key} = {described(first['input'])}" if key else f"it holds {described(first['input'])}"
        raise _damaged(path, form, f"{where}{found}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    return values


def _unsound(values: Any) -> str:
    """What no file of saccade's holds, wherever it stands in ``values``: "" for nothing of the kind."""
    level = [values]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                return f"it holds the number {value}; finite numbers are needed"
            elif isinstance(value, int) and abs(value) > _MAX_INT:
                return f"it holds {described(value)}; whole numbers of 64 bits are needed"
            elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                return f"it holds {described(value)}, which is no Unicode text"
        if not below:
            return ""
        level = below
    return "its values are nested too deeply"


def _damaged(path: Path, form: type[BaseModel], what: str) -> UserError:
    mend: str = form.mend  # type: ignore[attr-defined]
    return UserError(f"{path} is damaged: {what}. {mend.format(folder=path.parent)}")
