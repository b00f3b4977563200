"""The network that is exported: its input, its outputs, the program it becomes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.exporting.arguments import check, check_number
from saccade.exporting.differences import LIMIT, difference, same
from saccade.exporting.guards import broken, common_multiple, upper_bounds
from saccade.exporting.words import first_line, place, silently, sized, untraced
from saccade.graph.inputs import example_input
from saccade.picture_size import parse_size
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import described
from saccade.tensors import tensors_in

__all__ = ["AXES", "Comparison", "Subject"]

_ROOM = 64
"""Most networks divide a side by 32; at this size no map is 1×1."""

AXES: dict[str, dict[int, str]] = {"all": {0: "batch", 2: "height", 3: "width"}, "batch": {0: "batch"}, "none": {}}
"""The names of the axes that may have any length."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One batch of pictures through the network and through the file."""

    shape: tuple[int, ...]
    """Of the batch (B, C, H, W)."""
    difference: float
    """The largest in an output tensor, as a part of the largest value of its channel (axis 1) or last-axis place.

    The larger part of both. Values below a twentieth of the tensor's largest count as that.
    """


class Subject:
    """A copy of a network, in float32, eval mode and on the CPU, and what is known of it."""

    input = "image"
    """The name of its argument in a file."""

    def __init__(
        self, model: nn.Module, picture: Tensor, dynamic: str, host: dict[str, Any] | None, metadata: dict[str, Any]
    ) -> None:
        self.model = model
        """As it was given."""
        self.name = type(model).__name__
        self.network = _copied(model)
        self.picture = picture
        self.dynamic = dynamic
        self.host = host
        """How it is made, if that was said."""
        self.metadata = metadata
        self.smallest = (1, 1) if dynamic == "all" else (picture.shape[2], picture.shape[3])
        self.outputs: tuple[str, ...] = ()
        """The names of its outputs."""
        self.others: list[tuple[int, int]] = []
        """Other sizes that it takes."""
        self.wide: tuple[int, int] | None = None
        """One of them, larger, and wider than high."""
        self.doubtful: list[tuple[int, int, int]] = []
        """(B, H, W) that the network takes and the program was not traced for."""
        self._draws = 0
        self._bare = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        input: Sequence[int] | None,
        dynamic: str,
        host: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
        facts: Mapping[str, Any],
    ) -> Subject:
        """Return the network after a first run; arguments are those of ``export``.

        Raises:
            UserError: an argument is of another kind, a fact is no JSON or has a name of ours; the network is compiled,
                wrapped, without data or cannot be copied, lost a plug, does not run on the input, returns no tensors,
                or something else each time.
        """
        check(model, host, classes, facts)
        if any(isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod") for m in model.modules()):
            raise UserError(f"{type(model).__name__} is compiled, all or in part: export the network as it was before")
        rows = [
            {"mechanism": row.mechanism, "options": row.module.options, "site": row.site, "position": row.position}
            for row in plugs(model)
        ]
        # Two pictures: a batch of one would be traced as a constant.
        (picture,) = example_input(
            model, None if input is None else parse_size(input), batch=1 if dynamic == "none" else 2
        )
        made = None if host is None else dict(host)
        metadata = {
            "host": made or _described(model),
            "plugs": rows,
            "replacements": described(model),
            "input": list(picture.shape[1:]),
            "classes": None if classes is None else list(classes),
            **facts,
        }
        try:
            json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"a fact to be exported is no JSON: {error}") from None
        subject = cls(model, picture.to("cpu", torch.float32), dynamic, made, metadata)
        try:
            with torch.no_grad():
                output = subject.network(subject.picture)
                again = list(tensors_in(subject.network(subject.picture)))
        except Exception as error:
            raise UserError(
                f"{subject.name} does not run on {sized(picture)}: {type(error).__name__}: {first_line(error)}. "
                "Its forward must take one batch of pictures; say their size by input=(C, H, W)"
            ) from error
        named = _named(output)
        if not named:
            raise UserError(f"{subject.name} returns no tensor for {sized(picture)}")
        if not same([tensor for _, tensor in named], again):
            raise UserError(
                f"{subject.name} computes something else each time it is given the same pictures: its forward draws at "
                "random in eval mode, or changes what it computes with"
            )
        subject._bare = _has_other_parts(output)
        subject.outputs = tuple(name for name, _ in named)
        check_number(classes, [tensor for _, tensor in named])
        return subject

    @property
    def axes(self) -> tuple[int | str, ...]:
        """The shape of the input, a dynamic axis by its name."""
        return tuple(AXES[self.dynamic].get(axis, length) for axis, length in enumerate(self.picture.shape))

    def run(self, picture: Tensor) -> list[Tensor]:
        """Return what the network computes in PyTorch."""
        with torch.no_grad():
            return list(tensors_in(self.network(picture)))

    def traced(self) -> torch.export.ExportedProgram:
        """Return the network as a program of plain operators, and set the smallest size it holds for.

        Raises:
            UserError: it cannot be traced, or height and width shall be dynamic and it takes one size only.
        """
        if self.dynamic == "all":
            self.find_other_sizes()
        axes = dict.fromkeys(AXES[self.dynamic], torch.export.Dim.DYNAMIC)
        # A copy: what a network keeps of a forward it was traced in would not serve it afterwards.
        network, example = copy.deepcopy(self.network), self._example()
        if self._bare:
            network = _Tensors(network)
        try:
            with silently(), torch.no_grad():
                program = torch.export.export(network, (example,), dynamic_shapes=(axes,) if axes else None)
        except Exception as error:
            raise UserError(f"{self.name} cannot be exported: {untraced(error)}{place(error)}") from error
        if self.dynamic == "all":
            height, width = _smallest(program)
            # A map of 1×1 in the picture the network is meant for is what programs refuse and ONNX may take.
            self.smallest = min(height, self.picture.shape[2]), min(width, self.picture.shape[3])
        self.metadata["smallest"] = list(self.smallest)
        self._examine(program)
        return program

    def _examine(self, program: torch.export.ExportedProgram) -> None:
        """Find the sizes the network takes and the program was not traced for, and the multiples it needs.

        Raises:
            UserError: the program states a greatest number of pictures, height or width.
        """
        for axis, most in upper_bounds(program).items():
            advice = "number of pictures, dynamic='none'" if axis == 0 else "size, dynamic='batch'"
            raise UserError(
                f"{self.name} was traced for a {AXES['all'][axis]} of at most {most} only: its forward decides by it. "
                f"Export it for one {advice}"
            )
        own = (self.picture.shape[2], self.picture.shape[3])
        found = {} if self.dynamic == "none" else broken(program, own, self.smallest, self.dynamic == "batch")
        asked: list[str] = []
        doubtful: list[tuple[int, int, int]] = []
        for text, sizes in found.items():
            if any(size in doubtful for size in sizes):
                continue
            # A few tell: the cheapest, one larger than the network's own, and the one of most pixels.
            larger = [size for size in sizes if size[1] > own[0] or size[2] > own[1]]
            tried = dict.fromkeys((*sizes[:2], *larger[:1], *sizes[-1:]))
            taken = next((size for size in tried if self._takes(size)), None)
            if taken is None:
                asked.append(text)
            else:
                doubtful.append(taken)
        self.doubtful = doubtful
        step = common_multiple(program, asked, self.smallest) if asked and self.dynamic == "all" else None
        if step is not None:
            self.metadata["multiple"] = step

    def _takes(self, size: tuple[int, int, int]) -> bool:
        return self._refusal(self._drawn(*size)) is None

    def find_other_sizes(self) -> None:
        """Find other sizes that the network takes.

        Raises:
            UserError: there are none.
        """
        height, width = self.picture.shape[2:]
        # Odd sizes first: they find what holds for multiples only. Some networks take nothing but multiples of 32.
        tall = (height + height // 6) | 1
        sizes = [(tall, (width - width // 4) | 1), (tall, (width + width // 5) | 1), (height + 32, width + 64)]
        refusals = [self._refusal(self._drawn(1, *size)) for size in sizes]
        if None not in refusals:
            raise UserError(
                f"{self.name} takes pictures of {'×'.join(map(str, self.picture.shape[1:]))} only; at another size: "
                f"{refusals[-1]}. Export it for that size, dynamic='batch'"
            )
        self.others = [size for size, refusal in zip(sizes, refusals, strict=True) if refusal is None]
        longer = max(tall, width)
        wide = ((tall, (longer + longer // 5) | 1), (height + 32, max(height, width) + 64))
        self.wide = next((size for size in wide if self._takes((1, *size))), None)

    def pictures(self) -> list[Tensor]:
        """Return the batches to compare with, as far as sizes and numbers of pictures are dynamic.

        The network's own size; another; a larger one that is wider than high; more pictures; then what is doubtful.
        """
        height, width = self.picture.shape[2:]
        held = (size for size in self.others if size[0] >= self.smallest[0] and size[1] >= self.smallest[1])
        other = next(held, (height, width))
        shapes = [(1, height, width), (1 if self.dynamic == "none" else 3, *other)]
        if self.wide is not None:
            shapes.append((1, *self.wide))
        if self.dynamic != "none":
            shapes.append((9, height, width))
        return [self._drawn(*shape) for shape in (*shapes, *self.doubtful)]

    def compare(self, run: Callable[[Tensor], list[Tensor]], picture: Tensor) -> Comparison:
        """Compare what the file, by ``run``, and the network compute of a picture.

        Raises:
            UserError: the file fails or differs by more than the limit.
        """
        wanted, where = self.run(picture), f"{self.name} at {sized(picture)}"
        hint = ". Export it for one size, dynamic='batch'" * (self.dynamic == "all")
        try:
            found = run(picture)
        except Exception as error:
            raise UserError(
                f"{where}: the file fails, where the network does not: {first_line(error)}{hint}"
            ) from error
        largest = difference(wanted, found, where)
        if not largest <= LIMIT:
            raise UserError(
                f"{where}: the file differs from the network by {largest:.1e} of the largest value of a channel; "
                f"{LIMIT:.0e} is let pass{hint}"
            )
        return Comparison(shape=tuple(picture.shape), difference=largest)

    def _example(self) -> Tensor:
        """Return what to trace with. A map of 1×1 would be traced as a constant: a small picture is enlarged."""
        height, width = self.picture.shape[2:]
        times = -(-_ROOM // min(height, width))
        if self.dynamic != "all" or times == 1:
            return self.picture
        larger = self._drawn(2, times * height, times * width)
        return larger if self._refusal(larger) is None else self.picture

    def _refusal(self, picture: Tensor) -> str | None:
        """Return the network's error for a picture it does not take, or None."""
        try:
            self.run(picture)
        except Exception as error:  # a network may raise anything for a size it was not made for
            return first_line(error)
        return None

    def _drawn(self, *size: int) -> Tensor:
        self._draws += 1
        draw = torch.Generator().manual_seed(self._draws)
        return torch.randn((size[0], self.picture.shape[1], *size[1:]), generator=draw, dtype=torch.float32)


class _Tensors(nn.Module):
    """A network whose forward returns its tensors alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self.network(x)))


def _named(output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of an output, in order, each with a name, which is not that of the input."""
    if isinstance(output, Tensor):
        return [("output", output)]
    if _is_plain(output):
        names = {str(key) for key in output}
        own = f"{Subject.input}_output"
        while own in names:
            own += "_"
        return [
            (own if str(key) == Subject.input else str(key), value)
            for key, value in output.items()
            if value is not None
        ]
    return [(f"output_{n}", value) for n, value in enumerate(tensors_in(output))]


def _is_plain(output: Any) -> bool:
    """Return whether it is a mapping of tensors by distinct names."""
    return (
        isinstance(output, Mapping)
        and all(isinstance(value, Tensor | None) for value in output.values())
        and len({str(key) for key in output}) == len(output)
    )


def _has_other_parts(output: Any) -> bool:
    """Return whether an output has parts that are no tensors."""
    if isinstance(output, Tensor) or _is_plain(output):
        return False
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else None
    return parts is None or any(_has_other_parts(part) for part in parts)


def _described(model: nn.Module) -> dict[str, Any]:
    """Return what a network says of its own making."""
    facts = getattr(model, "pretrained_cfg", None)
    if isinstance(facts, dict) and facts.get("architecture"):
        return {"timm": facts["architecture"]}
    return {"class": f"{type(model).__module__}.{type(model).__qualname__}"}


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Return the least height and width for the program."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    sides = []
    for side in node.meta["val"].shape[2:]:
        bounds = program.range_constraints.get(getattr(getattr(side, "node", None), "expr", None))
        least = int(side) if isinstance(side, int) else int(bounds.lower) if bounds is not None else 1
        sides.append(1 if least == 2 else least)  # 2 is where torch.export begins; 1 it lets pass too
    return sides[0], sides[1]


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy in float32, in eval mode, on the CPU.

    Raises:
        UserError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model).to("cpu", torch.float32).eval()
    except Exception as error:  # a network may hold anything
        raise UserError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}. A weight that is computed from others, as "
            "by torch.nn.utils.weight_norm, is the usual cause: remove it (remove_weight_norm), or use "
            "torch.nn.utils.parametrizations"
        ) from error
