"""A study's training on 500 photographs beside a bare PyTorch loop; how soon it begins; what ``--plan`` takes.

Called by ``training.py --photographs``. The photographs are drawn: smooth noise, 500×375 pixels, JPEG. Both loops get
the same decoded images, augmentation and order; the bare one is float32, in PyTorch's own memory format and with the
default allocator. Each loop is a process of its own and they step by turns: one waits while the other works.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.events import (
    DataOpened,
    EpochEnded,
    Event,
    RunEvent,
    StepTaken,
    StudyBegan,
    TrainingBegan,
)
from saccade.recipe import Recipe, builtin_recipe

__all__ = ["by_turns", "draw", "photographs", "plan_and_study", "recipe_of", "second_study"]

SIDES = (500, 375)
_LOOP = """
import sys
sys.path.insert(0, sys.argv[1])
import photographs
photographs.{name}(sys.argv[2])
"""


class _EnoughError(Exception):
    """A study has begun to train, which is all that was asked of it."""


def draw(folder: Path, count: int, sides: tuple[int, int] = SIDES) -> None:
    """Write ``count`` photographs of two classes; no two files have the same bytes.

    Twenty pictures are drawn and compressed; the others are these again with other bytes behind their end, which take
    as long to decode.
    """
    rng = np.random.default_rng(0)
    drawn = list[bytes]()
    with tempfile.TemporaryDirectory() as place:
        for n in range(min(20, count)):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize(sides, Image.Resampling.BICUBIC), dtype=np.float32)
            noisy = smooth + rng.normal(0, 6, (*smooth.shape[:2], 1)).astype(np.float32)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(f"{place}/{n}.jpg", quality=90)
            drawn.append(Path(place, f"{n}.jpg").read_bytes())
    for n in range(count):
        path = folder / ("cat", "dog")[n % 2] / f"{n:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn[n // 2 % len(drawn)] + n.to_bytes(4, "little"))


@contextmanager
def photographs(count: int = 500, sides: tuple[int, int] = SIDES) -> Iterator[Path]:
    """A folder of photographs and, in ``SACCADE_CACHE``, an empty one for their decoded pictures."""
    before = os.environ.get("SACCADE_CACHE")
    with tempfile.TemporaryDirectory() as home:
        draw(Path(home, "photographs"), count, sides)
        os.environ["SACCADE_CACHE"] = str(Path(home, "decoded"))
        try:
            yield Path(home, "photographs")
        finally:
            os.environ.pop("SACCADE_CACHE")
            if before is not None:
                os.environ["SACCADE_CACHE"] = before


def recipe_of(folder: Path, host: str, **settings: Any) -> Recipe:
    """The recipe that ``saccade compare --data`` takes for photographs, with another host."""
    named = {"data.source": str(folder), "model.name": host}
    return builtin_recipe("photos").with_overrides(named | settings)


class Loop:
    """A training in a process of its own that does a step when it is asked to.

    Args:
        name: ``saccade_loop`` or ``bare_loop``.
        recipe: what it trains.
    """

    def __init__(self, name: str, recipe: Recipe) -> None:
        words = [sys.executable, "-c", _LOOP.format(name=name), str(Path(__file__).parent), recipe.model_dump_json()]
        threads = {name: str(recipe.training.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
        )
        self.facts: dict[str, Any] = self._heard()

    def step(self) -> np.ndarray:
        """Seconds that one step takes, and seconds of the processor."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return np.array(self._heard()["seconds"])

    def end(self) -> float:
        """End the process; its peak memory in MB."""
        assert self.process.stdin is not None
        self.process.stdin.write("end\n")
        self.process.stdin.flush()
        memory: float = self._heard()["memory_mb"]
        self.process.kill()
        self.process.wait()
        return memory

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"a loop ended with exit code {self.process.wait()}")


def _clocks() -> list[float]:
    return [time.perf_counter(), time.process_time()]


class _Steps:
    """The other end of :class:`Loop`: its clock runs from one request to the next call of :meth:`done`."""

    def __init__(self) -> None:
        self.begun = _clocks()

    def wait(self, **facts: Any) -> None:
        """Say ``facts`` and wait for the next request."""
        print(json.dumps(facts), flush=True)
        if sys.stdin.readline() != "step\n":
            import torch

            from saccade.training.environment import peak_memory

            print(json.dumps({"memory_mb": peak_memory(torch.device("cpu"))}), flush=True)
            sys.stdin.readline()
            os._exit(0)
        self.begun = _clocks()

    def done(self) -> None:
        """Say what the step took."""
        self.wait(seconds=[now - begun for now, begun in zip(_clocks(), self.begun, strict=True)])


