"""Write a network to a temporary file, verify the file, then rename it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.exporting.export_source import DYNAMIC_AXES, Comparison, ExportSource
from saccade.exporting.formats import FORMATS, OPSET
from saccade.files import atomic_writer

__all__ = ["Exported", "export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Description of an exported file."""

    path: str
    format: str
    size: int
    """Size in bytes."""
    opset: int | None
    """ONNX opset version; None for other formats."""
    inputs: dict[str, tuple[int | str, ...]]
    """Shape of each input, with names for dynamic axes; {} for ``safetensors``, which holds no graph."""
    outputs: tuple[str, ...]
    """Names of the outputs; () for ``safetensors``."""
    smallest: tuple[int, int]
    """Smallest height and width that the file accepts."""
    compared: tuple[Comparison, ...]
    """Comparisons of file and network, one per batch."""
    metadata: dict[str, Any]
    """Metadata in the file."""


def export(
    model: nn.Module,
    path: str | Path,
    format: Literal["onnx", "torch", "safetensors"] = "onnx",
    input: Sequence[int] | None = None,
    *,
    dynamic: Literal["all", "batch", "none"] = "all",
    host: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    notify: Callable[[str], object] | None = None,
    **facts: Any,
) -> Exported:
    """Write ``model``, in eval mode and float32, to ``path``, after verifying the file's outputs against the model's.

    Args:
        model: a network whose forward takes one batch of images (B, C, H, W), plugged or not. It is left unchanged.
        path: the file, replaced if it exists; a folder for ``safetensors``.
        format: ``onnx``, ``torch`` or ``safetensors``.
        input: size (C, H, W) of the network's input; None for the network's default size, else 3×224×224.
        dynamic: axes that may have any length: ``all`` (batch, height, width), ``batch`` or ``none``.
        host: description of the network without plugs, as for ``saccade.save``.
        classes: names of the classes, in the order of the logits.
        notify: function that is called with a sentence at the start of each step.
        facts: further JSON-serialisable metadata for the file, such as ``mean`` and ``std`` of the pixels.

    Returns:
        description of the file, with the measured differences.

    Raises:
        UserError: a package is missing; ``path`` cannot be written; the network does not run on the input or cannot be
            expressed in the format; or the outputs of the file differ. No file is left behind.
    """
    choices = (("format", format, FORMATS), ("dynamic", dynamic, DYNAMIC_AXES))
    for name, value, allowed in choices:
        if value not in allowed:
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise UserError(f"{name} is one of {', '.join(allowed)}; got {value!r}.{hint}")
    path, write, is_folder = Path(path), FORMATS[format], format == "safetensors"
    with _temporary_output(path, is_folder) as temporary, torch.random.fork_rng(devices=[]):
        try:
            source = ExportSource.create(model, input, dynamic, host, classes, facts)
            comparisons = write(source, temporary, notify or (lambda text: None))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        except UserError as error:
            if str(temporary) not in str(error):
                raise
            raise UserError(str(error).replace(str(temporary), str(path))) from error
        size = sum(file.stat().st_size for file in (temporary.iterdir() if is_folder else [temporary]))
    return Exported(
        path=str(path),
        format=format,
        size=size,
        opset=OPSET if format == "onnx" else None,
        inputs={} if is_folder else {source.input_name: source.axes},
        outputs=() if is_folder else source.output_names,
        smallest=source.smallest_size,
        compared=comparisons,
        metadata=source.metadata,
    )


@contextmanager
def _temporary_output(path: Path, is_folder: bool) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on an exception."""
    try:
        if path.is_dir() and not is_folder:
            raise UserError(f"{path} is a folder; name the file to be written")
        if is_folder and path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; safetensors and config.json are written into a folder")
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} to write {path.name} into")
        if not is_folder:
            with atomic_writer(path) as file:  # created first, so that an unwritable path fails before minutes of work
                yield Path(file.name)
            return
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as temporary:
            yield Path(temporary)
            path.mkdir(exist_ok=True)
            # Rename config.json last: it holds the weights' digest, so an interrupted replacement is detected.
            for name in ("model.safetensors", "config.json"):
                os.replace(Path(temporary) / name, path / name)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
