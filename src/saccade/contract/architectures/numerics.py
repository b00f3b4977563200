"""Promises about numbers: dtypes, autocast and memory formats."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.harness import TOLERANCE, distance, each_mode, expect

__all__ = ["agrees_in_bfloat16", "works_in_channels_last", "works_in_double_precision"]

FLOAT_TOLERANCE = 1e-3
"""Largest relative difference between outputs in float32 and float64."""
BFLOAT16_FACTOR = 4
"""Largest error under autocast, relative to the error from rounding parameters and images alone.

Autocast also rounds what each layer returns; the package's networks are at 0.6 to 2.
"""


def works_in_double_precision(case: ArchitectureCase) -> None:
    """In float64 the output is float64 and equals that in float32 up to rounding; float32 gives float32."""
    double, single = case.build_randomized(), case.build_randomized(dtype=torch.float32)
    for mode in each_mode(double):
        single.train(double.training)
        y = case.logits(double, case.random_maps())
        expect(y.dtype == torch.float64, f"float64 images come out as {y.dtype} in {mode}")
        if mode == "eval":
            z = case.logits(single, case.random_maps(dtype=torch.float32))
            expect(z.dtype == torch.float32, f"float32 images come out as {z.dtype} in {mode}")
            error = distance(z.double(), y)
            expect(error < FLOAT_TOLERANCE, f"float32 and float64 outputs differ by {error:.1e}")


def agrees_in_bfloat16(case: ArchitectureCase) -> None:
    """Under bfloat16 autocast the output equals that in float32 up to rounding; gradients in train are finite."""
    network, x = case.build_randomized(dtype=torch.float32), case.random_maps(dtype=torch.float32)
    with torch.no_grad():
        expected = case.logits(network, x)
        with torch.autocast("cpu", torch.bfloat16):
            y = case.logits(network, x)
        rounded = copy.deepcopy(network).bfloat16().float()
        rounding_error = _relative_error(case.logits(rounded, x.bfloat16().float()), expected)
    expect(bool(y.isfinite().all()), "values that are not finite under autocast")
    error = _relative_error(y.float(), expected)
    expect(
        error <= BFLOAT16_FACTOR * rounding_error,
        f"the output under autocast is off by {error:.1%}; rounded parameters and images explain {rounding_error:.1%}",
    )
    with torch.autocast("cpu", torch.bfloat16):
        y = case.logits(network.train(), x)
    y.float().square().mean().backward()
    for name, parameter in network.named_parameters():
        is_finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        expect(is_finite, f"the gradient of {name} is not finite under autocast")


def works_in_channels_last(case: ArchitectureCase) -> None:
    """In channels_last, network and images give the same output as in the usual format."""
    network, x = case.build_randomized(), case.random_maps()
    expected = case.logits(network, x)
    network.to(memory_format=torch.channels_last)
    error = distance(case.logits(network, x.contiguous(memory_format=torch.channels_last)), expected)
    expect(error < TOLERANCE, f"the output in channels_last differs by {error:.1e}")


def _relative_error(y: Tensor, expected: Tensor) -> float:
    """Return the norm of ``y - expected`` relative to that of ``expected``."""
    return ((y - expected).norm() / expected.norm()).item()
