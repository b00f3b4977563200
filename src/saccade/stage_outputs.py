"""What the sites of a host hand on to the next stage within one call of the host.

A mechanism whose SPEC ``needs`` the "previous stage" holds a :class:`PreviousStage`: it gives the vector squeezed out
of its own map and gets those of the stage before. ``plug`` joins the mechanisms of one host by a
:class:`StageOutputs`, which hooks of the host open and close.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError

__all__ = ["PreviousStage", "StageOutputs"]


class _OpenCall:
    """The vectors given in one call, by site.

    Wrapped so that hooks which open and close calls touch no tensor: torch.compile would treat those tensors as graph
    inputs.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}


class StageOutputs:
    """Vectors by site, of the running call alone.

    A call inside a call has vectors of its own, and so has each thread, for replicas of a host run at the same time. A
    copy holds nothing. What an interrupted call leaves is dropped when the next begins.
    """

    def __init__(self) -> None:
        self._running: dict[int, list[_OpenCall]] = {}

    def __reduce__(self) -> tuple[type[StageOutputs], tuple[()]]:
        return StageOutputs, ()

    def _thread(self) -> int:
        """Return the running thread; torch.compile has none, and gets the one that has opened a call, or 0."""
        return next(iter(self._running), 0) if torch.compiler.is_compiling() else threading.get_ident()

    @property
    def running(self) -> bool:
        """Whether a call is open in this thread."""
        return self._thread() in self._running

    def drop(self) -> None:
        """Forget the calls that are open in this thread."""
        self._running.pop(self._thread(), None)

    def open(self) -> None:
        """Begin a call."""
        self._running.setdefault(self._thread(), []).append(_OpenCall())

    def close(self) -> None:
        """End the innermost call, if one is open."""
        calls = self._running.get(self._thread(), [])
        if calls:
            calls.pop()
        if not calls:
            self._running.pop(self._thread(), None)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Hold a call open inside the block."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def given(self) -> dict[str, Tensor]:
        """Return the vectors of the running call so far, by site; {} outside a call."""
        calls = self._running.get(self._thread())
        return dict(calls[-1].vectors) if calls else {}

    def give(self, site: str, vector: Tensor) -> None:
        """Set the vector of ``site`` in the running call; outside a call do nothing."""
        calls = self._running.get(self._thread())
        if calls:
            calls[-1].vectors[site] = vector

    def read(self, site: str, wanted: tuple[str, ...]) -> list[Tensor]:
        """Return the vectors of the sites ``wanted``, for ``site``.

        Raises:
            UserError: no call is running, or one of them did not run in it.
        """
        calls = self._running.get(self._thread())
        if not calls:
            raise UserError(
                f"the mechanism at {site} reads what {', '.join(wanted)} squeezed in the same call of the host, and "
                "none is running: a part of the host was run by itself, as `forward_features` and feature extractors "
                "do, or again, as gradient checkpointing does in the backward pass. Call the whole host, run its "
                "parts inside `with saccade.one_call(host):`, and switch gradient checkpointing off"
            )
        vectors = calls[-1].vectors
        absent = [one for one in wanted if one not in vectors]
        if absent:
            raise UserError(
                f"the mechanism at {site} reads what {', '.join(absent)} squeezed, which did not run in this call of "
                "the host; plug it where every forward comes by"
            )
        return [vectors[one] for one in wanted]


class PreviousStage(nn.Module):
    """What a mechanism reads of the stage before its own; it has no parameters.

    Args:
        count: how many vectors are read, 0 where there is no stage before: the option ``previous`` of the mechanism.

    Raises:
        ValueError: ``count`` is negative.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 0:
            raise ValueError(f"previous must be at least 0, got {count}")
        self.count = count
        self.outputs: StageOutputs | None = None
        self.site, self.sites = "", tuple[str, ...]()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Networks that were pickled by earlier versions call the outputs the relay.
        super().__setstate__({"outputs" if key == "relay" else key: value for key, value in state.items()})

    def join(self, outputs: StageOutputs, site: str, sites: tuple[str, ...]) -> None:
        """Let ``site`` give its vectors to ``outputs``, and read those of ``sites`` there."""
        self.outputs, self.site, self.sites = outputs, site, sites

    def forward(self, vector: Tensor) -> list[Tensor]:
        """Give ``vector`` (B, C); return those of the stage before, each (B, channels of its site).

        Raises:
            ValueError: there are some to be read, and the mechanism is in no host.
            UserError: they were not given in this call of the host.
        """
        if self.outputs is not None:
            self.outputs.give(self.site, vector)
        if not self.count:
            return []
        if self.outputs is None:
            raise ValueError(
                f"previous = {self.count} vectors of the stage before are to be read, and nobody hands them on: plug "
                "the mechanism into a host, or build it with previous=0"
            )
        return self.outputs.read(self.site, self.sites)

    def extra_repr(self) -> str:
        """Return the sites that are read."""
        return ", ".join(self.sites) or f"{self.count}"
