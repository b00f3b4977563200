"""Every operator of ``saccade.ops`` with operands, and every mechanism, as what ``gpu.py`` evaluates on two devices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mechanisms import created
from reference_implementations import ROWS
from saccade.ops.attention import attention, attention_definition
from saccade.ops.covariance import covariance, covariance_definition
from saccade.ops.criss_cross import criss_cross, criss_cross_definition
from saccade.ops.cross import cross_gated, cross_gated_definition
from saccade.ops.deform import deform_conv2d, deform_conv2d_definition
from saccade.ops.energy import energy_gate, energy_gate_definition
from saccade.ops.gating import (
    gated,
    gated_and_shuffled,
    gated_and_shuffled_definition,
    gated_definition,
    max_and_mean,
    max_and_mean_definition,
    mean_and_variance,
    mean_and_variance_definition,
    narrow_conv2d,
    pooled_mean,
)
from saccade.ops.global_conv import global_depthwise_conv
from saccade.ops.local_attention import local_attention, local_attention_definition
from saccade.ops.relative import (
    relative_attention,
    relative_attention_definition,
    relative_bias,
    relative_bias_definition,
    table_runs,
)
from saccade.ops.resample import bilinear, bilinear_definition, window_means, window_means_definition
from saccade.ops.self_gating import gated_by, gated_by_definition
from saccade.ops.strip import strip_means, strip_means_definition

__all__ = ["OPERATORS", "Bound", "Subject", "mechanism", "operator"]

Function = Callable[..., Tensor | tuple[Tensor, ...]]
Leaves = dict[str, Tensor]
Bound = tuple[Callable[[], Tensor | tuple[Tensor, ...]], Leaves]
"""A call without arguments, and the tensors by which its result is differentiated."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        bind: ``bind(change, exact)`` makes the call; ``change`` maps each float32 leaf on the CPU to the tensor that
            takes its place, ``exact`` asks for the definition where there is one.
    """

    bind: Callable[[Callable[[Tensor], Tensor], bool], Bound]


def mechanism(name: str, shape: tuple[int, ...], training: bool) -> Subject:
    """A mechanism with weights that are not fresh, on a map of this shape."""
    module = created(name, ROWS[name], shape).train(training)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def bind(change: Callable[[Tensor], Tensor], exact: bool) -> Bound:
        leaf = change(x).detach().requires_grad_()
        twin = copy.deepcopy(module).to(leaf.device, leaf.dtype)
        own = dict(module.named_parameters())
        with torch.no_grad():
            for key, parameter in twin.named_parameters():
                parameter.copy_(change(own[key]))
        leaves = {"x": leaf} | {key: p for key, p in twin.named_parameters() if p.requires_grad}
        return lambda: twin(leaf), leaves

    return Subject(bind)


def operator(name: str, small: bool) -> Subject:
    """The operator called ``name`` on operands that suit it."""
    function, definition, operands = OPERATORS[name](small)

    def bind(change: Callable[[Tensor], Tensor], exact: bool) -> Bound:
        leaves = {key: change(value).detach().requires_grad_() for key, value in operands.items()}
        return lambda: (definition if exact else function)(**leaves), leaves

    return Subject(bind)


def _draw(**shapes: tuple[int, ...]) -> Leaves:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


Row = tuple[Function, Function, Leaves]


def _size(small: bool) -> tuple[int, int, int, int]:
    return (2, 8, 7, 5) if small else (4, 64, 28, 20)


def _on_a_map(function: Function, definition: Function) -> Callable[[bool], Row]:
    return lambda small: (function, definition, _draw(x=_size(small)))


def _gated(small: bool) -> Row:
    b, c, h, w = _size(small)
    return gated, gated_definition, _draw(x=(b, c, h, w), gate=(b, c, 1, 1))


def _shuffled(small: bool) -> Row:
    size = _size(small)
    return gated_and_shuffled, gated_and_shuffled_definition, _draw(x=size, gate=size)


def _gate(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).sigmoid()


def _two_gates(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return rows.sigmoid(), columns.tanh()


def _attention(small: bool) -> Row:
    b, c, h, w = _size(small)
    e, v, m = c // 4, c // 2, h * w
    leaves = _draw(query=(b, m, e), key=(b, m, e), value=(b, m, v), row_bias=(b, m, h), column_bias=(b, m, w))
    return (
        lambda **t: attention(scale=e**-0.5, **t),
        lambda **t: attention_definition(scale=e**-0.5, **t),
        leaves,
    )


def _local(small: bool) -> Row:
    b, c, h, w = _size(small)
    shapes = dict.fromkeys(("query", "key", "value"), (b, 2, c // 2, h, w))
    leaves = _draw(**shapes, row_bias=(b, 2, 3, h, w), column_bias=(b, 2, 5, h, w))
    return local_attention, local_attention_definition, leaves


def _criss_cross(small: bool) -> Row:
    b, c, h, w = _size(small)
    leaves = _draw(query=(b, c // 4, h, w), key=(b, c // 4, h, w), value=(b, c, h, w))
    return criss_cross, criss_cross_definition, leaves


def _covariance(small: bool) -> Row:
    b, c, h, w = _size(small)
    return covariance, covariance_definition, _draw(x=(b, c, h * w))


def _places(b: int, keys: int) -> Tensor:
    return torch.rand(b, keys, 2, generator=torch.Generator().manual_seed(1)) * 1.9 - 0.95


def _bias(small: bool) -> Row:
    b, _, h, w = _size(small)
    leaves = _draw(table=(2, 2 * h - 1, 2 * w - 1)) | {"key_yx": _places(b, 9)}
    every = slice(0, None)
    return (
        lambda table, key_yx: relative_bias(table_runs(table), key_yx, (h, w), every),
        lambda table, key_yx: relative_bias_definition(table, key_yx, (h, w), every),
        leaves,
    )


def _relative(small: bool) -> Row:
    b, c, h, w = _size(small)
    e, keys = c // 4, h * w // 4
    leaves = _draw(query=(b, 2, e, h * w), key=(b, 2, e, keys), value=(b, 2, e, keys))
    leaves |= {"key_yx": _places(b, keys)} | _draw(table=(2, 2 * h - 1, 2 * w - 1))
    return (
        lambda **t: relative_attention(size=(h, w), scale=e**-0.5, **t),
        lambda **t: relative_attention_definition(size=(h, w), scale=e**-0.5, **t),
        leaves,
    )


def _deform(small: bool) -> Row:
    b, c, h, w = _size(small)
    leaves = _draw(input=(b, c, h, w), offset=(b, 18, h, w), weight=(c, c, 3, 3), bias=(c,), mask=(b, 9, h, w))
    return (
        lambda **t: deform_conv2d(padding=1, **t),
        lambda **t: deform_conv2d_definition(padding=1, **t),
        leaves,
    )


def _narrow(small: bool) -> Row:
    b, c, h, w = _size(small)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=3)

    return narrow_conv2d, plain, _draw(x=(b, c, h, w), weight=(1, c, 7, 7), bias=(1,))


def _whole(small: bool) -> Row:
    b, c, h, w = _size(small)

    def fast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        conv = nn.Conv2d(c, c, (h, w), groups=c, device="meta")
        del conv.weight, conv.bias
        conv.weight, conv.bias = weight, bias  # leaves, which are to take the gradient
        return global_depthwise_conv(conv, x)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, groups=c)

    return fast, plain, _draw(x=(b, c, h, w), weight=(c, 1, h, w), bias=(c,))


OPERATORS: Mapping[str, Callable[[bool], Row]] = {
    "attention": _attention,
    "bilinear": _on_a_map(lambda x: bilinear(x, (9, 11)), lambda x: bilinear_definition(x, (9, 11))),
    "covariance": _covariance,
    "criss_cross": _criss_cross,
    "cross_gated": _on_a_map(
        lambda x: cross_gated(x, _two_gates), lambda x: cross_gated_definition(x, _two_gates)
    ),
    "deform_conv2d": _deform,
    "energy_gate": _on_a_map(lambda x: energy_gate(x, 1e-2), lambda x: energy_gate_definition(x, 1e-2)),
    "gated": _gated,
    "gated_and_shuffled": _shuffled,
    "gated_by": _on_a_map(lambda x: gated_by(x, _gate), lambda x: gated_by_definition(x, _gate)),
    "local_attention": _local,
    "max_and_mean": _on_a_map(
        lambda x: max_and_mean(x, (1,), (2, 3)), lambda x: max_and_mean_definition(x, (1,), (2, 3))
    ),
    "mean_and_variance": _on_a_map(mean_and_variance, mean_and_variance_definition),
    "narrow_conv2d": _narrow,
    "pooled_mean": _on_a_map(pooled_mean, lambda x: x.mean((2, 3))),
    "relative_attention": _relative,
    "relative_bias": _bias,
    "strip_means": _on_a_map(strip_means, strip_means_definition),
    "global_depthwise_conv": _whole,
    "window_means": _on_a_map(lambda x: window_means(x, (3, 4)), lambda x: window_means_definition(x, (3, 4))),
}  # fmt: skip
"""Each name makes, for small operands or not, the operator, its definition and the operands."""
