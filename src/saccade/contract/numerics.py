"""Promises about numbers: dtypes, rounding, memory formats, constant maps."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.contract.harness import SIZES, TOLERANCE, Case, distance, each_mode, expect, gradients

__all__ = ["agrees_under_autocast", "keeps_dtype", "stays_finite", "takes_channels_last"]

OUTPUT_TOLERANCE = 2.0**-5
"""Largest relative error of an output: sixteen bfloat16 roundings (2⁻⁹ each) that add up."""
GRADIENT_TOLERANCE = 0.5
"""Largest relative error of a gradient: it jumps if rounding moves a maximum or a sampling point."""
LAYOUT_TOLERANCE = 1e-12
"""Largest relative difference between two orders of summation in float64."""


def keeps_dtype(case: Case) -> None:
    """The output has the input's dtype: float64, float32 or bfloat16; under autocast float32 or bfloat16."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        module = case.build_randomized(dtype=dtype)
        for mode in each_mode(module):
            _expect_dtype_and_finite(module(case.random_maps(dtype=dtype)), dtype, f" in {mode}")
    module = case.build_randomized(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for mode in each_mode(module):
            for dtype in (torch.float32, torch.bfloat16):
                _expect_dtype_and_finite(module(case.random_maps(dtype=dtype)), dtype, f" under autocast in {mode}")


def _expect_dtype_and_finite(y: Tensor, dtype: torch.dtype, when: str) -> None:
    """Expect y (B, C, H, W) to be finite and of ``dtype``."""
    expect(y.dtype == dtype, f"{dtype} comes out as {y.dtype}{when}")
    expect(bool(y.isfinite().all()), f"{dtype} comes out with values that are not finite{when}")


def agrees_under_autocast(case: Case) -> None:
    """Under bfloat16 autocast, values and gradients are finite and equal those of float32 up to rounding."""
    module = case.build_randomized(dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        x = case.random_maps(dtype=dtype)
        float_input, autocast_input = x.float().requires_grad_(), x.clone().requires_grad_()
        expected = module(float_input)
        with torch.autocast("cpu", torch.bfloat16):
            output = module(autocast_input)
        _expect_near([output], [expected], OUTPUT_TOLERANCE, f"the output for {dtype} maps")
        expected_gradients = gradients(expected, module, float_input)
        pairs = {
            name: (gradient, expected_gradient)
            for name, gradient in gradients(output, module, autocast_input).items()
            if gradient is not None and (expected_gradient := expected_gradients[name]) is not None
        }
        for group, names in (("input", pairs.keys() & {"input"}), ("parameters", pairs.keys() - {"input"})):
            _expect_near(
                [pairs[name][0] for name in names], [pairs[name][1] for name in names], GRADIENT_TOLERANCE,
                f"the gradient of the {group} for {dtype} maps",
            )  # fmt: skip


def _expect_near(tensors: list[Tensor], expected: list[Tensor], tolerance: float, name: str) -> None:
    """Expect ``tensors``, concatenated, to be finite and within the relative ``tolerance`` of ``expected``."""
    if expected:
        a, b = (torch.cat([tensor.detach().flatten().double() for tensor in group]) for group in (tensors, expected))
        expect(bool(a.isfinite().all()), f"{name} has values that are not finite under autocast")
        error = ((a - b).norm() / b.norm().clamp(min=1e-300)).item()
        expect(
            error < tolerance,
            f"{name} differs from float32's by {error:.1%} under autocast, more than rounding explains",
        )


def takes_channels_last(case: Case) -> None:
    """channels_last maps give channels_last outputs, contiguous maps give contiguous outputs of the same values."""
    module, x = case.build_randomized(), case.random_maps().requires_grad_()
    expected = module(x)
    expect(expected.is_contiguous(), "the output of a contiguous map is not contiguous: call .contiguous() on it")
    channels_last_input = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    output = module(channels_last_input)
    error = distance(output, expected)
    expect(error < LAYOUT_TOLERANCE, f"the output of a channels_last map differs by {error:.1e}")
    expect(
        output.is_contiguous(memory_format=torch.channels_last),
        "the output of a channels_last map is not channels_last: every later convolution converts it",
    )
    expected_gradients = gradients(expected, module, x)
    for name, gradient in gradients(output, module, channels_last_input).items():
        expected_gradient = expected_gradients[name]
        if gradient is not None and expected_gradient is not None:
            error = distance(gradient, expected_gradient)
            expect(error < TOLERANCE, f"the gradient of {name} for a channels_last map differs by {error:.1e}")


def stays_finite(case: Case) -> None:
    """Values and gradients are finite in float32, eval and train, for 1×1, zero and constant maps."""
    module = case.build_randomized(dtype=torch.float32)
    (size,) = case.sizes(SIZES[0])
    random_map = case.random_maps(*size, dtype=torch.float32)
    maps = {
        "1×1": case.random_maps(*case.sizes((1, 1))[0], dtype=torch.float32),
        "zero": random_map * 0,
        "constant": random_map * 0 + 3,
    }
    for mode in each_mode(module):
        for map_name, x in maps.items():
            leaf = x.requires_grad_()
            y = module(leaf)
            expect(bool(y.isfinite().all()), f"values that are not finite for a {map_name} map in {mode}")
            for name, gradient in gradients(y, module, leaf).items():
                is_finite = gradient is None or bool(gradient.isfinite().all())
                expect(is_finite, f"the gradient of {name} is not finite for a {map_name} map in {mode}")
