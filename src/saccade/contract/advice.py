"""One-line texts of errors: message, source line in the mechanism, and advice."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import torch

__all__ = ["format_error"]

_DTYPE_ADVICE = "create tensors in forward() with dtype=x.dtype and device=x.device; keep others as buffers"

ADVICE = {
    r"numpy|unsupported ScalarType": "numpy breaks gradients and compilation: use torch operators",
    r"more than 1 value per channel": "use saccade.bases.BatchNorm2d, which accepts a single image with 1×1 maps",
    r"NVIDIA|same device|expected device|same dtype|scalar type": _DTYPE_ADVICE,
    r"data-dependent": "use torch.where for branches on values, and do not call .item()",
    r"fake tensor in the exported program": "a tensor is detached from the graph, for example by .data",
    r"graph leaves": "the module keeps an output of a forward pass",
}
"""Maps regular expressions for error messages (case-insensitive) to advice."""

_TORCH, _CONTRACT = Path(torch.__file__).parent, Path(__file__).parent
_STDLIB = Path(sysconfig.get_path("stdlib"))


def format_error(error: Exception) -> str:
    """Return type and message of ``error``, its source line in the mechanism, and advice, in one line."""
    text = str(error)
    message = next((line.strip() for line in text.splitlines() if line.strip()), "")
    advice = next(
        (f"; {advice_text}" for pattern, advice_text in ADVICE.items() if re.search(pattern, text, re.IGNORECASE)), ""
    )
    return f"{type(error).__name__}{': ' if message else ''}{message}{_source_location(error)}{advice}"


def _source_location(error: Exception) -> str:
    """Return file, line and code of the last frame in the mechanism, in brackets; "" without such a frame."""
    # torch.compile quotes the user's frames in its messages.
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
