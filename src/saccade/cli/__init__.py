"""The command line: one verb, one file of this folder; what is heavy is imported inside the verb."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from saccade.errors import UserError, did_you_mean, study_installed

__all__ = ["main"]

_VERBS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


class _Verbs(click.Group):
    """The folder as a click group: a verb's module is imported when the verb is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _VERBS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        found: click.Command = import_module(f"saccade.cli.{cmd_name}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            raise UserError(
                f"there is no verb {args[0]!r}.{did_you_mean(args[0], _VERBS)} The verbs: {', '.join(_VERBS)}."
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="saccade")
def saccade() -> None:
    """Put visual attention into a CNN, train it on your images, and learn whether it helped."""


def main() -> NoReturn:
    """The console script: a user's mistake ends in one message and exit code 2, Ctrl-C and SIGTERM in 130."""
    terminate = signal.signal(signal.SIGTERM, _interrupt)
    sys.path.append("")  # package.module:Class is found in the folder one works in
    try:
        with study_installed():
            code = saccade.main(prog_name="saccade", standalone_mode=False)
    except UserError as error:
        click.echo(f"saccade: {error}", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("saccade: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    finally:
        signal.signal(signal.SIGTERM, terminate)
    sys.exit(code or 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM, as Ctrl-C: a batch system that ends a study hears how it goes on."""
    raise KeyboardInterrupt
