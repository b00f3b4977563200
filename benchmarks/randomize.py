"""Networks that are not fresh: what is fresh hides mistakes, for its norms, biases and statistics do nothing."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["learnt", "randomized"]

Network = TypeVar("Network", bound=nn.Module)


def randomized(host: Network, seed: int = 1) -> Network:
    """The host with random norms, biases, scales and running statistics, as if it had been trained.

    Whatever starts at one value throughout (layer scales, gains of skips, last norms at zero) is drawn as well.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=draw)
            elif parameter.ndim < 2 or (parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())):
                parameter.uniform_(0.5, 1.5, generator=draw)
    _see(host, 0.3, draw)
    return host


def learnt(network: Network, seed: int = 3, *, by: float = 0.05, a: float = 0.7) -> Network:
    """As after training: every weight, statistic and ``a`` of a plug near where it began, and none there.

    Args:
        network: changed in place.
        seed: of the draws.
        by: standard deviation of what is added, in that of the weights of a matrix, or in 1 where those have none.
        a: of every plug that has one.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("saccade.a"):
                parameter.fill_(a)
            else:
                spread = float(parameter.std()) if parameter.ndim > 1 and parameter.numel() > 1 else 0.0
                parameter.add_((by * (spread or 1.0) * torch.randn(parameter.shape, generator=draw)).to(parameter))
    _see(network, 0.1, draw)
    return network


def _see(network: nn.Module, scale: float, draw: torch.Generator) -> None:
    """Draw the running statistics."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.empty(buffer.shape).normal_(0, scale, generator=draw))
        elif name.endswith("running_var"):
            buffer.copy_(torch.empty(buffer.shape).uniform_(0.5, 2.0, generator=draw))
