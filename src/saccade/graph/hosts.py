"""Checks of a network before it is run or changed, and what it declares."""

from __future__ import annotations

import itertools
import sys
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from saccade.errors import UserError

__all__ = ["check_network", "check_not_distributed", "check_traceable", "check_two_dimensional", "declared_features"]

_SHAPE_BY_RANK = {3: "(B, C, L)", 5: "(B, C, D, H, W)"}


def check_network(host: object, role: str = "the host") -> None:
    """Check that ``host`` is a network whose ``train()`` sets the mode.

    Raises:
        UserError: ``host`` is not a ``torch.nn.Module``, or its ``train()`` starts training (ultralytics' ``YOLO``).
    """
    if not isinstance(host, nn.Module):
        raise UserError(f"{role} must be a torch.nn.Module, got {type(host).__name__}")
    if _train_starts_training(host):
        child = next((name for name, _ in host.named_children()), None)
        hint = "" if child is None else f": pass the network inside it, .{child}"
        raise UserError(
            f"{role} is a {type(host).__name__}, whose train() trains instead of setting the training mode{hint}. If "
            "its training builds a new network, as YOLO.train() does, use saccade.plugged_trainer"
        )


def _train_starts_training(host: nn.Module) -> bool:
    """Return True if ``host.train`` takes something other than a mode."""
    parameters = list(signature(type(host).train).parameters.values())[1:]
    if not parameters or parameters[0].name == "mode" or parameters[0].kind is not parameters[0].POSITIONAL_OR_KEYWORD:
        return False
    default = parameters[0].default
    return not isinstance(default, bool) and (default is not parameters[0].empty or len(parameters) > 1)


def check_not_distributed(host: nn.Module) -> None:
    """Check that no wrapper in ``host`` would leave new parameters unsynchronised.

    Raises:
        UserError: ``host`` is not a network, or DistributedDataParallel, ``fully_shard`` or ``replicate`` wraps a
            module in it.
    """
    check_network(host)
    for module in host.modules():
        wrapper = _distributed_wrapper(module)
        if wrapper is not None:
            raise UserError(
                f"the host is wrapped in {wrapper}, which would not synchronise the new parameters: put mechanisms in "
                "first, wrap it afterwards"
            )


def _distributed_wrapper(module: nn.Module) -> str | None:
    """Return the name of the wrapper that synchronises parameters of ``module``, or None."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # loaded only if the host's code imported it
    if fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)):
        return "FSDP"
    composable: Any = sys.modules.get("torch.distributed._composable")
    wrappers = composable._get_registry(module) if composable is not None else None
    return next((name for name in ("replicate", "fully_shard") if name in (wrappers or ())), None)


def check_traceable(host: nn.Module) -> None:
    """Check that a forward pass of ``host`` can be traced.

    Raises:
        UserError: ``host`` is not a network, or a part of ``host`` is compiled, lazy, or on the meta device.
    """
    check_network(host)
    for path, module in host.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") or _was_compiled(module):
            name_of_module = f"the module {path!r}" if path else type(host).__name__
            raise UserError(
                f"{name_of_module} is compiled and cannot be traced; plug the network first, then compile it"
            )
    for name, tensor in itertools.chain(host.named_parameters(), host.named_buffers()):
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        if nn.parameter.is_lazy(tensor):
            raise UserError(f"the {kind} {name!r} has no shape yet; run the network once, then plug it")
        if tensor.is_meta:
            raise UserError(
                f"the {kind} {name!r} is on the meta device and has no values; plug the network once it has its "
                "weights: after to_empty(device=...) and loading them"
            )


def check_two_dimensional(host: nn.Module) -> None:
    """Raise UserError if ``host`` has convolutions, but no convolution of maps (B, C, H, W)."""
    weights = [getattr(module, "weight", None) for module in host.modules() if isinstance(module, _ConvNd)]
    ranks = {weight.ndim for weight in weights if isinstance(weight, torch.Tensor)}
    if ranks and 4 not in ranks:
        shapes = " and ".join(f"{_SHAPE_BY_RANK[rank]}, of rank {rank}" for rank in sorted(ranks))
        raise UserError(
            f"{type(host).__name__} is a {'- and '.join(str(rank - 2) for rank in sorted(ranks))}-D network, which is "
            f"not supported: its convolutions return maps {shapes}; a mechanism needs maps (B, C, H, W), of rank 4"
        )


def _was_compiled(module: nn.Module) -> bool:
    """Return True if ``module.compile()`` was called, which leaves no ``_orig_mod``."""
    return module._compiled_call_impl is not None


def declared_features(host: nn.Module) -> list[tuple[str, bool]]:
    """Return the modules of timm's ``feature_info`` in order, each with True if its input is the feature map."""
    feature_info: Any = getattr(host, "feature_info", None)
    rows = getattr(feature_info, "info", feature_info)
    if not isinstance(rows, (list, tuple)):
        return []
    features = [(row.get("module", ""), row.get("hook_type") == "forward_pre") for row in rows if isinstance(row, dict)]
    modules = {name for name, _ in host.named_modules()}
    # features_only flattens the names of modules it takes out of a Sequential.
    return [(name if name in modules else name.replace(".", "_"), enters) for name, enters in features if name]
