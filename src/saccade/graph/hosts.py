"""Checks of a network, before anything is run or changed."""

from __future__ import annotations

import itertools
import sys
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from saccade.errors import UserError

__all__ = ["check_changeable", "check_host", "check_maps", "check_network"]

_SHAPES = {3: "(B, C, L)", 5: "(B, C, D, H, W)"}


def check_network(host: object, what: str = "the host") -> None:
    """Raise UserError unless ``host`` is a network.

    Raises:
        UserError: it is no ``torch.nn.Module``, or its ``train()`` trains, as that of ultralytics' ``YOLO`` does.
    """
    if not isinstance(host, nn.Module):
        raise UserError(f"{what} must be a torch.nn.Module, got {type(host).__name__}")
    if _trains(host):
        inside = next((name for name, _ in host.named_children()), None)
        give = "" if inside is None else f": give the network inside it, its .{inside}"
        raise UserError(
            f"{what} is a {type(host).__name__}, whose train() trains instead of setting the training mode{give}. If "
            "its training builds the network anew, as YOLO.train() does, hand it a trainer of saccade.plugged_trainer"
        )


def _trains(host: nn.Module) -> bool:
    """Return whether ``host.train`` takes something other than a mode: calling it would start training."""
    taken = list(signature(type(host).train).parameters.values())[1:]
    if not taken or taken[0].name == "mode" or taken[0].kind is not taken[0].POSITIONAL_OR_KEYWORD:
        return False
    default = taken[0].default
    return not isinstance(default, bool) and (default is not taken[0].empty or len(taken) > 1)


def check_changeable(host: nn.Module) -> None:
    """Raise UserError unless new parameters in ``host`` would be trained with its own.

    Raises:
        UserError: it is no module, or a part of it is in DistributedDataParallel, ``fully_shard`` or ``replicate``.
    """
    check_network(host)
    for module in host.modules():
        wrapper = _distributed(module)
        if wrapper is not None:
            raise UserError(
                f"the host is wrapped in {wrapper}, which would not synchronise the new parameters: put mechanisms in "
                "first, wrap it afterwards"
            )


def _distributed(module: nn.Module) -> str | None:
    """Return what synchronises the parameters of ``module`` between processes, or None."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # a module of these was made by importing them
    if fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)):
        return "FSDP"
    composable: Any = sys.modules.get("torch.distributed._composable")
    applied = composable._get_registry(module) if composable is not None else None
    return next((name for name in ("replicate", "fully_shard") if name in (applied or ())), None)


def check_host(host: nn.Module) -> None:
    """Raise UserError unless one forward of ``host`` can be watched.

    Raises:
        UserError: it is no module, or a part of it is compiled, has no shape yet, or is on the meta device.
    """
    check_network(host)
    for path, module in host.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") or _compiles(module):
            what = f"the module {path!r}" if path else type(host).__name__
            raise UserError(f"{what} is compiled: nobody sees what happens inside; plug the network first")
    for name, tensor in itertools.chain(host.named_parameters(), host.named_buffers()):
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        if nn.parameter.is_lazy(tensor):
            raise UserError(f"the {kind} {name!r} has no shape yet; run the network once, then plug it")
        if tensor.is_meta:
            raise UserError(
                f"the {kind} {name!r} is on the meta device and has no values; plug the network once it has its "
                "weights: after to_empty(device=...) and loading them"
            )


def check_maps(host: nn.Module) -> None:
    """Raise UserError if ``host`` has convolutions and none of maps (B, C, H, W)."""
    weights = [getattr(module, "weight", None) for module in host.modules() if isinstance(module, _ConvNd)]
    ranks = {weight.ndim for weight in weights if isinstance(weight, torch.Tensor)}
    if ranks and 4 not in ranks:
        shapes = " and ".join(f"{_SHAPES[rank]}, of rank {rank}" for rank in sorted(ranks))
        raise UserError(
            f"{type(host).__name__} is a {'- and '.join(str(rank - 2) for rank in sorted(ranks))}-D network, which is "
            f"not supported: its convolutions make maps {shapes}; a mechanism needs maps (B, C, H, W), of rank 4"
        )


def _compiles(module: nn.Module) -> bool:
    """Return whether ``module.compile()`` was called, which wraps nothing and leaves no ``_orig_mod``."""
    return module._compiled_call_impl is not None
