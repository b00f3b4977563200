"""Log-in of the page: one user name and password, and random session tokens."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["AUTH_VARIABLE", "Login", "parse_auth"]

AUTH_VARIABLE = "SACCADE_AUTH"
"""Environment variable with ``user:password``, so that it need not stand in the list of processes."""
_COOKIE = "saccade-session"
_MAX_LENGTH = 1024
_MAX_SESSIONS = 1000
"""Number of sessions; the oldest ends when there are more."""


@dataclass
class Login:
    """User name and password, and the open sessions."""

    user: str
    password: str
    _tokens: dict[str, None] = field(default_factory=dict)

    def open(self, user: str, password: str) -> str | None:
        """Return the ``Set-Cookie`` header of a new session, or None if name or password is wrong."""
        # Both are compared in any case, in constant time.
        is_user = secrets.compare_digest(user.encode("utf-8", "replace"), self.user.encode())
        is_password = secrets.compare_digest(password.encode("utf-8", "replace"), self.password.encode())
        if not (is_user and is_password):
            return None
        token = secrets.token_urlsafe(32)
        self._tokens[token] = None
        while len(self._tokens) > _MAX_SESSIONS:
            del self._tokens[next(iter(self._tokens))]
        return f"{_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"

    def is_open(self, headers: Mapping[str, str]) -> bool:
        """Return True if the request ``headers`` name an open session."""
        return self._token(headers) in self._tokens

    def close(self, headers: Mapping[str, str]) -> str:
        """End the session of the request, and return the ``Set-Cookie`` header that removes its cookie."""
        self._tokens.pop(self._token(headers), None)
        return f"{_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"

    def _token(self, headers: Mapping[str, str]) -> str:
        # Not http.cookies: it stops at the first cookie of another program that it cannot read.
        pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
        return next((value.strip() for name, _, value in pairs if name.strip() == _COOKIE), "")


def parse_auth(text: str | None) -> Login | None:
    """Return the login of ``user:password``, or of a file ``@path`` that holds it; None without a text.

    None as ``text`` takes the environment variable ``SACCADE_AUTH``.

    Raises:
        UserError: user name or password is empty or too long, or the file cannot be read.
    """
    source = "--auth"
    if text is None:
        if (text := os.environ.get(AUTH_VARIABLE)) is None:
            return None
        source = AUTH_VARIABLE
    elif text.startswith("@"):
        source = brief(text[1:])
        try:
            with Path(text[1:]).open(encoding="utf-8") as file:
                text = file.read(2 * _MAX_LENGTH).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {source}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    user, colon, password = text.partition(":")
    if not colon or not user or not password or len(text) > _MAX_LENGTH or not text.isprintable():
        raise UserError(
            f"{source} needs user:password, both of at least one printable character and {_MAX_LENGTH} in all; write "
            "--auth @FILE to read them from a file"
        )
    return Login(user, password)
