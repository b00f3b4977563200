"""The promise about learning: training lowers the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.harness import expect

__all__ = ["learns_a_batch"]

STEPS = 5
LEARNING_RATES = (0.1, 0.01, 0.001)
MIN_DECREASE = 0.001
"""Smallest decrease of the loss, relative to its start, that counts."""


def learns_a_batch(case: ArchitectureCase) -> None:
    """From its own initialisation, five steps of SGD on four images lower their cross entropy, at one of three rates.

    Each step draws the same random numbers, so that dropout is the same.
    """
    losses = {rate: _losses(case, rate) for rate in LEARNING_RATES}
    texts = [f"{before:.4f} to {after:.4f} at rate {rate}" for rate, (before, after) in losses.items()]
    expect(
        any(after < before * (1 - MIN_DECREASE) for before, after in losses.values()),
        f"{STEPS} steps of SGD do not lower the loss of four images: {', '.join(texts)}",
    )


def _losses(case: ArchitectureCase, rate: float) -> tuple[float, float]:
    """Return the loss before and after the steps, in train mode."""
    torch.default_generator.manual_seed(0)
    network, x = case.build().float().train(), case.random_maps(batch=4, dtype=torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    losses = []
    for _ in range(STEPS + 1):
        torch.default_generator.manual_seed(1)
        y = case.logits(network, x)
        labels = torch.arange(len(x)) % case.num_classes
        loss = F.cross_entropy(y, labels.view(-1, *[1] * (y.dim() - 2)).expand(len(x), *y.shape[2:]))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]
