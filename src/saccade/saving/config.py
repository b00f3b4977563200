"""``config.json`` and a reader that checks every value.

It holds ``host`` (how the host is made), ``plugs`` and ``replacements`` (mechanism, options, place: loading repeats
them), ``input``, ``classes``, ``facts``, and the digest of the weights, which shows a half-written or mixed-up folder.
It is written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["CONFIG", "FORMAT", "KINDS", "WEIGHTS", "check", "describe"]

CONFIG, WEIGHTS, FORMAT = "config.json", "model.safetensors", 1
KINDS = ("timm", "torchvision", "call", "passed")
"""Keys of which one names a host: a network of timm or torchvision, a function to import, or one that a caller passed,
which that caller alone has."""
_MOST_BYTES = 64 * 2**20
"""timm's largest network with a plug at every module takes less than one MiB."""

_LONGEST = 500


def _shown(name: str) -> str:
    """``name``, which messages and tables show."""
    if len(name) > _LONGEST or not name.isprintable():
        raise PydanticCustomError("name", "a name has at most {most} characters, all printable", {"most": _LONGEST})
    return name


_Name = Annotated[str, AfterValidator(_shown)]
_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Side = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Size = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Options = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Host(_Part):
    timm: _Name | None = None
    torchvision: _Name | None = None
    call: _Name | None = None
    passed: _Name | None = None
    code: _Name | None = None
    options: _Options | None = None

    @model_validator(mode="after")
    def _is_named_once(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise PydanticCustomError("host", "a host is named by one of the keys {kinds}", {"kinds": ", ".join(KINDS)})
        return self


class _SavedSite(_Part):
    path: _Name
    carrier: _Name
    entering: bool
    channels: _Count
    size: _Size
    stage: _Count
    calls: _Count
    kind: _Name


class _Plugged(_Part):
    mechanism: _Name
    options: _Options
    neutral: bool
    position: _Name
    site: _SavedSite
    reads: list[_Name] = []


class _ReplacedConvolution(_Part):
    mechanism: _Name
    options: _Options
    neutral: bool
    position: _Name
    convolution: _Name
    stage: _Count
    size: _Size


class _Config(_Part):
    host: _Host | None
    plugs: list[_Plugged]
    replacements: list[_ReplacedConvolution] = []
    input: Annotated[list[_Side], Field(min_length=1, max_length=8)] | None
    classes: list[str | int | float] | None
    facts: dict[str, Any]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def describe(folder: str | Path) -> dict[str, Any]:
    """Return what ``config.json`` in ``folder`` says.

    Raises:
        UserError: it is missing, broken or not ours, or a value is not of its type; file and key are named.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file; one is needed")
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        half = " (the weights are there: saving did not finish)" if (folder / WEIGHTS).exists() else ""
        raise UserError(f"{folder} holds no saved network: {CONFIG} is missing{half}") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read: its values are nested too deep") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from None
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{path} was not written by saccade")
    if config["format"] != FORMAT:
        raise UserError(f"{path} has format {brief(config['format'])}; this version reads format {FORMAT}")
    config.setdefault("replacements", [])  # a folder of before there were any
    check(config, str(path))
    return config


def check(config: dict[str, Any], owner: str) -> None:
    """Raise UserError unless every value of ``config`` is of its type; ``owner`` names the file."""
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        found = error.errors(include_url=False)
        lacking = [str(each["loc"][0]) for each in found if each["type"] == "missing" and len(each["loc"]) == 1]
        if lacking:
            raise UserError(f"{owner} lacks {', '.join(lacking)}") from None
        said = "; ".join(_sentence(each) for each in found[:3])
        raise UserError(f"{owner}: {said}{f'; and {len(found) - 3} more' if len(found) > 3 else ''}") from None


def _sentence(error: Any) -> str:
    """Put one pydantic error in words: the key, what was found, what is needed."""
    where = ".".join(str(part) for part in error["loc"])
    what = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "missing":
        return f"{brief(where)} is missing"
    return f"{brief(where)} = {brief(repr(error['input']), 80)}: {brief(what)}"
