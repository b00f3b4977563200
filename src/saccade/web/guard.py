"""Guard in front of the Gradio application: it decides which requests pass, and adds the security headers.

Only the routes that the page needs exist. Gradio's routes for files, uploads, proxies and its own tools are not among
them; pictures are received here and stay in memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from saccade.errors import UserError
from saccade.escaping import brief
from saccade.web.cards import render_text
from saccade.web.login import Login
from saccade.web.pictures import Pictures

__all__ = ["Guard"]

_LOG = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_GRADIO_GET = re.compile(
    r"/|/theme\.css|/assets/[\w./+-]+|/static/(?:js|img|fonts)/[\w./+-]+"
    r"|/gradio_api/(?:queue/data|app_id|startup-events|heartbeat/\w{1,64})"
)
_GRADIO_POST = re.compile(r"/gradio_api/(?:queue/join|cancel)")
_ASSETS = {
    "/page.js": "text/javascript",
    "/page.css": "text/css",
    "/favicon.ico": "image/svg+xml",
}
_PUBLIC = {"/page.css", "/favicon.ico", "/login"}
"""Paths that need no session."""
_MAX_BODY = 2**18
"""Largest body in bytes of a request other than an upload."""
_UPLOADS, _UPLOAD_SECONDS = 8, 60.0
"""Number of uploads that are received at the same time, and seconds that a body may take, to bound the memory."""
_REFUSAL_SECONDS = 0.7
"""Seconds until a wrong password is answered, and its address may try again, to slow down guessing."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'self'; "
    "frame-ancestors 'none'"
)
"""Content security policy. Gradio compiles the templates of its HTML component (``unsafe-eval``); scripts within the
page need the nonce of the answer."""
_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # no-referrer would hide the origin of our own forms
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]


