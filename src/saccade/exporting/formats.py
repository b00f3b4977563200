"""Write a network in each format, read the file back with the format's runtime, and compare outputs."""

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
from saccade.exporting.export_source import Comparison, ExportSource
from saccade.exporting.messages import first_line, onnx_failure, shape_text, silence
from saccade.tensors import tensors_in

__all__ = ["FORMATS", "OPSET"]

OPSET = 18
"""ONNX opset version that PyTorch's exporter writes without conversion; onnxruntime reads it since 1.14 (2023)."""

Notify = Callable[[str], object]

_METADATA_FILE = "saccade.json"
"""Name of the file inside a ``.pt2`` that contains the metadata."""


def _write_onnx(source: ExportSource, file: Path, notify: Notify) -> tuple[Comparison, ...]:
    onnx, _, onnxruntime = _import_installed("onnx", "onnxscript", "onnxruntime")
    notify("tracing")
    program = source.trace()
    batches = source.batches()
    notify("translating")
    try:
        with silence():
            onnx_program = torch.onnx.export(
                program,
                opset_version=OPSET,
                input_names=[source.input_name],
                output_names=source.output_names,
                verbose=False,
            )
        assert onnx_program is not None
        proto = onnx_program.model_proto
    except Exception as error:
        raise UserError(f"{source.name} cannot be expressed in ONNX: {onnx_failure(error)}") from error
    _name_axes_and_strip_metadata(proto, source.axes)
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in source.metadata.items()}
    onnx.helper.set_model_props(proto, metadata)
    notify("writing")
    try:
        onnx.save(proto, str(file))
        onnx.checker.check_model(str(file), full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # log errors only
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # errors of protobuf, onnx and onnxruntime have no common base
        raise UserError(f"{source.name} as ONNX cannot be read back: {first_line(error)}") from error

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {source.input_name: images.numpy()})]

    return _compare(source, run, batches, notify, program)


def _name_axes_and_strip_metadata(proto: Any, axes: Sequence[int | str]) -> None:
    """Name the dynamic axes, and remove the exporter's metadata, which contains paths of this machine."""
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    names = {
        dimension.dim_param: axis for dimension, axis in zip(dimensions, axes, strict=True) if isinstance(axis, str)
    }
    symbols = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names) or r"(?!)")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = symbols.sub(lambda match: names[match[0]], dimension.dim_param)
    graph = proto.graph
    for message in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del message.metadata_props[:]


def _write_torch(source: ExportSource, file: Path, notify: Notify) -> tuple[Comparison, ...]:
    notify("tracing")
    program = source.trace()
    batches = source.batches()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    notify("writing")
    buffer = io.BytesIO()  # torch's own file writer aborts the process on a full disk
    with silence():
        with _without_example_inputs(program):
            torch.export.save(program, buffer, extra_files={_METADATA_FILE: json.dumps(source.metadata)})
        file.write_bytes(buffer.getbuffer())
        if _contains_pickle(file):
            raise UserError(f"{source.name} has weights of a kind that torch.export can only pickle")
        with file.open("rb") as stream:
            reloaded = torch.export.load(stream).module()
    return _compare(source, lambda images: list(tensors_in(reloaded(images))), batches, notify, program)


@contextmanager
def _without_example_inputs(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Remove the program's example inputs, which would be pickled, for the duration of the block.

    Without them a saved program, like ONNX files, does not check input shapes.
    """
    example_inputs = program.example_inputs
    program.example_inputs = None
    try:
        yield
    finally:
        program.example_inputs = example_inputs


def _contains_pickle(file: Path) -> bool:
    """Return True if a ``.pt2`` file contains an object that ``torch.export.load`` would unpickle."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if "/sample_inputs/" in member.filename and member.file_size:
                return True
            if member.filename.endswith("_config.json"):
                rows = json.loads(archive.read(member))["config"].values()
                if any(row["use_pickle"] for row in rows):
                    return True
    return False


def _write_safetensors(source: ExportSource, folder: Path, notify: Notify) -> tuple[Comparison, ...]:
    notify("writing")
    arguments = {key: source.metadata[key] for key in ("input", "classes")}
    facts = {
        key: value for key, value in source.metadata.items() if key not in ("host", "plugs", "replacements", *arguments)
    }
    config = saving.save(source.model, folder, host=source.host, **arguments, **facts)
    if config["host"] is None:
        raise UserError(f"{source.name} cannot be rebuilt automatically: give host=, such as {{'timm': 'resnet18'}}")
    # Trusted, because the configuration was just written from the caller's own network.
    reloaded = saving.load(folder, trust=True).to(torch.float32)
    with suppress(UserError):  # a network that accepts one size only can be saved too
        source.find_other_sizes()

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(tensors_in(reloaded(images)))

    return _compare(source, run, source.batches(), notify)


FORMATS: dict[str, Callable[[ExportSource, Path, Notify], tuple[Comparison, ...]]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "safetensors": _write_safetensors,
}
"""Maps format to the function that writes it."""


def _compare(
    source: ExportSource,
    run: Callable[[Tensor], list[Tensor]],
    batches: Sequence[Tensor],
    notify: Notify,
    program: torch.export.ExportedProgram | None = None,
) -> tuple[Comparison, ...]:
    """Compare file and network on each batch.

    Raises:
        UserError: the outputs differ, or the file fails; with the guard of ``program`` that the batch violates.
    """
    comparisons = []
    for images in batches:
        notify(f"comparing at {shape_text(images)}")
        try:
            comparisons.append(source.compare(run, images))
        except UserError as error:
            raise UserError(f"{error}{_violated_guard(program, images)}") from error
    return tuple(comparisons)


def _violated_guard(program: torch.export.ExportedProgram | None, images: Tensor) -> str:
    """Return, in brackets, the error that ``program`` raises for ``images`` (B, C, H, W); "" without an error."""
    try:
        if program is not None:
            program.module()(images)
    except Exception as error:
        return f" (the trace excludes this size: {first_line(error)})"
    return ""


def _import_installed(*names: str) -> list[Any]:
    """Import the modules ``names`` of the extra ``onnx``, else raise UserError."""
    try:
        return [import_module(name) for name in names]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in names:
            raise
        raise UserError(f"{error.name} is not installed: pip install 'saccade-attention[onnx]'") from error
