"""Run a network on images, and tell which part of its feature maps shows them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["Canvas", "canvas_of", "run_network"]


class Canvas(NamedTuple):
    """Size (H, W) of the tensor that the layers see, and of the part at its top left that shows the image."""

    size: tuple[int, int]
    image: tuple[int, int]


def canvas_of(model: nn.Module, images: Tensor) -> Canvas:
    """Return the canvas of ``images`` (B, C, H, W): torchvision's detectors resize them, and pad right and bottom."""
    size = (images.shape[2], images.shape[3])
    transform = next((part for part in model.modules() if isinstance(part, GeneralizedRCNNTransform)), None)
    if transform is None:
        return Canvas(size, size)
    with torch.no_grad():
        batch, _ = transform([images[0].detach()])
    return Canvas((batch.tensors.shape[2], batch.tensors.shape[3]), batch.image_sizes[0])


def run_network(model: nn.Module, images: Tensor) -> Any:
    """Return the output for ``images`` (B, C, H, W); raise UserError if the network fails on them."""
    with ExitStack() as stack:
        if any(isinstance(part, FCOS) for part in model.modules()):
            stack.enter_context(_ZeroSafeRoots())
        try:
            return model(images)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            size = "×".join(map(str, images.shape[1:]))
            raise UserError(f"{type(model).__name__} does not run on an image of {size}: {type(error).__name__}: "
                            f"{brief(error)}") from error  # fmt: skip


class _ZeroSafeRoots(TorchFunctionMode):
    """Give square roots the gradient 0 at 0.

    FCOS takes the root of the scores of all boxes. Where one underflows, the gradient 0/0 would reach every pixel.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.sqrt or not args[0].requires_grad:
            return func(*args, **(kwargs or {}))
        is_zero = args[0] == 0
        return torch.where(is_zero, 0, torch.where(is_zero, 1, args[0]).sqrt())
