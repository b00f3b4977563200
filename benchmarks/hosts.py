"""Every mechanism in every host: is the host the same until it learns, and does it learn?

    python benchmarks/hosts.py [--hosts GLOB] [--mechanisms se,das] [--core | --deep] [--keep rows.jsonl] > hosts.md

Prints a Markdown page, one row a host and one row a mechanism, with the pairs that do not hold; progress goes to
stderr; exit code 1 if any pair fails. ``--keep`` names a file to which each pair is added as it is done and whose pairs
are not done again. Hosts are not fresh: norms, biases, layer scales and running statistics are drawn at random. The
conditions:

    f32            outputs (eval and train), gradients and buffers of the host equal bit for bit in float32
    keys           no key of the host moved; host's and plugged states load strictly; half a plugged state does not
    calls          each plug ran once per call of its parent
    unplug         modules, hooks, keys and outputs as before, from a deepcopy and from a pickle
    differs        with a = 1 and random weights the output is another
    learns         five steps of AdamW, the host frozen, change every parameter of every plug, where batches norm or
                   where running statistics do (a bias in front of a batch norm moves there only); not asked of gsop
                   where it takes the covariance of one pixel, which is zero

for the first hosts and for our own, and with ``--core`` for all:

    bf16 nhwc      f32 under bf16 autocast, and with channels_last (there, gradients to rounding)

and with ``--deep`` for the first hosts:

    loaded         f32 after the host's own state was loaded strictly into the plugged network
    ckpt feats     f32 under timm's gradient checkpointing and features_only
    1×1            f32 where the last map is one pixel
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import logging
import re
import sys
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import saccade
from conditions import CORE, DEEP, WIDE, Case, Condition
from host_zoo import HOSTS, ORIGINAL

LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "transformers")
ONE_SIZE = "it needs maps of one size, and this host is called with images of several"
HEAD = """# Networks tried

{good} of {total} pairs hold, {refused} are refused, {failed} fail: {hosts} hosts, {timm} of them from timm, and
{columns} mechanisms, each where its paper puts it or at the next position that the host has. `timm` hosts are the
smallest members of their families, some shortened; `own` are networks written to be difficult
([adversarial_hosts.py](../benchmarks/adversarial_hosts.py)). [host_zoo.py](../benchmarks/host_zoo.py) builds them all.

```
{command}
```

makes this page; {versions}.

