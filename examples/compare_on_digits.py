"""Compare a mechanism with the plain network on the embedded digit scenes.

    python examples/compare_on_digits.py [FOLDER]

Under a minute on two cores. The study is too small to decide much, and says so. ``saccade.compare()`` without
arguments makes the full one in minutes.
"""

from __future__ import annotations

import sys

import saccade

SETTINGS = {
    "data.options": {"clutter": 0, "distractors": 0},  # one digit per image
    "data.size": 24,
    "data.train_images": 1000,
    "data.test_images": 200,
    "training.batch_size": 16,
    "training.epochs": 3,
}


def main(folder: str = "runs/example") -> None:
    """Make the study and print its verdicts."""
    results = saccade.compare("digits", attention="se", seeds=2, settings=SETTINGS, out=folder)
    print(results.table())
    for name, difference in results.verdicts.items():
        print(f"{name}: {difference.verdict}")
        print(f"    {difference}")
    print(f"\nThe report: {folder}/report.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
