"""Running a network without changing its modes, buffers and random generators."""

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

__all__ = ["devices", "inference_only", "preserve_state", "training_twin"]


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; restore every mode, buffer and random generator at the end of the block."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    cards = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(cards):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                if not _equal(buffer, before):
                    try:
                        with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                            buffer.copy_(before)
                    except RuntimeError:  # it was resized, or its elements share memory
                        module._buffers[name] = before


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Compare two tensors; those without data count as different."""
    try:
        return torch.equal(left, right)
    except RuntimeError:
        return False


@contextmanager
def inference_only(model: nn.Module) -> Iterator[None]:
    """Preserve the state of ``model``, without gradients, outside the caller's inference mode and autocast."""
    with ExitStack() as off:
        off.enter_context(torch.inference_mode(False))
        off.enter_context(preserve_state(model))
        off.enter_context(torch.no_grad())
        for device in devices(model):
            off.enter_context(torch.autocast(device, enabled=False))
        yield


def devices(model: nn.Module) -> list[str]:
    """Return the kinds of device that ``model`` computes on."""
    return sorted({"cpu", *(p.device.type for p in model.parameters())} - {"meta"})


@contextmanager
def training_twin(host: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of ``host`` in training mode, for forwards without gradients, which may change its parameters."""
    with _quietly(), inference_only(host):
        yield copy.deepcopy(host).train()


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence warnings; restore the random generators of Python and NumPy at the end of the block."""
    numpy: Any = sys.modules.get("numpy")
    drawn = random.getstate(), numpy and numpy.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn[0])
        if numpy:
            numpy.random.set_state(drawn[1])
