"""Optimiser of a recipe, and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from saccade.recipe import Training
from saccade.surgery import parameter_groups

__all__ = ["build_optimizer", "clip_gradients"]


def build_optimizer(
    network: nn.Module, training: Training, plug_lr_factor: float = 1.0, lr: float | None = None
) -> torch.optim.Optimizer:
    """Build SGD, AdamW or RMSProp over the parameter groups of host and plugs.

    ``lr`` is the learning rate of the host (None: the recipe's); the plugs' is ``plug_lr_factor`` times as large.
    """
    lr = training.lr if lr is None else lr
    groups = parameter_groups(network, lr, lr * plug_lr_factor, training.weight_decay)
    eps = 1e-8 if training.eps is None else training.eps
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=training.momentum, nesterov=training.nesterov)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, eps=eps)
    alpha = 0.99 if training.rmsprop_alpha is None else training.rmsprop_alpha
    return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, eps=eps, momentum=training.momentum)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients of ``parameters`` so that their common 2-norm is at most ``max_norm``.

    Gradients without a finite norm are left unchanged: scaling would make all of them NaN and hide the cause of
    a divergence.
    """
    with_gradients = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in with_gradients if parameter.grad is not None])
    if bool(torch.isfinite(norm)):
        nn.utils.clip_grads_with_norm_(with_gradients, max_norm, norm)
