"""Promises about graphs: what ``torch.compile`` and ``torch.export`` make of it is the same function."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch.export import Dim, export

from saccade.contract.advice import in_one_line
from saccade.contract.case import CLOSE, SIZES, BrokenPromiseError, Case, distance, expect, gradients, rewinding

__all__ = ["compiles_whole", "exports_for_any_size"]

AXES = {0: "batch", 2: "height", 3: "width"}


def compiles_whole(case: Case) -> None:
    """``torch.compile(fullgraph=True)`` gives the same values and gradients in train, and is done after two sizes.

    The second size compiles once more, for any size; the third must not compile again. The backend is ``aot_eager``:
    what is tried is the graph, not the compiler behind it. The caches of ``torch.compile`` are emptied.
    """
    module = case.drawn().train()
    rewind = rewinding(module)
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
            with _told(f"torch.compile at {shape}"), torch.compiler.set_stance(stance):
                found = compiled(x)
                got = gradients(found, module, x)
            off = distance(found, known)
            expect(off < CLOSE, f"compiled it gives another output at {shape}, off by {off:.1e}")
            # In front of a batch norm a bias has no gradient in train, but for rounding, which differs.
            nothing = CLOSE * max(true.abs().max().item() for true in wanted.values() if true is not None)
            for name, true in wanted.items():
                gradient = got[name]
                if gradient is not None and true is not None and max(gradient.abs().max(), true.abs().max()) < nothing:
                    continue
                if true is not None:
                    off = float("inf") if gradient is None else distance(gradient, true)
                    expect(off < CLOSE, f"compiled the gradient of {name} is another at {shape}, off by {off:.1e}")
    finally:
        torch.compiler.reset()


def exports_for_any_size(case: Case) -> None:
    """``torch.export`` with a batch, height and width that are dynamic is the same function at three other sizes."""
    module, x = case.drawn(), case.maps()
    axes = AXES if case.only is None else {0: AXES[0]}
    with _told("torch.export"):
        exported = export(module, (x,), dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),)).module()
    for size, batch in zip(case.sizes(SIZES[1], SIZES[2], SIZES[3]), (1, 3, 5), strict=False):
        other = case.maps(*size, batch=batch)
        shape = f"{batch} × {size[0]}×{size[1]}"
        with _told(f"the exported module at {shape}, though exported for any size"):
            found = exported(other)
        off = distance(found, module(other))
        expect(off < CLOSE, f"the exported module gives another output at {shape}, off by {off:.1e}")


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """What is raised inside is a broken promise, told in one line; what torch logs and prints besides is not shown."""
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
    """The error in one line, with what mends it where that is known."""
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
