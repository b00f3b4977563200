"""``--trust``: the word of whoever types it that a file may name modules of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from saccade import catalog
from saccade.trust import check_mechanism

if TYPE_CHECKING:
    from saccade.recipe import Recipe

__all__ = ["check_recipe", "option"]

option = click.option(
    "--trust",
    is_flag=True,
    help="Import and run modules that a file names, besides those of Saccade and its libraries.",
)


def check_recipe(recipe: Recipe, owner: str, typed: str | None, settings: Sequence[str], trust: bool) -> None:
    """Raise UserError unless a recipe out of a file may name its mechanism.

    What was typed replaces what the file says, and is trusted.

    Args:
        recipe: as the file says it.
        owner: the file.
        typed: the mechanism of this command line, if any.
        settings: ``key=value`` of this command line.
        trust: whether the file is trusted.

    Raises:
        UserError: the mechanism comes from the file and is not in the catalogue.
    """
    keys = {setting.partition("=")[0].strip() for setting in settings}
    if typed is not None or keys & {"attention", "attention.mechanism"}:
        return
    from saccade.study.arms import placed

    for text in catalog.split(recipe.attention.mechanism):
        # As a study reads it: a list, each with a position of its own. What runs is what must be checked.
        for name in {catalog.named(text), catalog.named(placed(text)[0])}:
            if ":" in name:
                check_mechanism(name, {}, owner, trust)
