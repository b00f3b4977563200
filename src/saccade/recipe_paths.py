"""Absolute paths for a recipe's settings, so that a run can be resumed from any working directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["with_absolute_paths"]

_PATH_KEYS = ("model.checkpoint", "model.init_from", "training.teacher_checkpoint")


def with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` (dotted key to value) with absolute paths of weights and run folders.

    ``training.teacher`` is a path if such a folder exists, else the name of a timm model; ``model.options.config``
    is a path if it exists.
    """
    return {key: _absolute(key, value) for key, value in settings.items()}


def _absolute(key: str, value: Any) -> Any:
    if key == "model.options" and isinstance(value, Mapping):
        return {name: _absolute(f"{key}.{name}", option) for name, option in value.items()}
    return os.path.abspath(value) if _is_path(key, value) else value


def _is_path(key: str, value: Any) -> bool:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        return False
    if key == "model.options.config":
        return os.path.exists(value)
    return key in _PATH_KEYS or (key == "training.teacher" and os.path.isdir(value))
