"""Every mechanism of the catalogue against the fastest public implementation of the same function.

    uv run --group benchmarks python benchmarks/mechanisms.py [--only se,das] [--rounds N] [--seconds S] [--threads N]
        [--json FILE]

``reference_implementations.py`` says which that is. First values and the gradient of the map of both, in float64 and
train mode with weights that are not fresh, must agree to 1e-5: else there is no number, but "disagrees". Then forward
alone and forward with backward run by turns in one process, on 8×256×28×28 and on 2×64×96×96. A ratio is the median
over rounds of their time by ours, with its 95 % bootstrap interval; where so many rounds would take longer than
``--seconds``, there are fewer, 5 at least, and the table says how many. Freed memory stays with the process, for page
faults are noise, but where a step takes 128 MiB and more: there they are what such a form costs. Memory is the most
that is live at once in a step, besides the parameters and the map. Where nothing public is right, ours runs against
itself on the plain definitions of its operators: marked, and no part of the geometric mean. Prints a Markdown table,
losses too. Exit code 1 if a goal is missed: geometric mean of forward and backward at least 1.5, no interval below 1,
and for those that weigh every pixel by every pixel at most a tenth of the matrix's memory at 96².
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import saccade
from isolated import Isolated
from reference_implementations import ROWS, Row, plain
from saccade.contract.randomize import perturb, randomize
from saccade.cost.call import ForwardCall
from saccade.cost.memory import step_memory
from saccade.errors import did_you_mean
from timing import by_turns, geometric_mean, give_back, keep_memory, machine, middle, said

GOAL_MEAN, GOAL_MEMORY = 1.5, 10.0
AGREE = 1e-5
LARGE = 128 << 20
"""A step of so many bytes lives of blocks that the C library always gives back to the system."""
WARMUP, FEWEST = 2, 5
SHORT = 0.5
"""Seconds of one run of both."""
SHARE = 0.6
"""Of the free memory, how much a step may take."""
SHAPES = ((8, 256, 28, 28), (2, 64, 96, 96))
CHECKED = (3, 64, 14, 11)
"""Of the map on which values and gradients are compared."""


@dataclass(frozen=True)
class Times:
    """One mechanism on one map: milliseconds of ours and theirs, ratios with interval, bytes of a step.

    Where theirs does not fit into memory there are the bytes alone.
    """

    shape: tuple[int, ...]
    ours: dict[str, float]
    theirs: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    rounds: dict[str, list[float]]
    memory: tuple[int | None, int | None]


@dataclass(frozen=True)
class Result:
    """What became of one mechanism: ``outcome`` is "public", "plain", "alone", "disagrees" or "not installed"."""

    name: str
    outcome: str
    against: str
    note: str
    error: float | None = None
    times: list[Times] = field(default_factory=list)


def created(name: str, row: Row, shape: Sequence[int]) -> nn.Module:
    """The mechanism for a map of this shape, its weights not fresh, in train mode."""
    torch.manual_seed(0)
    options = dict(row.options)
    if "size" in saccade.spec(name).needs:
        options["size"] = tuple(shape[2:])
    return randomize(perturb(saccade.create(name, shape[1], **options))).train()


def opponent(row: Row, ours: nn.Module) -> tuple[str, nn.Module | None]:
    """The outcome if all goes well, and what ours runs against.

    Raises:
        ImportError: the package is not installed.
    """
    if row.public is not None:
        return "public" if row.source else "plain", row.public(copy.deepcopy(ours)).train()
    definitions = plain(copy.deepcopy(ours))
    return ("alone", None) if definitions is None else ("plain", definitions.train())


def step(module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of the map; those of the parameters are made too."""
    leaf = x.detach().requires_grad_()
    y: Tensor = module(leaf)
    leaves = [leaf, *(p for p in module.parameters() if p.requires_grad)]
    return y.detach(), torch.autograd.grad(y, leaves, cotangent, allow_unused=True)[0]


def forward(module: nn.Module, x: Tensor) -> Tensor:
    """The output alone."""
    with torch.no_grad():
        y: Tensor = module(x)
    return y


