"""Parameters and multiply-adds as reported by ``thop`` (pytorch-OpCounter) and most papers.

``thop.profile`` recognises layers by exact type. It leaves out functional operators (matrix products, attention,
deformable convolution), subclasses of layers, layers that are never called, and parameters of unknown modules. Batch
norm counts four operations per value. Inside a known layer, submodules add only parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from saccade.cost.call import ForwardCall
from saccade.errors import UserError
from saccade.graph.states import preserve_state
from saccade.hooks import temporary_hooks
from saccade.parent_class import base_class

__all__ = ["thop_counts"]

_Rule = Callable[[Any, Tensor, Tensor], int]


def thop_counts(call: ForwardCall) -> tuple[int, int]:
    """Return parameters and multiply-adds of one forward pass, as ``thop.profile`` does.

    Raises:
        UserError: the network fails on the input, or holds a recurrent layer.
    """
    macs: Counter[nn.Module] = Counter()
    occurrences = Counter(_module_occurrences(call.model))
    for module in occurrences:
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise UserError(
                f"saccade's counter thop cannot count {type(module).__name__} layers; "
                "use the counter true, or the package thop"
            )
    called = set()

    def count_call(module: nn.Module, rule: _Rule, _: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        called.add(module)
        # thop hooks a module once per parent, so shared modules count repeatedly.
        macs[module] += occurrences[module] * rule(module, args[0] if args else next(iter(kwargs.values())), result)

    with preserve_state(call.model), torch.no_grad(), temporary_hooks() as handles:
        for module in occurrences:
            if (rule := _RULES.get(base_class(module))) is not None:
                handles.append(module.register_forward_hook(partial(count_call, module, rule), with_kwargs=True))
        call.run_checked()

    def totals(module: nn.Module) -> tuple[int, int]:
        parameters, total_macs = 0, macs[module]
        for child in module.children():
            if base_class(child) in _RULES and not isinstance(child, nn.Sequential):
                child_totals = sum(p.numel() for p in child.parameters()) if child in called else 0, macs[child]
            else:
                child_totals = totals(child)
            parameters, total_macs = parameters + child_totals[0], total_macs + child_totals[1]
        return parameters, total_macs

    return totals(call.model)


def _module_occurrences(module: nn.Module) -> Iterator[nn.Module]:
    """Yield every module once per parent, as ``nn.Module.apply`` does."""
    for child in module.children():
        yield from _module_occurrences(child)
    yield module


def _zero(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    return 0


def _one_per_output(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    return y.numel()


def _convolution(layer: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    """Return the MACs computed from the output's size, even for transposed convolutions, as thop does."""
    return y.numel() * (x.shape[1] // layer.groups) * prod(layer.weight.shape[2:])


def _norm(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    affine = getattr(layer, "affine", False) or getattr(layer, "elementwise_affine", False)
    return (4 if affine else 2) * x.numel()


def _prelu(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel()


def _softmax(layer: nn.Softmax, x: Tensor, y: Tensor) -> int:
    """Return the operations: per value an exponential and a division, per row of n values n − 1 additions."""
    row_length = x.shape[layer.dim if layer.dim is not None else -1]
    return x.numel() // row_length * (3 * row_length - 1)


def _adaptive_average(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    window = prod(size_in / size_out for size_in, size_out in zip(x.shape[2:], y.shape[2:], strict=True))
    return int((window + 1) * y.numel())


def _upsample(layer: nn.Upsample, x: Tensor, y: Tensor) -> int:
    return {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 224 + 35}.get(layer.mode, 0) * y.numel()


def _linear(layer: nn.Linear, x: Tensor, y: Tensor) -> int:
    return layer.in_features * y.numel()


_RULES: dict[type[nn.Module], _Rule] = {
    **dict.fromkeys(
        (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution
    ),
    **dict.fromkeys(
        (
            nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm,
            nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
        ),
        _norm,
    ),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _one_per_output),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive_average),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d), _upsample),
    nn.PReLU: _prelu,
    nn.Softmax: _softmax,
    nn.Linear: _linear,
    **dict.fromkeys(
        (
            nn.ZeroPad2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
            nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Dropout, nn.Sequential,
            nn.PixelShuffle,
        ),
        _zero,
    ),
}  # fmt: skip
