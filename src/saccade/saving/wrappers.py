"""Remove wrappers around a network, so that the network itself is saved."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from saccade.errors import UserError

__all__ = ["unwrap", "wrapper_prefix"]

_WRAPPERS = {
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.optim.swa_utils", "AveragedModel"): "module",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("timm.utils.model_ema", "ModelEmaV2"): "module",
    ("timm.utils.model_ema", "ModelEmaV3"): "module",
}
"""Maps (module, class) of a wrapper that changes no values to the attribute with the network."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside all known wrappers around ``model``.

    Raises:
        UserError: a module inside the network is wrapped, which would change its keys in the state dict.
    """
    while (attribute := _wrapper_attribute(model)) is not None:
        model = getattr(model, attribute)
    for path, module in model.named_modules():
        if (attribute := _wrapper_attribute(module)) is not None:
            raise UserError(
                f"the module {path!r} is wrapped in {type(module).__name__}, whose {attribute!r} would appear in the "
                f"saved keys: unwrap it first ({path} = {path}.{attribute}), then save"
            )
    return model


def _wrapper_attribute(module: nn.Module) -> str | None:
    names = ((cls.__module__, cls.__qualname__) for cls in type(module).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def wrapper_prefix(wrapped_keys: Iterable[str], network_keys: Iterable[str]) -> str | None:
    """Return the prefix, such as ``net.``, that a wrapper added to all of ``wrapped_keys``, or None.

    No network key may start with the prefix, and removing it must make at least one key match.

    >>> wrapper_prefix(["net.fc.weight", "net.fc.bias"], ["fc.weight", "fc.bias"])
    'net.'
    >>> wrapper_prefix(["fc.weight"], ["fc.weight"]) is None
    True
    """
    wrapped, network = list(wrapped_keys), set(network_keys)
    parts = wrapped[0].split(".") if wrapped else []
    for n in range(1, len(parts)):
        prefix = ".".join(parts[:n]) + "."
        if not all(key.startswith(prefix) for key in wrapped) or any(key.startswith(prefix) for key in network):
            return None
        if network & {key.removeprefix(prefix) for key in wrapped}:
            return prefix
    return None
