"""Promises about graphs: ``torch.compile`` and ``torch.export`` keep the function."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.func import functional_call

from saccade.contract.advice import in_one_line
from saccade.contract.harness import (
    CLOSE,
    SIZES,
    BrokenPromiseError,
    Case,
    distance,
    expect,
    gradients,
    rewinder,
    weighted_sum,
)  # fmt: skip

__all__ = ["compiles_whole", "exports_for_any_size"]

AXES = {0: "batch", 2: "height", 3: "width"}
ROUNDINGS = 30
"""Another order of summation may change a gradient by this many times what rounding of the last bits does."""


def compiles_whole(case: Case) -> None:
    """``torch.compile(fullgraph=True)`` gives the same values and gradients in train, and compiles at most twice.

    The second size compiles for any size; the third must not compile again. The backend is ``aot_eager``, as the graph
    is tested, not the compiler. The caches of ``torch.compile`` are emptied.
    """
    module = case.randomized().train()
    rewind = rewinder(module)
    torch.compiler.reset()
    try:
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for batch, size in enumerate(case.sizes(SIZES[0], SIZES[2], SIZES[5]), 2):
            shape = f"{size[0]}×{size[1]}"
            stance: Literal["default", "fail_on_recompile"] = "default" if batch < 4 else "fail_on_recompile"
            x = case.maps(*size, batch=batch).requires_grad_()
            rewind()
            known = module(x)
            wanted = gradients(known, module, x)
            rewind()
            with _reporting(f"torch.compile at {shape}"), torch.compiler.set_stance(stance):
                found = compiled(x)
                got = gradients(found, module, x)
            off = distance(found, known)
            expect(off < CLOSE, f"compiled it gives another output at {shape}, off by {off:.1e}")
            for name, true in wanted.items():
                gradient = got[name]
                if true is not None:
                    off = float("inf") if gradient is None else distance(gradient, true)
                    if gradient is not None and CLOSE <= off < float("inf"):  # costly, hence only now
                        rounding = _rounding(module, x, name, true, rewind)
                        off = 0.0 if (gradient - true).abs().max().item() < ROUNDINGS * rounding else off
                    expect(off < CLOSE, f"compiled the gradient of {name} is another at {shape}, off by {off:.1e}")
    finally:
        torch.compiler.reset()


def _rounding(module: nn.Module, x: Tensor, name: str, true: Tensor, rewind: Callable[[], None]) -> float:
    """Return how far the ``true`` gradient by ``name`` moves with the last bit of the input and of every parameter.

    In train a bias in front of a batch norm has a gradient of rounding alone, which another order of sums changes.
    """
    draw, farthest = torch.Generator("cpu").manual_seed(2), 0.0
    for _ in range(4):  # one draw may round to the same
        moved = {}
        for key, value in {"input": x, **dict(module.named_parameters())}.items():
            sign = torch.randint(3, value.shape, generator=draw, device="cpu").to(value.dtype) - 1
            moved[key] = (value.detach() * (1 + torch.finfo(value.dtype).eps * sign)).requires_grad_()
        rewind()
        y = functional_call(module, {key: value for key, value in moved.items() if key != "input"}, moved["input"])
        farthest = max(farthest, (torch.autograd.grad(weighted_sum(y), moved[name])[0] - true).abs().max().item())
    return farthest


def exports_for_any_size(case: Case) -> None:
    """``torch.export`` with a batch, height and width that are dynamic is the same function at three other sizes."""
    module, x = case.randomized(), case.maps()
    axes = AXES if case.fixed_size is None else {0: AXES[0]}
    with _reporting("torch.export"):
        exported = export(module, (x,), dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),)).module()
    for size, batch in zip(case.sizes(SIZES[1], SIZES[2], SIZES[3]), (1, 3, 5), strict=False):
        other = case.maps(*size, batch=batch)
        shape = f"{batch} × {size[0]}×{size[1]}"
        with _reporting(f"the exported module at {shape}, though exported for any size"):
            found = exported(other)
        off = distance(found, module(other))
        expect(off < CLOSE, f"the exported module gives another output at {shape}, off by {off:.1e}")


@contextlib.contextmanager
def _reporting(where: str) -> Iterator[None]:
    """Raise errors of the block as a broken promise in one line; silence what torch logs and prints."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        raise BrokenPromiseError(f"{where}: {_cause(error)}") from error
    finally:
        logging.disable(before)


def _cause(error: Exception) -> str:
    """Return the error in one line, with known advice."""
    text = str(error)
    if fixed := re.search(r"size\(\)\[(\d)\] as dynamic but your code specialized it to be a constant \((\d+)\)", text):
        axis, value = AXES[int(fixed[1])], fixed[2]
        return f"the {axis} becomes the constant {value}: a loop, a branch or int() depends on it"
    if "fail_on_recompile" in text:
        guard = re.search(r"- \d+/\d+: (.+)", text)
        why = f" ({guard[1]})" if guard else ""
        return f"it is compiled anew for every size{why}: a loop, a branch or int() depends on it"
    if guard := re.search(r"Guard failed: (.+)", text):
        return f"it branches on the size, and the branch taken holds for {guard[1]} alone"
    return in_one_line(error)