def error(name: str, row: Row) -> float:
    """Largest error of value and gradient between ours and the opponent, in float64.

    Relative to the most that ours changes the map, or the cotangent: what stands beside x is not hidden by it.
    """
    ours = created(name, row, CHECKED).double()
    theirs = opponent(row, ours)[1]
    assert theirs is not None
    draw = torch.Generator().manual_seed(1)
    x, cotangent = (torch.randn(CHECKED, generator=draw, dtype=torch.float64) for _ in range(2))
    theirs = theirs.double()
    if forward(theirs, x).shape != forward(ours, x).shape:
        return math.inf
    pairs = zip(step(ours, x, cotangent), step(theirs, x, cotangent), (x, cotangent), strict=True)
    changes = [float((a - b).abs().max() / (a - given).abs().max()) for a, b, given in pairs]
    return math.nan if any(map(math.isnan, changes)) else max(changes)


def available() -> float:
    """Bytes of memory that are free, as far as Linux tells."""
    facts = Path("/proc/meminfo")
    if not facts.exists():
        return math.inf
    return 1024.0 * next(int(line.split()[1]) for line in facts.read_text().splitlines() if "MemAvailable" in line)


def memory(module: nn.Module, x: Tensor) -> int | None:
    """Bytes live at once at most in forward and backward, besides the parameters and the map."""
    peak = step_memory(ForwardCall(Isolated(module, x), (torch.zeros(()),), {}))
    return None if peak is None else peak - x.nbytes - sum(p.nbytes for p in module.parameters())


def affordable(forms: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> tuple[int, bool]:
    """How many rounds of forms by turns fit into so many seconds, and whether each is to run untimed before.

    Never fewer than :data:`FEWEST`. What takes longer than :data:`SHORT` does not notice what another left behind.
    """
    each = math.inf
    for _ in range(2):  # the first may be slow
        begun = time.perf_counter()
        for form in forms.values():
            form()
        each = min(each, time.perf_counter() - begun)
        if each > SHORT:
            break
    settle = each <= SHORT
    fitting = seconds / (each * (1 + settle)) - WARMUP
    return rounds if fitting >= rounds else max(FEWEST, int(fitting)), settle


def timed(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], rounds: int, seconds: float = math.inf) -> Times:
    """Both by turns on one map, forward alone and then forward and backward, at most about ``seconds`` each."""
    needed = memory(copy.deepcopy(theirs).to("meta"), torch.empty(shape, device="meta"))
    if needed is not None and needed > SHARE * available():
        return Times(shape, {}, {}, {}, {}, (memory(ours, torch.zeros(shape)), needed))
    keep_memory(needed is None or needed < LARGE)
    draw = torch.Generator().manual_seed(2)
    x, cotangent = (torch.randn(shape, generator=draw) for _ in range(2))
    both = {"ours": ours, "theirs": theirs}
    found = {}
    for what, run, given in (("forward", forward, (x,)), ("step", step, (x, cotangent))):
        forms = {who: partial(run, module, *given) for who, module in both.items()}
        count, settle = affordable(forms, rounds, seconds)
        found[what] = by_turns(forms, count, WARMUP, settle=settle)
    medians = {who: {what: 1000 * statistics.median(times[who]) for what, times in found.items()} for who in both}
    each = {what: np.divide(times["theirs"], times["ours"]).tolist() for what, times in found.items()}
    ratios = {what: middle(values) for what, values in each.items()}
    return Times(shape, medians["ours"], medians["theirs"], ratios, each, (memory(ours, x), memory(theirs, x)))


def compare(
    name: str, row: Row, rounds: int, shapes: Sequence[tuple[int, ...]] = SHAPES, seconds: float = math.inf
) -> Result:
    """All about one mechanism; there are no times where the two compute something else."""
    try:
        outcome, theirs = opponent(row, created(name, row, CHECKED))
    except ImportError as missing:
        return Result(name, "not installed", row.source, f"{row.note} {missing}".strip())
    against = row.source or ("its plain definition" if theirs is not None else "none public")
    if theirs is None:
        return Result(name, outcome, against, row.note)
    wrong = error(name, row)
    if not wrong <= AGREE:
        return Result(name, "disagrees", against, row.note, wrong)
    times = []
    for shape in shapes:
        ours = created(name, row, shape)
        theirs = opponent(row, ours)[1]
        assert theirs is not None
        times.append(timed(ours, theirs, shape, rounds, seconds))
    return Result(name, outcome, against, row.note, wrong, times)