def saccade_loop(recipe: str) -> None:
    """Train as a worker of a study does; a step ends when it is reported. Tests and checkpoints are between steps."""
    from saccade.study import series
    from saccade.study.memory import keep_freed_memory
    from saccade.training import checkpointer

    keep_freed_memory()
    checkpointer._STEP_INTERVAL = 0.0  # every step is reported
    steps, decided = _Steps(), dict[str, Any]()

    def hear(event: Event) -> None:
        match event:
            case StepTaken():
                steps.done()
            case EpochEnded(epoch) if epoch == 0:
                steps.wait(**decided)
            case EpochEnded():
                steps.begun = _clocks()
            case _ if hasattr(event, "settings"):
                decided.update(event.settings)

    with tempfile.TemporaryDirectory() as folder:
        series.train_run(Recipe.model_validate_json(recipe), Path(folder) / "run", device="cpu", notify=hear)


def bare_loop(recipe: str) -> None:
    """The loop anybody would write: float32, contiguous, the default allocator."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from saccade.data import open_data
    from saccade.data.samples import collate
    from saccade.data.sampling import EpochSampler
    from saccade.tasks.classify import Classify
    from saccade.training import build

    asked = Recipe.model_validate_json(recipe)
    torch.set_num_threads(asked.training.threads)
    task = Classify(asked, open_data(asked.data, "label"))
    part = asked.training
    network = build(task).train()
    optimizer = torch.optim.SGD(network.parameters(), part.lr, part.momentum, weight_decay=part.weight_decay)
    sampler = EpochSampler(task.data.train, part.seed, part.batch_size)
    loader = DataLoader(task.data.train, batch_sampler=sampler, collate_fn=collate)
    steps = _Steps()
    steps.wait()
    for epoch in range(1, part.epochs + 1):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            steps.done()


def by_turns(folder: Path, host: str, rounds: int, warmup: int = 2) -> dict[str, Any]:
    """Seconds and processor seconds (rounds, 2) of a step of the bare loop and of Saccade's, float32 and bfloat16.

    Images of the last, smaller batch of an epoch are as many for all: they take the same turns.
    """
    settings: Mapping[str, dict[str, Any]] = {
        "bare": {"training.memory_format": "contiguous"},
        "saccade": {},
        "saccade, bf16": {"training.precision": "bf16"},
    }
    times: dict[str, list[np.ndarray]] = {name: [] for name in settings}
    with ExitStack() as stack:
        loops = {
            name: Loop("bare_loop" if name == "bare" else "saccade_loop", recipe_of(folder, host, **more))
            for name, more in settings.items()
        }
        for loop in loops.values():
            stack.callback(loop.process.kill)
        for number in range(warmup + rounds):
            for name, loop in list(loops.items())[:: -1 if number % 2 else 1]:
                times[name].append(loop.step())
        memory = {name: loop.end() for name, loop in loops.items()}
    found: dict[str, Any] = {name: np.array(seconds[warmup:]) for name, seconds in times.items()}
    return {"times": found, "memory_mb": memory, "decided": loops["saccade"].facts}


def second_study(folder: Path, host: str) -> dict[str, list[float]]:
    """Seconds from the start of two studies on the same images until each event: the first decodes them."""
    from saccade.study.arms import arms
    from saccade.study.engine import execute
    from saccade.study.plan import Study

    found: dict[str, list[float]] = {}
    for _ in range(2):
        begun = time.perf_counter()

        def hear(event: Event, begun: float = begun) -> None:
            inner = event.event if isinstance(event, RunEvent) else event
            if isinstance(inner, DataOpened | StudyBegan | TrainingBegan):
                found.setdefault(type(inner).__name__, []).append(time.perf_counter() - begun)
            if isinstance(inner, TrainingBegan):
                raise _EnoughError

        with tempfile.TemporaryDirectory() as home:
            study = Study(recipe_of(folder, host), arms(["se"]), (0,), Path(home, "study"))
            try:
                execute(study, 1, "cpu", hear)
            except _EnoughError:
                continue
    return found


def plan_and_study(folder: Path, host: str) -> dict[str, float]:
    """Seconds of ``saccade compare --plan`` on the command line; its minutes, and those of the study itself."""
    words = ["--data", str(folder), "--model", host, "--device", "cpu"]
    seen = [*words, "--attention", "se,cbam,das"]
    begun = time.perf_counter()
    _compare([*seen, "--plan"])
    seconds = time.perf_counter() - begun
    short = [*words, "--attention", "se", "--seeds", "2", "--set", "training.epochs=1"]
    planned = json.loads(_compare([*short, "--plan", "--json"]))["minutes"]
    from saccade.study.arms import arms
    from saccade.study.engine import execute
    from saccade.study.plan import Study

    begun, began = 0.0, list[float]()

    def hear(event: Event) -> None:
        if isinstance(event, StudyBegan):
            began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as home:
        recipe = recipe_of(folder, host, **{"training.epochs": 1})
        execute(Study(recipe, arms(["se"]), (0, 1), Path(home, "study")), None, "cpu", hear)
    return {"plan_seconds": seconds, "planned_minutes": planned, "minutes": (time.perf_counter() - began[0]) / 60}


def _compare(words: list[str]) -> str:
    command = [sys.executable, "-m", "saccade", "compare", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
