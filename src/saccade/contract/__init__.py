"""The contract of a mechanism: :func:`check` tests a class for the properties (promises) in ``promises.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.contract.advice import format_error
from saccade.contract.harness import BrokenPromiseError, Case, UntestableError
from saccade.contract.promises import PROMISES
from saccade.errors import UserError, did_you_mean
from saccade.specs import Spec

__all__ = ["PROMISES", "Record", "check", "examine"]


@dataclass(frozen=True)
class Record:
    """Result of testing one promise."""

    promise: str
    """Name of the promise's function in :data:`PROMISES`."""
    status: str
    """``passed``, ``failed`` or ``skipped``."""
    reason: str = ""
    """Reason for ``failed`` or ``skipped``, with numbers."""


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
    failure_reasons = dict(known_failures or {})
    for name in failure_reasons:
        if name not in (names := [promise.__name__ for promise in PROMISES]):
            raise UserError(f"no promise is called {name!r}.{did_you_mean(name, names)}")
    if spec is not None and spec.limits:
        with torch.random.fork_rng([]), contextlib.suppress(BrokenPromiseError):
            if (refusal := case.refusal()) is not None:
                raise UserError(refusal)
    return (_test_promise(promise, case, failure_reasons.get(promise.__name__)) for promise in promises)


def _test_promise(promise: Callable[[Case], None], case: Case, failure_reason: str | None) -> Record:
    """Test one promise; return its record."""
    name = promise.__name__
    try:
        with torch.random.fork_rng([]), torch.enable_grad():
            promise(case)
    except UntestableError as error:
        return Record(name, "skipped", str(error))
    except Exception as error:  # any exception of the module breaks the promise
        if failure_reason is not None:
            return Record(name, "skipped", f"known failure: {failure_reason}")
        return Record(name, "failed", str(error) if isinstance(error, BrokenPromiseError) else format_error(error))
    if failure_reason is not None:
        return Record(name, "failed", f"listed as a known failure ({failure_reason}), but the promise holds")
    return Record(name, "passed")
