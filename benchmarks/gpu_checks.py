"""What ``gpu.py`` checks on a device: values and gradients, the neutral start, ``torch.compile``.

Each function takes the names of one unit and returns its row: ``status`` is "ok", "off" or "skipped", ``note`` says
what is off.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import conditions
import saccade
from gpu_operators import Subject, mechanism, operator
from host_zoo import HOSTS
from mechanisms import CHECKED, created
from reference_implementations import ROWS

__all__ = ["COMPILED", "NEUTRAL_HOSTS", "Row", "compiled", "exact_arithmetic", "neutral", "values"]

Row = dict[str, Any]
Found = dict[str, Tensor]

EPSILON = torch.finfo(torch.float32).eps
TIMES, FEW_TIMES, FEW = 3.0, 10.0, 16
"""The allowed error in that of float32 on the CPU; the second for tensors of fewer values than ``FEW``, whose error is
a draw."""
FLOOR = 16 * EPSILON
"""An error that is allowed in any case."""
SCALE = 0.1
"""A gradient is measured against its own length, or against this part of the largest root mean square of all: what is
zero but for rounding, such as that of a bias before a batch norm, has no length of its own."""
HALF = 2.0**-5
"""Sixteen roundings of bfloat16, one behind the other and all the same way, as the contract allows."""
CLOSE = 1e-4
"""Two orders of summation of one gradient differ by less, relative to its length."""

NEUTRAL_HOSTS = (
    "torchvision resnet18", "torchvision resnet50", "torchvision mobilenet_v2", "torchvision densenet121",
    "torchvision convnext_tiny", "torchvision vgg11_bn", "timm regnety_002", "timm mobilenetv3_small_100",
    "timm convnext_atto", "timm lcnet_100", "timm efficientnet_b0", "user's Sequential",
)  # fmt: skip
COMPILED = ("se", "cbam", "coord", "das", "self_attention", "triplet")


def exact_arithmetic() -> None:
    """Let float32 products and convolutions be float32, by the same algorithm each time."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _evaluate(
    subject: Subject,
    change: Callable[[Tensor], Tensor],
    context: AbstractContextManager[Any] | None = None,
    *,
    exact: bool = False,
    seed: int = 0,
) -> Found:
    """Results and gradients by name, in float64 on the CPU."""
    call, leaves = subject.bind(change, exact)
    torch.manual_seed(seed)
    with context or nullcontext():
        results = call()
    outputs = [results] if isinstance(results, Tensor) else list(results)
    draw = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(y.shape, generator=draw).to(y.device, y.dtype) for y in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
    found = {f"y{n or ''}": y.detach() for n, y in enumerate(outputs)}
    found |= {f"∂{name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None}
    return {name: tensor.cpu().double() for name, tensor in found.items()}


def _errors(found: Found, truth: Found) -> dict[str, float]:
    """Error of each tensor relative to its length, or to ``SCALE`` of the largest gradient; infinite where none is."""
    rms = {name: float(t.norm()) / max(t.numel(), 1) ** 0.5 for name, t in truth.items()}
    most = max((value for name, value in rms.items() if name.startswith("∂")), default=0.0)
    errors = {}
    for name, right in truth.items():
        other = found.get(name)
        if other is None or other.shape != right.shape or not bool(other.isfinite().all()):
            errors[name] = float("inf")
            continue
        least = SCALE * most * right.numel() ** 0.5 if name.startswith("∂") else 0.0
        errors[name] = float((other - right).norm()) / max(float(right.norm()), least, 1e-30)
    return errors


def _to(device: str, dtype: torch.dtype = torch.float32, *, last: bool = False) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        moved = t.detach().to(device, dtype)
        return moved.contiguous(memory_format=torch.channels_last) if last and moved.dim() == 4 else moved

    return change


def _nudged(seed: int) -> Callable[[Tensor], Tensor]:
    """Float64 operands moved by one rounding of float32."""
    draw = torch.Generator().manual_seed(seed)

    def change(t: Tensor) -> Tensor:
        exact = t.detach().double()
        return exact * (1 + EPSILON / 2 * (2 * torch.rand(exact.shape, generator=draw, dtype=torch.float64) - 1))

    return change


def values(name: str, detail: str, device: str, small: bool) -> Row:
    """An operator, or a mechanism in the mode ``detail``: values and gradients against float64 on the CPU.

    An error may be ``TIMES`` the larger of two: that of float32 on the CPU in either memory format, of an operator's
    definition, and what one rounding of every operand makes of the float64 result.
    """
    shape = (2, 64, 7, 6) if small else CHECKED
    subject = operator(name, small) if detail == "operator" else mechanism(name, shape, detail == "train")
    truth = _evaluate(subject, _to("cpu", torch.float64), exact=True)
    other = _evaluate(subject, _to("cpu", torch.float64), exact=True, seed=1)
    if any(not torch.equal(truth[key], other[key]) for key in truth):
        return {"status": "skipped", "note": "it draws at random, and two devices draw differently"}
    near = [_evaluate(subject, _to("cpu"), exact=True), _evaluate(subject, _to("cpu", last=True), exact=True)]
    near += [_evaluate(subject, _nudged(seed), exact=True) for seed in (3, 4, 5)]
    near_errors = [_errors(each, truth) for each in near]
    wrong: list[str] = []

    allowed = {}
    for key, right in truth.items():
        times = FEW_TIMES if right.numel() < FEW else TIMES
        allowed[key] = times * max(filter(math.isfinite, (each[key] for each in near_errors)), default=0.0) + FLOOR

    def compare(what: str, found: Found) -> dict[str, float]:
        errors = _errors(found, truth)
        wrong.extend(
            f"{what}: {key} errs by {error:.1e}, allowed {allowed[key]:.1e}"
            for key, error in errors.items()
            if not error <= allowed[key]
        )
        return errors

    first = _evaluate(subject, _to(device))
    again = _evaluate(subject, _to(device))
    errors = compare("float32", first)
    compare("again", again)
    row: Row = {
        "error": max(errors.values()),
        "of_allowed": max(errors[key] / allowed[key] for key in errors),
        "cpu_error": max(near_errors[0].values()),
        "repeats": all(torch.equal(first[key], again[key]) for key in first),
        "channels_last": max(compare("channels_last", _evaluate(subject, _to(device, last=True))).values()),
    }
    for dtype in (torch.bfloat16, torch.float16):
        what = str(dtype).removeprefix("torch.")
        try:
            half = _errors(_evaluate(subject, _to(device), torch.autocast(torch.device(device).type, dtype)), truth)
        except Exception as error:  # reported; the rest of the unit is of use
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
            continue
        row[what] = max(error for key, error in half.items() if key.startswith("y"))
        unfinished = [key for key, error in half.items() if error == float("inf")]
        if unfinished:
            wrong.append(f"{what}: {', '.join(unfinished)} not finite")
        elif row[what] > HALF:
            on_cpu = _errors(_evaluate(subject, _to("cpu"), torch.autocast("cpu", dtype), exact=True), truth)
            most = TIMES * max(error for key, error in on_cpu.items() if key.startswith("y"))
            if not row[what] <= most:
                wrong.append(f"{what}: the result errs by {row[what]:.1e}, allowed {max(most, HALF):.1e}")
    return row | {"status": "off" if wrong else "ok", "note": "; ".join(wrong)}


class _Host:
    """A host on a device, and what it computes without plugs, twice."""

    def __init__(self, name: str, device: str) -> None:
        self.case = conditions.Case(HOSTS[name])
        self.case.bare.to(device)
        self.given = self.case.given.to(device)
        self.before, self.memory = self.seen(self.case.bare)
        again, _ = self.seen(self.case.bare)
        self.repeats = {
            what: all(map(torch.equal, left, right))
            for (what, left), (_, right) in zip(self.before, again, strict=True)
        }

    def doubt(self, what: str) -> bool:
        """Whether the bare host repeats this bit for bit, asked once more; atomics may agree by chance."""
        for _ in range(2 * self.repeats[what]):
            left, right = dict(self.before)[what], dict(self.seen(self.case.bare)[0])[what]
            self.repeats[what] &= all(map(torch.equal, left, right))
        return self.repeats[what]

    def seen(self, network: nn.Module) -> tuple[list[tuple[str, list[Tensor]]], int]:
        """What the network computes, and the most bytes that were allocated meanwhile, besides what was before."""
        count = self.given.is_cuda
        if count:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if count else 0
        found = list(self.case.seen(network, self.given))
        return found, (torch.cuda.max_memory_allocated() - before if count else 0)


@lru_cache(maxsize=1)
def _host(name: str, device: str) -> _Host:
    return _Host(name, device)


def neutral(name: str, detail: str, device: str, small: bool) -> Row:
    """The host ``name`` with the mechanism ``detail``: outputs in both modes, gradients and buffers as without it.

    Bit for bit, but for what the host itself does not repeat bit for bit on this device. With a = 1 it must differ.
    """
    host = _host(name, device)
    try:
        plugged = host.case.plug(copy.deepcopy(host.case.bare), detail)
    except saccade.UserError as refusal:
        return {"status": "refused", "note": str(refusal)[:300]}
    after, memory = host.seen(plugged)
    wrong = []
    for (what, left), (_, right) in zip(host.before, after, strict=True):
        same = len(left) == len(right) and all(map(torch.equal, left, right))
        if not same and (host.doubt(what) or len(left) != len(right) or not _close(left, right)):
            wrong.append(f"{what} differ")
    with torch.no_grad():
        for plug in saccade.plugs(plugged):
            if plug.module.a is not None:
                plug.module.a.fill_(1.0)
        for parameter in (p for plug in saccade.plugs(plugged) for p in plug.module.mechanism.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
        torch.manual_seed(0)
        open_gate = host.case.host.outputs(plugged.eval(), host.given)
    if all(map(torch.equal, host.before[0][1], open_gate)):
        wrong.append("with a = 1 nothing changes")
    loose = [what for what, repeats in host.repeats.items() if not repeats]
    row: Row = {"status": "off" if wrong else "ok", "note": "; ".join(wrong), "not_repeated_by_the_host": loose}
    return row | ({"peak_mb": [host.memory / 1e6, memory / 1e6]} if memory else {})


def _close(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    distance = torch.stack([(a.double() - b.double()).norm() for a, b in zip(left, right, strict=True)]).norm()
    return bool(distance <= CLOSE * torch.stack([a.double().norm() for a in left]).norm())


def compiled(name: str, detail: str, device: str, small: bool) -> Row:
    """A mechanism as one graph: result and gradients against eager, on the same device."""
    shape = (2, 64, 7, 6) if small else (8, 64, 28, 28)
    module = created(name, ROWS[name], shape).to(device).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    torch.compiler.reset()
    whole = torch.compile(module, fullgraph=True, backend="aot_eager" if small else "inductor")

    def step(network: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        leaf = x.clone().requires_grad_()
        y = network(leaf)
        leaves = [leaf, *(p for p in module.parameters() if p.requires_grad)]
        yield y.detach()
        yield from (g for g in torch.autograd.grad(y.sin().sum(), leaves, allow_unused=True) if g is not None)

    error = max(
        float((a - b).norm()) / max(float(b.norm()), 1e-6) for a, b in zip(step(whole), step(module), strict=True)
    )
    good = error <= CLOSE
    return {"status": "ok" if good else "off", "error": error, "note": "" if good else f"differs from eager: {error}"}
