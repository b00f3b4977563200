"""Latency of networks with a constant gate, plugged and folded, beside their plain host.

    python benchmarks/fold.py [--mechanism NAME] [--batch N] [--rounds N] [--threads N]

All three run in turns in one process, in eval mode, with random weights and gates held at their mean over the images.
A ratio is the median over rounds, with its 95 % bootstrap interval; 1 is the speed of the plain host. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import timm
import torch
from torch import Tensor, nn

import saccade.models
from saccade.surgery import mean_gates
from timing import by_turns, keep_memory, machine, middle, said

NETWORKS = {
    "resnet18": (3, 224, 224), "resnet50": (3, 224, 224), "mobilenetv2_100": (3, 224, 224),
    "resnet10_small": (3, 32, 32),
}  # fmt: skip
"""Maps a network to the size of its images."""
WARM_UP, SMALL = 2, 64
"""Untimed rounds; side in pixels below which there are 20 times as many rounds."""


def networks(name: str, mechanism: str, x: Tensor) -> dict[str, nn.Module]:
    """Return the plain host, the host with plugs, and the folded one, for images x (B, C, H, W).

    Raises:
        SystemExit: a gate could not be folded.
    """
    torch.manual_seed(0)
    plain = timm.create_model(name).eval()
    plugged = saccade.plug(copy.deepcopy(plain), mechanism, start="paper", input=x).eval()
    folded = copy.deepcopy(plugged)
    kept = [row.reason for row in saccade.fold(folded, mean_gates(folded, [x]), input=x) if row.into is None]
    if kept:
        raise SystemExit(f"{name}: {kept[0]}")
    return {"plain": plain, "plugged": plugged, "folded": folded}


def rows(mechanism: str, batch: int, n_rounds: int) -> Iterator[str]:
    """Yield the table, one row per network."""
    yield "| network | images | plain host (ms) | plugged / plain | folded / plain |"
    yield "|---|---|--:|--:|--:|"
    for name, (channels, height, width) in NETWORKS.items():
        x = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))
        forms: dict[str, Callable[[], object]] = {
            key: partial(net, x) for key, net in networks(name, mechanism, x).items()
        }
        with torch.no_grad():
            seconds = by_turns(forms, n_rounds * (20 if height < SMALL else 1), WARM_UP, settle=True)
        cells = [f"{1000 * float(np.median(seconds['plain'])):.1f}"]
        for key in ("plugged", "folded"):
            ratio, low, high = middle(np.divide(seconds[key], seconds["plain"]))
            cells.append(f"{ratio:.2f} ({low:.2f} – {high:.2f})")
        yield f"| `{name}` | {batch}×{channels}×{height}×{width} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table and the machine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mechanism", default="se", help="mechanism with channel gates (default se)")
    parser.add_argument("--batch", type=int, default=1, help="images of a forward pass (default 1)")
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds (default 40)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    for row in rows(options.mechanism, options.batch, options.rounds):
        print(row, flush=True)
    print(f"\n`{options.mechanism}`, float32, in turns; {said(machine(options.threads), ('torch', 'timm'))}.")


if __name__ == "__main__":
    main()
