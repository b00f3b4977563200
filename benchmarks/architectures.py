"""Speed and memory of Saccade's architectures beside plain networks, and growth of memory with the image.

    python benchmarks/architectures.py [--only NAME,NAME] [--size N] [--batch N] [--seconds S] [--threads N]
        [--device D] [--dense-size HxW] [--quick] [--json FILE] [--into docs/speed.md]

Each comparison runs in a process of its own, both networks in turns with random weights: a forward pass in eval mode,
and a training step (forward and backward pass with cross-entropy, without the optimiser's update) in training mode. A
ratio is the median over rounds, with its 95 % bootstrap interval. Memory is the most that is live at once in a training
step with parameters and gradients. Prints Markdown; ``--into`` writes it between the markers of a page. A network that
fails gets a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade.models
from saccade.cost import count_macs
from saccade.cost.call import ForwardCall
from saccade.cost.memory import step_memory
from saccade.errors import did_you_mean
from saccade.models import is_dense, is_detector
from timing import by_turns, cuda_clock, keep_memory, machine, middle, said, wall_clock

PLAIN = {
    "vt_resnet18": "resnet18", "vt_resnet34": "resnet34", "vt_resnet50": "resnet50", "vt_resnet101": "resnet101",
    "sasa_resnet26": "resnet26", "sasa_resnet38": "resnet50", "sasa_resnet50": "resnet50",
    "se_resnet18": "resnet18", "se_resnet34": "resnet34", "se_resnet50": "resnet50",
    "se_resnet101": "resnet101", "se_resnet152": "resnet152",
    "se_resnext50_32x4d": "resnext50_32x4d", "se_resnext101_32x4d": "resnext101_32x4d", "se_net154": "resnet152",
    "se_bn_inception": "resnet18", "sknet50": "resnet50", "sknet101": "resnet101",
    "ran56": "resnet101", "ran92": "resnet152",
}  # fmt: skip
"""Maps a classifier to the network without attention; without a namesake, the ResNet of nearest cost."""
DENSE = {"vt_fpn": "semantic_fpn"}
GROWING = {"sasa_resnet26": "sasa_resnet26", "vt_resnet18": "vt_resnet18", "dense": "one map of self-attention *"}
"""Maps a network to its title in the table of growth."""
SIZES = (112, 160, 224, 320, 448)
QUICK_SIZES = (32, 48, 64, 96)
FEWEST, MOST = 5, 20
"""Bounds of the number of rounds."""
TIMEOUT = 300.0
"""Seconds after which a process is stopped."""
MARKERS = "<!-- architectures -->", "<!-- end of architectures -->"


@dataclass(frozen=True)
class Job:
    """One process: a comparison of two networks, or the growth of one if ``sizes`` are given."""

    name: str
    plain: str = ""
    size: tuple[int, int] = (224, 224)
    batch: int = 2
    seconds: float = 4.0
    device: str = "cpu"
    threads: int = 1
    sizes: tuple[int, ...] = ()

    @classmethod
    def read(cls, text: str) -> Job:
        """Return the job that :func:`run` wrote as JSON."""
        given = json.loads(text)
        return cls(**{**given, "size": tuple(given["size"]), "sizes": tuple(given["sizes"])})


@dataclass
class Result:
    """What a process found, or why it found nothing."""

    job: Job
    found: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


class DenseAttention(nn.Module):
    """Self-attention between all pixels of a map of stride 4, its matrix of weights kept for the backward pass."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, stride=4)
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1000) of images (B, 3, H, W)."""
        x = self.stem(x)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(-1)
        logits: Tensor = self.fc((value @ weights.transpose(1, 2)).mean(2))
        return logits


def classifiers() -> list[str]:
    """Return the names in timm of all classifiers of ``saccade.models`` for images of 224 pixels."""
    listed = [name for file in saccade.models.names() for name in timm.list_models(module=file)]
    names = [name for name in listed if timm.model_entrypoint(name).__module__.startswith("saccade.")]
    configs = {name: timm.get_pretrained_cfg(name) for name in names if not is_dense(name) and not is_detector(name)}
    return sorted(name for name, config in configs.items() if config is not None and config.input_size[-1] > 64)


def network(name: str, device: str) -> nn.Module:
    """Return a network with random weights."""
    torch.manual_seed(0)
    built: nn.Module = DenseAttention() if name == "dense" else timm.create_model(name)
    return built.to(device)


def training_step(net: nn.Module, x: Tensor) -> None:
    """Run a forward and a backward pass with cross-entropy, of pixels too; gradients are freed."""
    logits = net(x)
    target = torch.zeros((len(logits), *logits.shape[2:]), dtype=torch.long, device=x.device)
    F.cross_entropy(logits, target).backward()
    net.zero_grad(set_to_none=True)


def forward_pass(net: nn.Module, x: Tensor) -> None:
    """Run a forward pass without a graph."""
    with torch.no_grad():
        net(x)


def timed(forms: Mapping[str, Callable[[], object]], seconds: float, device: str) -> dict[str, list[float]]:
    """Return the seconds of each round of each form, in turns, for about ``seconds`` but at least FEWEST rounds."""
    rounds = partial(by_turns, forms, warmup=0, clock=cuda_clock if torch.device(device).type == "cuda" else wall_clock)
    first = rounds(rounds=1)
    each = sum(first[name][0] for name in forms)
    more = rounds(rounds=max(FEWEST, min(MOST, int(seconds / each))) - 1)
    return {name: first[name] + more[name] for name in forms}


def compare(job: Job) -> dict[str, Any]:
    """Return sizes, images per second, ratios of speed to the plain network and memory of both networks."""
    nets = {"ours": network(job.name, job.device), "plain": network(job.plain, job.device)}
    x = torch.randn(job.batch, 3, *job.size, generator=torch.Generator().manual_seed(1)).to(job.device)
    for net in nets.values():
        forward_pass(net.eval(), x)  # the first is slow; the first training step is that of step_memory
    found: dict[str, Any] = {
        "parameters": {who: sum(p.numel() for p in net.parameters()) for who, net in nets.items()},
        "macs": {who: count_macs(net, (3, *job.size)) for who, net in nets.items()},
        "memory": {who: step_memory(ForwardCall(net, (x,), {})) for who, net in nets.items()},
    }
    for what, run in (("forward", forward_pass), ("step", training_step)):
        forms = {who: partial(run, net.train(what == "step"), x) for who, net in nets.items()}
        times = timed(forms, job.seconds, job.device)
        found[what] = {
            "images_per_second": {who: job.batch / statistics.median(t) for who, t in times.items()},
            "ratio": middle(np.divide(times["plain"], times["ours"])),
            "rounds": len(times["ours"]),
        }
    return found


def growth(job: Job) -> dict[str, Any]:
    """Return the bytes of a training step with one image of each size, and the fit of :func:`power_law`."""
    net = network(job.name, job.device).eval()
    found = []
    for side in job.sizes:
        found.append(step_memory(ForwardCall(net, (torch.randn(1, 3, side, side, device=job.device),), {})))
    exponent, residual = power_law([side**2 for side in job.sizes], found)
    return {"bytes": found, "exponent": exponent, "residual": residual}


def power_law(pixels: Sequence[float], sizes: Sequence[Any]) -> tuple[float, float]:
    """Fit sizes = a + b·pixels^p with a, b ≥ 0; return p and the largest deviation relative to the size.

    Relative deviations are minimised for every p in steps of 0.01; ``a`` holds what does not grow, as parameters do.
    """
    x, y = np.asarray(pixels, float), np.asarray(sizes, float)
    best = (np.inf, 0.0, 0.0)
    for p in np.arange(0.3, 3.005, 0.01):
        basis = np.stack([np.ones_like(x), (x / x.max()) ** p], 1) / y[:, None]
        solution = np.linalg.lstsq(basis, np.ones_like(y), rcond=None)[0]
        if solution[0] < 0:
            solution = np.array([0.0, basis[:, 1].sum() / (basis[:, 1] ** 2).sum()])
        deviations = basis @ solution - 1
        best = min(best, (float((deviations**2).sum()), float(p), float(np.abs(deviations).max())))
    return round(best[1], 2), best[2]


def run(job: Job) -> Result:
    """Run a job in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work", json.dumps(vars(job))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Result(job, reason=f"not finished after {TIMEOUT:.0f} s")
    if done.returncode:
        said_last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return Result(job, reason=said_last[0] if said_last else f"exit code {done.returncode}")
    return Result(job, json.loads(done.stdout.splitlines()[-1]))


