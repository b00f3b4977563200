"""The contract of a mechanism: :func:`check` tests a class against every promise of ``promises.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.contract.advice import in_one_line
from saccade.contract.harness import BrokenPromiseError, Case, UnexaminedError
from saccade.contract.promises import PROMISES
from saccade.errors import UserError, did_you_mean
from saccade.specs import Spec

__all__ = ["PROMISES", "Record", "check", "examine"]


@dataclass(frozen=True)
class Record:
    """The outcome of one promise."""

    promise: str
    """The name of its function in :data:`PROMISES`."""
    status: str
    """``passed``, ``failed`` or ``skipped``."""
    reason: str = ""
    """Why it failed or was skipped, with numbers."""


def check(
    make: Callable[..., nn.Module],
    spec: Spec | None = None,
    *,
    channels: int = 64,
    options: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
) -> list[Record]:
    """Test every promise on the module that ``make`` builds.

    Args:
        make: called as ``make(channels, **options)``; a class, or anything that returns a module for maps
            (B, channels, H, W). Defaults of options are read from its signature.
        spec: its facts; without them promises about facts are skipped.
        channels: the channel count of most tests.
        options: of ``make``; ``size`` is (H, W).
        known_failures: promise to reason; such a promise is skipped with that reason, and fails if it holds.

    Returns:
        One record a promise, in the order of :data:`PROMISES`. The random state is kept; the caches of
        ``torch.compile`` are emptied.

    Raises:
        UserError: ``channels`` or ``options`` lie outside its limits, or ``known_failures`` names no promise.
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
    """Yield the records of :func:`check` for ``promises``, each as soon as it is known.

    Raises:
        UserError: as :func:`check`, before the first record.
    """
    case = Case(make, spec, channels, dict(options or {}))
    known = dict(known_failures or {})
    for name in known:
        if name not in (names := [promise.__name__ for promise in PROMISES]):
            raise UserError(f"no promise is called {name!r}.{did_you_mean(name, names)}")
    if spec is not None and spec.limits:
        with torch.random.fork_rng([]), contextlib.suppress(BrokenPromiseError):
            if (why := case.refusal()) is not None:
                raise UserError(why)
    return (_tried(promise, case, known.get(promise.__name__)) for promise in promises)


def _tried(promise: Callable[[Case], None], case: Case, known: str | None) -> Record:
    name = promise.__name__
    try:
        with torch.random.fork_rng([]), torch.enable_grad():
            promise(case)
    except UnexaminedError as error:
        return Record(name, "skipped", str(error))
    except Exception as error:  # whatever a stranger's module raises is its failure, not ours
        if known is not None:
            return Record(name, "skipped", f"known failure: {known}")
        return Record(name, "failed", str(error) if isinstance(error, BrokenPromiseError) else in_one_line(error))
    if known is not None:
        return Record(name, "failed", f"listed as a known failure ({known}), and it holds")
    return Record(name, "passed")
