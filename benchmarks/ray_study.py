"""A study through Ray: as good as the local engine, faster with a second worker, whole after one is killed.

    python benchmarks/ray_study.py [--epochs N] [--work FOLDER]

One study of twelve runs (four arms × three seeds on the digits) is done four times: by one process of the local
engine, by one Ray worker, by two Ray workers, and by two of which one is killed (SIGKILL) in the midst of the study.
Each time is that of the whole command but for its report: Ray is started and stopped, every worker imports PyTorch.
Every run must end in the same ``metrics.jsonl``, but for times and memory, and in the same bytes of
``model.safetensors`` and ``rows.safetensors``. Prints a Markdown table; exit code 1 if anything differs, if two
workers take more than 0.65 of the time of one, or if no run was killed. Linux only: it looks for processes in
``/proc``, and needs two cores to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from saccade import Recipe
from saccade.study.arms import arms
from saccade.study.plan import Study

GOAL = 0.65
ARMS, SEEDS = arms(["se", "eca", "cbam"]), (0, 1, 2)
MAY_DIFFER = ("seconds", "memory_mb")
DO = """
import sys
from saccade.study.engine import execute
from saccade.study.plan import Study
folder, engine, slots = sys.argv[1:]
outcomes = execute(Study.open(folder), int(slots), "cpu", engine=engine)
sys.exit([f"{o.run.folder}: {o.reason}" for o in outcomes if o.status != "done"] or None)
"""


def run(study: Study, engine: str, slots: int, watch: Callable[[int], None] = lambda process: None) -> float:
    """Do ``study`` in a process of its own; ``watch`` is called with its number now and then.

    Returns:
        seconds.
    """
    study.write()
    with tempfile.TemporaryFile("w+") as said:
        begun = time.monotonic()
        words = [sys.executable, "-c", DO, str(study.folder), engine, str(slots)]
        command = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        while command.poll() is None:
            watch(command.pid)
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        if command.returncode != 0:
            said.seek(0)
            raise SystemExit(f"the study ended with exit code {command.returncode}:\n{said.read()}")
    return seconds


class Killer:
    """Kills the worker that does a run of ``study`` when half of that run's epochs are finished; once.

    Args:
        study: being done.
        number: of the run, in the order of the study.
    """

    def __init__(self, study: Study, number: int) -> None:
        self.run = study.runs()[number]
        self.killed: str | None = None

    def __call__(self, command: int) -> None:
        """Look, and kill if it is time."""
        done = rows(self.run.folder)
        if self.killed is None and len(done) - 1 >= self.run.recipe.training.epochs // 2:
            worker = next((p for p in descendants(command) if holds(p, self.run.folder)), None)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                self.killed = f"{self.run.arm.name}, seed {self.run.seed}, after epoch {len(done) - 1}"


def descendants(process: int) -> Iterator[int]:
    """The processes that ``process`` started, and those that they did."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(entry.name))
    todo = [process]
    while todo:
        found = children.get(todo.pop(), [])
        yield from found
        todo += found


def holds(process: int, folder: Path) -> bool:
    """Whether ``process`` has the lock of the run folder open."""
    with suppress(OSError):
        return any(
            os.readlink(file) == str(folder.resolve() / ".running") for file in Path(f"/proc/{process}/fd").iterdir()
        )
    return False


def rows(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def differences(reference: Study, study: Study) -> list[str]:
    """What differs between two finished studies and may not."""
    found = []
    for one, other in zip(reference.runs(), study.runs(), strict=True):
        kept = [
            [{k: v for k, v in json.loads(line).items() if k not in MAY_DIFFER} for line in rows(run.folder)]
            for run in (one, other)
        ]
        if len(kept[0]) != one.recipe.training.epochs + 1:
            raise SystemExit(f"{one.folder}: {len(kept[0])} rows where {one.recipe.training.epochs + 1} were due")
        name = other.folder.relative_to(study.folder)
        if kept[0] != kept[1]:
            found.append(f"{name}/metrics.jsonl")
        for file in ("model.safetensors", "rows.safetensors"):
            if (one.folder / file).read_bytes() != (other.folder / file).read_bytes():
                found.append(f"{name}/{file}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="one study by the local engine and through Ray")
    parser.add_argument("--epochs", type=int, default=7, help="of a run (default 7)")
    parser.add_argument("--work", type=Path, help="where the studies go; a temporary folder by default")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ray-study-"))
    recipe = Recipe.load(Path(__file__).parents[1] / "recipes" / "digits.toml").with_overrides(
        {"data.train_images": 1000, "data.test_images": 500, "training.epochs": arguments.epochs, "training.threads": 1}
    )

    def study(name: str) -> Study:
        return Study(recipe, ARMS, SEEDS, work / name)

    reference = study("local")
    seconds = {"local, one process": run(reference, "local", 1)}
    if len({(r.folder / "model.safetensors").read_bytes() for r in reference.runs()}) != len(reference.runs()):
        raise SystemExit("runs that should differ are equal: this comparison could not fail")
    print(f"{len(reference.runs())} runs: {len(ARMS)} arms × {len(SEEDS)} seeds × {arguments.epochs} epochs\n")
    print("| workers | seconds | of one Ray worker's | killed | differs from the local engine |")
    print("|---|---|---|---|---|")
    print(f"| local, one process | {seconds['local, one process']:.1f} | | | |", flush=True)
    wrong, killed = 0, False
    for name, slots, kill in (
        ("Ray, one", 1, False),
        ("Ray, two", 2, False),
        ("Ray, two, one of them killed", 2, True),
    ):
        ours = study(name.replace(", ", "-").replace(" ", "-").lower())
        killer = Killer(ours, 4) if kill else None
        seconds[name] = run(ours, "ray", slots, *([killer] if killer else []))
        different = differences(reference, ours)
        wrong += bool(different)
        part = seconds[name] / seconds["Ray, one"]
        was = (killer.killed or "nothing") if killer else ""
        killed = bool(killer and killer.killed)
        print(
            f"| {name} | {seconds[name]:.1f} | {part:.2f} | {was} | {', '.join(different) or 'nothing'} |", flush=True
        )
    ratio = seconds["Ray, two"] / seconds["Ray, one"]
    print(f"\nTwo Ray workers take {ratio:.2f} of the time of one; goal ≤ {GOAL}.")
    return 1 if wrong or not killed or ratio > GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