def speed_rows(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of speed and memory, ours / plain in each cell."""
    yield (
        "| network | beside | parameters (M) | MACs (G) | forward (images/s) | speed, forward (95 % interval) | "
        "training step (images/s) | speed, step (95 % interval) | memory of a step (MB) |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for result in results:
        head = f"| `{result.job.name}` | `{result.job.plain}` |"
        if result.reason:
            yield f"{head} not measured: {_in_cell(result.reason)} | | | | | | |"
            continue
        found = result.found
        cells = [_both(found["parameters"], 1e6, 1), _both(found["macs"], 1e9, 2)]
        for what in ("forward", "step"):
            ratio, low, high = found[what]["ratio"]
            cells += [_both(found[what]["images_per_second"], 1, 1), f"{ratio:.2f} ({low:.2f} – {high:.2f})"]
        yield f"{head} {' | '.join(cells)} | {_both(found['memory'], 1e6, 0)} |"


def growth_rows(results: Sequence[Result], sizes: Sequence[int]) -> Iterator[str]:
    """Yield the table of memory by size of the image."""
    yield f"| network | {' | '.join(f'{side}² (MB)' for side in sizes)} | exponent | largest deviation |"
    yield f"|---|{'--:|' * len(sizes)}--:|--:|"
    for result in results:
        title = GROWING[result.job.name]
        if result.reason:
            yield f"| {title} | not measured: {_in_cell(result.reason)} |{' |' * (len(sizes) + 1)}"
            continue
        found = result.found
        cells = " | ".join(f"{size / 1e6:.0f}" for size in found["bytes"])
        yield f"| {title} | {cells} | {found['exponent']:.2f} | {100 * found['residual']:.1f} % |"


def _both(values: Mapping[str, float], unit: float, digits: int) -> str:
    return f"{values['ours'] / unit:.{digits}f} / {values['plain'] / unit:.{digits}f}"


def _in_cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]


def report(speed: Sequence[Result], grown: Sequence[Result], facts: Mapping[str, Any], batch: int) -> str:
    """Return both tables with the sentences that say how they were measured."""
    lines = list(speed_rows(speed))
    device = "" if facts["accelerator"] is None else f"{facts['accelerator']}, "
    sizes = sorted({"×".join(map(str, result.job.size)) for result in speed})
    lines += [
        "",
        f"Ours / plain, {batch} images of {' or '.join(sizes)} pixels, float32, random weights, in turns; {device}"
        f"{said(facts, ('torch', 'timm'))}. Speed is that of the plain network = 1.",
    ]
    if grown:
        lines += [
            "",
            *growth_rows(grown, grown[0].job.sizes),
            "",
            "Peak memory of a training step with one image. The fit is a + b · pixels^exponent; the last column is its "
            "largest relative deviation.",
            "",
            "\\* one layer with 64 channels at stride 4 that keeps its matrix of weights.",
        ]
    return "\n".join(lines) + "\n"


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``.

    Raises:
        SystemExit: the page does not have both markers.
    """
    old = page.read_text(encoding="utf-8")
    start, end = (old.find(marker) for marker in MARKERS)
    if start < 0 or end < start:
        raise SystemExit(f"{page} has no part between {MARKERS[0]} and {MARKERS[1]}")
    page.write_text(f"{old[: start + len(MARKERS[0])]}\n{text}{old[end:]}", encoding="utf-8")


def jobs(options: argparse.Namespace) -> tuple[list[Job], list[Job]]:
    """Return the comparisons and the measurements of growth that were asked for."""
    shared = {"device": options.device, "threads": options.threads, "seconds": options.seconds}
    wanted = options.only.split(",") if options.only else None
    size = 64 if options.quick else options.size
    speed = [
        Job(name, PLAIN[name], (size, size), options.batch, **shared)
        for name in PLAIN
        if wanted is None or name in wanted
    ]
    height, width = (int(side) for side in options.dense_size.split("x"))
    for name, plain in DENSE.items():
        if wanted is None or name in wanted:
            speed.append(Job(name, plain, (height, width), options.batch, **shared))
    sizes = QUICK_SIZES if options.quick else SIZES
    grown = [Job(name, sizes=sizes, **shared) for name in GROWING if wanted is None or name in wanted]
    return speed, grown


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="networks, by commas (default: all, and the table of growth)")
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels (default 224)")
    parser.add_argument("--batch", type=int, default=2, help="images of a forward pass (default 2)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of rounds for each comparison (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--dense-size", default="256x384", help="image of the dense networks (default 256x384)")
    parser.add_argument("--quick", action="store_true", help="small images, to try the script")
    parser.add_argument("--json", type=Path, help="write every number and the machine here")
    parser.add_argument("--into", type=Path, help="page that gets the tables between its markers")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    known = [*PLAIN, *DENSE, *GROWING]
    for name in options.only.split(",") if options.only else ():
        if name not in known:
            parser.error(f"there is no network {name!r}.{did_you_mean(name, known)}")
    return options


def work(job: Job) -> None:
    """Do one job in this process and print what it found."""
    torch.set_num_threads(job.threads)
    keep_memory()
    print(json.dumps(growth(job) if job.sizes else compare(job)))


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    if options.work:
        work(Job.read(options.work))
        return 0
    speed, grown = jobs(options)
    results = []
    for n, job in enumerate([*speed, *grown], 1):
        results.append(run(job))
        outcome = results[-1].reason or "measured"
        print(f"{n}/{len(speed) + len(grown)} {job.name}: {outcome}", file=sys.stderr, flush=True)
    facts = machine(options.threads, options.device)
    text = report(results[: len(speed)], results[len(speed) :], facts, options.batch)
    print(text, end="")
    if options.into:
        write_into(options.into, text)
    if options.json:
        rows = [{"job": vars(r.job), "found": r.found, "reason": r.reason} for r in results]
        options.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=2) + "\n")
    return 1 if any(result.reason for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
