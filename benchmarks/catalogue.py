"""Costs of every mechanism: in three networks, on growing maps, and beside published sizes.

    python benchmarks/catalogue.py [--only NAME,NAME] [--seconds S] [--threads N] [--json FILE] > docs/zoo.md

Each mechanism stands where its paper puts it, in ResNet-18, ResNet-50 and MobileNetV2 with random weights at 3×224×224,
timed in turns with the plain network. Growth is measured on one map of 64 channels, the mechanism by itself. Published
sizes are printed beside ours in the same unit. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import timm
import torch

from saccade import UserError, catalog, measure
from saccade.cli._costs import costs
from saccade.cost import count_macs
from saccade.specs import PublishedResult, Spec
from saccade.surgery.insert import insert
from timing import machine, said

HOSTS = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "mobilenetv2_100": "MobileNetV2"}
PRINTED = {"resnet18": "resnet18", "resnet50": "resnet50", "resnet101": "resnet101", "mobilenet_v2": "mobilenetv2_100"}
"""Maps a network's name in a source to its name in timm."""
SIZES = (28, 56, 112)
CHANNELS = 64
INTRODUCTION = """\
# Costs of the mechanisms

```
{command} > docs/zoo.md
```

makes this page; `saccade list --on MODEL` makes the tables of costs for your network. Measured on {machine}.

## Sources

Evidence is for the default options: *oracle*, output and gradients equal the authors' code; *port*, code by others;
*paper*, the printed equations; *reading*, our reading of a description. Options in brackets are those that were
compared with a repository. timm's layer of the same name may compute something else.
"""
COSTS = """
## In three networks

Each mechanism stands where its paper puts it, or at the next position that the network has, with its own
initialisation, at 3×224×224. Parameters and multiply-adds are those of the whole network, deformable kernels and
attention included. Latency (one image, eval mode), peak memory of that forward pass, and peak memory of a training step
with eight images are multiples of the plain network's. They can be below 1 if a convolution is replaced."""
GROWTH = """
## Growth with the map

Each mechanism by itself on one map of 64 channels: milliseconds of a forward pass, and peak megabytes of a training
step without the weights. From 28² to 112² the map has 16 times the pixels; p is the exponent of growth in their number,
1 if linear.

"""
PUBLISHED = """
## Published sizes

Sizes that papers and repositories print, or that the authors' networks have, beside ours in the same unit (10^6
parameters and 10^9 multiply-adds unless another is named; some print 2^20 and 2^30). We count every multiply-add and no
elementwise work; other counters differ in that.

"""


def log(*values: object) -> None:
    print(*values, file=sys.stderr, flush=True)


def source_rows(specs: dict[str, Spec]) -> Iterator[str]:
    """Yield a table of sources: one row per mechanism."""
    yield "| mechanism | in timm | paper | kind | evidence | equal to the code of | where its paper puts it |"
    yield "|---|---|---|---|---|---|---|"
    for name, spec in specs.items():
        paper = "–"
        if spec.paper is not None:
            link = f"[{spec.paper.title}](https://arxiv.org/abs/{spec.paper.arxiv})"
            paper = f"{spec.paper.title if spec.paper.arxiv is None else link}, {spec.paper.venue} {spec.paper.year}"
        timm_name = "–" if spec.timm is None else f"`{spec.timm}`"
        position = ", ".join(
            " and ".join(f"`{where}`" for where in spec.positions(host)) + ("" if host == "default" else f" ({host})")
            for host in spec.position
        )
        code = ", ".join(_repository(entry) for entry in spec.code) or "–"
        yield f"| `{name}` | {timm_name} | {paper} | {spec.kind} | {spec.evidence} | {code} | {position} |"


def _repository(entry: str) -> str:
    """Return a link to the repository in an entry of ``Spec.code``, and its options."""
    name, _, options = entry.partition(" ")
    return f"[{name}](https://github.com/{name})" + (f" {options}" if options else "")


