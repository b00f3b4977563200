"""The fingerprint of the images that decide a run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from saccade.data.samples import Split, digest
from saccade.tasks.base import Phase

__all__ = ["fingerprint", "with_val"]


def fingerprint(split: Split, phases: Iterable[Phase]) -> str:
    """Return the fingerprint of ``split``, with its part ``val`` where a phase chooses by that."""
    return with_val(split) if any(phase.choose for phase in phases) else split.fingerprint


def with_val(split: Split) -> str:
    """Return a digest of the fingerprint of ``split`` and of targets and pixels of ``val``, all of them read.

    Raises:
        UserError: a file has become unreadable.
    """
    val = split.val
    count = 0 if val is None else len(val)
    return digest([split.fingerprint, *([_fact(val.picture(i)), _fact(val.target(i))] for i in range(count) if val)])


def _fact(value: Any) -> Any:
    """Return ``value`` as JSON can write it: of a tensor its shape and the CRC-32 of its bytes."""
    if isinstance(value, Tensor):
        return [*value.shape, zlib.crc32(value.as_subclass(Tensor).numpy().tobytes())]
    return {key: _fact(part) for key, part in value.items()} if isinstance(value, dict) else value
