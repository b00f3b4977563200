"""Peak memory: the largest number of bytes that are live at once.

On CUDA the peak is the allocator's, including kernel workspace. Elsewhere operator outputs are counted, each until its
last reference (autograd's included) is gone; kernel workspace, which can add a third, is not.
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
    """Return the peak bytes of a forward pass in eval mode: parameters, buffers, input and activations.

    Raises:
        UserError: the network fails on the input.
    """
    with torch.no_grad():
        return _peak(call, call.run_checked)


def step_memory(call: ForwardCall) -> int | None:
    """Return the peak bytes of a forward and backward pass in eval mode, with the gradients of all parameters.

    Return None if no parameter requires a gradient or the output cannot be differentiated.

    Raises:
        UserError: there is not enough memory.
    """
    leaves = [p for p in call.model.parameters() if p.requires_grad]

    def step() -> None:
        outputs = [t for t in tensors_in(call.run()) if t.requires_grad]
        if not outputs:
            raise RuntimeError("no output requires a gradient")
        torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)

    try:
        with torch.enable_grad():
            return _peak(call, step) if leaves else None
    except RuntimeError as error:  # no derivative exists, or a saved tensor was changed
        if is_out_of_memory(error):
            name = type(call.model).__name__
            raise UserError(
                f"a training step of {name} on {call.input_text} does not fit into memory: {error}"
            ) from error
        return None


def _peak(call: ForwardCall, run: Callable[[], object]) -> int:
    """Return the peak bytes while ``run`` runs."""
    initial_tensors = [*call.model.parameters(), *call.model.buffers(), *tensors_in((call.args, call.kwargs))]
    with preserve_state(call.model):
        if call.device.type != "cuda":
            with (tracker := _LiveStorages(initial_tensors)):
                run()
            return tracker.peak
        gc.collect()  # older garbage must not be freed during the measurement
        torch.cuda.reset_peak_memory_stats(call.device)
        allocated_before = torch.cuda.memory_allocated(call.device)
        run()
        return torch.cuda.max_memory_allocated(call.device) - allocated_before + _LiveStorages(initial_tensors).peak


_COMPRESSED_INDEX_GETTERS = {
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_bsr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices),
    torch.sparse_bsc: (Tensor.ccol_indices, Tensor.row_indices),
}


def _element_tensors(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that hold the elements of ``tensor``: itself, or the indices and values of a sparse tensor."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in _COMPRESSED_INDEX_GETTERS:
        return *(indices(tensor) for indices in _COMPRESSED_INDEX_GETTERS[tensor.layout]), tensor.detach().values()
    return (tensor,)


class _LiveStorages(TorchDispatchMode):
    """A mode that counts the bytes of live storages; ``peak`` is the maximum."""

    def __init__(self, initial_tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes = self.peak = 0
        self.storages: dict[int, weakref.ref[Any]] = {}
        for tensor in initial_tensors:
            self.add_tensor(tensor)

    def add_tensor(self, tensor: Tensor) -> None:
        """Add the storages of ``tensor``."""
        for tensor_part in _element_tensors(tensor):
            try:
                storage = tensor_part.untyped_storage()
            except NotImplementedError:
                # Opaque layouts (MKL-DNN's) expose no storage.
                self.add_bytes(tensor_part, tensor_part._cdata, tensor_part.numel() * tensor_part.element_size())
            else:
                self.add_bytes(storage, storage._cdata, storage.nbytes())

    def add_bytes(self, owner: Any, key: int, size: int) -> None:
        """Add ``size`` bytes until ``owner`` is freed."""
        if key in self.storages:
            return

        def release(_: weakref.ref[Any]) -> None:
            del self.storages[key]
            self.live_bytes -= size

        self.storages[key] = weakref.ref(owner, release)
        self.live_bytes += size
        self.peak = max(self.peak, self.live_bytes)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self.add_tensor(tensor)
        return result
