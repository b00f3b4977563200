"""Assignment of files to runs, by ``ARM:SEED=FILE`` or by the name of the file or its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from saccade.errors import UserError

__all__ = ["RunFile", "parse_run_file", "run_of_path"]

_ARM_SEED_FILE = re.compile(r"(?P<arm>.+):(?P<seed>\d{1,18})=(?P<file>.+)", re.DOTALL)
"""Pattern of ``ARM:SEED=FILE``."""
_NAME_WITH_SEED = re.compile(r"(?:(?P<arm>.+?)[-_. ]+)?(?:seed|s)[-_=]?(?P<seed>\d{1,18})", re.IGNORECASE)
"""Pattern of a file or folder name that ends in a seed."""
_COMMON_NAMES = ("results", "summary", "metrics", "scores")
"""File names that trainers give to every run, so that only the folder identifies the run."""


@dataclass(frozen=True)
class RunFile:
    """Score file, with its arm and seed if the user named them, else None."""

    path: Path
    arm: str | None = None
    seed: int | None = None


def parse_run_file(text: str | Path) -> RunFile:
    """Parse ``FILE`` or ``ARM:SEED=FILE``.

    >>> parse_run_file("eca:kernel_size=5:0=runs/a/results.csv").arm
    'eca:kernel_size=5'
    """
    if isinstance(text, str) and not Path(text).exists() and (match := _ARM_SEED_FILE.fullmatch(text)):
        return RunFile(Path(match["file"]), match["arm"].strip(), int(match["seed"]))
    return RunFile(Path(text))


def run_of_path(path: Path) -> tuple[str, int, bool]:
    """Return arm and seed from the name of a file or its folder, and True if the seed is Lightning's version number.

    Examples are ``se-seed0/results.csv``, ``se/seed0/results.csv``, ``se_s0.csv`` and
    ``se/version_0/metrics.csv``.

    Raises:
        UserError: neither name contains an arm and a seed.
    """
    resolved = path.resolve()
    names = [resolved.stem] if resolved.stem.lower() not in _COMMON_NAMES else []
    parent = resolved.parent
    version_match = re.fullmatch(r"version_(\d{1,18})", parent.name)
    names += [parent.parent.name, parent.parent.parent.name] if version_match else [parent.name, parent.parent.name]
    for name, parent_name in zip(names, [*names[1:], ""], strict=True):
        match = _NAME_WITH_SEED.fullmatch(name)
        if match and (arm := match["arm"] or parent_name):
            return arm, int(match["seed"]), False
    if version_match and names[0]:
        return names[0], int(version_match[1]), True
    raise UserError(f"the arm and the seed of {path} are unknown: write ARM:SEED={path}, or name its folder ARM-seedN")
