"""Peak memory: the most bytes that are live at once.

On CUDA the allocator counts. Elsewhere the operators of a forward are watched, which gives the same on every machine:
what one returns is live until nothing holds it, autograd included. Kernel workspace is not counted; it can add a third.
A sparse tensor is its indices and values, one of an opaque layout (MKL-DNN's) its elements.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.cost.call import ForwardCall
from saccade.errors import UserError
from saccade.graph.inputs import is_out_of_memory
from saccade.graph.states import preserve_state
from saccade.tensors import tensors_in

__all__ = ["forward_memory", "step_memory"]


def forward_memory(call: ForwardCall) -> int:
    """Return the most bytes live at once in one forward: parameters, buffers, input, and what the forward makes.

    Args:
        call: the network, run in eval mode, and its input.

    Raises:
        UserError: the network does not take the input.
    """
    with torch.no_grad():
        return _peak(call, call.try_out)


def step_memory(call: ForwardCall) -> int | None:
    """Return the same of a forward that keeps what the backward needs, the backward, and all gradients.

    None where nothing takes a gradient, or the output cannot be differentiated.

    Raises:
        UserError: there is not enough memory for it.
    """
    leaves = [p for p in call.model.parameters() if p.requires_grad]

    def step() -> None:
        outputs = [t for t in tensors_in(call.run()) if t.requires_grad]
        if not outputs:
            raise RuntimeError("no output takes a gradient")
        torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)

    try:
        with torch.enable_grad():
            return _peak(call, step) if leaves else None
    except RuntimeError as error:  # as above, or an operator has no derivative, or a saved tensor was changed
        if is_out_of_memory(error):
            name = type(call.model).__name__
            raise UserError(f"a training step of {name} on {call.shapes} does not fit into memory: {error}") from error
        return None


def _peak(call: ForwardCall, run: Callable[[], object]) -> int:
    own = [*call.model.parameters(), *call.model.buffers(), *tensors_in((call.args, call.kwargs))]
    with preserve_state(call.model):
        if call.device.type != "cuda":
            with (live := _Live(own)):
                run()
            return live.peak
        gc.collect()  # what others left must not be freed now
        torch.cuda.reset_peak_memory_stats(call.device)
        before = torch.cuda.memory_allocated(call.device)
        run()
        return torch.cuda.max_memory_allocated(call.device) - before + _Live(own).peak


_COMPRESSED = {
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_bsr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices),
    torch.sparse_bsc: (Tensor.ccol_indices, Tensor.row_indices),
}


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that hold the elements: a sparse tensor's indices and values."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in _COMPRESSED:
        return *(indices(tensor) for indices in _COMPRESSED[tensor.layout]), tensor.detach().values()
    return (tensor,)


class _Live(TorchDispatchMode):
    """Add up the storages that are live; ``peak`` is the largest sum."""

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.storages: dict[int, weakref.ref[Any]] = {}
        for tensor in own:
            self.hold(tensor)

    def hold(self, tensor: Tensor) -> None:
        for part in _parts(tensor):
            try:
                storage = part.untyped_storage()
            except NotImplementedError:
                # A tensor of an opaque layout (MKL-DNN's) has memory and shows no storage. Its elements stand for that:
                # left out it would cost nothing, and a network that runs is no error.
                self.count(part, part._cdata, part.numel() * part.element_size())
            else:
                self.count(storage, storage._cdata, storage.nbytes())

    def count(self, held: Any, key: int, size: int) -> None:
        """Count ``size`` bytes as long as ``held`` is alive."""
        if key in self.storages:
            return

        def release(_: weakref.ref[Any]) -> None:
            del self.storages[key]
            self.bytes -= size

        self.storages[key] = weakref.ref(held, release)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self.hold(tensor)
        return result
