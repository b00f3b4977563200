"""Files that somebody might upload as a picture to break a server: seeded, a few kilobytes each."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

__all__ = ["hostile_pictures"]


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(pixels, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _truncated(pictures: dict[str, bytes], rng: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    for n in range(count):
        kind = sorted(pictures)[n % len(pictures)]
        content = pictures[kind]
        yield f"{kind} cut", content[: rng.randrange(1, len(content))]


def _flipped(pictures: dict[str, bytes], rng: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    for n in range(count):
        kind = sorted(pictures)[n % len(pictures)]
        content = bytearray(pictures[kind])
        for _ in range(rng.randrange(1, 30)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        yield f"{kind} with wrong bytes", bytes(content)


def _exif_loop() -> bytes:
    """Return a JPEG whose EXIF directory names itself as the next one."""
    directory = b"MM\x00*\x00\x00\x00\x08" + b"\x00\x01" + struct.pack(">HHII", 0x8769, 4, 1, 8) + b"\x00\x00\x00\x08"
    body = b"Exif\x00\x00" + directory
    plain = _encoded(Image.new("RGB", (20, 20)), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def hostile_pictures(seed: int = 0) -> list[tuple[str, bytes]]:
    """Return (description, content) of 110 files."""
    rng = random.Random(seed)
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    pictures = {kind: _encoded(noise, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")}
    script = b"<script>fetch('//evil')</script>"
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'>" + script + b"</svg>"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 900_000, zip=True)
    return [
        *_truncated(pictures, rng, 42),
        *_flipped(pictures, rng, 30),
        ("nothing", b""),
        ("one byte", b"\x89"),
        ("zeros", bytes(5000)),
        ("random bytes", rng.randbytes(5000)),
        ("SVG", svg),
        ("SVG after a declaration", b"<?xml version='1.0'?>\n<!DOCTYPE svg [<!ENTITY a 'aa'>]>" + svg),
        ("HTML", b"<!doctype html>" + script),
        ("Python", b"import os\nos.system('true')\n"),
        ("pickle", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
        ("ZIP", b"PK\x03\x04" + bytes(200)),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"),
        ("ICO", b"\x00\x00\x01\x00\x01\x00" + bytes(60)),
        ("GIF", _encoded(noise.convert("P"), "GIF")),
        ("GIF and script", b"GIF89a/*" + bytes(40) + b"*/=1;" + script),
        ("animated GIF", _encoded(noise, "GIF", save_all=True, append_images=[noise] * 5)),
        ("JPEG and HTML", pictures["JPEG"] + script),
        ("JPEG with a script as its comment", _encoded(noise, "JPEG", comment=script)),
        ("PNG and ZIP", pictures["PNG"] + b"PK\x03\x04" + bytes(100)),
        ("bomb of grey pixels", _png(40_000, 40_000, bytes(20_000_000))),
        ("bomb just above the limit", _png(9_460, 9_459, bytes(1000))),
        ("width of 2³¹ − 1", _png(2**31 - 1, 1, bytes(10))),
        ("height 0", _png(10, 0, b"")),
        ("a line of 60 000 pixels", _png(60_000, 1, bytes(60_001))),
        ("a column of 60 000 pixels", _png(1, 60_000, bytes(120_000))),
        ("one pixel", _png(1, 1, bytes(2))),
        ("too few pixels", _png(500, 500, bytes(100))),
        ("NaN as gamma", _png(4, 4, bytes(20), extra=_chunk(b"gAMA", b"\xff\xff\xff\xff"))),
        ("a chunk of −1 bytes", pictures["PNG"][:33] + b"\xff\xff\xff\xffIDAT" + bytes(30)),
        ("a long text", _encoded(noise, "PNG", pnginfo=text)),
        ("16 bits", _encoded(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "PNG")),
        ("NaN pixels", _encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")),
        ("CMYK", _encoded(noise.convert("CMYK"), "JPEG")),
        ("palette with transparency", _encoded(noise.convert("P"), "PNG", transparency=b"\x00" * 256)),
        ("animated WebP", _encoded(noise, "WEBP", save_all=True, append_images=[noise] * 5)),
        ("EXIF in a circle", _exif_loop()),
        ("PPM of 10⁹ pixels", b"P6 40000 40000 255\n" + bytes(100)),
    ]
