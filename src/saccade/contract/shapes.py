"""Promises about shapes: any size, batch and channel count within the limits, and the meta device."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from saccade.contract.advice import in_one_line
from saccade.contract.harness import (
    CLOSE,
    SIZES,
    BrokenPromiseError,
    Case,
    UnexaminedError,
    distance,
    expect,
    gradients,
    modes,
)

__all__ = [
    "keeps_shape", "runs_on_meta", "takes_an_empty_batch", "takes_any_channels", "takes_one_image",
    "treats_images_apart",
]  # fmt: skip

CHANNELS = (8, 16, 64, 257)


def keeps_shape(case: Case) -> None:
    """(B, C, H, W) comes out as (B, C, H, W) at any size, 1×1 included, whatever ran before, in eval and train."""
    module, taken = case.randomized(), list[str]()
    for mode in modes(module):
        for size in case.sizes(*SIZES):
            x = case.maps(*size)
            shape = tuple(x.shape)
            try:
                y = module(x)
            except Exception as error:
                if not taken and not re.search("shape|size", str(error)):
                    raise
                after = f", after {taken[-1]} was not" if taken else ""
                raise BrokenPromiseError(
                    f"{shape} is refused in {mode}{after}: {in_one_line(error)}; "
                    "a mechanism takes maps of any size, or its SPEC says that it needs the size"
                ) from error
            expect(isinstance(y, Tensor), f"returns {type(y).__name__}, not one tensor, in {mode}")
            expect(y.shape == x.shape, f"{shape} comes out as {tuple(y.shape)} in {mode}")
            expect(bool(y.isfinite().all()), f"{shape} comes out with values that are not finite in {mode}")
            taken.append(str(shape))


def takes_one_image(case: Case) -> None:
    """A batch of one image works in eval and train, also where its map is 1×1."""
    module = case.randomized()
    for mode in modes(module):
        for size in case.sizes((1, 1), (5, 3)):
            y = module(case.maps(*size, batch=1))
            expect(bool(y.isfinite().all()), f"one image of {size[0]}×{size[1]} in {mode}: values that are not finite")


def takes_an_empty_batch(case: Case) -> None:
    """A batch of no image keeps its shape and has gradients of zero, in eval and train, and leaves buffers finite."""
    module, x = case.randomized(), case.maps(batch=0).requires_grad_()
    for mode in modes(module):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*degrees of freedom is <= 0")
                y = module(x)
                found = gradients(y, module, x)
        except Exception as error:
            raise BrokenPromiseError(f"an empty batch {tuple(x.shape)} in {mode}: {in_one_line(error)}") from error
        expect(y.shape == x.shape, f"an empty batch {tuple(x.shape)} comes out as {tuple(y.shape)} in {mode}")
        for name, gradient in found.items():
            zero = gradient is None or not bool(gradient.any())
            expect(zero, f"the gradient of {name} for an empty batch in {mode} is not zero")
        broken = [name for name, buffer in module.named_buffers() if not bool(buffer.isfinite().all())]
        expect(not broken, f"an empty batch in {mode} leaves {', '.join(broken)} not finite")


def runs_on_meta(case: Case) -> None:
    """On the ``meta`` device forward and backward give their shapes, in both modes."""
    module = case.randomized().to("meta")
    x = case.maps().to("meta").requires_grad_()
    for mode in modes(module):
        try:
            y = module(x)
            on_meta = y.is_meta
            (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        except Exception as error:
            raise BrokenPromiseError(f"on the meta device in {mode}: {in_one_line(error)}") from error
        expect(on_meta and y.shape == x.shape, f"{tuple(x.shape)} on meta comes out as {tuple(y.shape)} on {y.device}")
        expect(gradient is None or gradient.is_meta, f"the gradient of a map on meta in {mode} is on another device")


def treats_images_apart(case: Case) -> None:
    """In eval an image comes out the same whatever else is in the batch."""
    module, x = case.randomized(), case.maps(batch=3)
    apart = torch.cat([module(image[None]) for image in x])
    off = distance(module(x), apart)
    expect(off < CLOSE, f"an image alone and in a batch of 3 differ by {off:.1e}")


def takes_any_channels(case: Case) -> None:
    """8, 16, 64 and 257 channels, within the limits, keep their shape, with finite values and gradients.

    Without a SPEC a ValueError of the constructor counts as a limit.
    """
    tried = 0
    for channels in CHANNELS:
        each = replace(case, channels=channels)
        if each.refusal() is not None:
            continue
        module = each.randomized()
        for name, p in module.named_parameters():
            expect(
                p.numel() > 0,
                f"at {channels} channels {name} is {tuple(p.shape)}, a layer of no unit; "
                "a limit is stated in SPEC, and announced by a ValueError",
            )
        tried += 1
        x = each.maps().requires_grad_()
        try:
            y = module(x)
        except Exception as error:
            raise BrokenPromiseError(f"it fails at {channels} channels: {in_one_line(error)}") from error
        expect(y.shape == x.shape, f"{tuple(x.shape)} comes out as {tuple(y.shape)}")
        expect(bool(y.isfinite().all()), f"values that are not finite at {channels} channels")
        for name, gradient in gradients(y, module, x).items():
            finite = gradient is None or bool(gradient.isfinite().all())
            expect(finite, f"the gradient of {name} is not finite at {channels} channels")
    if not tried:
        raise UnexaminedError(f"none of {', '.join(map(str, CHANNELS))} channels lies inside its limits")