class _RefusedError(Exception):
    """A request is refused with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI application in front of Gradio's.

    Args:
        application: Gradio's application.
        pictures: receives the uploads.
        login: needed session; None lets everybody in.
        max_bytes: largest upload in bytes.
        hosts: host names by which the page may be addressed, against DNS rebinding; None allows any.
    """

    def __init__(
        self, application: Application, pictures: Pictures, login: Login | None, max_bytes: int,
        hosts: Iterable[str] | None = None,
    ) -> None:  # fmt: skip
        self.application = application
        self.pictures = pictures
        self.login = login
        self.max_bytes = max_bytes
        self.hosts = None if hosts is None else frozenset(hosts)
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._waiting: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on to Gradio."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        nonce = secrets.token_urlsafe(16)
        answer = _Answer(send, nonce)
        try:
            await self._answer(scope, receive, answer, nonce)
        except _RefusedError as error:
            await _respond(answer, error.status, "application/json", _json({"message": str(error)}))
        except Exception as error:  # Gradio raises for requests that its page would not send
            _LOG.warning("a request for %s failed: %s", brief(scope["path"], 80), brief(error, 200))
            await answer.abandon()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, nonce: str) -> None:
        method, path = scope["method"], scope["path"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_origin(method, headers)
        if self.login is not None and path not in _PUBLIC and not self.login.is_open(headers):
            if (method, path) == ("GET", "/"):
                await _respond(send, 401, "text/html; charset=utf-8", _login_page(""))
                return
            raise _RefusedError(401, "Log in first.")
        if (method, path) == ("POST", "/picture"):
            await self._receive_picture(headers, receive, send)
        elif self.login is not None and method == "POST" and path in ("/login", "/logout"):
            address = (scope.get("client") or ("",))[0]
            await self._change_session(path, address, headers, receive, send)
        elif method == "GET" and path in _ASSETS:
            await _respond(send, 200, _ASSETS[path], _asset(path))
        elif method == "GET" and path == "/":
            plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            body = _Rewritten(send, nonce, has_login=self.login is not None)
            # Without the query: Gradio reads files for deep links.
            await self.application({**scope, "headers": plain, "query_string": b""}, receive, body)
        elif method == "GET" and _GRADIO_GET.fullmatch(path) and ".." not in path:
            await self.application(scope, receive, send)
        elif method == "POST" and _GRADIO_POST.fullmatch(path):
            body_bytes = await _read(headers, receive, _MAX_BODY)
            await self.application(scope, _replay(body_bytes, receive), send)
        else:
            raise _RefusedError(404, "There is nothing here.")

    def _check_origin(self, method: str, headers: dict[str, str]) -> None:
        """Refuse other host names, and requests from pages of other sites that change anything."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
            site = host if origin is None else urlsplit(origin).netloc
        except ValueError:  # such as an open bracket
            raise _RefusedError(400, "The request has a broken address.") from None
        if self.hosts is not None and name not in self.hosts:
            raise _RefusedError(421, "The page has another name.")
        if method != "GET" and site != host:
            raise _RefusedError(403, "The request comes from another site.")

    async def _receive_picture(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        try:
            async with self._uploads:
                content = await _read(headers, receive, self.max_bytes)
                name = await asyncio.to_thread(self.pictures.add, content)
        except UserError as error:
            raise _RefusedError(422, str(error)) from None
        await _respond(send, 200, "application/json", _json({"source": f"upload:{name}"}))

    async def _change_session(
        self, path: str, address: str, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        assert self.login is not None
        body = await _read(headers, receive, _MAX_BODY)
        if path == "/logout":
            cookie: str | None = self.login.close(headers)
        else:
            try:
                form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
            except ValueError:  # too many fields
                form = {}
            user, password = (form.get(key, [""])[0] for key in ("user", "password"))
            if address in self._waiting:
                page = _login_page("Wait a second before another try.")
                await _respond(send, 429, "text/html; charset=utf-8", page)
                return
            cookie = self.login.open(user, password)
        if cookie is None:
            self._waiting.add(address)
            try:
                await asyncio.sleep(_REFUSAL_SECONDS)
            finally:
                self._waiting.discard(address)
            page = _login_page("User name or password is wrong.")
            await _respond(send, 401, "text/html; charset=utf-8", page)
            return
        extra = [(b"location", b"./"), (b"set-cookie", cookie.encode("latin-1"))]
        await _respond(send, 303, "text/plain", b"", extra)


class _Rewritten:
    """Sends the page of Gradio without references to other servers, and with ours."""

    def __init__(self, send: Send, nonce: str, has_login: bool) -> None:
        self._send, self._nonce, self._has_login = send, nonce, has_login
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        html = self._body.decode("utf-8")
        html = re.sub(r"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>|<link rel=\"manifest\"[^>]*>", "", html)
        logout = '<meta name="saccade-login" content="yes">' if self._has_login else ""
        ours = (
            f'{logout}<link rel="icon" href="./favicon.ico"><link rel="stylesheet" href="./page.css">'
            '<script type="module" src="./page.js"></script></head>'
        )
        html = html.replace("</head>", ours, 1).replace("<script", f'<script nonce="{self._nonce}"')
        body = html.encode("utf-8")
        kept = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class _Answer:
    """Sends an answer with the security headers, and knows how far it is."""

    def __init__(self, send: Send, nonce: str) -> None:
        self._send, self._policy = send, _POLICY.format(nonce=nonce).encode()
        self._has_started = self._is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_started = True
            headers = [*message.get("headers", []), *_HEADERS, (b"content-security-policy", self._policy)]
            message = {**message, "headers": headers}
        else:
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def abandon(self) -> None:
        """End the answer, whatever is missing."""
        if not self._has_started:
            await _respond(self, 400, "application/json", _json({"message": "The request cannot be answered."}))
        elif not self._is_complete:
            await self({"type": "http.response.body", "body": b""})


async def _respond(send: Send, status: int, kind: str, body: bytes, extra: Headers | None = None) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *(extra or [])]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"cache-control", b"no-store")]}
    )
    await send({"type": "http.response.body", "body": body})


async def _read(headers: dict[str, str], receive: Receive, limit: int) -> bytes:
    """Return the body of a request, refused as soon as it is larger than ``limit`` bytes, or too slow."""
    try:
        async with asyncio.timeout(_UPLOAD_SECONDS):
            return await _read_parts(headers, receive, limit)
    except TimeoutError:
        raise _RefusedError(408, "The upload takes too long.") from None


async def _read_parts(headers: dict[str, str], receive: Receive, limit: int) -> bytes:
    too_large = _RefusedError(413, f"The file is too large; at most {limit / 1e6:.3g} MB are taken.")
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "The connection was closed.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives a body that was read already, then what follows."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


@cache
def _asset(path: str) -> bytes:
    return (files("saccade.web") / "assets" / path.strip("/")).read_bytes()


def _login_page(problem: str) -> bytes:
    return render_text("login.html.j2", problem=problem).encode("utf-8")


def _json(values: dict[str, str]) -> bytes:
    return json.dumps(values).encode("utf-8")
