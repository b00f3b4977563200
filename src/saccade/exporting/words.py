"""What an exporter's error means, and silence while it works."""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["first_line", "place", "silently", "sized", "untraced", "untranslated"]

_TORCH = Path(torch.__file__).parent


@contextmanager
def silently() -> Iterator[None]:
    """Silence what exporters print or log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def sized(picture: Tensor) -> str:
    """Return the shape of a batch of pictures, as 2×3×224×224."""
    return "×".join(map(str, picture.shape))


def first_line(error: BaseException) -> str:
    """Return the first line of a message that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)


def untraced(error: BaseException) -> str:
    """Why ``torch.export`` could not trace a network."""
    if "data-dependent" in str(error):
        return "its forward makes a Python number or decision of the values of a picture, which no graph can hold"
    return f"{type(error).__name__}: {first_line(error)}"


def place(error: BaseException) -> str:
    """Return the innermost line outside of torch from which the error came, in brackets."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name == "forward" and _TORCH not in Path(frame.filename).parents
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({Path(last.filename).name}, line {last.lineno}: {last.line})"


def untranslated(error: BaseException) -> str:
    """Return why torch's exporter could not write ONNX: the operators it lacks, by name, if that is the reason."""
    text = str(error)
    operators = sorted(set(re.findall(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)))
    if operators:
        return f"the operator {', '.join(operators)} has no form there"
    _, _, summary = text.partition("## Exception summary")
    return first_line(Exception(summary)) if summary.strip() else f"{type(error).__name__}: {first_line(error)}"
