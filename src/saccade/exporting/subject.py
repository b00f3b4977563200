"""The network that is exported: what it is called with, what it computes, the program it becomes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.exporting.words import first_line, place, silently, sized, untraced
from saccade.probe import example_input
from saccade.surgery.plug import plugs

__all__ = ["AXES", "LIMIT", "Comparison", "Subject", "flat"]

LIMIT = 1e-4
"""The largest difference that is let pass, as a part of the largest value."""

_ROOM = 64
"""Most networks divide a side by 32; of a picture this high and wide, no map is then 1×1."""

AXES: dict[str, dict[int, str]] = {"all": {0: "batch", 2: "height", 3: "width"}, "batch": {0: "batch"}, "none": {}}
"""The names of the axes that may have any length."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One batch of pictures through the network and through the file."""

    shape: tuple[int, ...]
    """Of the batch (B, C, H, W)."""
    difference: float
    """The largest of an output tensor, as a part of the largest value of that tensor."""


class Subject:
    """A copy of a network, in float32, eval mode and on the CPU, and what is known of it."""

    input = "image"
    """What its argument is called in a file."""

    def __init__(
        self, model: nn.Module, picture: Tensor, dynamic: str, host: dict[str, Any] | None, metadata: dict[str, Any]
    ) -> None:
        self.model = model
        """As it was given."""
        self.name = type(model).__name__
        self.network = copy.deepcopy(model).to("cpu", torch.float32).eval()
        self.picture = picture
        self.dynamic = dynamic
        self.host = host
        """How it is made, where that was said."""
        self.metadata = metadata
        self.smallest = (1, 1) if dynamic == "all" else (picture.shape[2], picture.shape[3])
        self.outputs: tuple[str, ...] = ()
        """The names of what it returns."""
        self.others: list[tuple[int, int]] = []
        """Other sizes that it takes."""
        self._draws = 0

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
        """The network once it has run; arguments are those of ``export``.

        Raises:
            UserError: it is compiled, lost a plug, does not run on the input, returns no tensors, or a fact is no JSON.
        """
        if any(isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod") for m in model.modules()):
            raise UserError(f"{type(model).__name__} is compiled, all or in part: export the network as it was before")
        rows = [
            {"mechanism": row.mechanism, "options": row.module.options, "site": row.site, "position": row.position}
            for row in plugs(model)
        ]
        # Two pictures: a batch of one would be traced as a constant.
        (picture,) = example_input(model, None if input is None else tuple(input), batch=1 if dynamic == "none" else 2)
        made = None if host is None else dict(host)
        metadata = {
            "host": made or _described(model),
            "plugs": rows,
            "input": list(picture.shape[1:]),
            "classes": None if classes is None else list(classes),
            **facts,
        }
        try:
            json.dumps(metadata)
        except (TypeError, ValueError) as error:
            raise UserError(f"a fact to be exported is no JSON: {error}") from None
        subject = cls(model, picture.to("cpu", torch.float32), dynamic, made, metadata)
        try:
            with torch.no_grad():
                named = _named(subject.network(subject.picture))
        except Exception as error:
            raise UserError(
                f"{subject.name} does not run on {sized(picture)}: {type(error).__name__}: {first_line(error)}. "
                "Its forward must take one batch of pictures; say their size by input=(C, H, W)"
            ) from error
        if not named:
            raise UserError(f"{subject.name} returns no tensor for {sized(picture)}")
        subject.outputs = tuple(name for name, _ in named)
        return subject

    @property
    def axes(self) -> tuple[int | str, ...]:
        """The shape of the input, an axis of any length by its name."""
        return tuple(AXES[self.dynamic].get(axis, length) for axis, length in enumerate(self.picture.shape))

    def run(self, picture: Tensor) -> list[Tensor]:
        """What the network computes in PyTorch."""
        with torch.no_grad():
            return flat(self.network(picture))

    def traced(self) -> torch.export.ExportedProgram:
        """The network as a program of plain operators; the smallest size it holds for is then known.

        Raises:
            UserError: it cannot be traced, or height and width shall be dynamic and it takes one size only.
        """
        if self.dynamic == "all":
            self.find_other_sizes()
        axes = dict.fromkeys(AXES[self.dynamic], torch.export.Dim.DYNAMIC)
        # A copy: what a network keeps of a forward it was traced in would not serve it afterwards.
        network, example = copy.deepcopy(self.network), self._example()
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
        return program

    def find_other_sizes(self) -> None:
        """Find sizes that the network takes beside its own.

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

    def pictures(self) -> list[Tensor]:
        """Two batches to compare with, of two sizes and two numbers of pictures as far as these are dynamic."""
        height, width = self.picture.shape[2:]
        held = (size for size in self.others if size[0] >= self.smallest[0] and size[1] >= self.smallest[1])
        other = next(held, (height, width))
        return [self._drawn(1, height, width), self._drawn(1 if self.dynamic == "none" else 3, *other)]

    def compare(self, run: Callable[[Tensor], list[Tensor]], picture: Tensor) -> Comparison:
        """What the file, by ``run``, computes of a picture against what the network computes.

        Raises:
            UserError: it fails or differs by more than the limit.
        """
        wanted, where = self.run(picture), f"{self.name} at {sized(picture)}"
        hint = ". Export it for one size, dynamic='batch'" * (self.dynamic == "all")
        try:
            found = run(picture)
        except Exception as error:
            raise UserError(
                f"{where}: the file fails, where the network does not: {first_line(error)}{hint}"
            ) from error
        difference = _difference(wanted, found, where)
        if not difference <= LIMIT:
            raise UserError(
                f"{where}: the file differs from the network by {difference:.1e} of the largest value; "
                f"{LIMIT:.0e} is let pass{hint}"
            )
        return Comparison(shape=tuple(picture.shape), difference=difference)

    def _example(self) -> Tensor:
        """What to trace with. A map of 1×1 would be traced as a constant: a small picture is taken larger."""
        height, width = self.picture.shape[2:]
        times = -(-_ROOM // min(height, width))
        if self.dynamic != "all" or times == 1:
            return self.picture
        larger = self._drawn(2, times * height, times * width)
        return larger if self._refusal(larger) is None else self.picture

    def _refusal(self, picture: Tensor) -> str | None:
        """What the network says of a picture it does not take; None where it does."""
        try:
            self.run(picture)
        except Exception as error:  # a network may raise anything for a size it was not made for
            return first_line(error)
        return None

    def _drawn(self, *size: int) -> Tensor:
        self._draws += 1
        draw = torch.Generator().manual_seed(self._draws)
        return torch.randn((size[0], self.picture.shape[1], *size[1:]), generator=draw)


def flat(output: Any) -> list[Tensor]:
    """The tensors in what a network returned, in order."""
    return [value for _, value in _named(output)]


def _named(output: Any) -> list[tuple[str, Tensor]]:
    """The tensors in what a network returned, in order, each with a name."""
    if isinstance(output, Tensor):
        return [("output", output)]
    if isinstance(output, Mapping) and all(isinstance(value, Tensor | None) for value in output.values()):
        return [(str(key), value) for key, value in output.items() if value is not None]
    return [(f"output_{n}", value) for n, value in enumerate(_tensors(output))]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _described(model: nn.Module) -> dict[str, Any]:
    """What a network says of its own making."""
    facts = getattr(model, "pretrained_cfg", None)
    if isinstance(facts, dict) and facts.get("architecture"):
        return {"timm": facts["architecture"]}
    return {"class": f"{type(model).__module__}.{type(model).__qualname__}"}


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Height and width from which on the program holds."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    sides = []
    for side in node.meta["val"].shape[2:]:
        bounds = program.range_constraints.get(getattr(getattr(side, "node", None), "expr", None))
        least = int(side) if isinstance(side, int) else int(bounds.lower) if bounds is not None else 1
        sides.append(1 if least == 2 else least)  # 2 is where torch.export begins; 1 it lets pass too
    return sides[0], sides[1]


def _difference(wanted: Sequence[Tensor], found: Sequence[Tensor], where: str) -> float:
    """The largest difference of two lists of tensors, each as a part of its largest value.

    Raises:
        UserError: their numbers or shapes differ, or what is wanted is not finite, so that nothing can be said.
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (wanted, found)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{where}: the network returns tensors of {shapes[0]}, the file of {shapes[1]}")
    largest = 0.0
    for left, right in zip(wanted, found, strict=True):
        if not left.isfinite().all():
            raise UserError(f"{where}: the network itself returns values that are not finite; nothing can be compared")
        if not right.isfinite().all():
            return math.inf
        if left.numel():
            scale = left.double().abs().max().item()
            difference = (left.double() - right.double()).abs().max().item()
            largest = max(largest, difference / scale if scale else difference)
    return largest
