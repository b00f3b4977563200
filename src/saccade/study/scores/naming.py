"""Which run a file is: ``ARM:SEED=FILE``, or the name of the file or of its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from saccade.errors import UserError

__all__ = ["Named", "from_name", "parsed"]

_GIVEN = re.compile(r"(?P<arm>.+):(?P<seed>\d{1,18})=(?P<file>.+)", re.DOTALL)
_SEED = re.compile(r"(?:(?P<arm>.+?)[-_. ]+)?(?:seed|s)[-_=]?(?P<seed>\d{1,18})", re.IGNORECASE)
_LOGS = ("results", "summary", "metrics", "scores")
"""Names that trainers give every run's file: the folder tells the run."""


@dataclass(frozen=True)
class Named:
    """A file and the run it is of; arm and seed are None where nothing names them."""

    path: Path
    arm: str | None = None
    seed: int | None = None


def parsed(text: str | Path) -> Named:
    """Read ``FILE`` or ``ARM:SEED=FILE``.

    >>> parsed("eca:kernel_size=5:0=runs/a/results.csv").arm
    'eca:kernel_size=5'
    """
    if isinstance(text, str) and not Path(text).exists() and (match := _GIVEN.fullmatch(text)):
        return Named(Path(match["file"]), match["arm"].strip(), int(match["seed"]))
    return Named(Path(text))


def from_name(path: Path) -> tuple[str, int, bool]:
    """Arm and seed by the name of a file or its folder; whether the seed is the version of a logger.

    ``se-seed0/results.csv``, ``se/seed0/results.csv``, ``se_s0.csv`` and ``se/version_0/metrics.csv`` are read.

    Raises:
        UserError: neither name tells.
    """
    place = path.resolve()
    names = [place.stem] if place.stem.lower() not in _LOGS else []
    parent = place.parent
    version = re.fullmatch(r"version_(\d{1,18})", parent.name)
    names += [parent.parent.name, parent.parent.parent.name] if version else [parent.name, parent.parent.name]
    for name, above in zip(names, [*names[1:], ""], strict=True):
        match = _SEED.fullmatch(name)
        if match and (arm := match["arm"] or above):
            return arm, int(match["seed"]), False
    if version and names[0]:
        return names[0], int(version[1]), True
    raise UserError(
        f"nothing says which arm and seed {path} is of: write ARM:SEED={path}, or name its folder ARM-seedN"
    )
