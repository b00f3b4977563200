"""The option ``--trust``, by which the user allows a file to name modules that are imported."""

from __future__ import annotations

import click

__all__ = ["trust_option"]

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Allow a file to import and run modules other than those of Saccade and its libraries.",
)
