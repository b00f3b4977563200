"""Serve the page: ``saccade serve``."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saccade.errors import UserError
from saccade.trust import Trust
from saccade.web.guard import Application, Guard
from saccade.web.login import Login, parse_auth

__all__ = ["application", "gradio_settings", "serve"]

_LOG = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_MEGABYTES = 200


def serve(
    runs: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    max_megabytes: int = 20,
    names: Sequence[str] = (),
    trust: Trust = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the page for networks until it is interrupted.

    Args:
        runs: run folders, study folders or folders of ``saccade.save``.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        auth: ``user:password``, or ``@file``; None takes the environment variable ``SACCADE_AUTH``.
        max_megabytes: largest picture that is taken, in MB.
        names: further host names by which the page may be addressed, such as that of a proxy.
        trust: names that the folders may import; see ``saccade.load``.
        ready: called with the address once the page can be opened.

    Raises:
        UserError: a folder holds no network, ``auth`` or a number is invalid, the port is taken, or gradio is missing.
    """
    login = parse_auth(auth)
    if not 1 <= max_megabytes <= _MAX_MEGABYTES:
        raise UserError(f"the largest picture must have 1 to {_MAX_MEGABYTES} MB, got {max_megabytes}")
    if login is None and host not in _LOOPBACK:
        _LOG.warning("everybody who reaches %s can use the page; --auth asks for a log-in", host)
    with gradio_settings(), _listen(host, port) as listener:
        import uvicorn

        hosts = (*_LOOPBACK, *(name.lower() for name in names))
        app = application(runs, login, max_megabytes, hosts if host in _LOOPBACK else None, trust)
        config = uvicorn.Config(
            app, log_level="error", lifespan="on", timeout_graceful_shutdown=1, server_header=False, proxy_headers=False
        )
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listener.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listener])


def application(
    runs: Sequence[str | Path],
    login: Login | None,
    max_megabytes: int,
    hosts: Sequence[str] | None,
    trust: Trust = False,
) -> Application:
    """Return the ASGI application of the page; call it inside ``gradio_settings``.

    Raises:
        UserError: a folder holds no network.
    """
    return asyncio.run(_application(runs, login, max_megabytes, hosts, trust))


async def _application(
    runs: Sequence[str | Path], login: Login | None, max_megabytes: int, hosts: Sequence[str] | None, trust: Trust
) -> Application:
    """Return the application, built in an event loop: without one, Gradio opens several and closes none."""
    from saccade.web.examples import find_examples
    from saccade.web.looks import Looks
    from saccade.web.networks import open_networks
    from saccade.web.page import PageFunctions, build_page, theme
    from saccade.web.pictures import Pictures

    networks = {network.name: network for network in open_networks(runs, trust)}
    examples, reason = find_examples(list(networks.values()))
    pictures = Pictures()
    functions = PageFunctions(Looks(networks, examples, pictures))
    blocks = build_page(functions, max_megabytes, reason)
    return Guard(_mounted(blocks, theme()), pictures, login, max_megabytes * 10**6, hosts)


def _mounted(blocks: Any, theme: Any) -> Application:
    """Return the application of a Gradio page without its other features."""
    import gradio as gr
    from fastapi import FastAPI

    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="",
        theme=theme,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=False,
        max_file_size=1,
    )


@contextmanager
def gradio_settings() -> Iterator[Path]:
    """Set the environment of Gradio before it is imported: no analytics, and a private folder, removed at the end.

    Raises:
        UserError: gradio is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="saccade-page-"))
    settings = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SSR_MODE": "False",
        "GRADIO_SHARE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    previous = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        try:
            import gradio  # noqa: F401
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is not installed: pip install 'saccade-attention[web]'") from error
        yield folder
    finally:
        for key, value in previous.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        shutil.rmtree(folder, ignore_errors=True)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is too long
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from None
