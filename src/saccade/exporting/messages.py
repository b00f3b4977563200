"""Format exporter errors for users, and silence the exporters."""

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

__all__ = ["first_line", "onnx_failure", "shape_text", "silence", "source_line", "trace_failure"]

_TORCH_FOLDER = Path(torch.__file__).parent


@contextmanager
def silence() -> Iterator[None]:
    """Suppress printing and logging for the duration of the block."""
    old_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(old_level)


def shape_text(images: Tensor) -> str:
    """Return the shape of a batch (B, C, H, W) as text, such as 2×3×224×224."""
    return "×".join(map(str, images.shape))


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, else the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)


def trace_failure(error: BaseException) -> str:
    """Return the reason why ``torch.export`` could not trace a network."""
    if "data-dependent" in str(error):
        return "its forward branches on pixel values, or converts them to Python numbers, which a graph cannot contain"
    return f"{type(error).__name__}: {first_line(error)}"


def source_line(error: BaseException) -> str:
    """Return, in brackets, the innermost traceback line in a ``forward`` outside torch; "" without such a line."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name == "forward" and _TORCH_FOLDER not in Path(frame.filename).parents
    ]
    if not frames:
        return ""
    innermost = frames[-1]
    return f" ({Path(innermost.filename).name}, line {innermost.lineno}: {innermost.line})"


def onnx_failure(error: BaseException) -> str:
    """Return the reason why torch's exporter could not write ONNX, with the names of unsupported operators."""
    text = str(error)
    operators = sorted(set(re.findall(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)))
    if operators:
        return f"ONNX export does not support the operator {', '.join(operators)}"
    _, _, summary = text.partition("## Exception summary")
    return first_line(Exception(summary)) if summary.strip() else f"{type(error).__name__}: {first_line(error)}"
