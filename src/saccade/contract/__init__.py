"""The contract: :func:`check` tests a mechanism, :func:`check_architecture` a network.

Each tests a list of properties (promises): ``promises.py`` and ``architectures/promises.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from saccade.contract.architectures import (
    ARCHITECTURE_PROMISES,
    check_architecture,
    examine_architecture,
)
from saccade.contract.harness import BrokenPromiseError, Case
from saccade.contract.promises import PROMISES
from saccade.contract.records import Record, check_names, records
from saccade.errors import UserError
from saccade.specs import Spec

__all__ = [
    "ARCHITECTURE_PROMISES", "PROMISES", "Record", "check", "check_architecture", "examine", "examine_architecture",
]  # fmt: skip


def check(
    make: Callable[..., nn.Module],
    spec: Spec | None = None,
    *,
    channels: int = 64,
    options: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
) -> list[Record]:
    """Test ``make`` against every promise and return the records.

    Args:
        make: called as ``make(channels, **options)``; a class, or a function that returns a module for maps (B,
            channels, H, W). Defaults of options are read from its signature.
        spec: SPEC of the mechanism; without it, promises about SPEC are skipped.
        channels: number of channels in most tests.
        options: keyword arguments of ``make``; ``size`` is (H, W).
        known_failures: maps promise names to reasons; such a promise counts as skipped if
            broken, as failed if it holds.

    Returns:
        One record per promise, in the order of :data:`PROMISES`. The random state is restored; the caches of
        ``torch.compile`` are emptied.

    Raises:
        UserError: ``channels`` or ``options`` lie outside the limits of SPEC, or a name in ``known_failures`` is not a
            promise.
    """
    return list(examine(make, spec, channels=channels, options=options, known_failures=known_failures))


def examine(
    make: Callable[..., nn.Module],
    spec: Spec | None = None,
    *,
    channels: int = 64,
    options: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
    promises: Sequence[Callable[[Case], None]] = PROMISES,
) -> Iterator[Record]:
    """Yield the records of :func:`check` for ``promises``, one by one.

    Raises:
        UserError: as in :func:`check`; raised by the call, not by the iteration.
    """
    case = Case(make, spec, channels, dict(options or {}))
    check_names(known_failures, PROMISES)
    if spec is not None and spec.limits:
        with torch.random.fork_rng([]), contextlib.suppress(BrokenPromiseError):
            if (refusal := case.refusal()) is not None:
                raise UserError(refusal)
    return records(case, promises, known_failures)
