"""Pass vectors from the plugs of one stage to those of the next, within one forward pass of the host.

``plug`` connects the :class:`PreviousStage` modules of a host to one :class:`StageOutputs`.
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
    """Vectors written during one call of the host.

    Wrapped, because ``torch.compile`` would treat tensors of a dict as graph inputs.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}


class StageOutputs:
    """Store of the vectors (B, C) of one call of the host, keyed by site, separate for each thread. Copies start empty.

    A new call replaces an open one, because after Ctrl-C torch runs no hook that would close it. In a host that calls
    itself, reads in the outer call raise UserError.
    """

    def __init__(self) -> None:
        # Attributes: ``host_call``, opened by hooks of the host, and ``explicit_call``, opened by ``call``.
        self._state = threading.local()

    def __reduce__(self) -> tuple[type[StageOutputs], tuple[()]]:
        return StageOutputs, ()

    @property
    def _open_call(self) -> _OpenCall | None:
        return getattr(self._state, "host_call", None) or getattr(self._state, "explicit_call", None)

    def open(self) -> None:
        """Begin a call of the host."""
        self._state.host_call = _OpenCall()

    def close(self) -> None:
        """End the call of the host, if one is open."""
        self._state.host_call = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Keep vectors while parts of the host run separately; calls of the whole host have their own."""
        outer_call = getattr(self._state, "explicit_call", None)
        self._state.host_call, self._state.explicit_call = None, _OpenCall()
        try:
            yield
        finally:
            self._state.explicit_call = outer_call

    def vectors(self) -> dict[str, Tensor]:
        """Return the vectors (B, C) written so far, keyed by site; {} outside a call."""
        return {} if self._open_call is None else dict(self._open_call.vectors)

    def write(self, site: str, vector: Tensor) -> None:
        """Store the vector (B, C) of ``site``, replacing an earlier one; do nothing outside a call."""
        if self._open_call is not None:
            self._open_call.vectors[site] = vector

    def read(self, reader_site: str, sources: tuple[str, ...]) -> list[Tensor]:
        """Return the vectors (B, C) of ``sources``; errors name ``reader_site``.

        Raises:
            UserError: no call is open, or a source has not run in it.
        """
        if self._open_call is None:
            raise UserError(
                f"the mechanism at {reader_site} reads vectors of {', '.join(sources)} from the same forward pass of "
                "the host, and no such pass is running: a part of the host was run separately, as `forward_features` "
                "and feature extractors do, or again, as gradient checkpointing does in the backward pass, or the host "
                "called itself. Call the whole host, run its parts inside `with saccade.one_call(host):`, and switch "
                "gradient checkpointing off"
            )
        vectors = self._open_call.vectors
        missing = [source for source in sources if source not in vectors]
        if missing:
            raise UserError(
                f"the mechanism at {reader_site} reads vectors of {', '.join(missing)}, which did not run in this "
                "forward pass of the host: plug modules that run in every forward pass"
            )
        return [vectors[source] for source in sources]


class PreviousStage(nn.Module):
    """Writes the vector of its site, and returns the vectors of the previous stage.

    Args:
        count: number of vectors to read (the option ``previous``); 0 in the first stage.

    Raises:
        ValueError: ``count`` is negative.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 0:
            raise ValueError(f"previous must be at least 0, got {count}")
        self.count = count
        self.outputs: StageOutputs | None = None
        self.site, self.sources = "", tuple[str, ...]()

    def __setstate__(self, state: dict[str, Any]) -> None:
        new_names = {"relay": "outputs", "sites": "sources"}  # of attributes in pickles of earlier versions
        super().__setstate__({new_names.get(key, key): value for key, value in state.items()})

    def connect(self, outputs: StageOutputs, site: str, sources: tuple[str, ...]) -> None:
        """Let ``forward`` write to ``outputs`` as ``site`` and read ``sources``."""
        self.outputs, self.site, self.sources = outputs, site, sources

    def forward(self, vector: Tensor) -> list[Tensor]:
        """Write ``vector`` (B, C); return the vectors of the sources, each (B, channels of its site).

        Raises:
            ValueError: ``count`` is positive, and the module is not connected to a host.
            UserError: a source has not run in this call of the host.
        """
        if self.outputs is not None:
            self.outputs.write(self.site, vector)
        if not self.count:
            return []
        if self.outputs is None:
            raise ValueError(
                f"previous={self.count} vectors of the previous stage are to be read, but the mechanism is not in a "
                "host: plug it into a host, or build it with previous=0"
            )
        return self.outputs.read(self.site, self.sources)

    def extra_repr(self) -> str:
        """Return the sources, or their number before the module is connected."""
        return ", ".join(self.sources) or f"{self.count}"
