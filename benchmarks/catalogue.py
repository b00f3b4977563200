"""The zoo page: what every mechanism is, what it costs in three networks, how it grows with the map, what was printed.

    python benchmarks/catalogue.py [--only NAME,NAME] [--seconds S] [--threads N] [--json FILE] > docs/zoo.md

Costs are those of `saccade list --on`: each mechanism where its paper puts it, in ResNet-18, ResNet-50 and MobileNetV2
with random weights at 3×224×224, timed by turns with the plain network. Growth is that of each mechanism alone, on one
map of 64 channels. Printed sizes stand beside ours, counted in the same unit, with the reason where they differ by more
than one in the last digit. Progress goes to stderr.
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
"""Networks of the sources, as timm calls them."""
SIZES = (28, 56, 112)
CHANNELS = 64


def told(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def facts(specs: dict[str, Spec]) -> Iterator[str]:
    """Which mechanism is which."""
    yield "| mechanism | in timm | paper | kind | evidence | equal to the code of | where its paper puts it |"
    yield "|---|---|---|---|---|---|---|"
    for name, spec in specs.items():
        paper = "–"
        if spec.paper is not None:
            link = f"[{spec.paper.title}](https://arxiv.org/abs/{spec.paper.arxiv})"
            paper = f"{spec.paper.title if spec.paper.arxiv is None else link}, {spec.paper.venue} {spec.paper.year}"
        timm_name = "–" if spec.timm is None else f"`{spec.timm}`"
        position = ", ".join(
            f"`{where}`" + ("" if host == "default" else f" ({host})") for host, where in spec.position.items()
        )
        code = ", ".join(_repository(entry) for entry in spec.code) or "–"
        yield f"| `{name}` | {timm_name} | {paper} | {spec.kind} | {spec.evidence} | {code} | {position} |"


def _repository(entry: str) -> str:
    """A link to the repository that an entry of ``Spec.code`` names, and the options that it holds for."""
    name, _, options = entry.partition(" ")
    return f"[{name}](https://github.com/{name})" + (f" {options}" if options else "")


def costly(model: str, names: list[str], seconds: float) -> tuple[list[str], list[dict[str, Any]]]:
    """The table of one network, and its rows."""
    rows = []
    for row in costs(model, names, (3, 224, 224), batch=8, seconds=seconds):
        rows.append(row)
        told(model, row["mechanism"], row.get("refused", f"{row.get('latency', 0):.2f}"))
    plain = next((row["plain"] for row in rows if "plain" in row), None)  # none where all are refused
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


def grown(names: list[str], seconds: float) -> tuple[list[str], list[dict[str, Any]]]:
    """Time of a forward and memory of a training step of each mechanism alone, and how they grow with the map."""
    rows: list[dict[str, Any]] = []
    for name in names:
        found = []
        for side in SIZES:
            sized = {"size": (side, side)} if "size" in catalog.spec(name).needs else {}
            alone = catalog.create(name, CHANNELS, **sized)
            cost = measure(alone, (CHANNELS, side, side), seconds=seconds)
            weights = sum(p.nbytes for p in alone.parameters())
            memory = (cost.memory if cost.step_memory is None else cost.step_memory) - weights
            found.append((cost.latency_ms.median, memory))
        rows.append({"mechanism": name, "ms": [f[0] for f in found], "bytes": [f[1] for f in found]})
        told("growth", name, *(f"{ms:.2f}" for ms, _ in found))
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
    """How many times the last is the first, and p of values ~ pixelsᵖ."""
    ratio = values[-1] / values[0]
    return f"{ratio:.0f}× (p = {math.log(ratio) / math.log((SIZES[-1] / SIZES[0]) ** 2):.2f})"


def published(specs: dict[str, Spec]) -> tuple[list[str], list[dict[str, Any]]]:
    """The sizes that sources print beside ours, and the reason where they differ."""
    lines = [
        "| mechanism | network | source | printed | ours | printed MACs | ours | printed top-1 | remark |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    rows = []
    for name, spec in specs.items():
        for row in spec.published:
            own = None if row.net not in PRINTED else _ours(name, row)
            rows.append({"mechanism": name, **vars(row), "ours": own})
            told("printed", name, row.net, own)
            params, macs = own or (None, None)
            cells = [
                _cell(row.params, row.unit.partition(", ")[0]), _cell(_as(params, row.unit, 0, row.params)),
                _cell(row.macs, row.unit.partition(", ")[2]), _cell(_as(macs, row.unit, 1, row.macs)),
            ]  # fmt: skip
            top1 = "" if row.top1 is None else f"{row.top1}"
            lines.append(f"| `{name}` | {row.net} | {row.source} | {' | '.join(cells)} | {top1} | {row.note} |")
    return lines, rows


def _ours(name: str, row: PublishedResult) -> tuple[int, int] | None:
    """Parameters and MACs of the network that the row is about; None where it cannot be built so."""
    options: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # a remark that is no setting
        options = (
            catalog.parse(f"{name}:{row.note}")[1] if "=" in row.note and "," not in row.note.split("[")[0] else {}
        )
    host = timm.create_model(PRINTED[row.net])
    try:
        insert(host, name, where=row.where, start="paper", input=(3, 224, 224), **options)
    except UserError as error:
        told(error)
        return None
    return sum(p.numel() for p in host.parameters()), count_macs(host, (3, 224, 224))


def _as(value: int | None, unit: str, part: int, printed: float | None) -> str | None:
    """A count in the unit of the source, with the digits that the source prints."""
    if value is None or printed is None:
        return None
    base, _, power = unit.split(", ")[part].partition("^")
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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("saccade").setLevel(logging.ERROR)
    names = given.only.split(",") if given.only else catalog.list_mechanisms()
    try:
        specs = {name: catalog.spec(name) for name in names}
    except UserError as error:
        parser.error(str(error))
    found: dict[str, Any] = {"machine": machine(given.threads)}

    print(f"# The zoo\n\n{len(names)} mechanisms. `saccade show NAME` prints the equation, the shapes, the source and")
    print("every option of each; `saccade list --on MODEL` makes the tables of costs below for your network.\n")
    asked = {key: value for key, value in vars(given).items() if key != "json" and value != parser.get_default(key)}
    words = " ".join(["python benchmarks/catalogue.py", *(f"--{key} {value}" for key, value in asked.items())])
    print(f"```\n{words} > docs/zoo.md\n```\n\nmade this page on")
    print(f"{said(found['machine'], ('torch', 'timm'))}.\n\n## What they are\n")
    print("Evidence, for the default options: *oracle*, output and gradients equal the authors' own code; *port*,")
    print("code by others; *paper*, the printed equations; *reading*, our reading of a description. A condition")
    print("beside a repository names the options that were compared with it. timm's layer of that name may compute")
    print("something else.\n")
    print("\n".join(facts(specs)))
    print("\n## What they cost\n\nEach where its paper puts it, or at the next position that the network has, as it")
    print(
        "starts there, at 3×224×224. Parameters and multiply-adds (all that are done, deformable kernels and attention"
    )
    print(
        "included) are those of the whole network; latency (one picture, eval mode), peak memory of that forward and of"
    )
    print("a training step of eight pictures are multiples of the plain network's. Kernels that are discarded where a")
    print("convolution is replaced can make them smaller.")
    for model, title in HOSTS.items():
        lines, found[model] = costly(model, names, given.seconds)
        print(f"\n### {title}\n\n" + "\n".join(lines))
    lines, found["growth"] = grown(names, given.seconds)
    print(
        f"\n## How they grow\n\nEach alone on one map of {CHANNELS} channels: milliseconds of a forward, megabytes live"
    )
    print(
        "at most in a training step besides the weights. From 28² to 112² there are 16 times the pixels: p is the power"
    )
    print("of their number that time or memory grows with, 1 for whatever is linear.\n")
    print("\n".join(lines))
    lines, found["published"] = published(specs)
    print("\n## Printed and counted\n\nSizes that papers and repositories print, or that the authors' networks have,")
    print("beside those of our networks in the same unit (10^6 parameters and 10^9 multiply-adds where none is named;")
    print("some print 2^20 and 2^30). Ours count every multiply-add and no elementwise work; their counters differ in")
    print("that.\n")
    print("\n".join(lines))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
