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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from saccade.controls import ControlName
from saccade.errors import UserError
from saccade.recipe import MAX_EPOCHS, Recipe, described

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows

__all__ = [
    "Costs",
    "Done",
    "Environment",
    "Failed",
    "SavedNetwork",
    "StudyFile",
    "epochs",
    "read",
    "read_done",
    "read_epochs",
    "read_recipe",
    "read_rows",
]

_MAX_BYTES = 2**30
"""A larger file is not read."""
_MAX_DEPTH = 32
_MAX_INT = 2**63
_AGAIN = "Delete the folder {folder} and give the same command again: that run is done anew."

Count = Annotated[int, Field(ge=0, lt=_MAX_INT)]
Figure = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]
"""What float32 holds: figures of a training are computed in it."""
Percent = Annotated[float, Field(ge=0, le=100)]
Duration = Annotated[float, Field(ge=0, le=1e12)]


class _File(BaseModel):
    """``mend`` says what the user can do about a damaged file."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    mend: ClassVar[str] = _AGAIN


class _Divergence(_File):
    message: str = ""


class _Trivial(_File):
    answer: str
    scores: dict[str, Figure | None]


class Done(_File):
    """``done.json`` of a run."""

    task: str
    metric: str
    score: str = ""
    scores: dict[str, Figure | None]
    by_class: dict[str, list[Figure | None]] = Field(default_factory=dict)
    trivial: _Trivial | None = None
    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    seconds: Duration
    parameters: Count
    diverged: _Divergence | None
    start: str | None = None
    fingerprint: str = ""
    left_out: dict[str, dict[str, Count]] = Field(default_factory=dict)
    cautions: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    constant: dict[str, Literal["gate", "context"]] = Field(default_factory=dict)


class _OldDone(_File):
    """What ``done.json`` of 0.1 has in place of ``scores``."""

    top1: Percent
    test_loss: Figure | None


class _SavedHost(_File):
    timm: str | None = None
    options: dict[str, Any] | None = None


class _SavedSite(_File):
    path: str


class _SavedPlug(_File):
    site: _SavedSite
    mechanism: str
    options: dict[str, Any]
    neutral: bool


class _SavedReplacement(_File):
    convolution: str
    mechanism: str
    options: dict[str, Any]


class SavedNetwork(_File):
    """``config.json`` of a run; ``saccade.load`` has a reader of its own, which checks every value."""

    host: _SavedHost | None
    plugs: list[_SavedPlug]
    replacements: list[_SavedReplacement] = Field(default_factory=list)
    input: list[Count] | None
    facts: dict[str, Any]


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


class Epoch(_File):
    """A line of ``metrics.jsonl``: the figures of one epoch."""

    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    losses: dict[str, Figure] = Field(default_factory=dict)
    scores: dict[str, Figure | None]
    val: dict[str, Figure | None] | None = None
    lr: Figure | None = None
    seconds: Duration = 0.0
    memory_mb: Figure | None = None
    gates: dict[str, _Movement]


class _OldEpoch(_File):
    """What a line of ``metrics.jsonl`` of 0.1 has in place of ``losses`` and ``scores``."""

    train_loss: Figure | None = None
    test_loss: Figure | None = None
    test_top1: Percent | None


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
    settings: dict[str, Any] = Field(default_factory=dict)
    by_seed: dict[str, dict[str, Any]] = Field(default_factory=dict)
    mechanism: str | None = None
    control: ControlName | None = None
    where: str | None = None


class _Decided(_File):
    settings: dict[str, str]
    step_ms: dict[str, Duration] = Field(default_factory=dict)
    batch: Count = 0


class StudyFile(_File):
    """``study.toml`` of a study; the recipe in it has a reader of its own."""

    mend: ClassVar[str] = "Put the file back as it was, or give the study a new folder with --out."
    margin: float | None = None
    seeds: list[int]
    arms: list[_Arm]
    recipe: dict[str, Any]
    decided: _Decided | None = None


def read(path: Path, form: type[BaseModel]) -> dict[str, Any] | None:
    """Read the values of a JSON or TOML file and check them against ``form``; None without the file.

    Raises:
        UserError: it cannot be read, is no JSON or TOML, or has a wrong key, type or range.
    """
    text = _text(path, form)
    if text is None:
        return None
    parse, language = (tomllib.loads, "TOML") if path.suffix == ".toml" else (json.loads, "JSON")
    return _checked(path, form, _parsed(path, form, parse, language, text), "")


def read_recipe(path: Path) -> Recipe | None:
    """Read the recipe of a run folder; None without the file.

    Raises:
        UserError: it is no recipe.
    """
    values = read(path, _RecipeFile)
    try:
        return None if values is None else Recipe.read(values, str(path))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {_AGAIN.format(folder=path.parent)}") from None


def read_done(path: Path) -> dict[str, Any] | None:
    """Read ``done.json``; None without the file. Values of earlier versions are converted.

    Raises:
        UserError: as :func:`read`.
    """
    text = _text(path, Done)
    if text is None:
        return None
    values = _parsed(path, Done, json.loads, "JSON", text)
    if isinstance(values, dict) and "scores" not in values and "top1" in values:
        old = _checked(path, _OldDone, values, "")
        scores = {"top-1": old["top1"], "NLL": old["test_loss"]}
        score = f"{old['top1']:.2f} %"
        values = {"task": "classify", "metric": "top-1", "score": score, "scores": scores, **values}
    found: dict[str, Any] = _checked(path, Done, values, "")
    return found


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl``, in the order of the epochs; [] without the file.

    Raises:
        UserError: as :func:`read`.
    """
    lines = enumerate((_text(path, Epoch) or "").splitlines(), 1)
    return epochs(path, [_parsed(path, Epoch, json.loads, f"JSON in line {n}", line) for n, line in lines])


def epochs(path: Path, values: list[Any]) -> list[dict[str, Any]]:
    """Check that ``values`` of ``path`` are those of epochs 0, 1, 2, …; return them in today's form.

    Raises:
        UserError: one is not.
    """
    found = []
    for n, given in enumerate(values, 1):
        value = given
        if isinstance(value, dict) and "scores" not in value and "test_top1" in value:
            old = _checked(path, _OldEpoch, value, f"line {n}: ")
            losses = {} if old.get("train_loss") is None else {"cross-entropy": old["train_loss"]}
            scores = {"top-1": old["test_top1"], "NLL": old.get("test_loss")}
            value = {"losses": losses, "scores": scores, **value}
        found.append(_checked(path, Epoch, value, f"line {n}: "))
    for n, row in enumerate(found):
        if row["epoch"] != n:
            raise _damaged(path, Epoch, f"line {n + 1} is of epoch {row['epoch']}; epoch {n} is needed there")
    return found


def read_rows(folder: Path) -> Rows | None:
    """Read the rows of the test images of the run in ``folder``; None without them.

    Of earlier versions, ``predictions.safetensors`` gives the keys ``predicted`` and ``label``.

    Raises:
        UserError: the file is no safetensors file, or its tensors disagree on the number of images.
    """
    for path in (folder / "rows.safetensors", folder / "predictions.safetensors"):
        content = _bytes(path, Done)
        if content is None:
            continue
        from safetensors import SafetensorError
        from safetensors.torch import load

        from saccade.metrics.rows import count_images

        try:
            found: Rows = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damaged(path, Done, f"it is no safetensors file: {error}") from None
        try:
            count_images(found)
        except UserError as error:
            raise _damaged(path, Done, str(error)) from None
        return found
    return None


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
    """Return ``values`` after checking them against ``form``.

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
    """Say what in ``values`` no file of saccade's holds; "" if all is sound."""
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
