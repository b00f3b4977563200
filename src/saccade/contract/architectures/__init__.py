"""The contract of an architecture: :func:`check_architecture` tests a network for the promises in ``promises.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.architectures.promises import ARCHITECTURE_PROMISES
from saccade.contract.records import Record, check_names, records

__all__ = ["ARCHITECTURE_PROMISES", "check_architecture", "examine_architecture"]


def check_architecture(
    make: Callable[..., nn.Module],
    *,
    input_size: tuple[int, int, int] | None = None,
    num_classes: int = 10,
    options: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
) -> list[Record]:
    """Test the networks that ``make`` builds against every promise and return the records.

    Args:
        make: function or class that builds a classifier or a dense network. ``num_classes`` and ``in_chans`` are
            passed if its signature accepts them.
        input_size: size (C, H, W) of the images; None for the network's own, else 3×224×224.
        num_classes: number of classes, at least 2.
        options: further keyword arguments of ``make``.
        known_failures: maps promise names to reasons; such a promise counts as skipped if broken, as failed if it
            holds.

    Returns:
        One record per promise, in the order of :data:`ARCHITECTURE_PROMISES`. The random state is restored.

    Raises:
        UserError: ``make`` builds a detector, or does not accept an option, or a name in ``known_failures`` is not a
            promise.
    """
    return list(
        examine_architecture(
            make, input_size=input_size, num_classes=num_classes, options=options, known_failures=known_failures
        )
    )


def examine_architecture(
    make: Callable[..., nn.Module],
    *,
    input_size: tuple[int, int, int] | None = None,
    num_classes: int = 10,
    options: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
    promises: Sequence[Callable[[ArchitectureCase], None]] = ARCHITECTURE_PROMISES,
) -> Iterator[Record]:
    """Yield the records of :func:`check_architecture` for ``promises``, one by one.

    Raises:
        UserError: as in :func:`check_architecture`; raised by the call, not by the iteration.
    """
    case = ArchitectureCase(make, input_size, num_classes, dict(options or {}))
    check_names(known_failures, ARCHITECTURE_PROMISES)
    case.refuse_detectors()
    case.arguments(num_classes, 3, {})
    return records(case, promises, known_failures)
