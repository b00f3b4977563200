"""Sort the parameters of a plugged network into groups for an optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from saccade.graph.hosts import check_network
from saccade.parent_class import CHILD
from saccade.surgery.plug_module import plugs_in
from saccade.surgery.replaced import CHILD as REPLACEMENT_CHILD
from saccade.surgery.replaced import replaced_convolutions

__all__ = ["attention_modules", "parameter_groups"]


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Return the plugs of ``model``, and the mechanisms that replace its convolutions."""
    plugs = [parent.get_submodule(CHILD) for _, parent, _ in plugs_in(model)]
    return plugs + [module.get_submodule(REPLACEMENT_CHILD) for _, module in replaced_convolutions(model)]


def parameter_groups(
    model: nn.Module, lr: float, attention_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return groups for a ``torch.optim`` optimiser: host and attention, each with and without weight decay.

    Biases and one-dimensional parameters are not decayed: decay would pull the plugs' factors ``a`` to zero, attention
    off. A kernel that a replacement keeps is in the host's group. Groups have a ``name``.

    Args:
        model: any network.
        lr: learning rate of the host.
        attention_lr: learning rate of plugs and replacements; None uses ``lr``.
        weight_decay: weight decay of the groups that are decayed.

    Raises:
        UserError: ``model`` is not an ``nn.Module``.
    """
    check_network(model, "the model")
    attention_ids = {id(p) for module in attention_modules(model) for p in module.parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {
        (is_attention, is_decayed): {
            "name": ("attention" if is_attention else "host") + ("" if is_decayed else ", no decay"),
            "params": [],
            "lr": lr if attention_lr is None or not is_attention else attention_lr,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for is_attention in (False, True)
        for is_decayed in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim > 1 and name.rpartition(".")[2] != "bias"
            groups[id(parameter) in attention_ids, is_decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
