"""The optimiser of a recipe, and gradients clipped to a norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from saccade.recipe import Training
from saccade.surgery import parameter_groups

__all__ = ["clip", "optimizer_of"]


def optimizer_of(
    network: nn.Module, training: Training, lr_factor: float = 1.0, lr: float | None = None
) -> torch.optim.Optimizer:
    """Build SGD with momentum, AdamW or RMSProp over the groups of the host and of the plugs.

    Args:
        network: its trainable parameters are optimised.
        training: the recipe's part.
        lr_factor: the learning rate of the plugs over that of the host.
        lr: of the host; None takes the recipe's.
    """
    lr = training.lr if lr is None else lr
    groups = parameter_groups(network, lr, lr * lr_factor, training.weight_decay)
    eps = 1e-8 if training.eps is None else training.eps
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=training.momentum, nesterov=training.nesterov)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, eps=eps)
    alpha = 0.99 if training.rmsprop_alpha is None else training.rmsprop_alpha
    return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, eps=eps, momentum=training.momentum)


def clip(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """Scale the gradients of ``parameters`` so that their common 2-norm is at most ``norm``.

    Gradients of a norm that is not finite stay as they are: scaled, every one would be NaN, and where the training
    diverged could not be found.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    found = nn.utils.get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])
    if bool(torch.isfinite(found)):
        nn.utils.clip_grads_with_norm_(held, norm, found)
