"""Detect the layout of a data set; read, check and split its images and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.data.layouts import explain_rejection, find_layout
from saccade.errors import UserError
from saccade.events import Notify
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import Splits

__all__ = ["find_layout", "open_data"]


def open_data(spec: Data, target: str, notify: Notify | None = None) -> Splits:
    """Read and check every image and target that the ``data`` section of a recipe describes.

    Args:
        spec: ``data`` section of the recipe.
        target: kind of target, see ``saccade.data.samples.Target``.
        notify: receives progress events.

    Raises:
        UserError: the message names the source, option, class, image or target that cannot be used.
    """
    from saccade.data.transforms import check_augmentations
    from saccade.data.validation import score_on_val

    check_augmentations(spec.augment, target)
    layout = find_layout(spec, target)
    if target != "none" and target not in (kinds := layout.list_targets(spec)):
        reason = explain_rejection(spec.source, target)
        raise UserError(
            f"data.source: {layout.name} gives {' or '.join(kinds)}; {target} is needed"
            + (f": {reason}" if reason else "")
        )
    splits = layout.read(spec, target, notify)
    return score_on_val(splits, spec) if spec.score_on == "val" else splits
