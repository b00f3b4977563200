"""Prepare a network for export: its input, its outputs, its traced program and the sizes to compare at."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.exporting.arguments import check_arguments, check_class_count
from saccade.exporting.differences import LIMIT, agrees_if_finite, difference
from saccade.exporting.guards import common_multiple, upper_bounds, violating_sizes
from saccade.exporting.messages import first_line, shape_text, silence, source_line, trace_failure
from saccade.graph.inputs import example_input
from saccade.image_size import parse_size
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replacement_rows
from saccade.tensors import tensors_in

__all__ = ["DYNAMIC_AXES", "Comparison", "ExportSource"]

_MIN_TRACING_SIDE = 64
"""Smallest side of the example for tracing; most networks have stride 32, so no feature map is then 1×1."""

DYNAMIC_AXES: dict[str, dict[int, str]] = {
    "all": {0: "batch", 2: "height", 3: "width"}, "batch": {0: "batch"}, "none": {},
}  # fmt: skip
"""Maps ``dynamic`` to the names of the dynamic axes, by axis index."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of a network and a file on one batch of images."""

    shape: tuple[int, ...]
    """Shape (B, C, H, W) of the batch."""
    difference: float
    """Largest relative difference in an output.

    Differences are divided by the largest absolute value at the same index of axis 1, or of the last axis, whichever
    gives the larger result. The divisor is at least 1/20 of the tensor's largest absolute value.
    """


