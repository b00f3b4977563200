"""Promises about numbers: dtypes, rounding, memory formats, and constant maps."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.contract.harness import CLOSE, SIZES, Case, distance, expect, gradients, modes

__all__ = ["agrees_under_autocast", "keeps_dtype", "stays_finite", "takes_channels_last"]

ROUNDED = 2.0**-5
"""Sixteen roundings of bfloat16, 2⁻⁹ each, all in one direction."""
TURNED = 0.5
"""A gradient with an error of half its length is within 30° of the true one; a maximum or sampling point that moves by
a rounding makes gradients jump."""
LAYOUT = 1e-12
"""Two orders of summation differ by less in float64, relative to the largest value."""


def keeps_dtype(case: Case) -> None:
    """The output has the input's dtype in eval and train: float64, float32, bfloat16, the latter two under autocast."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        module = case.randomized(dtype=dtype)
        for mode in modes(module):
            _expect_dtype(module(case.maps(dtype=dtype)), dtype, f" in {mode}")
    module = case.randomized(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for mode in modes(module):
            for dtype in (torch.float32, torch.bfloat16):
                _expect_dtype(module(case.maps(dtype=dtype)), dtype, f" under autocast in {mode}")


def _expect_dtype(y: Tensor, dtype: torch.dtype, when: str) -> None:
    expect(y.dtype == dtype, f"{dtype} comes out as {y.dtype}{when}")
    expect(bool(y.isfinite().all()), f"{dtype} comes out with values that are not finite{when}")


def agrees_under_autocast(case: Case) -> None:
    """Under bfloat16 autocast values and gradients are finite, and those of float32 but for rounding."""
    module = case.randomized(dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        x = case.maps(dtype=dtype)
        plain, entering = x.float().requires_grad_(), x.clone().requires_grad_()
        known = module(plain)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(entering)
        _expect_near([found], [known], ROUNDED, f"the output for {dtype} maps")
        true = gradients(known, module, plain)
        pairs = {
            name: (gradient, wanted)
            for name, gradient in gradients(found, module, entering).items()
            if gradient is not None and (wanted := true[name]) is not None
        }
        for what, names in (("input", pairs.keys() & {"input"}), ("parameters", pairs.keys() - {"input"})):
            _expect_near(
                [pairs[name][0] for name in names], [pairs[name][1] for name in names], TURNED,
                f"the gradient of the {what} for {dtype} maps",
            )  # fmt: skip


def _expect_near(found: list[Tensor], known: list[Tensor], part: float, what: str) -> None:
    """Expect ``found``, as one vector, to be finite and off by less than ``part`` of the length of ``known``."""
    if known:
        a, b = (torch.cat([each.detach().flatten().double() for each in side]) for side in (found, known))
        expect(bool(a.isfinite().all()), f"{what} has values that are not finite under autocast")
        off = ((a - b).norm() / b.norm().clamp(min=1e-300)).item()
        expect(off < part, f"{what} differs from float32's by {off:.1%} under autocast, more than rounding explains")


def takes_channels_last(case: Case) -> None:
    """A channels_last map gives the same output, channels_last; a contiguous one a contiguous one."""
    module, x = case.randomized(), case.maps().requires_grad_()
    known = module(x)
    expect(known.is_contiguous(), "the output of a contiguous map is not contiguous: .contiguous() mends it")
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = module(last)
    off = distance(found, known)
    expect(off < LAYOUT, f"the output of a channels_last map differs by {off:.1e}")
    expect(
        found.is_contiguous(memory_format=torch.channels_last),
        "the output of a channels_last map is not channels_last: every later convolution converts it",
    )
    true = gradients(known, module, x)
    for name, gradient in gradients(found, module, last).items():
        wanted = true[name]
        if gradient is not None and wanted is not None:
            off = distance(gradient, wanted)
            expect(off < CLOSE, f"the gradient of {name} for a channels_last map differs by {off:.1e}")


def stays_finite(case: Case) -> None:
    """Values and gradients are finite in float32, eval and train, for a map that is 1×1, zero or constant."""
    module = case.randomized(dtype=torch.float32)
    (size,) = case.sizes(SIZES[0])
    one = case.maps(*size, dtype=torch.float32)
    maps = {"1×1": case.maps(*case.sizes((1, 1))[0], dtype=torch.float32), "zero": one * 0, "constant": one * 0 + 3}
    for mode in modes(module):
        for what, x in maps.items():
            entering = x.requires_grad_()
            y = module(entering)
            expect(bool(y.isfinite().all()), f"values that are not finite for a {what} map in {mode}")
            for name, gradient in gradients(y, module, entering).items():
                finite = gradient is None or bool(gradient.isfinite().all())
                expect(finite, f"the gradient of {name} is not finite for a {what} map in {mode}")
