"""Knowledge distillation: training on the softened outputs of a teacher as well as on the targets.

Hinton et al., 2015, arXiv:1503.02531: the loss is (1 - α)·task + α·T²·KL(teacher ‖ student), where the temperature T
divides the logits of teacher and student.
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
from saccade.recipe import Model, short_repr
from saccade.saving.config import WEIGHTS, describe
from saccade.saving.weights import compare_shapes, file_digest, shapes_of
from saccade.tasks.base import Task
from saccade.trust import Trust

__all__ = ["Teacher"]

_DEFAULT_ALPHA, _DEFAULT_TEMPERATURE = 0.5, 4.0


class Teacher:
    """Teacher network and the distillation loss.

    Args:
        network: trained network that maps images (B, C, H, W) to logits (B, K) or (B, K, H, W).
        alpha: weight of the distillation loss.
        temperature: divisor of the logits.
        digest: digest of the teacher's weights file.
        scale: factor (C, 1, 1) that converts images to the teacher's normalisation, if needed.
        shift: offset (C, 1, 1) added after scaling, if any.
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
    def from_task(cls, task: Task, trust: Trust = False) -> Teacher | None:
        """Return the teacher that the recipe of ``task`` names, or None; ``trust`` is as in ``saccade.load``.

        Raises:
            UserError: the teacher does not exist, its weights or classes do not fit, or the targets are neither labels
                nor masks.
        """
        training = task.recipe.training
        if training.teacher is None:
            return None
        setting = f"training.teacher = {training.teacher!r}"
        if task.target not in ("label", "mask"):
            raise UserError(
                f"{setting}: a teacher gives class probabilities, and the targets of this task are {task.target!r}; "
                "leave it out"
            )
        folder = Path(training.teacher)
        alpha = _DEFAULT_ALPHA if training.distill_alpha is None else training.distill_alpha
        temperature = _DEFAULT_TEMPERATURE if training.distill_temperature is None else training.distill_temperature
        if folder.is_dir():
            if training.teacher_checkpoint is not None:
                raise UserError(f"{setting} is a folder that has weights; leave training.teacher_checkpoint out")
            network = saving.load(folder, trust=trust)
            scale, shift = _normalisation_conversion(folder, task, setting)
            teacher = cls(network, alpha, temperature, file_digest(folder / WEIGHTS), scale, shift)
        else:
            network, file = _build_timm(task, training.teacher, training.teacher_checkpoint, setting)
            teacher = cls(network, alpha, temperature, file_digest(file))
        teacher._verify(task, setting)
        return teacher

    def _verify(self, task: Task, setting: str) -> None:
        """Raise UserError unless the output for two images fits the task and has two classes."""
        size = (task.data.channels, *task.data.size)
        images: Tensor = example_input(self._network, size, batch=2)[0]
        try:
            output = self._logits(images)
        except Exception as error:  # a network may raise anything for an unsupported image size
            message = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{setting} on images of {'×'.join(map(str, size))}: {message}") from error
        if mismatch := task.output_problem(output, images):
            raise UserError(f"{setting} {mismatch}")
        if output.shape[1] < 2:
            raise UserError(
                f"{setting} has one output per pixel or image; a teacher gives probabilities of classes, 2 or more are "
                "needed; leave it out"
            )

    def to(self, device: torch.device) -> None:
        """Move the teacher to ``device``."""
        self._network.to(device)
        if self._scale is not None and self._shift is not None:
            self._scale, self._shift = self._scale.to(device), self._shift.to(device)

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        if self._scale is not None and self._shift is not None:
            images = images * self._scale + self._shift
        logits: Tensor = self._network(images)
        return logits

    def loss(self, task: Task, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Return the loss terms by name, each a scalar: those of the task times 1 - α, and ``distillation``."""
        outputs: list[Tensor] = []
        with temporary_hooks() as handles:
            handles.append(network.register_forward_hook(lambda module, inputs, output: outputs.append(output)))
            terms = {name: (1 - self._alpha) * term for name, term in task.loss(network, images, targets).items()}
        student, teacher = (
            (logits.float() / self._temperature).log_softmax(1) for logits in (outputs[-1], self._logits(images))
        )
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()
        return {**terms, "distillation": self._alpha * self._temperature**2 * divergence}


def _build_timm(task: Task, name: str, checkpoint: str | None, setting: str) -> tuple[nn.Module, Path]:
    """Build the timm model ``name`` for the classes of ``task`` and load ``checkpoint``; return it and the file."""
    if not is_model(name.partition(".")[0]):
        raise UserError(f"{setting}: there is neither a folder nor a timm model of this name")
    if checkpoint is None:
        raise UserError(
            f"{setting} is an untrained timm model; set training.teacher_checkpoint to the file of its weights"
        )
    file = Path(checkpoint)
    with torch.random.fork_rng(devices=[]):
        network = task.build(Model(name=name))
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"training.teacher_checkpoint: {file} is not a readable safetensors file: {error}") from None
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    message = f"training.teacher_checkpoint: {file} does not fit a {name} with these classes"
    compare_shapes(shapes, shapes_of(network), message)
    network.load_state_dict(state)
    return network, file


def _normalisation_conversion(folder: Path, task: Task, setting: str) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and shift (C, 1, 1) that convert images of ``task`` to the teacher's normalisation.

    Both are None if it is equal or unknown.

    Raises:
        UserError: the teacher has other classes, or its mean or std is not one number per channel.
    """
    config, data = describe(folder), task.data
    if config["classes"] is not None and config["classes"] != data.classes:
        raise UserError(
            f"{setting} was trained on the classes {_format_classes(config['classes'])}; the images have "
            f"{_format_classes(data.classes)}"
        )
    mean, std = (config["facts"].get(key) for key in ("mean", "std"))
    if mean is None or std is None:
        return None, None
    for key, values in (("mean", mean), ("std", std)):
        if not _are_channel_values(values, data.channels) or (key == "std" and min(values) <= 0):
            raise UserError(
                f"{setting} was trained on images of {key} = {short_repr(values)}; a list of numbers for the "
                f"{data.channels} channels of these images is needed, and std must be above 0"
            )
    if (tuple(mean), tuple(std)) == (tuple(data.mean), tuple(data.std)):
        return None, None
    task_mean, task_std, teacher_mean, teacher_std = (
        torch.tensor(values)[:, None, None] for values in (data.mean, data.std, mean, std)
    )
    return task_std / teacher_std, (task_mean - teacher_mean) / teacher_std


def _are_channel_values(values: Any, channels: int) -> bool:
    return (
        isinstance(values, list) and len(values) == channels and all(isinstance(value, int | float) for value in values)
    )


def _format_classes(classes: list[Any]) -> str:
    return ", ".join(map(str, classes[:5])) + (f", … ({len(classes)})" if len(classes) > 5 else "")
