"""Mixup and CutMix of torchvision.transforms.v2, determined by seed, epoch and step."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from saccade.data.sampling import seeded
from saccade.errors import UserError
from saccade.recipe import Training
from saccade.tasks.base import Task
from saccade.training.network import derive_seed

__all__ = ["Mixing"]


class Mixing:
    """Mixup and CutMix of the images and labels of a batch; with both, each batch uses one at random.

    Zhang et al., "mixup", ICLR 2018, arXiv:1710.09412; Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899.
    """

    def __init__(self, training: Training, classes: int) -> None:
        self._seed = training.seed
        settings = ((v2.MixUp, training.mixup_alpha), (v2.CutMix, training.cutmix_alpha))
        self._mix = v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in settings if alpha])

    @classmethod
    def from_task(cls, task: Task) -> Mixing | None:
        """Return the mixing that the recipe of ``task`` sets; None if it sets no mixing.

        Raises:
            UserError: the targets of ``task`` are not labels.
        """
        training = task.recipe.training
        keys = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(training, key)]
        if not keys:
            return None
        if task.target != "label":
            raise UserError(
                f"training.{keys[0]} mixes images and their labels; the targets of this task are "
                f"{task.target!r}; set it to 0"
            )
        return cls(training, len(task.data.classes))

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the mixed images (B, C, H, W) and class probabilities (B, K), float32."""
        with seeded(derive_seed(self._seed, "mix", epoch, step)):
            mixed: tuple[Any, Any] = self._mix(images, labels)
        return mixed
