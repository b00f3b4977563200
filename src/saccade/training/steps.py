"""Training and test steps for timing, without data loader and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saccade.data.samples import ImageSet, collate
from saccade.data.sampling import EpochSampler
from saccade.tasks.base import Task
from saccade.training.distilling import Teacher
from saccade.training.freezing import set_eval
from saccade.training.module import training_loss

__all__ = ["test_steps", "training_steps"]


def training_steps(
    network: nn.Module,
    task: Task,
    device: torch.device,
    batch_size: int,
    frozen: Sequence[nn.Module] = (),
    teacher: Teacher | None = None,
) -> Iterator[float]:
    """Train endlessly on batches of ``batch_size``; each step includes augmentation and synchronises the device.

    The optimiser is always SGD. ``frozen`` modules stay in eval mode; ``teacher`` adds the distillation loss.

    Yields:
        the loss of each step, a scalar.
    """
    training, images = task.recipe.training, task.data.train
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    if teacher is not None:
        teacher.to(device)
    network.train()
    set_eval(frozen)
    sampler = EpochSampler(images, training.seed, batch_size)
    while True:
        for keys in sampler:
            x, y = _batch(images, keys, device)
            with _autocast(task, device):
                first, *others = training_loss(task, network, x, y, teacher).values()
            loss = sum(others, first)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def test_steps(network: nn.Module, task: Task, device: torch.device, batch_size: int) -> Iterator[float]:
    """Compute the outputs for the first ``batch_size`` test images, endlessly.

    Yields:
        a sum of outputs, which synchronises the device.
    """
    images = task.data.test
    network.eval()
    keys = list(range(min(batch_size, len(images))))
    while True:
        x, y = _batch(images, keys, device)
        with torch.inference_mode(), _autocast(task, device):
            rows = task.rows(network, x, y)
        yield float(next(iter(rows.values())).sum())


def _autocast(task: Task, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=task.recipe.training.precision == "bf16")


def _batch(images: ImageSet, keys: list[Any], device: torch.device) -> tuple[Tensor, Any]:
    x, y = collate(images.__getitems__(keys))
    return x.to(device), _to_device(y, device)


def _to_device(target: Any, device: torch.device) -> Any:
    """Return a target with its tensors on ``device``."""
    if isinstance(target, Tensor):
        return target.to(device)
    if isinstance(target, list):
        return [_to_device(item, device) for item in target]
    return {key: _to_device(value, device) for key, value in target.items()} if isinstance(target, dict) else target
