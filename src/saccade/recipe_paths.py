"""The settings of a recipe that are paths, made absolute: a run or study goes on from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["whole_paths"]

_PATHS = ("model.checkpoint", "model.init_from", "training.teacher_checkpoint")


def whole_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings``, dotted keys to values, with the paths of weights and of run folders made absolute.

    A teacher is a path where there is a folder of that name; it may be a name of timm's.
    """
    return {key: os.path.abspath(value) if _is_path(key, value) else value for key, value in settings.items()}


def _is_path(key: str, value: Any) -> bool:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        return False
    return key in _PATHS or (key == "training.teacher" and os.path.isdir(value))
