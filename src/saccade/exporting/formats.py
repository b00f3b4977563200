"""The formats: each writes a network, reads it back by the program that will run it, and compares."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade import saving
from saccade.errors import UserError
from saccade.exporting.subject import Comparison, Subject
from saccade.exporting.words import first_line, silently, sized, untranslated
from saccade.tensors import tensors_in

__all__ = ["FORMATS", "OPSET"]

OPSET = 18
"""The ONNX version that PyTorch's exporter writes without converting; onnxruntime reads it since 1.14 (2023)."""

Say = Callable[[str], object]

_FACTS = "saccade.json"
"""The file inside a ``.pt2`` that holds the facts."""


def _onnx(subject: Subject, file: Path, say: Say) -> tuple[Comparison, ...]:
    onnx, _, onnxruntime = _installed("onnx", "onnxscript", "onnxruntime")
    say("tracing")
    program = subject.traced()
    pictures = subject.pictures()
    say("translating")
    try:
        with silently():
            translated = torch.onnx.export(
                program, opset_version=OPSET, input_names=[subject.input], output_names=subject.outputs, verbose=False
            )
        assert translated is not None
        proto = translated.model_proto
    except Exception as error:
        raise UserError(f"{subject.name} cannot be expressed in ONNX: {untranslated(error)}") from error
    _tidy(proto, subject.axes)
    onnx.helper.set_model_props(proto, {k: json.dumps(v, ensure_ascii=False) for k, v in subject.metadata.items()})
    say("writing")
    try:
        onnx.save(proto, str(file))
        onnx.checker.check_model(str(file), full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # protobuf's, onnx's and onnxruntime's errors have no base of their own
        raise UserError(f"{subject.name} as ONNX cannot be read back: {first_line(error)}") from error

    def run(picture: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {subject.input: picture.numpy()})]

    return _compared(subject, run, pictures, say, program)


def _tidy(proto: Any, axes: Sequence[int | str]) -> None:
    """Name the dynamic axes, and remove traces of the exporter and the paths of this machine."""
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    names = {found.dim_param: name for found, name in zip(dimensions, axes, strict=True) if isinstance(name, str)}
    symbols = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names) or r"(?!)")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = symbols.sub(lambda found: names[found[0]], dimension.dim_param)
    graph = proto.graph
    for thing in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del thing.metadata_props[:]


def _torch(subject: Subject, file: Path, say: Say) -> tuple[Comparison, ...]:
    say("tracing")
    program = subject.traced()
    pictures = subject.pictures()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    say("writing")
    buffer = io.BytesIO()  # written by torch itself, a disk that is full ends the process
    with silently():
        with _without_example(program):
            torch.export.save(program, buffer, extra_files={_FACTS: json.dumps(subject.metadata)})
        file.write_bytes(buffer.getbuffer())
        if _pickled(file):
            raise UserError(f"{subject.name} has weights of a kind that torch.export can only pickle")
        with file.open("rb") as stream:
            again = torch.export.load(stream).module()
    return _compared(subject, lambda x: list(tensors_in(again(x))), pictures, say, program)


@contextmanager
def _without_example(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Return a program without its example inputs, the one part that would be pickled.

    Read back, it no longer checks what it was traced for, as ONNX does not.
    """
    example = program.example_inputs
    program.example_inputs = None
    try:
        yield
    finally:
        program.example_inputs = example


def _pickled(file: Path) -> bool:
    """Return whether a ``.pt2`` holds anything that ``torch.export.load`` would unpickle."""
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if "/sample_inputs/" in part.filename and part.file_size:
                return True
            if part.filename.endswith("_config.json"):
                rows = json.loads(archive.read(part))["config"].values()
                if any(row["use_pickle"] for row in rows):
                    return True
    return False


def _safetensors(subject: Subject, folder: Path, say: Say) -> tuple[Comparison, ...]:
    say("writing")
    stated = {key: subject.metadata[key] for key in ("input", "classes")}
    facts = {
        key: value for key, value in subject.metadata.items() if key not in ("host", "plugs", "replacements", *stated)
    }
    config = saving.save(subject.model, folder, host=subject.host, **stated, **facts)
    if config["host"] is None:
        raise UserError(f"{subject.name} cannot be rebuilt from what it says of itself: say by host= how it is made")
    again = saving.load(folder, trust=True).to(torch.float32)  # it names what the caller gave
    with suppress(UserError):  # a network of one size is saved as well as any
        subject.find_other_sizes()

    def run(picture: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(tensors_in(again(picture)))

    return _compared(subject, run, subject.pictures(), say)


FORMATS: dict[str, Callable[[Subject, Path, Say], tuple[Comparison, ...]]] = {
    "onnx": _onnx,
    "torch": _torch,
    "safetensors": _safetensors,
}


def _compared(
    subject: Subject,
    run: Callable[[Tensor], list[Tensor]],
    pictures: Sequence[Tensor],
    say: Say,
    program: torch.export.ExportedProgram | None = None,
) -> tuple[Comparison, ...]:
    """Compare file and network on each picture.

    Raises:
        UserError: they differ, or the file fails; the message names the condition of ``program`` that the size breaks.
    """
    rows = []
    for picture in pictures:
        say(f"comparing at {sized(picture)}")
        try:
            rows.append(subject.compare(run, picture))
        except UserError as error:
            raise UserError(f"{error}{_condition(program, picture)}") from error
    return tuple(rows)


def _condition(program: torch.export.ExportedProgram | None, picture: Tensor) -> str:
    """Return the condition of a traced program that the picture's size breaks, in brackets."""
    try:
        if program is not None:
            program.module()(picture)
    except Exception as error:
        return f" (traced for certain sizes: {first_line(error)})"
    return ""


def _installed(*names: str) -> list[Any]:
    """Return the modules of the extra ``onnx``.

    Raises:
        UserError: one is missing.
    """
    try:
        return [import_module(name) for name in names]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in names:
            raise
        raise UserError(f"{error.name} is not installed: pip install 'saccade-attention[onnx]'") from error
