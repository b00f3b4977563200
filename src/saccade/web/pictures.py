"""Pictures that visitors upload: decoded in memory, kept until newer ones push them out."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from PIL import Image

from saccade.data.opening import decode_image
from saccade.errors import UserError
from saccade.imagefiles import UnreadableError

__all__ = ["MAX_PICTURES", "MAX_SIDE", "Pictures"]

MAX_PICTURES = 64
"""Number of pictures in memory; a newer one replaces the one that was used least recently."""
MAX_SIDE = 1024
"""Longest side of a kept picture, in pixels."""


class Pictures:
    """Uploaded pictures by a random name that only the visitor knows."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def add(self, content: bytes) -> str:
        """Decode the file ``content`` and return the name of the picture; one at a time, to bound the memory.

        Raises:
            UserError: the content is no image that can be read.
        """
        try:
            with self._decoding:
                picture = decode_image(content, MAX_SIDE)
        except UnreadableError as error:
            raise UserError(f"The file {error}.") from None
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._pictures[name] = picture
            while len(self._pictures) > MAX_PICTURES:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Image.Image:
        """Return the picture ``name``, in RGB.

        Raises:
            UserError: there is no such picture, or newer ones have replaced it.
        """
        with self._lock:
            if name not in self._pictures:
                raise UserError("This picture is no longer in memory; upload it again.")
            self._pictures.move_to_end(name)
            return self._pictures[name]