def cost_table(model: str, names: list[str], seconds: float) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the table of one network as Markdown, and its rows."""
    rows = []
    for row in costs(model, names, (3, 224, 224), batch=8, seconds=seconds):
        rows.append(row)
        log(model, row["mechanism"], row.get("refused", f"{row.get('latency', 0):.2f}"))
    plain = next((row["plain"] for row in rows if "plain" in row), None)  # None if all are refused
    lines = [] if plain is None else [
        f"Plain: {plain['parameters'] / 1e6:.3f} M parameters, {plain['macs'] / 1e9:.3f} G MACs, "
        f"{plain['latency_ms']['median']:.0f} ms, {plain['memory'] / 1e6:.0f} MB.",
        "",
    ]  # fmt: skip
    lines += [
        "| mechanism | sites | position | parameters (M) | MACs (G) | latency | memory | training step |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| `{row['mechanism']}` | | refused: {row['refused']} | | | | | |")
            continue
        step = "–" if row["step_memory"] is None else f"{row['step_memory']:.2f}×"
        lines.append(
            f"| `{row['mechanism']}` | {row['sites']} | {', '.join(row['positions'])} | "
            f"{row['parameters'] / 1e6:.3f} | {row['macs'] / 1e9:.3f} | "
            f"{row['latency']:.2f}× | {row['memory']:.2f}× | {step} |"
        )
    return lines, rows


def growth_table(names: list[str], seconds: float) -> tuple[list[str], list[dict[str, Any]]]:
    """Return time of a forward pass and memory of a training step by size of the map, as Markdown and as rows."""
    rows: list[dict[str, Any]] = []
    for name in names:
        measured = []
        for side in SIZES:
            sized = {"size": (side, side)} if "size" in catalog.spec(name).needs else {}
            module = catalog.create(name, CHANNELS, **sized)
            cost = measure(module, (CHANNELS, side, side), seconds=seconds)
            weights = sum(p.nbytes for p in module.parameters())
            memory = (cost.memory if cost.step_memory is None else cost.step_memory) - weights
            measured.append((cost.latency_ms.median, memory))
        rows.append({"mechanism": name, "ms": [ms for ms, _ in measured], "bytes": [size for _, size in measured]})
        log("growth", name, *(f"{ms:.2f}" for ms, _ in measured))
    lines = [
        "| mechanism | " + " | ".join(f"{s}² (ms)" for s in SIZES) + " | time | "
        + " | ".join(f"{s}² (MB)" for s in SIZES) + " | memory |",
        "|---|" + "--:|" * (2 * len(SIZES) + 2),
    ]  # fmt: skip
    for row in rows:
        times = " | ".join(f"{value:.2f}" for value in row["ms"])
        sizes = " | ".join(f"{value / 1e6:.2f}" for value in row["bytes"])
        lines.append(f"| `{row['mechanism']}` | {times} | {_power(row['ms'])} | {sizes} | {_power(row['bytes'])} |")
    return lines, rows


def _power(values: list[float]) -> str:
    """Return the ratio of last to first value, and p in values ~ pixelsᵖ."""
    ratio = values[-1] / values[0]
    return f"{ratio:.0f}× (p = {math.log(ratio) / math.log((SIZES[-1] / SIZES[0]) ** 2):.2f})"


def published_table(specs: dict[str, Spec]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return published sizes beside ours, with the reason if they differ, as Markdown and as rows."""
    lines = [
        "| mechanism | network | source | printed | ours | printed MACs | ours | printed top-1 | remark |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    rows = []
    for name, spec in specs.items():
        for row in spec.published:
            counts = None if row.net not in PRINTED else _ours(name, row)
            rows.append({"mechanism": name, **vars(row), "ours": counts})
            log("printed", name, row.net, counts)
            params, macs = counts or (None, None)
            cells = [
                _cell(row.params, row.unit.partition(", ")[0]), _cell(_in_unit(params, row.unit, 0, row.params)),
                _cell(row.macs, row.unit.partition(", ")[2]), _cell(_in_unit(macs, row.unit, 1, row.macs)),
            ]  # fmt: skip
            top1 = "" if row.top1 is None else f"{row.top1}"
            lines.append(f"| `{name}` | {row.net} | {row.source} | {' | '.join(cells)} | {top1} | {row.note} |")
    return lines, rows


def _ours(name: str, row: PublishedResult) -> tuple[int, int] | None:
    """Return parameters and MACs of the network of ``row``; None if it cannot be built."""
    options: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # a note that is not a setting
        options = (
            catalog.parse(f"{name}:{row.note}")[1] if "=" in row.note and "," not in row.note.split("[")[0] else {}
        )
    host = timm.create_model(PRINTED[row.net])
    try:
        insert(host, name, where=row.where, start="paper", input=(3, 224, 224), **options)
    except UserError as error:
        log(error)
        return None
    return sum(p.numel() for p in host.parameters()), count_macs(host, (3, 224, 224))


def _in_unit(value: int | None, unit: str, index: int, printed: float | None) -> str | None:
    """Return a count in the unit of the source and with its digits."""
    if value is None or printed is None:
        return None
    base, _, power = unit.split(", ")[index].partition("^")
    places = max(2, -int(Decimal(str(printed)).as_tuple().exponent))
    return f"{value / int(base) ** int(power):.{places}f}"


def _cell(value: float | str | None, unit: str = "") -> str:
    return "" if value is None else f"{value}" + ("" if unit in ("", "10^6", "10^9") else f" · {unit}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="mechanisms, comma-separated (default all)")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each network is timed (default 0.5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--json", type=Path, help="write all rows and the machine here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("saccade").setLevel(logging.ERROR)
    names = arguments.only.split(",") if arguments.only else catalog.list_mechanisms()
    try:
        specs = {name: catalog.spec(name) for name in names}
    except UserError as error:
        parser.error(str(error))
    results: dict[str, Any] = {"machine": machine(arguments.threads)}

    changed = {
        key: value for key, value in vars(arguments).items() if key != "json" and value != parser.get_default(key)
    }
    command = " ".join(["python benchmarks/catalogue.py", *(f"--{key} {value}" for key, value in changed.items())])
    print(INTRODUCTION.format(command=command, machine=said(results["machine"], ("torch", "timm"))))
    print("\n".join(source_rows(specs)))
    print(COSTS)
    for model, title in HOSTS.items():
        lines, results[model] = cost_table(model, names, arguments.seconds)
        print(f"\n### {title}\n\n" + "\n".join(lines))
    lines, results["growth"] = growth_table(names, arguments.seconds)
    print(GROWTH + "\n".join(lines))
    lines, results["published"] = published_table(specs)
    print(PUBLISHED + "\n".join(lines))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
