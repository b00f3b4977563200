"""Time of ``saccade.explain`` for one picture, against the package grad-cam called by hand.

    python benchmarks/explain.py [--threads 1] [--rounds 15]

Both read the same picture of 224² from a file, and give Grad-CAM of the last block of timm's ResNet-50 for the
predicted class; ``saccade.explain`` also finds that layer and returns the predictions. By turns in one process. Prints
the medians, and the median ratio with its 95 % bootstrap interval over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from torchvision.transforms import Compose, Normalize, ToTensor

import saccade
from saccade.data.resizing import Frame
from saccade.explanation import prepare
from timing import by_turns, keep_memory, machine, middle, said

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    network = timm.create_model("resnet50").eval()
    prepared = replace(prepare(network, "resnet50", mean=_MEAN, std=_STD), frame=Frame(224, 224))
    read = Compose([ToTensor(), Normalize(_MEAN, _STD)])
    found: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
        Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC).save(path)

        def by_hand() -> None:
            image = read(Image.open(path).convert("RGB"))[None]
            with GradCAM(network, [network.get_submodule("layer4.2")]) as cam:
                found["by hand"] = torch.from_numpy(cam(image, None))

        def ours() -> None:
            explanation = saccade.explain(prepared, path)
            found["ours"] = explanation.rows[0][0].heat_maps["layer4.2"][None]

        times = by_turns({"ours": ours, "by hand": by_hand}, options.rounds, 2)
    torch.testing.assert_close(found["ours"], found["by hand"], rtol=0, atol=1e-4)
    medians = {name: 1000 * float(np.median(seconds)) for name, seconds in times.items()}
    ratio, low, high = middle(np.divide(times["ours"], times["by hand"]))
    facts = said(machine(options.threads), ("torch", "timm"))
    print(f"saccade.explain {medians['ours']:.0f} ms, grad-cam by hand {medians['by hand']:.0f} ms, "
          f"ratio {ratio:.2f} [{low:.2f} – {high:.2f}], {options.rounds} rounds; {facts}")  # fmt: skip


if __name__ == "__main__":
    main()
