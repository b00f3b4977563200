"""Image sets: the embedded digits and folders of images, opened, checked and split before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.data.augment import check_names
from saccade.data.digits import open_digits
from saccade.data.folder import open_folder
from saccade.data.sampler import EpochSampler
from saccade.data.split import ImageSet, Split
from saccade.recipe import Data

__all__ = ["EpochSampler", "ImageSet", "Split", "open_data"]


def open_data(spec: Data, notify: Callable[[dict[str, Any]], None] | None = None) -> Split:
    """The images a recipe's ``data`` part describes, every one of them looked at.

    Args:
        spec: what to open.
        notify: receives ``{"event": "check", "done": n, "total": N}`` while images are looked at.

    Raises:
        UserError: there is no such source, option or augmentation; a class is empty or in one part only; an image is
            broken. The message names it.
    """
    check_names(spec.augment)
    return open_digits(spec) if spec.source == "digits" else open_folder(spec, notify)
