"""Promises about shapes: any size, batch and channel count within the limits of SPEC, and the meta device."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from saccade.contract.advice import format_error
from saccade.contract.harness import (
    SIZES,
    TOLERANCE,
    BrokenPromiseError,
    Case,
    Subject,
    UntestableError,
    distance,
    each_mode,
    expect,
    gradients,
)

__all__ = [
    "keeps_shape", "runs_on_meta", "takes_an_empty_batch", "takes_any_channels", "takes_one_image",
    "treats_images_apart",
]  # fmt: skip

CHANNELS = (8, 16, 64, 257)


def keeps_shape(case: Case) -> None:
    """A map (B, C, H, W) keeps its shape at any size, 1×1 included, after any other size, in eval and train."""
    module, accepted_shapes = case.build_randomized(), list[str]()
    for mode in each_mode(module):
        for size in case.sizes(*SIZES):
            x = case.random_maps(*size)
            shape = tuple(x.shape)
            try:
                y = module(x)
            except Exception as error:
                if not accepted_shapes and not re.search("shape|size", str(error)):
                    raise
                accepted_note = f", although {accepted_shapes[-1]} was accepted" if accepted_shapes else ""
                raise BrokenPromiseError(
                    f"{shape} is refused in {mode}{accepted_note}: {format_error(error)}; "
                    "a mechanism takes maps of any size, unless its SPEC needs the size"
                ) from error
            expect(isinstance(y, Tensor), f"forward returns {type(y).__name__}, not one tensor, in {mode}")
            expect(y.shape == x.shape, f"{shape} comes out as {tuple(y.shape)} in {mode}")
            expect(bool(y.isfinite().all()), f"{shape} comes out with values that are not finite in {mode}")
            accepted_shapes.append(str(shape))


def takes_one_image(case: Case) -> None:
    """A batch of one image gives finite output in eval and train, also for 1×1 maps."""
    module = case.build_randomized()
    for mode in each_mode(module):
        for size in case.sizes((1, 1), (5, 3)):
            y = module(case.random_maps(*size, batch=1))
            expect(bool(y.isfinite().all()), f"one image of {size[0]}×{size[1]} in {mode}: values that are not finite")


def takes_an_empty_batch(case: Case) -> None:
    """An empty batch keeps its shape, has gradients of zero and leaves buffers finite, in eval and train."""
    module, x = case.build_randomized(), case.random_maps(batch=0).requires_grad_()
    for mode in each_mode(module):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*degrees of freedom is <= 0")
                y = module(x)
                all_gradients = gradients(y, module, x)
        except Exception as error:
            raise BrokenPromiseError(f"an empty batch {tuple(x.shape)} in {mode}: {format_error(error)}") from error
        expect(y.shape == x.shape, f"an empty batch {tuple(x.shape)} comes out as {tuple(y.shape)} in {mode}")
        for name, gradient in all_gradients.items():
            is_zero = gradient is None or not bool(gradient.any())
            expect(is_zero, f"the gradient of {name} for an empty batch in {mode} is not zero")
        nonfinite_buffers = [name for name, buffer in module.named_buffers() if not bool(buffer.isfinite().all())]
        expect(not nonfinite_buffers, f"an empty batch in {mode} leaves {', '.join(nonfinite_buffers)} not finite")


def runs_on_meta(case: Case) -> None:
    """On the ``meta`` device forward and backward passes return the right shapes, in both modes."""
    module = case.build_randomized().to("meta")
    x = case.random_maps().to("meta").requires_grad_()
    for mode in each_mode(module):
        try:
            y = module(x)
            is_on_meta = y.is_meta
            (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        except Exception as error:
            raise BrokenPromiseError(f"on the meta device in {mode}: {format_error(error)}") from error
        expect(
            is_on_meta and y.shape == x.shape, f"{tuple(x.shape)} on meta comes out as {tuple(y.shape)} on {y.device}"
        )
        expect(gradient is None or gradient.is_meta, f"the gradient of a map on meta in {mode} is on another device")


def treats_images_apart(case: Subject) -> None:
    """In eval an image's output does not depend on the other images of the batch."""
    module, x = case.build_randomized(), case.random_maps(batch=3)
    single_outputs = torch.cat([module(image[None]) for image in x])
    error = distance(module(x), single_outputs)
    expect(error < TOLERANCE, f"outputs for an image alone and in a batch of 3 differ by {error:.1e}")


def takes_any_channels(case: Case) -> None:
    """8, 16, 64 and 257 channels, if within the limits of SPEC, give finite values and gradients.

    Without a SPEC, a ValueError of the constructor counts as a limit.
    """
    n_tested = 0
    for channels in CHANNELS:
        channels_case = replace(case, channels=channels)
        if channels_case.refusal() is not None:
            continue
        module = channels_case.build_randomized()
        for name, p in module.named_parameters():
            expect(
                p.numel() > 0,
                f"at {channels} channels {name} is {tuple(p.shape)}, an empty layer; "
                "state a limit in SPEC and raise a ValueError for it",
            )
        n_tested += 1
        x = channels_case.random_maps().requires_grad_()
        try:
            y = module(x)
        except Exception as error:
            raise BrokenPromiseError(f"the module fails at {channels} channels: {format_error(error)}") from error
        expect(y.shape == x.shape, f"{tuple(x.shape)} comes out as {tuple(y.shape)}")
        expect(bool(y.isfinite().all()), f"values that are not finite at {channels} channels")
        for name, gradient in gradients(y, module, x).items():
            is_finite = gradient is None or bool(gradient.isfinite().all())
            expect(is_finite, f"the gradient of {name} is not finite at {channels} channels")
    if not n_tested:
        raise UntestableError(f"none of {', '.join(map(str, CHANNELS))} channels is within the limits")
