"""Fingerprint of the images of a run."""

from __future__ import annotations

from collections.abc import Iterable

from saccade.data.samples import Split, digest
from saccade.data.validation import facts
from saccade.tasks.base import Phase

__all__ = ["fingerprint", "fingerprint_with_val"]


def fingerprint(split: Split, phases: Iterable[Phase]) -> str:
    """Return the fingerprint of ``split``, with ``val`` if a phase selects its best epoch on it."""
    return fingerprint_with_val(split) if any(phase.choose for phase in phases) else split.fingerprint


def fingerprint_with_val(split: Split) -> str:
    """Return a digest of the fingerprint of ``split`` and of all targets and pixels of its split ``val``.

    Raises:
        UserError: a file has become unreadable.
    """
    return digest([split.fingerprint, *([] if split.val is None else facts(split.val))])
