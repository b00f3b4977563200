"""Fingerprint of the images of a run."""

from __future__ import annotations

from collections.abc import Iterable

from saccade.data.samples import Splits, digest_values
from saccade.data.validation import content_digests
from saccade.tasks.base import Phase

__all__ = ["fingerprint", "fingerprint_with_val"]


def fingerprint(splits: Splits, phases: Iterable[Phase]) -> str:
    """Return the fingerprint of ``splits``, including ``val`` if a phase selects its best epoch on ``val``."""
    return fingerprint_with_val(splits) if any(phase.choose for phase in phases) else splits.fingerprint


def fingerprint_with_val(splits: Splits) -> str:
    """Return a digest of the fingerprint of ``splits`` and of all targets and pixels of ``splits.val``.

    Raises:
        UserError: a file has become unreadable.
    """
    return digest_values([splits.fingerprint, *([] if splits.val is None else content_digests(splits.val))])