class ExportSource:
    """A float32 copy of a network on the CPU in eval mode, with an example batch (B, C, H, W) and metadata."""

    input_name = "image"
    """Name of the input in a file."""

    def __init__(
        self, model: nn.Module, images: Tensor, dynamic: str, host: dict[str, Any] | None, metadata: dict[str, Any]
    ) -> None:
        self.model = model
        self.name = type(model).__name__
        self.network = _copy_for_export(model)
        self.images = images
        self.dynamic = dynamic
        self.host = host
        self.metadata = metadata
        self.smallest_size = (1, 1) if dynamic == "all" else self.native_size
        """Smallest height and width that the file accepts."""
        self.output_names: tuple[str, ...] = ()
        self.other_sizes: list[tuple[int, int]] = []
        """Other (height, width) that the network accepts."""
        self.wide_size: tuple[int, int] | None = None
        """Larger (height, width) that the network accepts, wider than high."""
        self.guard_violating_sizes: list[tuple[int, int, int]] = []
        """Sizes (B, H, W) that the network accepts and that violate a guard of the program."""
        self._n_batches = 0
        """Number of random batches drawn so far, which seeds the next batch."""
        self._has_non_tensors = False
        """True if outputs contain anything but tensors."""

    @classmethod
    def create(
        cls,
        model: nn.Module,
        input: Sequence[int] | None,
        dynamic: str,
        host: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
        extra_metadata: Mapping[str, Any],
    ) -> ExportSource:
        """Create the source of ``model``, after checking the arguments of ``export`` and that two runs agree.

        Raises:
            UserError: an argument has the wrong type, or ``extra_metadata`` has a value not for JSON or a reserved key;
                the network is compiled, wrapped, on the meta device or cannot be copied, lacks an inserted plug, does
                not run on the input, returns no tensors, or is not deterministic.
        """
        check_arguments(model, host, classes, extra_metadata)
        if any(isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod") for m in model.modules()):
            raise UserError(
                f"{type(model).__name__} is compiled, all or in part: export the network before compiling it"
            )
        plug_rows = [
            {"mechanism": row.mechanism, "options": row.module.options, "site": row.site, "position": row.position}
            for row in plugs(model)
        ]
        # Two images, because a batch of one would be traced as a constant.
        (images,) = example_input(
            model, None if input is None else parse_size(input), batch=1 if dynamic == "none" else 2
        )
        host_config = None if host is None else dict(host)
        metadata = {
            "host": host_config or _describe_host(model),
            "plugs": plug_rows,
            "replacements": replacement_rows(model),
            "input": list(images.shape[1:]),
            "classes": None if classes is None else list(classes),
            **extra_metadata,
        }
        try:
            json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"the metadata is not JSON-serialisable: {error}") from None
        source = cls(model, images.to("cpu", torch.float32), dynamic, host_config, metadata)
        try:
            with torch.no_grad():
                output = source.network(source.images)
                second_outputs = list(tensors_in(source.network(source.images)))
        except Exception as error:
            raise UserError(
                f"{source.name} does not run on {shape_text(images)}: {type(error).__name__}: {first_line(error)}. "
                "Its forward must take one batch of images; pass their size as input=(C, H, W)"
            ) from error
        named_outputs = _name_outputs(output)
        outputs = [tensor for _, tensor in named_outputs]
        if not outputs:
            raise UserError(f"{source.name} returns no tensor for {shape_text(images)}")
        if not agrees_if_finite(outputs, second_outputs):
            raise UserError(
                f"{source.name} is not deterministic in eval mode: two runs on the same images differ, because its "
                "forward draws random numbers or changes its own state"
            )
        source._has_non_tensors = _contains_non_tensors(output)
        source.output_names = tuple(name for name, _ in named_outputs)
        check_class_count(classes, outputs)
        return source

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def axes(self) -> tuple[int | str, ...]:
        """Shape of the input, with names for dynamic axes."""
        return tuple(DYNAMIC_AXES[self.dynamic].get(axis, length) for axis, length in enumerate(self.images.shape))

    def run(self, images: Tensor) -> list[Tensor]:
        """Return the output tensors of the network, each of any shape, for ``images`` (B, C, H, W)."""
        with torch.no_grad():
            return list(tensors_in(self.network(images)))

    def trace(self) -> torch.export.ExportedProgram:
        """Trace the network with ``torch.export``, and set ``smallest_size`` and ``guard_violating_sizes``.

        Raises:
            UserError: the network cannot be traced, or height and width are dynamic and it accepts one size only.
        """
        if self.dynamic == "all":
            self.find_other_sizes()
        axes = dict.fromkeys(DYNAMIC_AXES[self.dynamic], torch.export.Dim.DYNAMIC)
        # A copy, because tensors that a network caches while it is traced are useless afterwards.
        network, example = copy.deepcopy(self.network), self._tracing_example()
        if self._has_non_tensors:
            network = _TensorsOnly(network)
        try:
            with silence(), torch.no_grad():
                program = torch.export.export(network, (example,), dynamic_shapes=(axes,) if axes else None)
        except Exception as error:
            raise UserError(f"{self.name} cannot be exported: {trace_failure(error)}{source_line(error)}") from error
        if self.dynamic == "all":
            height, width = _smallest_program_size(program)
            # torch.export may require more than the native size because it excludes 1×1 maps; ONNX accepts them.
            self.smallest_size = min(height, self.native_size[0]), min(width, self.native_size[1])
        self.metadata["smallest"] = list(self.smallest_size)
        self._check_guards(program)
        return program

    def _check_guards(self, program: torch.export.ExportedProgram) -> None:
        """Set ``guard_violating_sizes``, and the metadata ``multiple`` if the sides must be multiples of a number.

        Raises:
            UserError: an axis has an upper bound.
        """
        for axis, upper in upper_bounds(program).items():
            advice = "batch size, dynamic='none'" if axis == 0 else "size, dynamic='batch'"
            raise UserError(
                f"{self.name} was traced for a {DYNAMIC_AXES['all'][axis]} of at most {upper} only, because its "
                f"forward branches on that length. Export it for one {advice}"
            )
        violations: dict[str, list[tuple[int, int, int]]] = {}
        if self.dynamic != "none":
            violations = violating_sizes(program, self.native_size, self.smallest_size, self.dynamic == "batch")
        required: list[str] = []  # guards that no tested, accepted size violates
        accepted_sizes: list[tuple[int, int, int]] = []
        for guard, sizes in violations.items():
            if any(size in accepted_sizes for size in sizes):
                continue
            # Four sizes are enough: the two smallest, one larger than the native size, and the largest.
            larger = [size for size in sizes if size[1] > self.native_size[0] or size[2] > self.native_size[1]]
            candidates = dict.fromkeys((*sizes[:2], *larger[:1], *sizes[-1:]))
            accepted = next((size for size in candidates if self._accepts(size)), None)
            if accepted is None:
                required.append(guard)
            else:
                accepted_sizes.append(accepted)
        self.guard_violating_sizes = accepted_sizes
        step = common_multiple(program, required, self.smallest_size) if required and self.dynamic == "all" else None
        if step is not None:
            self.metadata["multiple"] = step

    def _accepts(self, size: tuple[int, int, int]) -> bool:
        return self._error_at(self._random_batch(*size)) is None

    def find_other_sizes(self) -> None:
        """Set ``other_sizes`` and ``wide_size``.

        Raises:
            UserError: the network accepts one size only.
        """
        height, width = self.native_size
        # Odd sizes first: they reveal code that works only for even sizes. Some networks need multiples of 32.
        tall = (height + height // 6) | 1
        sizes = [(tall, (width - width // 4) | 1), (tall, (width + width // 5) | 1), (height + 32, width + 64)]
        errors = [self._error_at(self._random_batch(1, *size)) for size in sizes]
        if None not in errors:
            raise UserError(
                f"{self.name} accepts only images of {'×'.join(map(str, self.images.shape[1:]))}; another size fails "
                f"with: {errors[-1]}. Export it with dynamic='batch'"
            )
        self.other_sizes = [size for size, error in zip(sizes, errors, strict=True) if error is None]
        longer = max(tall, width)
        wide_sizes = ((tall, (longer + longer // 5) | 1), (height + 32, max(height, width) + 64))
        self.wide_size = next((size for size in wide_sizes if self._accepts((1, *size))), None)

    def batches(self) -> list[Tensor]:
        """Return the batches (B, C, H, W) to compare on; dynamic axes vary.

        With dynamic='all': one native image, three of another size, one wide, nine native, and one per
        ``guard_violating_sizes``. Otherwise all are native; with 'none', single.
        """
        large_enough = (
            size for size in self.other_sizes if size[0] >= self.smallest_size[0] and size[1] >= self.smallest_size[1]
        )
        other_size = next(large_enough, self.native_size)
        shapes = [(1, *self.native_size), (1 if self.dynamic == "none" else 3, *other_size)]
        if self.wide_size is not None:
            shapes.append((1, *self.wide_size))
        if self.dynamic != "none":
            shapes.append((9, *self.native_size))
        return [self._random_batch(*shape) for shape in (*shapes, *self.guard_violating_sizes)]

    def compare(self, run_file: Callable[[Tensor], list[Tensor]], images: Tensor) -> Comparison:
        """Compare the outputs for ``images`` (B, C, H, W) of the network and of the file, run by ``run_file``.

        Raises:
            UserError: the file fails or differs by more than the limit.
        """
        expected, where = self.run(images), f"{self.name} at {shape_text(images)}"
        hint = ". Export it for one size, dynamic='batch'" if self.dynamic == "all" else ""
        try:
            outputs = run_file(images)
        except Exception as error:
            raise UserError(
                f"{where}: the file fails, where the network does not: {first_line(error)}{hint}"
            ) from error
        largest = difference(expected, outputs, where)
        if not largest <= LIMIT:
            raise UserError(
                f"{where}: the file differs from the network by {largest:.1e} of the largest value of a channel; "
                f"the limit is {LIMIT:.0e}{hint}"
            )
        return Comparison(shape=tuple(images.shape), difference=largest)

    def _tracing_example(self) -> Tensor:
        """Return the batch for tracing, enlarged if the native size might give maps of 1×1, traced as constant."""
        height, width = self.native_size
        factor = -(-_MIN_TRACING_SIDE // min(height, width))
        if self.dynamic != "all" or factor == 1:
            return self.images
        larger = self._random_batch(2, factor * height, factor * width)
        return larger if self._error_at(larger) is None else self.images

    def _error_at(self, images: Tensor) -> str | None:
        """Return the network's error for ``images`` (B, C, H, W), or None."""
        try:
            self.run(images)
        except Exception as error:  # a network may raise anything for a size it does not accept
            return first_line(error)
        return None

    def _random_batch(self, batch_size: int, height: int, width: int) -> Tensor:
        self._n_batches += 1
        generator = torch.Generator().manual_seed(self._n_batches)
        shape = (batch_size, self.images.shape[1], height, width)
        return torch.randn(shape, generator=generator, dtype=torch.float32)


class _TensorsOnly(nn.Module):
    """A network whose forward returns only the tensors of its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self.network(x)))


def _name_outputs(output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of an output, in order, each with a unique name other than the input's."""
    if isinstance(output, Tensor):
        return [("output", output)]
    if _is_tensor_mapping(output):
        names = {str(key) for key in output}
        renamed = f"{ExportSource.input_name}_output"
        while renamed in names:
            renamed += "_"
        return [
            (renamed if str(key) == ExportSource.input_name else str(key), value)
            for key, value in output.items()
            if value is not None
        ]
    return [(f"output_{n}", value) for n, value in enumerate(tensors_in(output))]


def _is_tensor_mapping(output: Any) -> bool:
    """Return True if ``output`` is a mapping whose values are tensors or None and whose keys differ as strings."""
    return (
        isinstance(output, Mapping)
        and all(isinstance(value, Tensor | None) for value in output.values())
        and len({str(key) for key in output}) == len(output)
    )


def _contains_non_tensors(output: Any) -> bool:
    """Return True if an output contains anything but tensors."""
    if isinstance(output, Tensor) or _is_tensor_mapping(output):
        return False
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else None
    return items is None or any(_contains_non_tensors(item) for item in items)


def _describe_host(model: nn.Module) -> dict[str, Any]:
    """Return ``{"timm": name}``, or ``{"class": qualified name}`` for a network that is not timm's."""
    timm_config = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and timm_config.get("architecture"):
        return {"timm": timm_config["architecture"]}
    return {"class": f"{type(model).__module__}.{type(model).__qualname__}"}


def _smallest_program_size(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Return the smallest height and width that the program accepts."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    sides = []
    for side in node.meta["val"].shape[2:]:
        interval = program.range_constraints.get(getattr(getattr(side, "node", None), "expr", None))
        lower_bound = int(side) if isinstance(side, int) else int(interval.lower) if interval is not None else 1
        # torch.export assumes 2 by default, but accepts 1 as well.
        sides.append(1 if lower_bound == 2 else lower_bound)
    return sides[0], sides[1]


def _copy_for_export(model: nn.Module) -> nn.Module:
    """Return a copy in float32, in eval mode, on the CPU, else raise UserError."""
    try:
        return copy.deepcopy(model).to("cpu", torch.float32).eval()
    except Exception as error:  # a network may contain anything
        raise UserError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}. A weight that is computed from others, as "
            "by torch.nn.utils.weight_norm, is the usual cause: remove it (remove_weight_norm), or use "
            "torch.nn.utils.parametrizations"
        ) from error
