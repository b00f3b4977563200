"""Test images of the runs, those first on which the networks disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from saccade import tasks
from saccade.errors import UserError
from saccade.study.images import open_once
from saccade.study.report.shown_images import disputed_images
from saccade.tasks.base import Task
from saccade.training.fingerprint import fingerprint_with_val
from saccade.web.networks import Network

__all__ = ["GALLERY_SIZE", "Examples", "find_examples"]

GALLERY_SIZE = 48
"""Largest number of images in the gallery."""


@dataclass(frozen=True)
class Examples:
    """Test images of the first run, and of all runs on the same data.

    Attributes:
        task: task with the data.
        indices: images of the gallery.
        n_disputed: number of these on which the networks disagree; they come first.
        n_disputed_in_all: number of all test images on which they disagree.
        compared: names of the networks that were compared.
    """

    task: Task
    indices: tuple[int, ...]
    n_disputed: int
    n_disputed_in_all: int
    compared: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.task.data.test)

    def pixels(self, index: int) -> Tensor:
        """Return test image ``index``, uint8 (C, H, W)."""
        return self.task.data.test.raw_image(index)

    def picture(self, index: int) -> Image.Image:
        """Return test image ``index`` in RGB."""
        return to_pil_image(self.pixels(index)).convert("RGB")

    def tensor(self, index: int) -> Tensor:
        """Return test image ``index`` as the networks of this data get it, float32 (C, H, W)."""
        image: Tensor = self.task.data.test[index][0]
        return image

    def truth(self, index: int) -> str:
        """Return the caption of the ground truth."""
        return self.task.draw([index], None)[0].caption

    def regions(self, index: int) -> dict[int, Tensor]:
        """Return the known regions (H, W) in test image ``index``, by the class in the network's output."""
        subjects = self.task.subjects(index)
        return {subject.index: subject.region for subject in subjects if subject.region is not None}

    def is_of(self, network: Network) -> bool:
        """Return True if ``network`` was trained on the data of these images."""
        return network.recipe is not None and network.recipe.data == self.task.recipe.data


def find_examples(networks: Sequence[Network]) -> tuple[Examples | None, str]:
    """Return the test images of the first network with a recipe and known data, else None and the reason."""
    network = next((network for network in networks if network.recipe is not None and network.task), None)
    if network is None or network.recipe is None:
        return None, "These networks come without a recipe, so there are no test images."
    recipe, task_class = network.recipe, tasks.get(network.task)
    try:
        splits = open_once(recipe.data, task_class.target)
        known = network.fingerprint
        if known not in ("", splits.fingerprint) and known != fingerprint_with_val(splits):
            return None, f"The images in {recipe.data.source} have changed since the run was made."
        task = task_class(recipe, splits)
        return _examples(task, networks), ""
    except UserError as error:
        return None, f"The test images cannot be opened: {error}"


def _examples(task: Task, networks: Sequence[Network]) -> Examples:
    n_images = len(task.data.test)
    compared = [
        other for other in networks
        if other.rows is not None and other.recipe is not None and other.recipe.data == task.recipe.data
    ]  # fmt: skip
    order, disputed = disputed_images(n_images, task, [other.rows for other in compared])
    chosen = set(disputed[:GALLERY_SIZE])
    shown = [*disputed[:GALLERY_SIZE], *(i for i in order if i not in chosen)][:GALLERY_SIZE]
    names = tuple(other.name for other in compared)
    return Examples(task, tuple(shown), len(chosen), len(disputed), names)
