"""Write, read back, compare, then give the file its name."""

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
from saccade.exporting.formats import FORMATS, OPSET
from saccade.exporting.subject import AXES, Comparison, Subject
from saccade.files import atomic_writer

__all__ = ["Exported", "export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export` wrote."""

    path: str
    format: str
    size: int
    """In bytes."""
    opset: int | None
    """Of ONNX; None in the other formats."""
    inputs: dict[str, tuple[int | str, ...]]
    """The shape of each input, a dynamic axis by its name; {} for ``safetensors``, which holds no graph."""
    outputs: tuple[str, ...]
    """Their names; () for ``safetensors``."""
    smallest: tuple[int, int]
    """Least height and width for the file."""
    compared: tuple[Comparison, ...]
    metadata: dict[str, Any]
    """What the file says of itself."""


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
    """Write ``model``, in eval mode and float32, to ``path``; it is read back and compared before it gets its name.

    Args:
        model: a network whose forward takes one batch of pictures (B, C, H, W), plugged or not; it stays as it is.
        path: the file, replaced if it exists; for ``safetensors`` the folder.
        format: ``onnx``, ``torch`` or ``safetensors``.
        input: size (C, H, W) the network is meant for; None for the size it states, else 3×224×224.
        dynamic: the axes that may have any length: ``all`` (batch, height, width), ``batch`` or ``none``.
        host: how the network without its plugs is made, as for ``saccade.save``.
        classes: their names.
        notify: gets a sentence as each step begins.
        facts: whatever else JSON can hold, such as ``mean`` and ``std`` of the pixels, for the file to state.

    Returns:
        what was written, with the differences found.

    Raises:
        UserError: a package is missing, ``path`` cannot be written, the network does not run on the input or cannot be
            expressed in the format, or the file computes something else. No file is left behind.
    """
    for word, value, known in (("format", format, FORMATS), ("dynamic", dynamic, AXES)):
        if value not in known:
            near = did_you_mean(value, known) if isinstance(value, str) else ""
            raise UserError(f"{word} is one of {', '.join(known)}; got {value!r}.{near}")
    path, write, folder = Path(path), FORMATS[format], format == "safetensors"
    with _place(path, folder) as temporary, torch.random.fork_rng(devices=[]):
        try:
            subject = Subject.of(model, input, dynamic, host, classes, facts)
            compared = write(subject, temporary, notify or (lambda text: None))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        except UserError as error:
            if str(temporary) not in str(error):
                raise
            raise UserError(str(error).replace(str(temporary), str(path))) from error
        size = sum(part.stat().st_size for part in (temporary.iterdir() if folder else [temporary]))
    return Exported(
        path=str(path),
        format=format,
        size=size,
        opset=OPSET if format == "onnx" else None,
        inputs={} if folder else {subject.input: subject.axes},
        outputs=() if folder else subject.outputs,
        smallest=subject.smallest,
        compared=compared,
        metadata=subject.metadata,
    )


@contextmanager
def _place(path: Path, folder: bool) -> Iterator[Path]:
    """Yield where to write ``path``: moved there after the block, removed if the block fails.

    Raises:
        UserError: there is no such place, or it cannot be written.
    """
    try:
        if path.is_dir() and not folder:
            raise UserError(f"{path} is a folder; name the file to be written")
        if folder and path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; safetensors and config.json are written into a folder")
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} to write {path.name} into")
        if not folder:
            with atomic_writer(path) as file:  # made before the minutes that it takes to have something to write
                yield Path(file.name)
            return
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as made:
            yield Path(made)
            path.mkdir(exist_ok=True)
            for name in ("model.safetensors", "config.json"):  # the one that shows a mixed-up folder comes last
                os.replace(Path(made) / name, path / name)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
