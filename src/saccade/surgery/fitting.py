"""One mechanism fitted into the place of one convolution, or refused with the numbers that do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace as changed
from typing import Any

import torch
from torch import Tensor, nn

from saccade.attachment import base_class
from saccade.errors import UserError
from saccade.bases import Convolution
from saccade.surgery.plug import Mechanism
from saccade.surgery.replaced import Note, Replaced, Stand, alone, note, original, put, restore
from saccade.surgery.sites import Site
from saccade.surgery.threads import of_this_thread
from saccade.surgery.trace import Arguments, run

__all__ = ["check", "fitted", "install"]


def check(path: str, module: nn.Module) -> None:
    """Nothing, if the module is a convolution that can be replaced.

    Raises:
        UserError: it is none, does more than its class says, or has numbers that no mechanism takes.
    """
    kind = base_class(module)
    if kind in (Replaced, Stand):
        raise UserError(f"{path} is replaced by {note(module).name} already; unplug the host first")
    why = None
    if kind is not nn.Conv2d:
        why = f"is a {kind.__name__}" + (", whose forward is its own" if isinstance(module, nn.Conv2d) else "")
    elif "forward" in module.__dict__:
        why = "has a forward of its own"
    elif module._parameters.get("weight") is None:
        why = "computes its weight, as weight_norm and spectral_norm do"
    elif module.padding_mode != "zeros":
        why = f"pads with padding_mode={module.padding_mode!r}; mechanisms pad with 'zeros'"
    if why is not None:
        raise UserError(f"{path} {why}; replace takes torch.nn.Conv2d itself. Name others by where=")
    assert isinstance(module, nn.Conv2d)
    _geometry(path, module)


def _geometry(path: str, convolution: nn.Conv2d) -> dict[str, Any]:
    """The arguments of a mechanism that make it fit.

    Raises:
        UserError: the two directions have different numbers, or the two sides of the map different paddings.
    """
    numbers: dict[str, Any] = {"out_channels": convolution.out_channels}
    pairs: dict[str, tuple[int, ...]] = {
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "dilation": convolution.dilation,
    }
    if isinstance(convolution.padding, str):
        total = [d * (k - 1) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)]
        if convolution.padding == "same" and any(each % 2 for each in total):
            odd = next(each for each in total if each % 2)
            raise UserError(
                f"{path} pads {odd // 2} on one side and {odd - odd // 2} on the other (padding='same', "
                f"kernel_size={convolution.kernel_size}): one number must serve both"
            )
        pairs["padding"] = (0, 0) if convolution.padding == "valid" else tuple(each // 2 for each in total)
    else:
        pairs["padding"] = convolution.padding
    for key, (down, across) in pairs.items():
        if down != across:
            raise UserError(f"{path} has {key}={(down, across)}: one number must serve height and width")
        numbers[key] = down
    return numbers | {"groups": convolution.groups, "bias": convolution.bias is not None}


def fitted(
    host: nn.Module, what: Mechanism, site: Site, position: str, options: dict[str, Any], neutral: bool
) -> tuple[nn.Module, Note]:
    """A new mechanism for one convolution, on its device and of its dtype."""
    path = site.carrier
    convolution = host.get_submodule(path)
    assert isinstance(convolution, nn.Conv2d)
    numbers = _geometry(path, convolution)
    if "kernel_size" in options and options["kernel_size"] != numbers["kernel_size"]:
        same = numbers["dilation"] * (numbers["kernel_size"] - 1)
        if 2 * numbers["padding"] != same:
            raise UserError(
                f"{path} pads {numbers['padding']} around a kernel of {numbers['kernel_size']}, where {same / 2:g} "
                f"keeps the size: its kernel_size cannot become {options['kernel_size']}"
            )
        numbers["padding"] = None
    with torch.device("meta" if convolution.weight.is_meta else "cpu"):  # the same weights wherever the host is
        made = what.build(changed(site, path=path, channels=convolution.in_channels), numbers | options)
    keeps = isinstance(made, Convolution)
    if isinstance(made, Convolution):
        shape, wanted = tuple(made.weight.shape), tuple(convolution.weight.shape)
        if shape != wanted:
            raise UserError(
                f"{path} has a kernel of shape {wanted}, {what.name} would need {shape}: it keeps the kernel"
            )
    size = (int(site.size[0]), int(site.size[1]))
    known = Note(what.name, options, position, site.stage, size, neutral=keeps and neutral)
    return made.to(convolution.weight.device, convolution.weight.dtype), known


def install(host: nn.Module, new: Mapping[str, tuple[nn.Module, Note]], arguments: Arguments | None) -> None:
    """Put ``new`` into their places, and, given what to call the host with, see that they do the convolutions' work.

    Raises:
        UserError: a size or a value is another, or the forward fails; the host is then as it was.
    """
    done: set[str] = set()
    try:
        for path, (made, known) in new.items():
            put(host, path, made, known)
            done.add(path)
        if arguments is not None:
            _try(host, new, arguments)
    except BaseException:
        restore(host, done)
        raise


def _try(host: nn.Module, new: Mapping[str, tuple[nn.Module, Note]], arguments: Arguments) -> None:
    wrong: list[str] = []
    runs = dict.fromkeys(new, 0)
    handles = []

    def watch(path: str, known: Note) -> None:
        def ran(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            runs[path] += 1
            (x,) = (*args, *named.values())
            output, wanted = alone(module, x, output), original(module, x)
            if not isinstance(output, Tensor) or output.shape != wanted.shape:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                wrong.append(f"{known.name} at {path} makes {got} of {tuple(x.shape)}, not {tuple(wanted.shape)}")
            elif known.neutral and not _near(output, wanted):
                wrong.append(f"{known.name} at {path} does not start as the convolution with {known.options}")

        handles.append(
            host.get_submodule(path).register_forward_hook(of_this_thread(ran), prepend=True, with_kwargs=True)
        )

    try:
        for path, (_, known) in new.items():
            watch(path, known)
        run(host, arguments)
    except Exception as error:
        if not wrong:
            name = next(iter(new.values()))[1].name
            wrong.append(f"the host does not run with {name} in it: {type(error).__name__}: {error}")
        raise UserError("; ".join(wrong[:3])) from error
    finally:
        for handle in handles:
            handle.remove()
    wrong += [f"{path} is not called as a module: its replacement would not run" for path, n in runs.items() if not n]
    if wrong:
        raise UserError("; ".join(wrong[:3]) + ("" if len(wrong) < 4 else f" (and {len(wrong) - 3} more)"))


def _near(found: Tensor, wanted: Tensor) -> bool:
    """Are two results of one convolution equal but for the order of summation? Not asked of what is not finite."""
    if found.numel() == 0 or not wanted.isfinite().all():
        return True
    off = (found.double() - wanted.double()).abs().max().item()
    return off <= math.sqrt(torch.finfo(wanted.dtype).eps) * max(wanted.double().abs().max().item(), 1e-30)
