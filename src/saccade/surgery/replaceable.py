"""Build the replacement of a convolution, insert it, and verify it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saccade.bases import Convolution
from saccade.errors import UserError
from saccade.graph.sites import Site
from saccade.graph.trace import Arguments
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.parent_class import base_class
from saccade.surgery.mechanism import Mechanism
from saccade.surgery.replaced import (
    KernellessConvolution,
    ReplacedConvolution,
    ReplacementInfo,
    insert_at,
    original_output,
    output_without_plug,
    replacement_info,
    restore,
)
from saccade.surgery.verify import raise_errors, run_host

__all__ = ["build_replacement", "check_replaceable", "insert_replacements"]


def check_replaceable(path: str, module: nn.Module) -> None:
    """Raise UserError unless ``module`` is a plain ``nn.Conv2d`` whose geometry a mechanism supports."""
    cls = base_class(module)
    if cls in (ReplacedConvolution, KernellessConvolution):
        raise UserError(f"{path} is replaced by {replacement_info(module).name} already; unplug the host first")
    reason = None
    if cls is not nn.Conv2d:
        reason = f"is a {cls.__name__}" + (", which overrides forward" if isinstance(module, nn.Conv2d) else "")
    elif "forward" in module.__dict__:
        reason = "has a forward function set on the instance"
    elif module._parameters.get("weight") is None:
        reason = "computes its weight, as weight_norm and spectral_norm do"
    elif module.padding_mode != "zeros":
        reason = f"pads with padding_mode={module.padding_mode!r}; mechanisms pad with 'zeros'"
    if reason is not None:
        raise UserError(f"{path} {reason}; replace takes plain torch.nn.Conv2d modules. Choose others by where=")
    assert isinstance(module, nn.Conv2d)
    _geometry(path, module)


def _geometry(path: str, convolution: nn.Conv2d) -> dict[str, Any]:
    """Return the constructor arguments that give a mechanism the geometry of ``convolution``.

    Raises:
        UserError: height and width, or the padding of two sides of an axis, differ.
    """
    geometry: dict[str, Any] = {"out_channels": convolution.out_channels}
    pairs: dict[str, tuple[int, ...]] = {
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "dilation": convolution.dilation,
    }
    if isinstance(convolution.padding, str):
        totals = [d * (k - 1) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)]
        if convolution.padding == "same" and any(total % 2 for total in totals):
            odd_total = next(total for total in totals if total % 2)
            raise UserError(
                f"{path} pads {odd_total // 2} on one side and {odd_total - odd_total // 2} on the other "
                f"(padding='same', kernel_size={convolution.kernel_size}): mechanisms take one value for both sides"
            )
        pairs["padding"] = (0, 0) if convolution.padding == "valid" else tuple(total // 2 for total in totals)
    else:
        pairs["padding"] = convolution.padding
    for key, (vertical, horizontal) in pairs.items():
        if vertical != horizontal:
            raise UserError(
                f"{path} has {key}={(vertical, horizontal)}: mechanisms take one value for height and width"
            )
        geometry[key] = vertical
    return geometry | {"groups": convolution.groups, "bias": convolution.bias is not None}


def build_replacement(
    host: nn.Module, mechanism: Mechanism, site: Site, position: str, options: dict[str, Any], neutral: bool
) -> tuple[nn.Module, ReplacementInfo]:
    """Return a new mechanism for the convolution at ``site.parent``, and its metadata.

    Raises:
        UserError: the mechanism does not support the geometry, the options or the kernel's shape.
    """
    path = site.parent
    convolution = host.get_submodule(path)
    assert isinstance(convolution, nn.Conv2d)
    geometry = _geometry(path, convolution)
    if "kernel_size" in options and options["kernel_size"] != geometry["kernel_size"]:
        total_padding = geometry["dilation"] * (geometry["kernel_size"] - 1)
        if 2 * geometry["padding"] != total_padding:
            raise UserError(
                f"{path} pads {geometry['padding']} around a kernel of {geometry['kernel_size']}, where "
                f"{total_padding / 2:g} keeps the size: kernel_size cannot be changed to {options['kernel_size']}"
            )
        geometry["padding"] = None  # the mechanism derives it from kernel_size
    site_of_convolution = dataclasses.replace(site, path=path, channels=convolution.in_channels)
    # The same weights on every device.
    with torch.device("meta" if convolution.weight.is_meta else "cpu"):
        module = mechanism.build(site_of_convolution, geometry | options)
    keeps_kernel = isinstance(module, Convolution)
    if isinstance(module, Convolution):
        shape, convolution_shape = tuple(module.weight.shape), tuple(convolution.weight.shape)
        if shape != convolution_shape:
            raise UserError(
                f"{path} has a kernel of shape {convolution_shape}, and {mechanism.name}, which keeps the kernel, "
                f"needs {shape}"
            )
    size = (int(site.size[0]), int(site.size[1]))
    info = ReplacementInfo(mechanism.name, options, position, site.stage, size, neutral=keeps_kernel and neutral)
    return module.to(convolution.weight.device, convolution.weight.dtype), info


def insert_replacements(
    host: nn.Module, new_modules: Mapping[str, tuple[nn.Module, ReplacementInfo]], arguments: Arguments | None
) -> None:
    """Insert replacements by path, and verify them in one forward pass if ``arguments`` are given.

    Raises:
        UserError: an output differs from the convolution's, or the forward pass fails. The host is left as it was.
    """
    inserted: set[str] = set()
    try:
        for path, (mechanism, info) in new_modules.items():
            insert_at(host, path, mechanism, info)
            inserted.add(path)
        if arguments is not None:
            _verify(host, new_modules, arguments)
    except BaseException:
        restore(host, inserted)
        raise


def _verify(
    host: nn.Module, new_modules: Mapping[str, tuple[nn.Module, ReplacementInfo]], arguments: Arguments
) -> None:
    errors: list[str] = []
    n_runs = dict.fromkeys(new_modules, 0)

    def register_hook(path: str, info: ReplacementInfo) -> None:
        def check_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            n_runs[path] += 1
            (x,) = (*args, *kwargs.values())
            output, expected = output_without_plug(module, x, output), original_output(module, x)
            if not isinstance(output, Tensor) or output.shape != expected.shape:
                result = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                shape_text = f"{tuple(x.shape)} into {result}, not {tuple(expected.shape)}"
                errors.append(f"{info.name} at {path} turns {shape_text}")
            elif info.neutral and not _equal_up_to_rounding(output, expected):
                errors.append(f"{info.name} at {path}, with {info.options}, does not start as the convolution")

        hook = only_in_this_thread(check_output)
        handles.append(host.get_submodule(path).register_forward_hook(hook, prepend=True, with_kwargs=True))

    with temporary_hooks() as handles:
        for path, (_, info) in new_modules.items():
            register_hook(path, info)
        run_host(host, arguments, errors, next(iter(new_modules.values()))[1].name)
    not_run = [path for path, n in n_runs.items() if not n]
    errors += [f"{path} is not called as a module: its replacement would not run" for path in not_run]
    raise_errors(errors)


def _equal_up_to_rounding(output: Tensor, expected: Tensor) -> bool:
    """Return True if two outputs (B, O, Ho, Wo) are equal up to rounding, or ``expected`` is not finite."""
    if output.numel() == 0 or not expected.isfinite().all():
        return True
    difference = (output.double() - expected.double()).abs().max().item()
    return difference <= math.sqrt(torch.finfo(expected.dtype).eps) * max(expected.double().abs().max().item(), 1e-30)
