"""One-line texts of errors: message, source line in the mechanism, and advice."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import torch

__all__ = ["in_one_line"]

_DTYPE_ADVICE = "create tensors in forward() with dtype=x.dtype and device=x.device; keep others as buffers"

ADVICE = {
    r"numpy|unsupported ScalarType": "numpy has no gradients and no graphs: write it with torch",
    r"more than 1 value per channel": "saccade.bases.BatchNorm2d, on (B, C, 1, 1), takes one image too",
    r"NVIDIA|same device|expected device|same dtype|scalar type": _DTYPE_ADVICE,
    r"data-dependent": "choose by value with torch.where, and keep numbers as tensors",
    r"fake tensor in the exported program": "a tensor is detached from the graph, for example by .data",
    r"graph leaves": "the module keeps an output of a forward pass",
}
"""Maps regular expressions for error messages (case-insensitive) to advice."""

_TORCH, _CONTRACT = Path(torch.__file__).parent, Path(__file__).parent
_STDLIB = Path(sysconfig.get_path("stdlib"))


def in_one_line(error: Exception) -> str:
    """Return type and message of ``error`` in one line, with its source line in the mechanism and advice."""
    text = str(error)
    message = next((line.strip() for line in text.splitlines() if line.strip()), "")
    advice = next(
        (f"; {advice_text}" for pattern, advice_text in ADVICE.items() if re.search(pattern, text, re.IGNORECASE)), ""
    )
    return f"{type(error).__name__}{': ' if message else ''}{message}{_source_location(error)}{advice}"


def _source_location(error: Exception) -> str:
    # Messages of torch.compile hold frames of their own.
    """Return file, line and code of the last frame in the mechanism, in brackets; empty if there is none."""
    if frames_in_message := re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(\S.*)', str(error)):
        file, line, code = frames_in_message[-1]
        return f" ({Path(file).name}, line {line}: {code})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user_file(Path(frame.filename))]
    if frames and frames[-1].line:
        return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})"
    return ""


def _is_user_file(file: Path) -> bool:
    """Return True if ``file`` is outside torch, ``saccade.contract`` and the standard library."""
    if file.is_relative_to(_TORCH) or file.is_relative_to(_CONTRACT):
        return False
    return "site-packages" in file.parts or not file.is_relative_to(_STDLIB)
