"""What of a host does not learn: its running statistics, its parameters, or some of them. Plugs always learn.

A normalisation layer that is frozen stays in eval mode; its weight and bias are then an affine map of each channel and
go on learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.models import head_paths
from saccade.recipe import Recipe
from saccade.surgery.groups import attention_modules

__all__ = ["Frozen", "freeze", "hold", "silent"]

_AROUND_ONE = 2e-3
"""How far the variance of a folded layer, with eps added, may lie from 1: twice the largest eps in use."""


@dataclass(frozen=True)
class Frozen:
    """The part of a network that does not learn.

    Attributes:
        modules: they stay in eval mode.
        sentence: what was frozen and why; None where nothing was.
    """

    modules: Sequence[nn.Module] = ()
    sentence: str | None = None


def hold(modules: Iterable[nn.Module]) -> None:
    """Put each of ``modules`` into eval mode, after ``train()``, and none of those inside them."""
    for module in modules:
        module.training = False  # eval() would reach a plug inside that learns


def freeze(network: nn.Module, recipe: Recipe) -> Frozen:
    """Freeze what ``training.freeze`` names.

    Args:
        network: the host with its plugs; parameters of its host stop learning.
        recipe: of the run.

    Raises:
        UserError: the host has no parameter of such a name, or no head that could learn, or nothing would learn.
    """
    asked, model = recipe.training.freeze, recipe.model
    plugged = {id(m) for root in attention_modules(network) for m in root.modules()}
    of_host = [(name, module) for name, module in network.named_modules() if id(module) not in plugged]
    norms = {name: module for name, module in of_host if _has_statistics(module)}
    trained = model.pretrained or model.checkpoint is not None or model.init_from is not None
    folded = [norm for norm in norms.values() if trained and _is_folded(norm)]
    many = f"{len(folded)} of the {len(norms)}" if len(folded) < len(norms) else f"all {len(norms)}"
    fold = f"The weights of the host are folded: {many} normalisation layers are the identity but for weight and bias."
    match asked:
        case "none":
            lost = "training.freeze = 'none' trains their running statistics, which changes what the host computes."
            return Frozen((), f"{fold} {lost}" if folded else None)
        case "norm":
            many = f"The running statistics of the {len(norms)} normalisation layers of the host are frozen."
            return Frozen([*norms.values()], many if norms else "The host has no running statistics to freeze.")
        case "host":
            return _host(network, of_host, plugged)
        case "auto":
            found = Frozen()
        case globs:
            found = _named(network, plugged, globs)
    if not folded:
        return found
    said = f"{fold} Their running statistics are frozen; training.freeze = 'none' would train them."
    return Frozen([*found.modules, *folded], " ".join(filter(None, (found.sentence, said))))


def silent(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose parameters, their own or all beneath them, are all frozen.

    Where all beneath are, the modules without a parameter inside too.
    """
    frozen: dict[nn.Module, None] = {}
    for module in network.modules():
        if _all_frozen(module.parameters()):
            frozen.update(dict.fromkeys(module.modules()))
        elif _all_frozen(module.parameters(recurse=False)):  # such as a norm that holds a plug
            frozen[module] = None
    return list(frozen)


def _all_frozen(parameters: Iterable[nn.Parameter]) -> bool:
    """Return whether there are parameters and none learns."""
    learning = [p.requires_grad for p in parameters]
    return bool(learning) and not any(learning)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


def _is_folded(norm: nn.Module) -> bool:
    """Return whether the statistics of ``norm`` are the identity though its bias has been learnt.

    Its scale was moved into the convolution before it. In train mode it would divide by the deviation of the batch,
    which the convolution already does.
    """
    assert isinstance(norm, nn.modules.batchnorm._NormBase)
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or not norm.affine or mean.abs().max() > 0:
        return False
    return bool(norm.bias.any()) and bool(((var + norm.eps - 1).abs() <= _AROUND_ONE).all())


def _host(network: nn.Module, of_host: Sequence[tuple[str, nn.Module]], plugged: set[int]) -> Frozen:
    heads = head_paths(network)
    if not heads:
        raise UserError(
            "training.freeze = 'host' leaves the head to learn, and the host does not say which module that is "
            "(default_cfg['classifier']); give globs of the parameters to freeze"
        )
    # The classifier with what stands around it, such as a dropout; alone where that is the whole network.
    heads = {path.rpartition(".")[0] or path for path in heads}
    learning = {id(m) for path in heads for m in network.get_submodule(path).modules()} | plugged
    kept = [module for name, module in of_host if name and id(module) not in learning]
    for module in (network, *kept):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return Frozen(kept, f"The host is frozen; its head ({', '.join(sorted(heads))}) and the plugs learn.")


def _named(network: nn.Module, plugged: set[int], globs: Sequence[str]) -> Frozen:
    own = dict(_parameters_of_host(network, plugged))
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in own):
            raise UserError(
                f"training.freeze: the host has no parameter {glob!r}.{did_you_mean(glob, own)} "
                f"There are {', '.join(list(own)[:3])} … {list(own)[-1]}."
            )
    frozen = [p for name, p in own.items() if any(fnmatchcase(name, glob) for glob in globs)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"training.freeze = {list(globs)} freezes every parameter; nothing would learn")
    count = sum(p.numel() for p in frozen)
    return Frozen(silent(network), f"{count:,} parameters of the host are frozen: {', '.join(globs)}.")


def _parameters_of_host(network: nn.Module, plugged: set[int]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for path, module in network.named_modules():
        if id(module) not in plugged:
            yield from module.named_parameters(recurse=False, prefix=path)
