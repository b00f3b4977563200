"""Attention of every pixel to every pixel, forward and backward: memory and time against the matrix of weights.

    python benchmarks/attention.py [--rounds N] [--threads N] [--batch B] [--channels C] [--size S] [--json FILE]

One process runs by turns the layer ``self_attention`` of SAGAN on an S×S map of C channels with ours and with
softmax(s·QKᵀ)V by two products and a softmax, and ``F.scaled_dot_product_attention`` on the operands as they come.
First the layer's output and all gradients of ours must be right: no further from those of the definition in float64
than twice those of the definition and one rounding, else nothing is timed. Prints a Markdown table: peak memory, live
at once besides parameters and map, of the operators' results; medians of the times; the ratio is the median over
rounds of one turn's two times, with its 95 % bootstrap interval. Exit code 1 if a goal is missed: memory of the
matrix at least 20 times ours, and no more time.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade
from isolated import Isolated
from saccade.attention import self_attention
from saccade.cost import measure
from saccade.ops.attention import attention, attention_definition
from timing import by_turns, machine, middle, said

GOAL_MEMORY, GOAL_TIME = 20.0, 1.0
WARMUP = 1
EPSILON = torch.finfo(torch.float32).eps
CHECKED = 24
"""Side of the map on which values and gradients are compared in float64."""

Form = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def pytorch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """PyTorch's attention as anybody calls it."""
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=scale)[:, 0]


FORMS: dict[str, Form] = {"saccade": attention, "matrix": attention_definition, "PyTorch": pytorch}


def by(form: Form) -> AbstractContextManager[object]:
    """The layer computed by ``form`` inside."""
    return patch.object(self_attention, "attention", form)


def layer_and_map(batch: int, channels: int, size: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer whose γ is 1, a map and a cotangent."""
    torch.manual_seed(channels)
    layer = saccade.create("self_attention", channels)
    nn.init.ones_(layer.get_parameter("gamma"))
    return layer, torch.randn(batch, channels, size, size), torch.randn(batch, channels, size, size)


def run(form: Form, layer: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Forward and backward: the output, and the gradients of the map and of every parameter."""
    leaf = x.detach().requires_grad_()
    with by(form):
        y = layer(leaf)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent)]


def verify(batch: int, channels: int) -> None:
    """Stop unless ours errs at most twice as much as the matrix, in every tensor.

    Raises:
        SystemExit: it errs more; times would mean nothing.
    """
    layer, x, cotangent = layer_and_map(batch, channels, CHECKED)
    truth = run(attention_definition, copy.deepcopy(layer).double(), x.double(), cotangent.double())
    names = ["y", "x", *(name for name, _ in layer.named_parameters())]
    ours, plain = (run(form, layer, x, cotangent) for form in (attention, attention_definition))
    for name, right, found, other in zip(names, truth, ours, plain, strict=True):
        if name == "gamma":  # one number: its rounding error is a draw
            continue
        error, allowed = (((t - right).norm() / right.norm()).item() for t in (found, other))
        if not error <= 2 * allowed + EPSILON:
            raise SystemExit(f"{name} is wrong: relative error {error:.2e}, the matrix has {allowed:.2e}")


def memory(form: Form, layer: nn.Module, x: Tensor) -> int:
    """Bytes live at once at most in forward and backward, besides the parameters and the map."""
    with by(form):
        peak = measure(Isolated(layer, x), (torch.zeros(()),), runs=1).step_memory
    if peak is None:
        raise SystemExit("the layer takes no gradient")
    return peak - x.nbytes - sum(p.nbytes for p in layer.parameters())


def main() -> int:
    parser = argparse.ArgumentParser(description="memory and time of attention, forward and backward")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of each form (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--batch", type=int, default=2, help="maps (default 2)")
    parser.add_argument("--channels", type=int, default=64, help="channels of the map (default 64)")
    parser.add_argument("--size", type=int, default=96, help="height and width of the map (default 96)")
    parser.add_argument("--json", type=Path, help="write times, memory and machine here")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error(f"--rounds must be at least 5 for a median with an interval, got {arguments.rounds}")
    torch.set_num_threads(arguments.threads)

    verify(arguments.batch, arguments.channels)
    layer, x, cotangent = layer_and_map(arguments.batch, arguments.channels, arguments.size)
    peaks = {name: memory(form, layer, x) for name, form in FORMS.items()}
    forms = {name: partial(run, form, layer, x, cotangent) for name, form in FORMS.items()}
    times = by_turns(forms, arguments.rounds, WARMUP)
    ratios = {name: middle(np.divide(seconds, times["saccade"])) for name, seconds in times.items()}

    print("| form | peak memory (MB) | of ours | time (ms) | 5 %–95 % | time by ours | 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for name, seconds in times.items():
        low, high = (1000 * value for value in np.percentile(seconds, [5, 95]))
        by_ours, least, most = ratios[name]
        print(
            f"| {name} | {peaks[name] / 1e6:.1f} | {peaks[name] / peaks['saccade']:.1f} | "
            f"{1000 * statistics.median(seconds):.0f} | {low:.0f} – {high:.0f} | "
            f"{by_ours:.2f} | {least:.2f} – {most:.2f} |"
        )
    facts = machine(arguments.threads)
    print(
        f"\n`self_attention` on {arguments.batch}×{arguments.channels}×{arguments.size}×{arguments.size}, float32, ",
        end="",
    )
    print(f"forward and backward, {arguments.rounds} rounds by turns, {said(facts)}; ", end="")
    print("goals of the matrix: memory ", end="")
    print(f"≥ {GOAL_MEMORY:.0f} times ours, time ≥ {GOAL_TIME:.0f}.")
    if arguments.json:
        report = {"machine": facts, "batch": arguments.batch, "channels": arguments.channels, "size": arguments.size}
        report |= {"goal_memory": GOAL_MEMORY, "goal_time": GOAL_TIME}
        report |= {"memory": peaks, "seconds": times, "ratios": ratios}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if peaks["matrix"] >= GOAL_MEMORY * peaks["saccade"] and ratios["matrix"][0] >= GOAL_TIME else 1


if __name__ == "__main__":
    sys.exit(main())
