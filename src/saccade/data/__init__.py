"""Images and their targets: recognised in the layout they have, opened, checked and split before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.data.layouts import explain_rejection, find_layout
from saccade.errors import UserError
from saccade.events import Notify
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import Split

__all__ = ["find_layout", "open_data"]


def open_data(spec: Data, target: str, notify: Notify | None = None) -> Split:
    """The images a recipe's ``data`` part describes, every one of them looked at, with their targets.

    Args:
        spec: what to open.
        target: a kind of ``saccade.data.samples``, or ``none``.
        notify: receives ``FilesChecked`` while files are looked at.

    Raises:
        UserError: there is no such source, layout, option or augmentation; the layout gives no such target; a class is
            empty or in one part only; an image or a target is broken. The message names it.
    """
    from saccade.data.transforms import check_names
    from saccade.data.validation import scored_on_val

    check_names(spec.augment, target)
    layout = find_layout(spec, target)
    if target != "none" and target not in (gives := layout.list_targets(spec)):
        why = explain_rejection(spec.source, target)
        raise UserError(
            f"data.source: {layout.name} gives {' or '.join(gives)}; {target} is needed" + (f": {why}" if why else "")
        )
    split = layout.read(spec, target, notify)
    return scored_on_val(split, spec) if spec.score_on == "val" else split
