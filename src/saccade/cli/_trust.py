"""``--trust``: the word of whoever types it that a file may name modules of its own."""

from __future__ import annotations

import click

__all__ = ["option"]

option = click.option(
    "--trust",
    is_flag=True,
    help="Import and run modules that a file names, besides those of Saccade and its libraries.",
)