A pair holds if every condition tried on it holds; [hosts.py](../benchmarks/hosts.py) defines them. Hosts per condition:
{conditions}. A refused pair gets a message and leaves the host unchanged; the number is its [reason](#refusals).
"""


def pair(case: Case, mechanism: str, conditions: dict[str, Condition]) -> dict[str, Any]:
    """One row: the conditions that were tried, those that failed with what is wrong, the refusal if there is one."""
    try:
        plugged = case.plug(copy.deepcopy(case.bare), mechanism)
    except saccade.UserError as error:
        return {"tried": [], "wrong": {}, "refused": str(error)}
    tried, wrong = [], {}
    for name, condition in conditions.items():
        try:
            found = condition(case, mechanism, plugged)
        except Exception as error:
            if not case.host.one_size and "made for maps of" in str(error):  # its own words, when another size comes
                return {"tried": [], "wrong": {}, "refused": f"{ONE_SIZE}, got {error}"}
            found = f"{type(error).__name__}: {error}"
        if found is not None:
            tried.append(name)
        if found:
            wrong[name] = found
    return {"tried": tried, "wrong": wrong, "refused": None}


def page(rows: dict[tuple[str, str], dict[str, Any]], command: str) -> str:
    """The Markdown of all rows: a table of the hosts, one of the mechanisms, and the reasons behind their numbers."""
    found: dict[str, dict[str, None]] = {}
    for (_, mechanism), row in rows.items():
        if row["refused"]:
            why, numbers = reason(mechanism, row["refused"])
            found.setdefault(why, {})[numbers] = None
    reasons = {why: number for number, why in enumerate(found, 1)}
    hosts, mechanisms = (list(dict.fromkeys(names)) for names in zip(*rows, strict=True))
    failed = [(pair, row["wrong"]) for pair, row in rows.items() if row["wrong"]]
    refused = sum(bool(row["refused"]) for row in rows.values())
    tried: dict[str, set[str]] = {}
    for (host, _), row in rows.items():
        for name in row["tried"]:
            tried.setdefault(name, set()).add(host)
    head = HEAD.format(
        good=len(rows) - len(failed) - refused, total=len(rows), refused=refused, failed=len(failed),
        hosts=len(hosts), timm=sum(host.startswith("timm ") for host in hosts), columns=len(mechanisms),
        command=command, versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        conditions=", ".join(f"{name} {len(tried[name])}" for name in DEEP if name in tried),
    )  # fmt: skip
    parts = [head, "## By host", table(rows, reasons, 0), "## By mechanism", table(rows, reasons, 1)]
    if reasons:
        told = [f"{reasons[why]}. {why}{'; or '.join(numbers)}" for why, numbers in found.items()]
        parts.append("## Refusals\n\n" + "\n".join(told))
    if failed:
        parts.append("## Failures\n\n" + "\n".join(
            f"- {host}, {mechanism}, {name}: {what}" for (host, mechanism), wrong in failed
            for name, what in wrong.items()
        ))  # fmt: skip
    return "\n\n".join(part.strip() for part in parts)


def table(rows: dict[tuple[str, str], dict[str, Any]], reasons: dict[str, int], side: int) -> str:
    """One line a host (``side`` 0) or a mechanism (1): with how many of the others it holds, and which it does not."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for names in rows:
        groups.setdefault(names[side], []).append(names)
    some = any(row["wrong"] for row in rows.values())
    cells = [
        [("host", "mechanism")[side], "holds", "refused", *["fails"] * some],
        ["---", "--:", "---", *["---"] * some],
    ]
    for own, pairs in groups.items():
        refused: dict[int, list[str]] = {}
        for names in pairs:
            if rows[names]["refused"]:
                refused.setdefault(reasons[reason(names[1], rows[names]["refused"])[0]], []).append(names[1 - side])
        wrong = [names[1 - side] for names in pairs if rows[names]["wrong"]]
        good = len(pairs) - len(wrong) - sum(map(len, refused.values()))
        told = [
            f"{', '.join(others) if side == 0 else f'{len(others)} host' + 's' * (len(others) > 1)} ({number})"
            for number, others in refused.items()
        ]
        cells.append([own, f"{good} of {len(pairs)}", ", ".join(told), *[", ".join(wrong)] * some])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def reason(mechanism: str, message: str) -> tuple[str, str]:
    """Why a mechanism was refused, without the site: what is needed, the same for all hosts, and the numbers found."""
    needed, found, numbers = re.sub(rf"^at [^:]+: ({re.escape(mechanism)}: )?", "", message).partition(", got ")
    return f"{mechanism}: {needed}{found}", numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="*", help="a glob of host names")
    parser.add_argument(
        "--mechanisms",
        default=",".join(n for n in saccade.list_mechanisms("plug") if "skip" not in saccade.spec(n).needs),
    )
    parser.add_argument("--core", action="store_true", help="bf16 autocast and channels_last for every host")
    parser.add_argument("--deep", action="store_true", help="every condition for the first hosts")
    parser.add_argument("--keep", type=Path, help="rows done before, and to be added to")
    options = parser.parse_args()
    logging.getLogger("saccade").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    before = options.keep.read_text().splitlines() if options.keep and options.keep.exists() else []
    kept = {(row["host"], row["mechanism"]): row for row in map(json.loads, before)}
    names = [name for name in HOSTS if fnmatchcase(name, options.hosts)]
    start = time.perf_counter()
    for count, name in enumerate(names):
        case, first = None, name in ORIGINAL
        conditions = DEEP if options.deep and first else CORE if first or options.core or name[:4] == "own " else WIDE
        for mechanism in options.mechanisms.split(","):
            row = kept.get((name, mechanism))
            if row is None:
                case = case or Case(HOSTS[name])
                row = {"host": name, "mechanism": mechanism}
                row |= pair(case, mechanism, conditions)
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows[name, mechanism] = row
            state = f"refused: {row['refused']}" if row["refused"] else row["wrong"] or "✓"
            seconds = time.perf_counter() - start
            print(f"{seconds:6.0f} s  {count + 1}/{len(names)}  {name}, {mechanism}: {state}", file=sys.stderr)
    if not rows:
        print(f"no host is called {options.hosts!r}", file=sys.stderr)
        return 1
    more = [f"--hosts '{options.hosts}'"] * (options.hosts != "*")
    more += [f"--mechanisms {options.mechanisms}"] * (options.mechanisms != parser.get_default("mechanisms"))
    more += ["--core"] * options.core + ["--deep"] * options.deep
    print(page(rows, " ".join(["python benchmarks/hosts.py", *more, "> docs/hosts.md"])))
    return 1 if any(row["wrong"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
