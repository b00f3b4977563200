"""Read ``config.json`` and check every value.

The keys are ``host`` (library, name and options), ``plugs`` and ``replacements`` (mechanism, options and place of
each), ``input``, ``classes``, ``facts`` and the SHA-256 of the weights file. ``config.json`` is written after the
weights, so that the SHA-256 reveals an incomplete or mixed-up folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["CONFIG", "FORMAT", "HOST_KEYS", "WEIGHTS", "check_config", "describe"]

CONFIG, WEIGHTS, FORMAT = "config.json", "model.safetensors", 1
HOST_KEYS = ("timm", "torchvision", "call", "passed")
"""Keys of ``host``; exactly one is set: a network of timm or torchvision, a function to import, or a function that
exists only in this process."""
_MAX_BYTES = 64 * 2**20
"""Maximum size of config.json; timm's largest network with plugs everywhere takes less than 1 MiB."""

_MAX_NAME_LENGTH = 500


def _check_name(name: str) -> str:
    """Return ``name``; raise unless it is short and printable, because messages and tables contain it."""
    if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise PydanticCustomError(
            "name", "a name has at most {most} characters, all printable", {"most": _MAX_NAME_LENGTH}
        )
    return name


_Name = Annotated[str, AfterValidator(_check_name)]
_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Side = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Size = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Options = dict[str, Any]


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Host(_StrictModel):
    timm: _Name | None = None
    torchvision: _Name | None = None
    call: _Name | None = None
    passed: _Name | None = None
    code: _Name | None = None  # digest
    options: _Options | None = None

    @model_validator(mode="after")
    def _check_host_keys(self) -> Self:
        if sum(getattr(self, key) is not None for key in HOST_KEYS) != 1:
            raise PydanticCustomError(
                "host", "a host is named by one of the keys {kinds}", {"kinds": ", ".join(HOST_KEYS)}
            )
        return self


class _SavedSite(_StrictModel):
    path: _Name
    parent: Annotated[_Name, Field(alias="carrier")]
    """Path of the parent module."""
    entering: bool
    """True if the plug is on the parent's input."""
    channels: _Count
    size: _Size
    stage: _Count
    calls: _Count
    kind: _Name


class _SavedPlug(_StrictModel):
    mechanism: _Name
    options: _Options
    neutral: bool
    position: _Name
    site: _SavedSite
    reads: list[_Name] = []
    """Paths of the parents in the previous stage whose plugs' descriptors the mechanism reads."""


class _SavedReplacement(_StrictModel):
    mechanism: _Name
    options: _Options
    neutral: bool
    position: _Name
    convolution: _Name
    stage: _Count
    size: _Size


class _Config(_StrictModel):
    host: _Host | None
    plugs: list[_SavedPlug]
    replacements: list[_SavedReplacement] = []
    input: Annotated[list[_Side], Field(min_length=1, max_length=8)] | None
    classes: list[str | int | float] | None
    facts: dict[str, Any]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def describe(folder: str | Path) -> dict[str, Any]:
    """Return the checked content of ``config.json`` in ``folder``.

    Raises:
        UserError: the file is missing, broken or not written by Saccade, or a value has the wrong type.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file; one is needed")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = " (the weights are there: saving did not finish)" if (folder / WEIGHTS).exists() else ""
        raise UserError(f"{folder} holds no saved network: {CONFIG} is missing{hint}") from None
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
    config.setdefault("replacements", [])  # earlier versions wrote no replacements
    check_config(config, str(path))
    return config


def check_config(config: dict[str, Any], subject: str) -> None:
    """Raise UserError unless every value of ``config`` has the right type; ``subject`` begins the message."""
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        missing = [str(e["loc"][0]) for e in errors if e["type"] == "missing" and len(e["loc"]) == 1]
        if missing:
            raise UserError(f"{subject} lacks {', '.join(missing)}") from None
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise UserError(f"{subject}: {'; '.join(_sentence(e) for e in errors[:3])}{more}") from None


def _sentence(error: Any) -> str:
    """Return the key, the value and the expectation of one pydantic error as text."""
    key = ".".join(str(part) for part in error["loc"])
    expectation = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "missing":
        return f"{brief(key)} is missing"
    return f"{brief(key)} = {brief(repr(error['input']), 80)}: {brief(expectation)}"
