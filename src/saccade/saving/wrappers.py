"""The network inside a wrapper, which is what is saved."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from saccade.errors import UserError

__all__ = ["prefix", "unwrapped"]

_WRAPPERS = {
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.optim.swa_utils", "AveragedModel"): "module",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("timm.utils.model_ema", "ModelEmaV2"): "module",
    ("timm.utils.model_ema", "ModelEmaV3"): "module",
}
"""Classes that hold one network and change none of its arithmetic, and where they hold it."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside all known wrappers around ``model``.

    Raises:
        UserError: a module inside the network is wrapped: its keys would hold the wrapper's name.
    """
    while (name := _inner(model)) is not None:
        model = getattr(model, name)
    for path, module in model.named_modules():
        if (name := _inner(module)) is not None:
            raise UserError(
                f"the module {path!r} is wrapped in {type(module).__name__}, whose {name!r} would stand in the keys "
                f"that are saved: put the module itself back ({path} = {path}.{name}) and save then"
            )
    return model


def _inner(module: nn.Module) -> str | None:
    return next((_WRAPPERS[key] for kind in type(module).__mro__
                 if (key := (kind.__module__, kind.__qualname__)) in _WRAPPERS), None)  # fmt: skip


def prefix(wrapped: Iterable[str], bare: Iterable[str]) -> str | None:
    """Return the prefix of a wrapper, such as ``net.``, of all keys of ``wrapped`` and none of ``bare``, or None.

    Without it there is at least one key that both have.

    >>> prefix(["net.fc.weight", "net.fc.bias"], ["fc.weight", "fc.bias"])
    'net.'
    >>> prefix(["fc.weight"], ["fc.weight"]) is None
    True
    """
    keys, own = list(wrapped), set(bare)
    first = keys[0].split(".") if keys else []
    for n in range(1, len(first)):
        found = ".".join(first[:n]) + "."
        if not all(key.startswith(found) for key in keys) or any(key.startswith(found) for key in own):
            return None
        if own & {key.removeprefix(found) for key in keys}:
            return found
    return None
