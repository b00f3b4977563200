"""Learning from the answers of a trained network beside the targets.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531: the loss is
(1 - α)·task + α·T²·KL(teacher ‖ student), both softened by the temperature T.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model
from torch import Tensor, nn

from saccade import saving
from saccade.errors import UserError
from saccade.graph.inputs import example_input
from saccade.hooks import temporary_hooks
from saccade.recipe import Model, described
from saccade.saving.config import WEIGHTS, describe
from saccade.saving.weights import compare_shapes, file_digest, shapes_of
from saccade.tasks.base import Task
from saccade.trust import Trust

__all__ = ["Teacher"]

_ALPHA, _TEMPERATURE = 0.5, 4.0


class Teacher:
    """A trained network whose softened answers are learnt.

    Args:
        network: maps images (B, C, H, W) to logits (B, K) or (B, K, H, W).
        alpha: share of the teacher's part of the loss.
        temperature: divides the logits.
        digest: of the file of its weights.
        scale: what its inputs are multiplied by, a channel: it may be normalised by another mean and std.
        shift: what is added then.
    """

    def __init__(
        self,
        network: nn.Module,
        alpha: float,
        temperature: float,
        digest: str,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self._alpha, self._temperature = alpha, temperature
        self.digest = digest
        self._scale, self._shift = scale, shift

    @classmethod
    def of(cls, task: Task, trust: Trust = False) -> Teacher | None:
        """Return the teacher that the recipe of ``task`` names, if any.

        Args:
            task: its data have the classes that the teacher must know.
            trust: what the config of a run folder may name; see ``saccade.load``.

        Raises:
            UserError: there is no such teacher, its weights do not fit, it was trained on other classes, or the task is
                none of one class an image or a pixel.
        """
        part = task.recipe.training
        if part.teacher is None:
            return None
        owner = f"training.teacher = {part.teacher!r}"
        if task.target not in ("label", "mask"):
            raise UserError(
                f"{owner}: a teacher gives shares of classes, and the targets here are of the kind {task.target!r}"
            )
        folder = Path(part.teacher)
        alpha = _ALPHA if part.distill_alpha is None else part.distill_alpha
        temperature = _TEMPERATURE if part.distill_temperature is None else part.distill_temperature
        if folder.is_dir():
            if part.teacher_checkpoint is not None:
                raise UserError(f"{owner} is a folder with weights of its own; leave training.teacher_checkpoint out")
            network = saving.load(folder, trust=trust)
            scale, shift = _normalisation(folder, task, owner)
            teacher = cls(network, alpha, temperature, file_digest(folder / WEIGHTS), scale, shift)
        else:
            network, file = _of_timm(task, part.teacher, part.teacher_checkpoint, owner)
            teacher = cls(network, alpha, temperature, file_digest(file))
        teacher._try(task, owner)
        return teacher

    def _try(self, task: Task, owner: str) -> None:
        """Raise UserError unless it answers two images of the data as the task needs."""
        size = (task.data.channels, *task.data.size)
        images: Tensor = example_input(self._network, size, batch=2)[0]
        try:
            output = self._answer(images)
        except Exception as error:  # a network may raise anything for a size it was not made for
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{owner} on images of {'×'.join(map(str, size))}: {reason}") from error
        if wrong := task.misfit(output, images):
            raise UserError(f"{owner} {wrong}")

    def to(self, device: torch.device) -> None:
        """Move it to ``device``."""
        self._network.to(device)
        if self._scale is not None and self._shift is not None:
            self._scale, self._shift = self._scale.to(device), self._shift.to(device)

    @torch.no_grad()
    def _answer(self, images: Tensor) -> Tensor:
        if self._scale is not None and self._shift is not None:
            images = images * self._scale + self._shift
        logits: Tensor = self._network(images)
        return logits

    def loss(self, task: Task, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Return the parts of the task's loss times 1 - α, and ``distillation``, averaged over images and pixels."""
        outputs: list[Tensor] = []
        with temporary_hooks() as handles:
            handles.append(network.register_forward_hook(lambda module, inputs, output: outputs.append(output)))
            parts = {name: (1 - self._alpha) * part for name, part in task.loss(network, images, targets).items()}
        learnt, known = (
            (logits.float() / self._temperature).log_softmax(1) for logits in (outputs[-1], self._answer(images))
        )
        divergence = F.kl_div(learnt, known, reduction="none", log_target=True).sum(1).mean()
        return {**parts, "distillation": self._alpha * self._temperature**2 * divergence}


def _of_timm(task: Task, name: str, checkpoint: str | None, owner: str) -> tuple[nn.Module, Path]:
    """Build a network of timm's for the classes of ``task``; return it with the file of its weights."""
    if not is_model(name.partition(".")[0]):
        raise UserError(f"{owner}: there is neither a folder nor a network of timm's of this name")
    if checkpoint is None:
        raise UserError(f"{owner} knows none of the classes yet; training.teacher_checkpoint must name its weights")
    file = Path(checkpoint)
    with torch.random.fork_rng(devices=[]):
        network = task.build(Model(name=name))
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"training.teacher_checkpoint: {file} is no readable safetensors file: {error}") from None
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    compare_shapes(
        shapes, shapes_of(network), f"training.teacher_checkpoint: {file} is not of a {name} for these classes"
    )
    network.load_state_dict(state)
    return network, file


def _normalisation(folder: Path, task: Task, owner: str) -> tuple[Tensor | None, Tensor | None]:
    """Return what makes images of ``task`` those that the teacher in ``folder`` was trained on; None if they are.

    Raises:
        UserError: it was trained on other classes, or its mean or std is not one number a channel.
    """
    config, data = describe(folder), task.data
    if config["classes"] is not None and config["classes"] != data.classes:
        raise UserError(
            f"{owner} was trained on the classes {_listed(config['classes'])}; the images have {_listed(data.classes)}"
        )
    mean, std = (config["facts"].get(key) for key in ("mean", "std"))
    if mean is None or std is None:
        return None, None
    for key, values in (("mean", mean), ("std", std)):
        if not _are_channels(values, data.channels) or (key == "std" and min(values) <= 0):
            raise UserError(
                f"{owner} was trained on images of {key} = {described(values)}; a list of numbers for the "
                f"{data.channels} channels of these images is needed, those of std above 0"
            )
    if (tuple(mean), tuple(std)) == (tuple(data.mean), tuple(data.std)):
        return None, None
    own_mean, own_std, its_mean, its_std = (
        torch.tensor(values)[:, None, None] for values in (data.mean, data.std, mean, std)
    )
    return own_std / its_std, (own_mean - its_mean) / its_std


def _are_channels(values: Any, channels: int) -> bool:
    return isinstance(values, list) and len(values) == channels and all(isinstance(v, int | float) for v in values)


def _listed(classes: list[Any]) -> str:
    return ", ".join(map(str, classes[:5])) + (f", … ({len(classes)})" if len(classes) > 5 else "")
