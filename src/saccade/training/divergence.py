"""Locate what first stopped being finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saccade.hooks import temporary_hooks
from saccade.tensors import tensors_in

__all__ = ["DivergenceError", "locate"]


class DivergenceError(ArithmeticError):
    """The training loss or a row of a test image is infinite or not a number.

    Attributes:
        epoch: from 1.
        step: of this epoch, from 1; 0 for the test images.
        what: ``gradient``, ``parameter``, ``buffer``, ``output`` or ``loss``.
        where: the dotted path of the parameter, buffer or module; empty for the loss itself.
    """

    def __init__(self, epoch: int, step: int, what: str, where: str) -> None:
        super().__init__(epoch, step, what, where)
        self.epoch, self.step, self.what, self.where = epoch, step, what, where

    def __str__(self) -> str:
        at = f"step {self.step}" if self.step else "the test images"
        thing = f"the {self.what} of {self.where}" if self.where else f"the {self.what}"
        return f"diverged in epoch {self.epoch}, at {at}: {thing} is not finite"


def locate(network: nn.Module, forward: Callable[[], object]) -> tuple[str, str]:
    """Return what in ``network`` first stops being finite, and its path.

    Looked for in the order of cause: the last step's gradients (they are still in place; of several the one nearest
    to the loss, where they arose), a parameter or buffer that the last update spoilt, the output of the innermost
    module in the order of the forward, the loss. Gradients are not touched.

    Args:
        network: in the mode and under the precision in which it failed.
        forward: the forward that failed; it is run once more.
    """
    for path, parameter in reversed(list(network.named_parameters())):
        if parameter.grad is not None and not _finite(parameter.grad):
            return "gradient", path
    for what, tensors in (("parameter", network.named_parameters()), ("buffer", network.named_buffers())):
        for path, tensor in tensors:
            if not _finite(tensor):
                return what, path
    found: list[str] = []

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(map(_finite, tensors_in(output))):
                found.append(path)

        return hook

    with temporary_hooks() as handles, torch.no_grad():
        for path, module in network.named_modules():
            handles.append(module.register_forward_hook(watch(path)))
        forward()
    return ("output", found[0] or "the network") if found else ("loss", "")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())
