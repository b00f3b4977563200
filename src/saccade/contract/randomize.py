"""Randomise a network under test: freshly initialised norms, biases and statistics would hide errors of a plug."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["perturb", "randomize"]

Network = TypeVar("Network", bound=nn.Module)


def randomize(host: Network, seed: int = 1) -> Network:
    """Replace norms, biases, scales and running statistics of ``host`` by random values, in place; return ``host``.

    Other parameters are replaced only if all their values are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=generator)
            elif parameter.ndim < 2 or (parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())):
                parameter.uniform_(0.5, 1.5, generator=generator)
    _draw_statistics(host, 0.3, generator)
    return host


def perturb(network: Network, seed: int = 3, *, by: float = 0.05, a: float = 0.7) -> Network:
    """Add noise to every parameter of ``network`` and randomise its running statistics; return ``network``.

    Args:
        network: changed in place.
        seed: seed of the random generator.
        by: standard deviation of the noise; for matrices, relative to that of the matrix unless it is 0.
        a: value of ``a`` in every plug that has an ``a``.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("saccade.a"):
                parameter.fill_(a)
            else:
                deviation = float(parameter.std()) if parameter.ndim > 1 and parameter.numel() > 1 else 0.0
                noise = by * (deviation or 1.0) * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter))
    _draw_statistics(network, 0.1, generator)
    return network


def _draw_statistics(network: nn.Module, scale: float, generator: torch.Generator) -> None:
    """Draw running means with standard deviation ``scale``, and running variances between 0.5 and 2, at random."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.empty(buffer.shape).normal_(0, scale, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(torch.empty(buffer.shape).uniform_(0.5, 2.0, generator=generator))
