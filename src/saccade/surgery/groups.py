"""The parameters of a plugged network, sorted for an optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from saccade.graph.hosts import check_network
from saccade.parent_class import CHILD
from saccade.surgery.plug_module import plugs_in
from saccade.surgery.replaced import CHILD as CONVOLUTION
from saccade.surgery.replaced import replaced

__all__ = ["attention_modules", "parameter_groups"]


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Return every plug of ``model``, and every mechanism that stands in the place of a convolution."""
    plugs = [parent.get_submodule(CHILD) for _, parent, _ in plugs_in(model)]
    return plugs + [module.get_submodule(CONVOLUTION) for _, module in replaced(model)]


def parameter_groups(
    model: nn.Module, lr: float, attention_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return groups for an optimiser of ``torch.optim``: host and attention, each with and without weight decay.

    A kernel that a replacement keeps is the host's. Biases, parameters of one dimension and every ``a`` are not
    decayed: decay would pull a network that has learnt to look back to one that does not. Each trainable parameter is
    in exactly one group; a group also has a ``name``.

    Args:
        model: the network.
        lr: learning rate of the host.
        attention_lr: learning rate of the plugs; None takes ``lr``.
        weight_decay: of all other parameters.

    Raises:
        UserError: ``model`` is no module.
    """
    check_network(model, "the model")
    plugged = {id(p) for module in attention_modules(model) for p in module.parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {
        (attention, decayed): {
            "name": ("attention" if attention else "host") + ("" if decayed else ", no decay"),
            "params": [],
            "lr": lr if attention_lr is None or not attention else attention_lr,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for attention in (False, True)
        for decayed in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and name.rpartition(".")[2] != "bias"
            groups[id(parameter) in plugged, decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
