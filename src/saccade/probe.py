"""One picture for a network that has not been asked yet, and a look at a network that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError

__all__ = ["check_network", "example_input", "out_of_memory", "undisturbed"]

_FOLDED = 16
"""The fewest channels of a picture of three whose pixels were folded is 12, and 48 is usual; cameras have fewer."""


def check_network(host: object, what: str = "the host") -> None:
    """Raise UserError unless ``host`` is a network.

    Raises:
        UserError: it is no ``torch.nn.Module``, or one whose ``train()`` trains, as the ``YOLO`` object's does.
    """
    if not isinstance(host, nn.Module):
        raise UserError(f"{what} must be a torch.nn.Module, got {type(host).__name__}")
    if _trains(host):
        inside = next((name for name, _ in host.named_children()), None)
        give = "" if inside is None else f": give the network inside it, its .{inside}"
        raise UserError(
            f"{what} is a {type(host).__name__}, whose train() trains instead of setting the training mode{give}. If "
            "its training builds the network anew, as YOLO.train() does, hand it a trainer of saccade.plugged_trainer"
        )


def _trains(host: nn.Module) -> bool:
    """Return whether ``host.train`` takes something else than a mode: ``host.train(False)`` would start training."""
    taken = list(signature(type(host).train).parameters.values())[1:]
    if not taken or taken[0].name == "mode" or taken[0].kind is not taken[0].POSITIONAL_OR_KEYWORD:
        return False
    default = taken[0].default
    return not isinstance(default, bool) and (default is not taken[0].empty or len(taken) > 1)


def example_input(model: nn.Module, input: Any = None, *, batch: int = 1) -> tuple[Any, ...]:
    """The positional arguments of one forward of ``model``.

    Args:
        model: the network; its first floating-point parameter gives device and dtype.
        input: a size (C, H, W), for which standard normal pixels are drawn, always the same; None for the size the
            network states (timm's ``pretrained_cfg`` or ``default_cfg``), else 3×224×224, with the channels its first
            convolution takes; a tuple of several arguments; or the one argument itself, passed as it is.
        batch: how many pictures, where they are drawn.

    Raises:
        UserError: a size is not three positive integers, ``batch`` is not positive, or the pixels do not fit into
            memory.
    """
    if batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")
    if input is None:
        size = _stated_size(model)
    elif isinstance(input, Sequence) and len(input) > 0 and all(type(n) is int for n in input):
        if len(input) != 3 or min(input) < 1:
            raise UserError(f"an input size is three positive integers (C, H, W), got {tuple(input)}")
        size = tuple(input)
    else:
        return input if isinstance(input, tuple) else (input,)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    shape = (batch, *size)
    try:
        pixels = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        return (pixels.to(weight.device, weight.dtype),)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{'×'.join(map(str, shape))} pixels, {4 * prod(shape) / 1e9:,.1f} GB, do not fit into the memory of "
            f"{weight.device}"
        ) from None


def out_of_memory(error: Exception) -> bool:
    """Is it a device, or the machine, that has no memory left?"""
    # The allocator of the CPU raises a RuntimeError like any other.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error) or "enough memory" in str(error)


def _stated_size(model: nn.Module) -> tuple[int, ...]:
    facts = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    stated = tuple(facts["input_size"]) if isinstance(facts, dict) and "input_size" in facts else None
    size = stated or (3, 224, 224)
    # The stated size is that of the pretrained weights; the network may have been built for other channels. A first
    # convolution of many channels is no such sign: some networks fold the picture's pixels into channels before it.
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), size[0])
    return (first if stated is None or first < _FOLDED else size[0], *size[1:])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode inside; afterwards every mode, buffer and random generator is as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
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
    """Are both the same? False where nobody can tell, as of tensors without data."""
    try:
        return torch.equal(left, right)
    except RuntimeError:
        return False
