"""What ``gpu.py`` times on a device: mechanisms and operators beside public ones, forward and with backward."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import attention as attention_forms
import deform
from mechanisms import FEWEST, created, forward, memory, opponent, step
from reference_implementations import ROWS
from timing import by_turns, cuda_clock, middle, wall_clock

__all__ = ["OPERATOR_CASES", "SHAPES", "mechanism_speed", "operator_speed", "shape_of"]

Row = dict[str, Any]
Forms = Mapping[str, Callable[[], object]]

SHAPES = ("8×256×28×28", "8×64×56×56")
SMALL = "2×64×10×9"
OPERATOR_CASES = {"deform_conv2d": ("8×51×56×56", "8×102×28×28"), "attention": ("8×784×32", "8×3136×32")}
WARMUP, ROUNDS = 3, 20
SECONDS = 1.0
"""How long the rounds of one comparison may take, but ``FEWEST``."""
AGREE = 1e-3
"""Two float32 results of one function differ by less, relative to their length."""


def shape_of(text: str) -> tuple[int, ...]:
    """The numbers of "8×256×28×28"."""
    return tuple(int(number) for number in text.split("×"))


def _times(forms: Forms, device: str) -> dict[str, list[float]]:
    """Milliseconds of each round of each form, by turns."""
    clock = cuda_clock if torch.device(device).type == "cuda" else wall_clock
    for form in forms.values():
        form()
    begun = time.perf_counter()
    for form in forms.values():
        clock(form)
    each = time.perf_counter() - begun
    rounds = max(FEWEST, min(ROUNDS, int(SECONDS / max(each, 1e-9))))
    return {who: [1000 * t for t in seconds] for who, seconds in by_turns(forms, rounds, WARMUP, clock=clock).items()}


def _summary(times: dict[str, list[float]]) -> Row:
    """Median, 5 % and 95 % of each form in milliseconds; of each other its ratio to the first with its interval."""
    first, *others = times
    spread = {who: [float(np.percentile(each, q)) for q in (50, 5, 95)] for who, each in times.items()}
    ratios = {who: middle(np.divide(times[who], times[first])) for who in others}
    return {"ms": spread, "ratios": ratios, "rounds": len(times[first])}


def mechanism_speed(name: str, detail: str, device: str, small: bool) -> Row:
    """A mechanism on a map of the shape ``detail``, beside the public implementation where one runs on the device."""
    shape = shape_of(detail)
    row = ROWS[name]
    ours = created(name, row, shape)
    modules: dict[str, nn.Module] = {}
    note = ""
    try:
        outcome, theirs = opponent(row, copy.deepcopy(ours))
    except ImportError as missing:
        outcome, theirs, note = "not installed", None, str(missing)
    draw = torch.Generator().manual_seed(2)
    x, cotangent = (torch.randn(shape, generator=draw).to(device) for _ in range(2))
    modules["ours"] = ours.to(device)
    agreement = None
    if theirs is not None:
        try:
            theirs = theirs.to(device)
            pairs = zip(step(theirs, x, cotangent), step(modules["ours"], x, cotangent), strict=True)
            agreement = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        except Exception as error:  # theirs does not run on this device: ours is timed alone
            note = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            if agreement <= AGREE:
                modules["theirs"] = theirs
            else:
                note = f"not timed: it differs by {agreement:.1e}"
    found = {
        "forward": _summary(_times({who: partial(forward, m, x) for who, m in modules.items()}, device)),
        "step": _summary(_times({who: partial(step, m, x, cotangent) for who, m in modules.items()}, device)),
    }
    peaks = {}
    for who, module in modules.items():
        gc.collect()
        peaks[who] = memory(module, x)
    against = {"public": row.source, "plain": "its plain definition"}.get(outcome, outcome)
    return {"status": "ok", "note": note, "against": against, "agreement": agreement, "peak": peaks} | found


def operator_speed(name: str, detail: str, device: str, small: bool) -> Row:
    """Deformable convolution beside torchvision's and a plain one, or attention beside SDPA and the matrix."""
    shape = shape_of(detail)
    forms: dict[str, Callable[[], object]]
    if name == "deform_conv2d":
        outputs = next((o for c, o, _ in deform.CASES if c == shape[1]), shape[1])
        tensors, cotangent = deform.operands(shape[0], shape[1], outputs, shape[2])
        cotangent = cotangent.to(device)
        leaves = {key: tensor.to(device).requires_grad_() for key, tensor in tensors.items()}
        forms = {who: partial(deform.run, form, leaves, cotangent) for who, form in deform.FORMS.items()}
    else:
        draw = torch.Generator().manual_seed(2)
        *operands, cotangent = (torch.randn(shape, generator=draw).to(device) for _ in range(4))
        given = [t.requires_grad_() for t in operands]

        def run(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(form(*given, shape[-1] ** -0.5), given, cotangent)

        forms = {who: partial(run, form) for who, form in attention_forms.FORMS.items()}
    row: Row = {"status": "ok", "note": "", "step": _summary(_times(forms, device))}
    if torch.device(device).type == "cuda":
        peaks = {}
        for who, form in forms.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            form()
            peaks[who] = torch.cuda.max_memory_allocated() - before
        row["peak"] = peaks
    return row
