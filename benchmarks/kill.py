"""Kill studies at any moment and see that nothing is lost.

    python benchmarks/kill.py [--work FOLDER]

One study (two mechanisms × two seeds × four short epochs) is run undisturbed; ten more are each killed once, at ten
moments spread over the time the first one took; one more is killed five times in its midst. Killed means SIGKILL to
every process of the study, the command and its workers. Then the same command is given again. Every run must end in
the same ``metrics.jsonl``, but for times and memory, and in the same bytes of ``model.safetensors`` and
``rows.safetensors``. Prints a Markdown table; exit code 1 if anything differs. Linux only: it looks for
processes in ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ARMS, SEEDS, EPOCHS = ("none", "das"), 2, 4
MOMENTS, TIMES = 10, 5
Kill = tuple[float, int, list[int]]
"""Seconds after the command, processes killed, finished epochs of each run."""
MAY_DIFFER = ("seconds", "memory_mb")
SETTINGS = ("data.train_images=600", "data.test_images=300", f"training.epochs={EPOCHS}")


def command(folder: Path) -> list[str]:
    words = [sys.executable, "-m", "saccade", "compare", "--attention", ",".join(ARMS), "--seeds", str(SEEDS)]
    for setting in SETTINGS:
        words += ["--set", setting]
    return [*words, "--device", "cpu", "--out", str(folder)]


def members(group: int) -> Iterator[int]:
    """The living processes of a process group; a study keeps to one, data loaders included."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                yield int(entry.name)


def run(folder: Path, after: float = math.inf, rows: float = math.inf) -> tuple[float, int]:
    """Give the command; kill all of it ``after`` seconds or when so many ``rows`` of metrics are there.

    Returns:
        seconds, and processes killed.
    """
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        study = subprocess.Popen(command(folder), stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        killed = 0
        while study.poll() is None:
            if time.monotonic() - begun >= after or sum(n + 1 for n in epochs(folder)) >= rows:
                killed = len(list(members(study.pid)))
                os.killpg(study.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        study.wait()
        seconds = time.monotonic() - begun
        if killed == 0 and study.returncode != 0:
            said.seek(0)
            raise SystemExit(f"the study ended with exit code {study.returncode}:\n{said.read()}")
    while list(members(study.pid)):
        if time.monotonic() - begun - seconds > 5:
            raise SystemExit(f"processes outlived their study: {list(members(study.pid))}")
        time.sleep(0.01)
    return seconds, killed


def kill_once(folder: Path, part: float, whole: float) -> tuple[list[Kill], float]:
    """Kill a study after ``part`` of ``whole`` seconds; once more, with less, where it had ended by then."""
    while True:
        seconds, count = run(folder, after=part * whole)
        if count:
            return [(seconds, count, epochs(folder))], whole
        whole *= 0.8
        shutil.rmtree(folder)


def kill_often(folder: Path) -> list[Kill]:
    """Kill a study whenever three more epochs are finished, those before training among them."""
    kills: list[Kill] = []
    while len(kills) < TIMES:
        seconds, count = run(folder, rows=3 * (len(kills) + 1))
        kills.append((seconds, count, epochs(folder)))
    return kills


def epochs(folder: Path) -> list[int]:
    """Finished epochs of each run, in the order of arms and seeds; -1 before the first row."""
    places = [folder / arm / f"seed{seed}" / "metrics.jsonl" for seed in range(SEEDS) for arm in ARMS]
    return [len(place.read_text().splitlines()) - 1 if place.exists() else -1 for place in places]


def differences(reference: Path, folder: Path) -> list[str]:
    """What differs between two finished studies and may not."""
    found = []
    for arm in ARMS:
        for seed in range(SEEDS):
            ours, theirs = (study / arm / f"seed{seed}" for study in (folder, reference))
            rows = [
                [_kept(line) for line in (place / "metrics.jsonl").read_text().splitlines()] for place in (ours, theirs)
            ]
            if len(rows[1]) != EPOCHS + 1:
                raise SystemExit(f"{theirs}: {len(rows[1])} rows where {EPOCHS + 1} were due")
            if rows[0] != rows[1]:
                found.append(f"{arm}/seed{seed}/metrics.jsonl")
            for name in ("model.safetensors", "rows.safetensors"):
                if (ours / name).read_bytes() != (theirs / name).read_bytes():
                    found.append(f"{arm}/seed{seed}/{name}")
    return found


def _kept(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if key not in MAY_DIFFER}


def main() -> int:
    parser = argparse.ArgumentParser(description="kill studies at many moments; nothing may be lost")
    parser.add_argument("--work", type=Path, help="where the studies go; a temporary folder by default")
    work = parser.parse_args().work or Path(tempfile.mkdtemp(prefix="kill-"))
    reference = work / "reference"
    whole, _ = run(reference)
    ends = {(reference / arm / f"seed{seed}/model.safetensors").read_bytes() for arm in ARMS for seed in range(SEEDS)}
    if len(ends) != len(ARMS) * SEEDS:
        raise SystemExit("runs that should differ are equal: this comparison could not fail")
    print(f"{' and '.join(ARMS)} × {SEEDS} seeds × {EPOCHS} epochs, undisturbed: {whole:.1f} s\n")
    print("| study | killed after (s) | processes | epochs finished then | the rest took (s) | differs |")
    print("|---|---|---|---|---|---|")
    wrong = 0
    for number in range(1, MOMENTS + 2):
        folder = work / f"killed-{number}"
        if number <= MOMENTS:
            kills, whole = kill_once(folder, (number - 0.5) / MOMENTS, whole)
        else:
            kills = kill_often(folder)
        rest, _ = run(folder)
        different = differences(reference, folder)
        wrong += bool(different)
        after = ", ".join(f"{seconds:.1f}" for seconds, _, _ in kills)
        processes = ", ".join(str(count) for _, count, _ in kills)
        then = "; ".join(" ".join("–" if n < 0 else str(n) for n in done) for _, _, done in kills)
        print(
            f"| {number} | {after} | {processes} | {then} | {rest:.1f} | {', '.join(different) or 'nothing'} |",
            flush=True,
        )
    studies = MOMENTS + 1
    print(f"\n{studies - wrong} of {studies} killed studies end as if they had not been killed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
