"""An error in one line: its words, the line of the mechanism that raised it, and known advice."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import torch

__all__ = ["in_one_line"]

_MADE = "make tensors in the forward with dtype=x.dtype and device=x.device; keep others as buffers"

ADVICE = {
    r"numpy|unsupported ScalarType": "numpy has no gradients and no graphs: write it with torch",
    r"more than 1 value per channel": "saccade.bases.BatchNorm2d, on (B, C, 1, 1), takes one image too",
    r"NVIDIA|same device|expected device|same dtype|scalar type": _MADE,
    r"data-dependent": "choose by value with torch.where, and keep numbers as tensors",
    r"fake tensor in the exported program": "a tensor is cut out of the graph, as .data does",
    r"graph leaves": "it holds a result of a forward",
}
"""Words of an error, in any case, to advice."""

_TORCH, _HERE = Path(torch.__file__).parent, Path(__file__).parent
_PYTHON = Path(sysconfig.get_path("stdlib"))


def in_one_line(error: Exception) -> str:
    """The type and the first line of ``error``, the place in the mechanism that raised it, and advice."""
    text = str(error)
    words = next((line.strip() for line in text.splitlines() if line.strip()), "")
    advice = next((f"; {what}" for words, what in ADVICE.items() if re.search(words, text, re.IGNORECASE)), "")
    return f"{type(error).__name__}{': ' if words else ''}{words}{_place(error)}{advice}"


def _place(error: Exception) -> str:
    if named := re.findall(
        r'File "([^"]+)", line (\d+), in \w+\n\s*(\S.*)', str(error)
    ):  # in torch.compile's own message
        file, line, code = named[-1]
        return f" ({Path(file).name}, line {line}: {code})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _theirs(Path(frame.filename))]
    if frames and frames[-1].line:
        return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})"
    return ""


def _theirs(file: Path) -> bool:
    """Whether it is a file of neither torch, this package nor Python's library."""
    if file.is_relative_to(_TORCH) or file.is_relative_to(_HERE):
        return False
    return "site-packages" in file.parts or not file.is_relative_to(_PYTHON)
