"""Every mechanism in ResNet-18 and MobileNetV2 of full width, as ONNX run by onnxruntime.

    python benchmarks/export.py [--mechanisms se,das] [--format onnx|torch] [--limit 1e-4]

Each mechanism stands at every site, or in the place of every convolution, where its paper puts it, with random weights
and, in ResNet-18, a = 0.7 (from a neutral start; in MobileNetV2 as published). The file is compared with PyTorch at
1×3×224×224 and at three other sizes and numbers of pictures, by ``saccade.export`` itself; a network whose weights are
for one size, as it then says, at numbers of pictures alone. Prints a Markdown table, one row a mechanism: how many
sites of which position, the largest of the differences, each relative to the largest value of its channel, and the size
of the file. Progress goes to stderr. Exit code 1 if a network cannot be exported or differs by more than the limit; a
mechanism that cannot be put into a host says why.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from torchvision.models import mobilenet_v2

import saccade
from saccade.contract.randomize import perturb
from saccade.exporting import Exported
from saccade.surgery.insert import insert, positions_of

HOSTS = {"ResNet-18": lambda: timm.create_model("resnet18"), "MobileNetV2": mobilenet_v2}
SIZE = (3, 224, 224)


def pair(host: str, mechanism: str, kind: Any, limit: float) -> tuple[list[str], bool | None]:
    """The cells of one host in the row of one mechanism, and whether the pair holds; None where there is no such pair.

    A mechanism may not be for the channels or the groups of a host.
    """
    torch.manual_seed(0)
    start = "neutral" if host == "ResNet-18" else "paper"
    try:
        network = perturb(insert(HOSTS[host](), mechanism, start=start, input=SIZE))  # type: ignore[arg-type]
    except saccade.UserError as error:
        return [f"refused: {error}", "", ""], None
    positions = positions_of(network)
    place = f"{len(positions)} × {', '.join(sorted(set(positions)))}"
    with TemporaryDirectory() as folder:
        try:
            done, note = exported(network, Path(folder) / "net", kind)
        except saccade.UserError as error:
            return [place, f"fails: {error}", ""], False
    worst = max(done.compared, key=lambda each: each.difference)
    cells = [place, f"{worst.difference:.1e}{note}", f"{done.size / 1e6:.1f} MB"]
    return cells, worst.difference <= limit


def exported(network: torch.nn.Module, path: Path, kind: Any) -> tuple[Exported, str]:
    """The file, and what to say of it: a network that is for one size is exported for that."""
    try:
        return saccade.export(network, path, kind, SIZE), ""
    except saccade.UserError as error:
        if "dynamic='batch'" not in str(error):
            raise
    return saccade.export(network, path, kind, SIZE, dynamic="batch"), " (one size)"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mechanisms", default=",".join(saccade.list_mechanisms()))
    parser.add_argument("--format", default="onnx", choices=["onnx", "torch"])
    parser.add_argument("--limit", default=1e-4, type=float)
    given = parser.parse_args()
    logging.getLogger("saccade").setLevel(logging.ERROR)
    print("| mechanism | " + " | ".join(f"in {host} | largest difference | file" for host in HOSTS) + " |")
    print("|---|" + "---|--:|--:|" * len(HOSTS))
    held: list[bool | None] = []
    for mechanism in given.mechanisms.split(","):
        line = [mechanism]
        for host in HOSTS:
            begun = time.monotonic()
            cells, good = pair(host, mechanism, given.format, given.limit)
            print(f"{time.monotonic() - begun:4.0f} s  {mechanism} in {host}: {'; '.join(cells)}", file=sys.stderr)
            line += cells
            held.append(good)
        print(f"| {' | '.join(line)} |", flush=True)
    tried = [good for good in held if good is not None]
    print(f"\n{sum(tried)} of {len(tried)} pairs within {given.limit:.0e}; {len(held) - len(tried)} refused")
    return 0 if all(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
