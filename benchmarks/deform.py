"""Deformable convolution, forward and backward, against torchvision's.

    python benchmarks/deform.py [--rounds N] [--threads N] [--batch B] [--json FILE]

The cases are the four stages of DAS-50, a 3×3 kernel with masks. One process runs ours, torchvision's and a plain
3×3 convolution of the same sizes by turns. First values and all gradients of ours must be right: no further from the
definition in float64 than twice torchvision's and one rounding, else nothing is timed. Prints a Markdown table of
medians; a ratio is the median over rounds of one turn's two times, with its 95 % bootstrap interval. Exit code 1 if a
goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_form

from saccade.ops.deform import deform_conv2d, deform_conv2d_definition
from timing import by_turns, draws, interval, keep_memory, machine, said

GOAL_MEAN, GOAL_EACH = 4.0, 2.2
"""Torchvision's time by ours, at least."""
GOAL_PLAIN_MEAN, GOAL_PLAIN_EACH = 2.2, 3.0
"""Our time by that of a plain convolution, at most."""
WARMUP = 3
EPSILON = torch.finfo(torch.float32).eps
CASES = ((51, 256, 56), (102, 512, 28), (205, 1024, 14), (410, 2048, 7))
"""Channels, output channels, height and width."""

Operands = dict[str, Tensor]


def operands(batch: int, channels: int, outputs: int, size: int) -> tuple[Operands, Tensor]:
    """Operands as a trained network has them, and a cotangent; on a grid, so that positions are exact in float32."""
    random = torch.Generator().manual_seed(channels)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=random) * scale * 2**14).round() / 2**14

    tensors = {
        "input": draw(batch, channels, size, size),
        "offset": draw(batch, 18, size, size, scale=2.0),
        "weight": draw(outputs, channels, 3, 3, scale=(9 * channels) ** -0.5),
        "bias": draw(outputs),
        "mask": draw(batch, 9, size, size).sigmoid(),
    }
    return tensors, draw(batch, outputs, size, size)


def plain(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, padding: int) -> Tensor:
    """The convolution without offsets and masks: what deforming it costs."""
    return F.conv2d(input, weight, bias, padding=padding)


FORMS: dict[str, Callable[..., Tensor]] = {"saccade": deform_conv2d, "torchvision": torchvision_form, "plain": plain}


def run(form: Callable[..., Tensor], leaves: Operands, cotangent: Tensor) -> Tensor:
    """Forward and backward, as a training step does it: gradients are made new."""
    for leaf in leaves.values():
        leaf.grad = None
    y = form(**leaves, padding=1)
    y.backward(cotangent)
    return y


def errors(form: Callable[..., Tensor], leaves: Operands, cotangent: Tensor, truth: Operands) -> dict[str, float]:
    """Relative errors of the result and of all gradients."""
    found = {"y": run(form, leaves, cotangent).detach()}
    found |= {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: ((found[name] - right).norm() / right.norm()).item() for name, right in truth.items()}


def verify(leaves: Operands, cotangent: Tensor) -> dict[str, dict[str, float]]:
    """Relative errors of ours and of torchvision's.

    Raises:
        SystemExit: ours errs more than twice as much; times would mean nothing.
    """
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    y = run(deform_conv2d_definition, exact, cotangent.double())
    truth = {"y": y.detach()} | {name: leaf.grad for name, leaf in exact.items() if leaf.grad is not None}
    found = {name: errors(FORMS[name], leaves, cotangent, truth) for name in ("saccade", "torchvision")}
    for name, error in found["saccade"].items():
        allowed = 2 * found["torchvision"][name] + EPSILON
        if not error <= allowed:
            raise SystemExit(f"{name} is wrong: relative error {error:.2e}, allowed {allowed:.2e}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="deformable convolution against torchvision's, forward and backward")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds of each form (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--json", type=Path, help="write times, errors and machine here")
    arguments = parser.parse_args()
    if arguments.rounds < 15:
        parser.error(f"--rounds must be at least 15 for a median with an interval, got {arguments.rounds}")
    torch.set_num_threads(arguments.threads)
    turns = "turns, freed memory kept by the process" if keep_memory() else "turns"

    results = []
    spread = []
    print(
        "| channels | map | saccade (ms) | torchvision (ms) | plain 3×3 (ms) | torchvision / saccade | 95 % interval "
        "| saccade / plain |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for channels, outputs, size in CASES:
        tensors, cotangent = operands(arguments.batch, channels, outputs, size)
        leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        wrong = verify(leaves, cotangent)
        forms = {name: partial(run, form, leaves, cotangent) for name, form in FORMS.items()}
        times = by_turns(forms, arguments.rounds, WARMUP)
        by_ours = np.divide(times["torchvision"], times["saccade"])
        ratio, again = float(np.median(by_ours)), draws(by_ours)
        low, high = interval(again)
        spread.append(np.log(again))
        dearer = float(np.median(np.divide(times["saccade"], times["plain"])))
        results.append(
            {"channels": channels, "outputs": outputs, "size": size, "seconds": times, "relative_errors": wrong}
            | {"ratio": ratio, "low": low, "high": high, "by_plain": dearer}
        )
        middle = " | ".join(f"{1000 * statistics.median(seconds):.1f}" for seconds in times.values())
        row = f"| {channels} → {outputs} | {size}² | {middle} | {ratio:.2f} | {low:.2f} – {high:.2f} | {dearer:.2f} |"
        print(row, flush=True)
    ratios = [float(result["ratio"]) for result in results]  # type: ignore[arg-type]
    by_plain = [float(result["by_plain"]) for result in results]  # type: ignore[arg-type]
    mean, plain_mean = statistics.geometric_mean(ratios), statistics.geometric_mean(by_plain)
    low, high = interval(
        np.exp(np.mean([np.random.default_rng(i).permutation(s) for i, s in enumerate(spread)], axis=0))
    )
    print(f"| geometric mean | | | | | {mean:.2f} | {low:.2f} – {high:.2f} | {plain_mean:.2f} |")
    facts = machine(arguments.threads)
    print(f"\nBatch {arguments.batch}, float32, forward and backward, {arguments.rounds} rounds by {turns}, ", end="")
    print(f"{said(facts, ('torch', 'torchvision'))}; goals ≥ {GOAL_MEAN} in the mean and ≥ {GOAL_EACH} each", end="")
    print(f" against torchvision, ≤ {GOAL_PLAIN_MEAN} and ≤ {GOAL_PLAIN_EACH} against a plain convolution.")
    if arguments.json:
        report = {"machine": facts, "batch": arguments.batch, "goal_mean": GOAL_MEAN, "goal_each": GOAL_EACH}
        report |= {"goal_plain_mean": GOAL_PLAIN_MEAN, "goal_plain_each": GOAL_PLAIN_EACH, "plain_mean": plain_mean}
        report |= {"geometric_mean": {"ratio": mean, "low": low, "high": high}, "results": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    faster = mean >= GOAL_MEAN and min(ratios) >= GOAL_EACH
    return 0 if faster and plain_mean <= GOAL_PLAIN_MEAN and max(by_plain) <= GOAL_PLAIN_EACH else 1


if __name__ == "__main__":
    sys.exit(main())
