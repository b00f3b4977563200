"""Every mechanism in ResNet-18 and MobileNetV2 of full width, as ONNX run by onnxruntime.

    python benchmarks/export.py [--mechanisms se,das] [--format onnx|torch] [--limit 1e-4]

Each mechanism stands at every site where its paper puts it, with random weights and, in ResNet-18, a = 0.7 (from a
neutral start; in MobileNetV2 as published). The file is compared with PyTorch at 1×3×224×224 and at three other sizes
and numbers of pictures, by ``saccade.export`` itself. Prints a Markdown table; the differences are relative to the
largest value of their channel. Exit code 1 if a pair cannot be exported or differs by more than the limit.
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
from seasoning import learnt

HOSTS = {"ResNet-18": lambda: timm.create_model("resnet18"), "MobileNetV2": mobilenet_v2}
SIZE = (3, 224, 224)


def row(host: str, mechanism: str, kind: Any, limit: float) -> tuple[str, bool]:
    """One line of the table, and whether the pair holds."""
    torch.manual_seed(0)
    start = "neutral" if host == "ResNet-18" else "paper"
    network = learnt(saccade.plug(HOSTS[host](), mechanism, start=start, input=SIZE))  # type: ignore[arg-type]
    sites = saccade.plugs(network)
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        try:
            done = saccade.export(network, Path(folder) / "net", kind, SIZE)
        except saccade.UserError as error:
            return f"| {host} | {mechanism} | {len(sites)} | {sites[0].position} | refused: {error} | | |", False
    compared = [f"{each.difference:.1e} at {'×'.join(map(str, each.shape))}" for each in done.compared]
    cells = [", ".join(compared), f"{done.size / 1e6:.1f} MB", f"{time.monotonic() - begun:.0f} s"]
    line = f"| {host} | {mechanism} | {len(sites)} | {sites[0].position} | {' | '.join(cells)} |"
    return line, all(each.difference <= limit for each in done.compared)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mechanisms", default=",".join(saccade.list_mechanisms("plug")))
    parser.add_argument("--format", default="onnx", choices=["onnx", "torch"])
    parser.add_argument("--limit", default=1e-4, type=float)
    given = parser.parse_args()
    logging.getLogger("saccade").setLevel(logging.ERROR)
    print("| host | mechanism | sites | position | differences | file | time |")
    print("|---|---|--:|---|---|--:|--:|")
    held = []
    for host in HOSTS:
        for mechanism in given.mechanisms.split(","):
            line, good = row(host, mechanism, given.format, given.limit)
            print(line, flush=True)
            held.append(good)
    print(f"\n{sum(held)} of {len(held)} pairs within {given.limit:.0e}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
