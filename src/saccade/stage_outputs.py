"""Vectors that sites of a host hand on to the next stage within one call of the host.

``plug`` joins the :class:`PreviousStage` modules of one host by a :class:`StageOutputs`, which hooks of the host open
and close.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from saccade.errors import UserError

__all__ = ["PreviousStage", "StageOutputs"]


class _OpenCall:
    """The vectors of one call, by site. Wrapped, as torch.compile would take tensors in a dict for graph inputs."""

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}


class StageOutputs:
    """Vectors by site, for the duration of one call of the host; each thread has its own.

    The next call replaces one that is still open: after Ctrl-C torch runs no hook that would close it. So a host that
    is called inside its own call cannot read on in the outer one, and says so. A copy holds nothing.
    """

    def __init__(self) -> None:
        self._state = threading.local()  # its ``call`` is opened by hooks, its ``block`` by a with statement

    def __reduce__(self) -> tuple[type[StageOutputs], tuple[()]]:
        return StageOutputs, ()

    @property
    def _current(self) -> _OpenCall | None:
        return getattr(self._state, "call", None) or getattr(self._state, "block", None)

    def open(self) -> None:
        """Begin a call of the host."""
        self._state.call = _OpenCall()

    def close(self) -> None:
        """End the call of the host, if one is open."""
        self._state.call = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Treat the block as one call; calls of the host inside it have vectors of their own."""
        outer = getattr(self._state, "block", None)
        self._state.call, self._state.block = None, _OpenCall()
        try:
            yield
        finally:
            self._state.block = outer

    def vectors(self) -> dict[str, Tensor]:
        """Return the vectors handed on so far, by site; {} outside a call."""
        return {} if self._current is None else dict(self._current.vectors)

    def write(self, site: str, vector: Tensor) -> None:
        """Hand on the vector of ``site``, replacing its last; outside a call, do nothing."""
        if self._current is not None:
            self._current.vectors[site] = vector

    def read(self, site: str, wanted: tuple[str, ...]) -> list[Tensor]:
        """Return the vectors of the sites ``wanted``, for ``site``.

        Raises:
            UserError: no call is open, or one of them did not run in it.
        """
        if self._current is None:
            raise UserError(
                f"the mechanism at {site} reads what {', '.join(wanted)} squeezed in the same call of the host, and "
                "none is running: a part of the host was run by itself, as `forward_features` and feature extractors "
                "do, or again, as gradient checkpointing does in the backward pass, or the host was called inside its "
                "own call. Call the whole host, run its parts inside `with saccade.one_call(host):`, and switch "
                "gradient checkpointing off"
            )
        vectors = self._current.vectors
        absent = [one for one in wanted if one not in vectors]
        if absent:
            raise UserError(
                f"the mechanism at {site} reads what {', '.join(absent)} squeezed, which did not run in this call of "
                "the host; plug it where every forward comes by"
            )
        return [vectors[one] for one in wanted]


class PreviousStage(nn.Module):
    """Reads the vectors of the stage before; it has no parameters.

    Args:
        count: how many vectors are read, 0 where there is no stage before; ``plug`` sets it by the option ``previous``
            of the mechanism.

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
        """Hand on by ``outputs`` as ``site``, and read ``sites`` from it."""
        self.outputs, self.site, self.sites = outputs, site, sites

    def forward(self, vector: Tensor) -> list[Tensor]:
        """Hand on ``vector`` (B, C) and return those of the stage before, each (B, channels of its site).

        Raises:
            ValueError: vectors are to be read, and no host hands them on.
            UserError: they were not handed on in this call of the host.
        """
        if self.outputs is not None:
            self.outputs.write(self.site, vector)
        if not self.count:
            return []
        if self.outputs is None:
            raise ValueError(
                f"previous = {self.count} vectors of the stage before are to be read, and nobody hands them on: plug "
                "the mechanism into a host, or build it with previous=0"
            )
        return self.outputs.read(self.site, self.sites)

    def extra_repr(self) -> str:
        """The sites that are read."""
        return ", ".join(self.sites) or f"{self.count}"
