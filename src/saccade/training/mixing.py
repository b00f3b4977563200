"""Mixup and CutMix of a batch, by torchvision.transforms.v2, drawn by (seed, epoch, step) alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from saccade.data.sampling import seeded
from saccade.errors import UserError
from saccade.recipe import Training
from saccade.tasks.base import Task
from saccade.training.network import derived

__all__ = ["Mixing"]


class Mixing:
    """Mix each image of a batch with the one before it, and their labels, which become shares of the classes.

    Of mixup and CutMix, where a recipe has both, each batch draws one. Zhang et al., "mixup", ICLR 2018,
    arXiv:1710.09412; Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899.
    """

    def __init__(self, training: Training, classes: int) -> None:
        self._seed = training.seed
        chosen = ((v2.MixUp, training.mixup_alpha), (v2.CutMix, training.cutmix_alpha))
        self._mix = v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in chosen if alpha])

    @classmethod
    def of(cls, task: Task) -> Mixing | None:
        """Return what the recipe of ``task`` asks for, if anything.

        Raises:
            UserError: the targets of ``task`` are not labels.
        """
        training = task.recipe.training
        asked = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(training, key)]
        if not asked:
            return None
        if task.target != "label":
            raise UserError(
                f"training.{asked[0]} mixes images and their labels; the targets of this task are of the kind "
                f"{task.target!r}. Set it to 0"
            )
        return cls(training, len(task.data.classes))

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the mixed images (B, C, H, W) and the shares of the classes (B, K), float32."""
        with seeded(derived(self._seed, "mix", epoch, step)):
            mixed: tuple[Any, Any] = self._mix(images, labels)
        return mixed
