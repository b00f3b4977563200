"""The command line: one verb, one file of this folder; what is heavy is imported inside the verb."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from saccade import __version__
from saccade.errors import UserError, did_you_mean, of_the_machine, study_installed
from saccade.escaping import printable

__all__ = ["main"]

_LONGEST = 2000
"""Characters of a message, which may repeat what was typed."""
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
@click.version_option(__version__)
def saccade() -> None:
    """Put visual attention into a CNN, train it on your images, and learn whether it helped."""


def main() -> NoReturn:
    """The console script: a user's mistake ends in one message and exit code 2, Ctrl-C and SIGTERM in 130.

    So do a full disk, a file that cannot be used and too little memory. Any other exception is a bug, and shows its
    traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal has no letters for is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    terminate = signal.signal(signal.SIGTERM, _interrupt)
    sys.path.append("")  # package.module:Class is found in the folder one works in
    try:
        _check_working_directory()
        with study_installed():
            code = saccade.main(prog_name="saccade", standalone_mode=False)
    except UserError as error:
        code = _complain(str(error))
    except click.ClickException as error:
        vars(error)["message"] = _line(error.message)  # it repeats what was typed
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("saccade: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        sentence = of_the_machine(error)
        if sentence is None:
            raise
        code = _complain(sentence)
    finally:
        signal.signal(signal.SIGTERM, terminate)
    sys.exit(code or 0)


def _check_working_directory() -> None:
    """Raise UserError where the working directory has been deleted, or cannot be read."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory cannot be used ({error.strerror}); change to another with cd") from None


def _complain(sentence: str) -> int:
    """Print one line to stderr; the exit code."""
    click.echo(f"saccade: {_line(sentence)}", err=True)
    return 2


def _line(text: str) -> str:
    """``text`` as one line that a terminal shows as it is: it may hold names of files, or words of a library."""
    line = printable(re.sub(r"\s*\n\s*", " ", text))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} … ({len(line) - _LONGEST} more characters)"


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM, as Ctrl-C: a batch system that ends a study hears how it goes on."""
    raise KeyboardInterrupt
