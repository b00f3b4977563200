"""Fingerprint of the images of a run."""

from __future__ import annotations

from collections.abc import Iterable

from saccade.data.samples import Splits, digest_values
from saccade.data.validation import content_digests
from saccade.tasks.base import Phase

__all__ = ["fingerprint", "fingerprint_with_val"]


def fingerprint(split: Splits, phases: Iterable[Phase]) -> str:
    """Return the fingerprint of ``split``, with ``val`` if a phase selects its best epoch on it."""
    return fingerprint_with_val(split) if any(phase.choose for phase in phases) else split.fingerprint


def fingerprint_with_val(split: Splits) -> str:
    """Return a digest of the fingerprint of ``split`` and of all targets and pixels of its split ``val``.

    Raises:
        UserError: a file has become unreadable.
    """
    return digest_values([split.fingerprint, *([] if split.val is None else content_digests(split.val))])
