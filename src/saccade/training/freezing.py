"""Freezing of a host's running statistics or parameters; plugs stay trainable.

A frozen normalisation layer stays in eval mode; its weight and bias remain trainable unless frozen as parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from saccade.errors import UserError, did_you_mean
from saccade.models import head_paths
from saccade.recipe import Recipe
from saccade.surgery.groups import attention_modules

__all__ = ["FrozenPart", "freeze", "fully_frozen_modules", "set_eval"]

_UNIT_VARIANCE_TOLERANCE = 2e-3
"""A layer counts as folded if variance + eps differs from 1 by at most this: twice the largest eps in use."""

_LOSS_MODULES = (RegionProposalNetwork, RoIHeads)
"""Modules that compute losses in train mode only."""


@dataclass(frozen=True)
class FrozenPart:
    """Frozen part of a network.

    Attributes:
        modules: modules that stay in eval mode.
        sentence: description for the user; None if nothing is frozen.
    """

    modules: Sequence[nn.Module] = ()
    sentence: str | None = None


def set_eval(modules: Iterable[nn.Module]) -> None:
    """Put each of ``modules``, but not its submodules, into eval mode; call it after ``train()``."""
    for module in modules:
        module.training = False  # eval() would also reach trainable plugs inside


def freeze(network: nn.Module, recipe: Recipe) -> FrozenPart:
    """Freeze the part of the host in ``network`` that the recipe's ``training.freeze`` selects.

    Unless ``none``, folded normalisation layers keep their statistics.

    Raises:
        UserError: a glob matches no parameter, the host has no known head, or every parameter would be frozen.
    """
    mode, model = recipe.training.freeze, recipe.model
    attention_ids = {id(module) for root in attention_modules(network) for module in root.modules()}
    host_modules = [(name, module) for name, module in network.named_modules() if id(module) not in attention_ids]
    norms = {name: module for name, module in host_modules if _has_statistics(module)}
    has_weights = model.pretrained or model.checkpoint is not None or model.init_from is not None
    folded = [norm for norm in norms.values() if has_weights and _is_folded(norm)]
    count_text = f"{len(folded)} of the {len(norms)}" if len(folded) < len(norms) else f"all {len(norms)}"
    folded_note = (
        f"In the weights of the host, {count_text} normalisation layers have their statistics folded into the "
        "convolutions."
    )
    match mode:
        case "none":
            note = "training.freeze = 'none' trains these statistics, which changes the output of the host."
            return FrozenPart((), f"{folded_note} {note}" if folded else None)
        case "norm":
            note = f"The running statistics of the {len(norms)} normalisation layers of the host are frozen."
            return FrozenPart([*norms.values()], note if norms else "The host has no running statistics to freeze.")
        case "host":
            return _freeze_host(network, host_modules, attention_ids)
        case "auto":
            frozen = FrozenPart()
        case globs:
            frozen = _freeze_by_glob(network, attention_ids, globs)
    if not folded:
        return frozen
    freeze_note = f"{folded_note} Their running statistics are frozen; training.freeze = 'none' would train them."
    return FrozenPart([*frozen.modules, *folded], " ".join(filter(None, (frozen.sentence, freeze_note))))


def fully_frozen_modules(network: nn.Module) -> list[nn.Module]:
    """Return modules whose own parameters are all frozen, except ``_LOSS_MODULES``.

    Of a frozen subtree, modules without parameters are included.
    """
    frozen: dict[nn.Module, None] = {}
    for module in network.modules():
        if _all_frozen(module.parameters()):
            frozen.update(dict.fromkeys(module.modules()))
        elif _all_frozen(module.parameters(recurse=False)):  # such as a frozen norm with a trainable plug inside
            frozen[module] = None
    return [module for module in frozen if not isinstance(module, _LOSS_MODULES)]


def _all_frozen(parameters: Iterable[nn.Parameter]) -> bool:
    """Return True if there is a parameter and all of them are frozen."""
    requires_grad = [p.requires_grad for p in parameters]
    return bool(requires_grad) and not any(requires_grad)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


def _is_folded(norm: nn.Module) -> bool:
    """Return True if the running mean is 0 and the variance 1, although the bias has been trained.

    Its scale was folded into the convolution before it; in train mode it would normalise again.
    """
    assert isinstance(norm, nn.modules.batchnorm._NormBase)
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or not norm.affine or mean.abs().max() > 0:
        return False
    return bool(norm.bias.any()) and bool(((var + norm.eps - 1).abs() <= _UNIT_VARIANCE_TOLERANCE).all())


def _freeze_host(
    network: nn.Module, host_modules: Sequence[tuple[str, nn.Module]], attention_ids: set[int]
) -> FrozenPart:
    heads = head_paths(network)
    if not heads:
        raise UserError(
            "training.freeze = 'host' trains the head, and the host does not declare which module that is "
            "(default_cfg['classifier']); give globs of the parameters to freeze"
        )
    heads = {_with_siblings(path, heads) for path in heads}
    trainable = {id(module) for path in heads for module in network.get_submodule(path).modules()} | attention_ids
    frozen = [module for name, module in host_modules if name and id(module) not in trainable]
    for module in (network, *frozen):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return FrozenPart(frozen, f"The host is frozen; its head ({', '.join(sorted(heads))}) and the plugs are trained.")


def _with_siblings(path: str, heads: set[str]) -> str:
    """Return the path of the parent of the head ``path``, with its dropout; ``path`` if that holds deeper heads."""
    parent = path.rpartition(".")[0]
    holds_deeper_head = any(head.startswith(f"{parent}.") and head.rpartition(".")[0] != parent for head in heads)
    return path if not parent or holds_deeper_head else parent


def _freeze_by_glob(network: nn.Module, attention_ids: set[int], globs: Sequence[str]) -> FrozenPart:
    by_name = dict(_host_parameters(network, attention_ids))
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in by_name):
            raise UserError(
                f"training.freeze: the host has no parameter {glob!r}.{did_you_mean(glob, by_name)} "
                f"Parameters: {', '.join(list(by_name)[:3])} … {list(by_name)[-1]}."
            )
    frozen = [p for name, p in by_name.items() if any(fnmatchcase(name, glob) for glob in globs)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"training.freeze = {list(globs)} freezes every parameter; leave some to train")
    count = sum(p.numel() for p in frozen)
    return FrozenPart(
        fully_frozen_modules(network), f"{count:,} parameters of the host are frozen: {', '.join(globs)}."
    )


def _host_parameters(network: nn.Module, attention_ids: set[int]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for path, module in network.named_modules():
        if id(module) not in attention_ids:
            yield from module.named_parameters(recurse=False, prefix=path)
