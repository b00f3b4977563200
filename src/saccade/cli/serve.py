"""``saccade serve``: a page on which to see where networks look."""

from __future__ import annotations

import click

from saccade.cli._trust import trust_option

__all__ = ["command"]


@click.command("serve")
@click.argument("runs", metavar="RUN_FOLDER...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every network.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--auth", metavar="USER:PASSWORD", help="Ask for a log-in. @FILE reads it from a file; so does SACCADE_AUTH."
)
@click.option(
    "--max-size", "max_megabytes", type=click.IntRange(1, 200), default=20, show_default=True,
    help="Largest picture that can be uploaded, in MB.",
)  # fmt: skip
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="Name of the page behind a proxy on this machine; repeatable.",
)
@click.option("--open/--no-open", "open_page", default=False, show_default=True, help="Open the page in the browser.")
@trust_option
def command(
    runs: tuple[str, ...],
    host: str,
    port: int,
    auth: str | None,
    max_megabytes: int,
    names: tuple[str, ...],
    open_page: bool,
    trust: bool,
) -> None:
    """Serve a page with heat maps, gates and predictions of trained networks, side by side, for any picture.

    RUN_FOLDER is a run, a study (the first seed of each arm) or a folder of saccade.save. Pictures stay in memory, and
    the page loads nothing from other servers.
    """
    from saccade.web import serve

    def announce(address: str) -> None:
        click.echo(f"{address} (Ctrl-C to stop)")
        if open_page:
            click.launch(address)

    serve(runs, host=host, port=port, auth=auth, max_megabytes=max_megabytes, names=names, trust=trust, ready=announce)
