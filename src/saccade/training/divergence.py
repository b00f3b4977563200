"""Location of the first tensor that is not finite, after training has diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saccade.hooks import temporary_hooks
from saccade.tensors import tensors_in

__all__ = ["DivergenceError", "locate_nonfinite"]


class DivergenceError(ArithmeticError):
    """Error raised if a training loss or an output for a test image is infinite or NaN.

    Attributes:
        epoch: epoch, from 1.
        step: step of the epoch, from 1; 0 for the test images.
        kind: ``gradient``, ``parameter``, ``buffer``, ``output`` or ``loss``.
        path: path of the parameter, buffer or module; "" for the loss.
    """

    def __init__(self, epoch: int, step: int, kind: str, path: str) -> None:
        super().__init__(epoch, step, kind, path)
        self.epoch, self.step, self.kind, self.path = epoch, step, kind, path

    def __str__(self) -> str:
        place = f"step {self.step}" if self.step else "the test images"
        tensor = f"the {self.kind} of {self.path}" if self.path else f"the {self.kind}"
        return f"diverged in epoch {self.epoch}, at {place}: {tensor} is not finite"


def locate_nonfinite(network: nn.Module, forward: Callable[[], object]) -> tuple[str, str]:
    """Return kind and path of the first tensor in ``network`` that is not finite.

    The order is that of causes: gradients of the last step, from the loss backward; parameters and buffers after the
    update; the output of the innermost module, in the order of the forward pass that ``forward`` repeats; the loss.
    Gradients are not changed. Train mode and autocast must be as in the failed step.
    """
    for path, parameter in reversed(list(network.named_parameters())):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return "gradient", path
    for kind, tensors in (("parameter", network.named_parameters()), ("buffer", network.named_buffers())):
        for path, tensor in tensors:
            if not _is_finite(tensor):
                return kind, path
    nonfinite_paths: list[str] = []

    def make_hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not nonfinite_paths and not all(map(_is_finite, tensors_in(output))):
                nonfinite_paths.append(path)

        return hook

    with temporary_hooks() as handles, torch.no_grad():
        for path, module in network.named_modules():
            handles.append(module.register_forward_hook(make_hook(path)))
        forward()
    return ("output", nonfinite_paths[0] or "the network") if nonfinite_paths else ("loss", "")


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())
