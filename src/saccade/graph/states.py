"""Context managers that run a network without changing its modes, buffers and random generators."""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["device_types", "preserve_state", "training_copy", "without_gradients"]


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; after the block, restore all modes, buffers and torch's random generators."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gpu_indices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(gpu_indices):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, name, buffer, old_value in buffers:
                module._buffers[name] = buffer
                if not _equal(buffer, old_value):
                    try:
                        with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                            buffer.copy_(old_value)
                    except RuntimeError:  # the buffer was resized or is an expanded view
                        module._buffers[name] = old_value


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    try:
        return torch.equal(left, right)
    except RuntimeError:
        return False


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Preserve the state of ``model``; disable gradients, inference mode and autocast for the block."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(preserve_state(model))
        stack.enter_context(torch.no_grad())
        for device_type in device_types(model):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def device_types(model: nn.Module) -> list[str]:
    """Return the types of the devices that ``model`` computes on, and ``cpu``."""
    return sorted({"cpu", *(p.device.type for p in model.parameters())} - {"meta"})


@contextmanager
def training_copy(host: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of ``host`` in training mode, without gradients; the block may change the copy's parameters."""
    with _silenced(), without_gradients(host):
        yield copy.deepcopy(host).train()


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence warnings; restore Python's and NumPy's random generators after the block."""
    numpy: Any = sys.modules.get("numpy")
    old_states = random.getstate(), numpy and numpy.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(old_states[0])
        if numpy:
            numpy.random.set_state(old_states[1])
