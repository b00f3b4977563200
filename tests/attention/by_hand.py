"""What tests of cases worked out on paper share: a mechanism of given numbers, an image, exact comparison."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, tensor

__all__ = ["equals", "gates", "image", "unmoved", "with_values"]


def with_values(module: nn.Module, **values: Any) -> nn.Module:
    """``module`` in float64 and eval, all parameters zero but for ``values`` (dots written as two underscores).

    Batch norms divide by one: what moves their input is their parameters.
    """
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        for name, value in values.items():
            place = module.get_parameter(name.replace("__", "."))
            place.copy_(tensor(value, dtype=torch.float64).reshape(place.shape))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
                part.running_var.fill_(1 - part.eps)
    return module


def unmoved(module: nn.Module) -> nn.Module:
    """``module`` of :func:`with_values` with batch norms that change nothing."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.fill_(1)
    return module


def image(*channels: Sequence[Sequence[float]]) -> Tensor:
    """One image (1, C, H, W) of rows of numbers."""
    return tensor([channels], dtype=torch.float64)


def gates(y: Tensor, x: Tensor) -> Tensor:
    """What each pixel of one image was multiplied by, (C, H·W)."""
    return (y / x)[0].flatten(1)


def equals(found: Tensor, expected: Any, within: float = 1e-12) -> None:
    """Assert that two results are the same numbers."""
    torch.testing.assert_close(found, tensor(expected, dtype=found.dtype), rtol=0, atol=within)
