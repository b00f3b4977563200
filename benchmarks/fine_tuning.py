"""Fine-tune MobileNetV2 on 244 photographs of two classes, with what is recognised by itself and without it.

    python benchmarks/fine_tuning.py WEIGHTS IMAGES [--classes airplane,automobile] [--epochs 3] [--seeds 1]

WEIGHTS is a safetensors file of ``mobilenetv2_100``; IMAGES holds class folders, alone or in ``train`` and ``test``.
Of each of two classes 122 images are taken to train on and 60 to test on, enlarged to 224 pixels, and written to a
temporary folder. Then ``saccade compare`` is given as a user gives it, and once more with ``training.freeze=none``.
Prints what each study says and a Markdown table of the scores of its plain host; exit code 1 if the first is below
85 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from saccade.imagefiles import is_image, walk

TRAIN, TEST, SIDE, NEEDED = 122, 60, 224, 85.0
ARMS = "none,se"


def photographs(source: Path, target: Path, classes: list[str] | None) -> None:
    """Write the images of two classes of ``source`` into ``target``, enlarged."""
    train = source / "train" if (source / "train").is_dir() else source
    names = classes or sorted(path.name for path in train.iterdir() if path.is_dir())[:2]
    for name in names:
        files = sorted(filter(is_image, walk(train / name)))
        parts = {"train": files[:TRAIN], "test": files[TRAIN : TRAIN + TEST]}
        if train != source:
            parts["test"] = sorted(filter(is_image, walk(source / "test" / name)))[:TEST]
        for part, chosen in parts.items():
            folder = target / part / name
            folder.mkdir(parents=True)
            for path in chosen:
                with Image.open(path) as image:
                    large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                large.save(folder / f"{path.stem}.png")


def study(data: Path, weights: Path, out: Path, epochs: int, seeds: int, settings: list[str]) -> None:
    """Run ``saccade compare`` and print what it says."""
    words = [sys.executable, "-m", "saccade", "compare", "--data", str(data), "--model", "mobilenetv2_100"]
    for setting in (f"model.checkpoint={weights}", f"training.epochs={epochs}", *settings):
        words += ["--set", setting]
    words += ["--attention", ARMS, "--seeds", str(seeds), "--device", "cpu", "--out", str(out)]
    done = subprocess.run(words, check=False, text=True, capture_output=True)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def score(out: Path) -> float:
    """The mean score of the plain host."""
    found = [json.loads(path.read_text())["scores"]["top-1"] for path in sorted((out / "none").glob("*/done.json"))]
    return sum(found) / len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--classes", type=lambda text: text.split(","))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    asked = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photographs(asked.images, home / "photographs", asked.classes)
        for name, settings in (("as recognised", []), ("norms left to train", ["training.freeze=none"])):
            out, begun = home / name.replace(" ", "-"), time.monotonic()
            study(
                home / "photographs", asked.weights.resolve(), out, asked.epochs, asked.seeds,
                [*asked.settings, *settings],
            )  # fmt: skip
            lines.append((name, score(out), time.monotonic() - begun))
    print("| host | top-1 | seconds |\n|---|---|---|")
    for name, top1, seconds in lines:
        print(f"| {name} | {top1:.1f} % | {seconds:.0f} |")
    return int(lines[0][1] < NEEDED)


if __name__ == "__main__":
    sys.exit(main())