def lines(result: Result) -> Iterator[str]:
    """The lines of the table."""
    against = {"plain": f"{result.against} *"}.get(result.outcome, result.against)
    if not result.times:
        reason = {"alone": "none public"}.get(result.outcome, result.outcome)
        shown = reason if result.error is None else f"{reason} ({result.error:.0e})"
        yield f"| `{result.name}` | {against} | | {shown} | | | | | {result.note} |"
    for n, times in enumerate(result.times):
        cells = [] if times.ratios else ["does not fit", "", "does not fit", ""]
        for what in times.ratios and ("forward", "step"):
            ratio, low, high = times.ratios[what]
            bold = "**" if high < 1 else ""
            cells.append(f"{times.ours[what]:.1f} / {times.theirs[what]:.1f}")
            cells.append(f"{bold}{ratio:.2f}{bold} ({low:.2f} – {high:.2f})")
        count = f"{len(times.rounds['step'])}" if times.ratios else ""
        sizes = ["–" if size is None else f"{size / 1e6:.1f}" for size in times.memory]
        head = f"`{result.name}` | {against}" if n == 0 else " | "
        shape = "×".join(map(str, times.shape))
        cells = [shape, *cells[2:], count, cells[1], " / ".join(sizes), result.note if n == 0 else ""]
        yield f"| {head} | {' | '.join(cells)} |"


def overall(results: Sequence[Result]) -> tuple[float, float, float] | None:
    """The geometric mean of forward and backward against public ones, with its interval."""
    rounds = [t.rounds["step"] for r in results if r.outcome == "public" for t in r.times if t.ratios]
    return geometric_mean(rounds) if rounds else None


def missed(results: Sequence[Result]) -> list[str]:
    """The goals that do not hold, in words; what has no number for another reason than having no peer is one."""
    words = [f"{r.name} {r.outcome}" for r in results if r.outcome in ("disagrees", "not installed")]
    public = [(r.name, t) for r in results if r.outcome == "public" for t in r.times]
    for name, times in public:
        if times.ratios and times.ratios["step"][2] < 1:
            words.append(f"{name} at {times.shape[2]}² is slower: {times.ratios['step'][0]:.2f}")
    if (total := overall(results)) and total[0] < GOAL_MEAN:
        words.append(f"the geometric mean is {total[0]:.2f}, not {GOAL_MEAN}")
    for result in results:
        for times in result.times if ROWS[result.name].matrix else ():
            ours, theirs = times.memory
            if times.shape[2] == 96 and ours and theirs and theirs < GOAL_MEMORY * ours:
                words.append(f"{result.name} takes 1/{theirs / ours:.1f} of the matrix's memory")
    return words


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(saccade.list_mechanisms()), help="mechanisms, by commas")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds of each (default 15)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long the rounds on one map may take, but 5 (default 60)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write every ratio and the machine here")
    arguments = parser.parse_args()
    if arguments.rounds < FEWEST:
        parser.error(f"--rounds must be at least {FEWEST} for a median with an interval, got {arguments.rounds}")
    names = arguments.only.split(",")
    for name in names:
        if name not in ROWS:
            parser.error(f"there is no mechanism {name!r}.{did_you_mean(name, ROWS)}")
    torch.set_num_threads(arguments.threads)
    kept = keep_memory()

    print("| mechanism | against | map | forward + backward, ours / theirs (ms) | ratio (95 % interval) |", end="")
    print(" rounds | ratio of forward | memory of a step, ours / theirs (MB) | note |")
    print("|---|---|---|---|---|--:|---|---|---|")
    results = []
    for n, name in enumerate(names, 1):
        print(f"{n}/{len(names)} {name}", file=sys.stderr, flush=True)
        results.append(compare(name, ROWS[name], arguments.rounds, seconds=arguments.seconds))
        print(*lines(results[-1]), sep="\n", flush=True)
        give_back()
    if total := overall(results):
        print(f"| geometric mean | public ones | | | {total[0]:.2f} ({total[1]:.2f} – {total[2]:.2f}) | | | | |")
    facts, words = machine(arguments.threads), missed(results)
    print(
        "\n\\* ours on the plain definitions of its operators. float32, train mode, rounds by ",
        end="",
    )
    print(
        "turns, freed memory kept by the process where a step takes less than 128 MiB, " if kept else "turns, ", end=""
    )
    print(f"{said(facts, ('torch', 'torchvision', 'timm'))}. Bold: slower than the public one.", end="\n\n")
    print(f"Missed: {'; '.join(words)}." if words else "Every goal holds.")
    if arguments.json:
        report = {
            "machine": facts,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "memory_kept": kept,
            "goal_mean": GOAL_MEAN,
            "goal_memory": GOAL_MEMORY,
        }
        report |= {"geometric_mean": total, "missed": words, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if words else 0


if __name__ == "__main__":
    sys.exit(main())
