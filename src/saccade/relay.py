"""What the sites of a host hand on to each other within one call of it.

A mechanism that reads the stage before its own, as its SPEC's ``needs`` then says, holds a :class:`Previous`: it gives
the vector that it squeezed out of its map, and gets those of the stage before. ``plug`` joins the modules of one host
by a :class:`Relay`, which hooks of the host open and close; what an interrupted call leaves is dropped by the next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saccade.errors import UserError

__all__ = ["Previous", "Relay"]


class _Call:
    """What was told in one call.

    An object, so that who only opens and closes calls looks at no tensor: a compiler that makes a graph of a hook would
    otherwise take them for its inputs.
    """

    def __init__(self) -> None:
        self.told: dict[str, Tensor] = {}


class Relay:
    """Vectors by site, of the running call alone.

    A call inside a call has vectors of its own, and so has each thread, for replicas of a host run at the same time. A
    copy of a relay holds nothing. What an interrupted call leaves is dropped when the next begins.
    """

    def __init__(self) -> None:
        self._running: dict[int, list[_Call]] = {}

    def __reduce__(self) -> tuple[type[Relay], tuple[()]]:
        return Relay, ()

    def _thread(self) -> int:
        """The running thread; while a graph is made, in which there are none, the one that has opened a call, or 0."""
        return next(iter(self._running), 0) if torch.compiler.is_compiling() else threading.get_ident()

    @property
    def running(self) -> bool:
        """Is a call open in this thread?"""
        return self._thread() in self._running

    def drop(self) -> None:
        """The calls that are open in this thread are over."""
        self._running.pop(self._thread(), None)

    def open(self) -> None:
        """Begin a call."""
        self._running.setdefault(self._thread(), []).append(_Call())

    def close(self) -> None:
        """The call has ended, be it by an exception; nothing, if none is running."""
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

    def told(self) -> dict[str, Tensor]:
        """What the running call was told so far, by site; {} where none is running."""
        calls = self._running.get(self._thread())
        return dict(calls[-1].told) if calls else {}

    def tell(self, site: str, vector: Tensor) -> None:
        """Hand on what ``site`` squeezed, in the place of what it handed on before; nobody hears it between calls."""
        calls = self._running.get(self._thread())
        if calls:
            calls[-1].told[site] = vector

    def read(self, site: str, wanted: tuple[str, ...]) -> list[Tensor]:
        """What the sites ``wanted`` handed on, for ``site``.

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
        told = calls[-1].told
        absent = [one for one in wanted if one not in told]
        if absent:
            raise UserError(
                f"the mechanism at {site} reads what {', '.join(absent)} squeezed, which did not run in this call of "
                "the host; plug it where every forward comes by"
            )
        return [told[one] for one in wanted]


class Previous(nn.Module):
    """What a mechanism reads of the stage before its own; it has no parameters.

    Args:
        count: how many vectors are read, 0 where there is no stage before; ``plug`` tells it by the option
            ``previous`` of the mechanism.

    Raises:
        ValueError: ``count`` is negative.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 0:
            raise ValueError(f"previous must be at least 0, got {count}")
        self.count = count
        self.relay: Relay | None = None
        self.site, self.sites = "", tuple[str, ...]()

    def join(self, relay: Relay, site: str, sites: tuple[str, ...]) -> None:
        """From now on ``site`` tells ``relay``, and reads what ``sites`` told it."""
        self.relay, self.site, self.sites = relay, site, sites

    def forward(self, vector: Tensor) -> list[Tensor]:
        """Hand on ``vector`` (B, C); returns those of the stage before, each (B, channels of its site).

        Raises:
            ValueError: there are some to be read, and no host that would hand them on.
            UserError: they were not handed on in this call of the host.
        """
        if self.relay is not None:
            self.relay.tell(self.site, vector)
        if not self.count:
            return []
        if self.relay is None:
            raise ValueError(
                f"previous = {self.count} vectors of the stage before are to be read, and nobody hands them on: plug "
                "the mechanism into a host, or build it with previous=0"
            )
        return self.relay.read(self.site, self.sites)

    def extra_repr(self) -> str:
        """The sites that are read."""
        return ", ".join(self.sites) or f"{self.count}"
