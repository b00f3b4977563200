"""Command line. Each module of this folder is a subcommand, which imports slow packages such as torch only when it
runs.
"""

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
from saccade.errors import UserError, did_you_mean, explain_missing_packages, system_error_message
from saccade.escaping import printable

__all__ = ["main"]

_MAX_MESSAGE_LENGTH = 2000
"""Maximum length of an error message, which may quote long user input."""
_COMMANDS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


class _Commands(click.Group):
    """Click group that imports the module of a subcommand when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"saccade.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise UserError(
                f"there is no command {args[0]!r}.{did_you_mean(args[0], _COMMANDS)} Commands: {', '.join(_COMMANDS)}."
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def saccade() -> None:
    """Put visual attention into a CNN, train it on your images, and test whether it helped."""


def main() -> NoReturn:
    """Run the console script, and exit with its code.

    A UserError, a full disk, an unusable file or too little memory prints one message and gives 2; Ctrl-C and SIGTERM
    give 130. Any other exception is a bug and shows its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal may lack characters of a file name
            stream.reconfigure(errors="backslashreplace")
    sigterm_handler = signal.signal(signal.SIGTERM, _interrupt)
    sys.path.append("")  # lets package.module:Class name a module in the working directory
    try:
        _check_working_directory()
        with explain_missing_packages():
            code = saccade.main(prog_name="saccade", standalone_mode=False)
    except UserError as error:
        code = _report_error(str(error))
    except click.ClickException as error:
        vars(error)["message"] = _to_line(error.message)  # the message may contain unprintable user input
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("saccade: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        message = system_error_message(error)
        if message is None:
            raise
        code = _report_error(message)
    finally:
        signal.signal(signal.SIGTERM, sigterm_handler)
    sys.exit(code or 0)


def _check_working_directory() -> None:
    """Raise UserError if the working directory has been deleted or cannot be read."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory cannot be used ({error.strerror}); change to another with cd") from None


def _report_error(message: str) -> int:
    """Print ``message`` on one line of stderr, and return exit code 2."""
    click.echo(f"saccade: {_to_line(message)}", err=True)
    return 2


def _to_line(text: str) -> str:
    """Return ``text`` as one printable line, truncated to ``_MAX_MESSAGE_LENGTH`` characters."""
    line = printable(re.sub(r"\s*\n\s*", " ", text))
    return (
        line
        if len(line) <= _MAX_MESSAGE_LENGTH
        else f"{line[:_MAX_MESSAGE_LENGTH]} … ({len(line) - _MAX_MESSAGE_LENGTH} more characters)"
    )


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Turn SIGTERM into KeyboardInterrupt, so that a killed study prints how to resume it."""
    raise KeyboardInterrupt
