"""Records: results of testing promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from saccade.contract.advice import format_error
from saccade.contract.harness import BrokenPromiseError, UntestableError
from saccade.errors import UserError, did_you_mean

__all__ = ["Record", "check_names", "records"]

C = TypeVar("C")


@dataclass(frozen=True)
class Record:
    """Result of testing one promise."""

    promise: str
    """Name of the promise's function."""
    status: str
    """``passed``, ``failed`` or ``skipped``."""
    reason: str = ""
    """Reason for ``failed`` or ``skipped``, with numbers."""


def check_names(known_failures: Mapping[str, str] | None, promises: Sequence[Callable[[Any], None]]) -> None:
    """Raise UserError unless every key of ``known_failures`` is the name of a promise."""
    names = [promise.__name__ for promise in promises]
    for name in known_failures or {}:
        if name not in names:
            raise UserError(f"no promise is called {name!r}.{did_you_mean(name, names)}")


def records(
    case: C, promises: Sequence[Callable[[C], None]], known_failures: Mapping[str, str] | None
) -> Iterator[Record]:
    """Test ``promises`` one by one and yield their records."""
    failure_reasons = dict(known_failures or {})
    for promise in promises:
        yield _test_promise(promise, case, failure_reasons.get(promise.__name__))


def _test_promise(promise: Callable[[C], None], case: C, failure_reason: str | None) -> Record:
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
