"""What the training loop costs beyond PyTorch's own.

    python benchmarks/training.py [--epochs N] [--json FILE]
    python benchmarks/training.py --photographs [--rounds N] [--json FILE]

One process trains the same recipe twice, an epoch of ``saccade.training.train`` and an epoch of the plain loop below
by turns, with the same loader, augmentation, network, optimiser, threads and figures (training loss, loss and top-1 on
the test part).
What ``train`` does besides (watching for losses that are no number, gates of sixteen images, metrics and a state to
resume from on disk after each epoch) is counted against it. First the two must end in the same weights, bit for bit.
Prints a Markdown table; a ratio is the median over epochs of one turn's two times, with its 95 % bootstrap interval.
The ratio of processor times is the one to trust where other programs run. Exit code 1 if a ratio of epoch times is
above 1.15.

With ``--photographs`` (about 15 minutes on two cores, 15 GB of memory): steps of a study's training on 500 drawn
photographs against a bare loop in float32, PyTorch's own memory format and the default allocator, by turns, each in a
process of its own; how much sooner a second study on the same images begins; what ``--plan`` takes, and whether the
minutes it says are those of the study. Exit code 1 if the float32 ratio is below 2 (MobileNetV2) or 1.2 (ResNet-18), a
second study does not have its images 3 times sooner, or a plan takes over 30 s or is wrong by over a fifth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from photographs import by_turns, photographs, plan_and_study, second_study
from saccade.data import open_data
from saccade.data.samples import collate
from saccade.data.sampling import EpochSampler
from saccade.events import EpochEnded, Event
from saccade.recipe import Recipe
from saccade.surgery import parameter_groups
from saccade.tasks.classify import Classify
from saccade.training import build, train
from saccade.training.schedules import lr_factor
from timing import machine, middle, said

GOAL = 1.15
STEPS = {"mobilenetv2_100": 2.0, "resnet18": 1.2}
"""Host -> how many times as fast as the bare loop."""
SOONER, PLAN, WRONG = 3.0, 30.0, 0.2
PHONE = (4000, 3000)
WARMUP = 1
CASES: dict[str, dict[str, Any]] = {
    "digits, none": {"attention.mechanism": "none"},
    "digits, das": {"attention.mechanism": "das"},
    "digits, none, tiny network": {"attention.mechanism": "none", "model.options": {"width": 4, "stem_stride": 2}},
}


class PlainLoop:
    """The loop anybody would write for ``task``."""

    def __init__(self, task: Classify) -> None:
        part, split = task.recipe.training, task.data
        self.part = part
        self.network = build(task)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, part.lr, part.lr, part.weight_decay))
        self.sampler = EpochSampler(split.train, part.seed, part.batch_size)
        self.train_loader = DataLoader(split.train, batch_sampler=self.sampler, collate_fn=collate)
        self.test_loader = DataLoader(split.test, batch_size=part.batch_size, collate_fn=collate)
        self.steps = 0

    def epoch(self, number: int) -> tuple[float, float, float]:
        """One epoch and its test: training loss, loss and top-1 on the test part."""
        part, steps = self.part, len(self.sampler)
        self.sampler.set_epoch(number)
        self.network.train()
        train_loss = test_loss = test_right = 0.0
        seen = scored = 0
        for images, labels in self.train_loader:
            factor = lr_factor(self.steps, steps, part.epochs, part)
            for group in self.optimizer.param_groups:
                group["lr"] = part.lr * factor
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.steps += 1
            train_loss += loss.item() * len(labels)
            seen += len(labels)
        self.network.eval()
        with torch.inference_mode():
            for images, labels in self.test_loader:
                logits = self.network(images)
                test_loss += F.cross_entropy(logits, labels).item() * len(labels)
                test_right += (logits.argmax(1) == labels).sum().item()
                scored += len(labels)
        return train_loss / seen, test_loss / scored, 100 * test_right / scored


def clocks() -> np.ndarray:
    """Seconds that have passed, and seconds of them that this process had a processor."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(recipe: Recipe) -> dict[str, np.ndarray]:
    """Seconds and processor seconds (epochs, 2) of both loops by turns.

    Raises:
        SystemExit: the two do not end in the same network; times would mean nothing.
    """
    plain = PlainLoop(Classify(recipe, open_data(recipe.data, Classify.target)))
    ours: list[np.ndarray] = []
    bare: list[np.ndarray] = []
    end = clocks()

    def turn(event: Event) -> None:
        nonlocal end
        if not isinstance(event, EpochEnded):
            return
        begun = clocks()
        if event.epoch > 0:
            ours.append(begun - end)
            *_, score = plain.epoch(event.epoch)
            theirs = event.row["scores"]["top-1"]
            if abs(score - theirs) > 1e-3:
                raise SystemExit(f"epoch {event.epoch}: the loops differ, {score} and {theirs}")
            bare.append(clocks() - begun)
        end = clocks()

    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", device="cpu", notify=turn)
        learnt = load_file(Path(folder) / "run" / "model.safetensors")
    different = [key for key, value in plain.network.state_dict().items() if not torch.equal(value, learnt[key])]
    if different:
        raise SystemExit(f"the loops end in different networks: {different[0]} and {len(different) - 1} more tensors")
    return {"saccade": np.array(ours[WARMUP:]), "plain": np.array(bare[WARMUP:])}


def compare_on_photographs(rounds: int) -> tuple[dict[str, Any], list[str]]:
    """Print what ``--photographs`` measures; the figures, and the goals that were missed."""
    missed, results = list[str](), dict[str, Any]()
    with photographs() as folder:
        results["second study"] = begun = second_study(folder, "resnet18")
        print("| a study on 500 photographs of 500×375, until | first (s) | second (s) | ratio |\n|---|---|---|---|")
        for name, (first, second) in begun.items():
            print(f"| {name} | {first:.1f} | {second:.1f} | {first / second:.1f} |", flush=True)
        print("\n| host | bare (s/step) | saccade (s/step) | bare / saccade (95 % interval) | of processor times |")
        print("|---|---|---|---|---|")
        for host, goal in STEPS.items():
            found = by_turns(folder, host, rounds)
            times = found.pop("times")
            for name in ("saccade", "saccade, bf16"):
                wall, cpu = (middle(ratios) for ratios in (times["bare"] / times[name]).T)
                cells = [f"{np.median(times[loop][:, 0]):.2f}" for loop in ("bare", name)]
                cells += [f"{ratio:.2f} ({low:.2f} – {high:.2f})" for ratio, low, high in (wall, cpu)]
                print(f"| {host}{name.removeprefix('saccade')} | {' | '.join(cells)} |", flush=True)
                found[name] = {"ratio": wall, "ratio_cpu": cpu}
            found |= {"seconds": {name: seconds.tolist() for name, seconds in times.items()}}
            results[host] = found
            if found["saccade"]["ratio"][0] < goal:
                missed.append(f"{host}: {found['saccade']['ratio'][0]:.2f} times as fast, at least {goal}")
        for host in STEPS:
            print(f"{host}: {results[host]['decided']}, peak memory in MB {results[host]['memory_mb']}")
        print("\n| host | --plan (s) | minutes planned | minutes taken |\n|---|---|---|---|")
        for host in STEPS:
            results[host]["plan"] = plan = plan_and_study(folder, host)
            print(f"| {host} | {plan['plan_seconds']:.1f} | {plan['planned_minutes']:.2f} | {plan['minutes']:.2f} |")
            if plan["plan_seconds"] > PLAN:
                missed.append(f"{host}: --plan took {plan['plan_seconds']:.0f} s, at most {PLAN}")
            if not 1 / (1 + WRONG) <= plan["planned_minutes"] / plan["minutes"] <= 1 + WRONG:
                missed.append(f"{host}: {plan['planned_minutes']:.2f} minutes planned, {plan['minutes']:.2f} taken")
    with photographs(sides=PHONE) as folder:
        results["second study, 12 megapixels"] = begun = second_study(folder, "resnet18")
        print("\n| of 4000×3000, until | first (s) | second (s) | ratio |\n|---|---|---|---|")
        for name, (first, second) in begun.items():
            print(f"| {name} | {first:.1f} | {second:.1f} | {first / second:.1f} |", flush=True)
    first, second = begun["DataOpened"]
    if first < SOONER * second:
        missed.append(f"a second study has its images {first / second:.1f} times sooner, at least {SOONER}")
    return results, missed


def main() -> int:
    parser = argparse.ArgumentParser(description="epoch time of saccade's training over that of a plain PyTorch loop")
    parser.add_argument("--epochs", type=int, default=9, help="measured epochs of each loop (default 9)")
    parser.add_argument("--json", type=Path, help="write times and machine here")
    parser.add_argument("--photographs", action="store_true", help="a study's training against a bare loop, instead")
    parser.add_argument("--rounds", type=int, default=12, help="measured steps on photographs (default 12)")
    arguments = parser.parse_args()
    if arguments.photographs:
        figures, missed = compare_on_photographs(arguments.rounds)
        facts = machine(1)
        print(f"\n{arguments.rounds} steps of each by turns, {said(facts, ('torch', 'lightning'))}.", *missed, sep="\n")
        if arguments.json:
            arguments.json.write_text(json.dumps({"machine": facts, "results": figures}, indent=2) + "\n")
        return 1 if missed else 0
    if arguments.epochs < 5:
        parser.error(f"--epochs must be at least 5 for a median with an interval, got {arguments.epochs}")
    base = Recipe.load(Path(__file__).parents[1] / "recipes" / "digits.toml").with_overrides(
        {"data.train_images": 2000, "data.test_images": 500, "training.epochs": arguments.epochs + WARMUP}
    )
    results = {}
    print("| recipe | plain loop (s/epoch) | saccade (s/epoch) | ratio (95 % interval) | of processor times |")
    print("|---|---|---|---|---|")
    for name, settings in CASES.items():
        times = measure(base.with_overrides(settings))
        wall, cpu = (middle(ratios) for ratios in (times["saccade"] / times["plain"]).T)
        results[name] = {"ratio": wall, "ratio_cpu": cpu, **{loop: seconds.tolist() for loop, seconds in times.items()}}
        cells = [f"{np.median(times[loop][:, 0]):.3f}" for loop in ("plain", "saccade")]
        cells += [f"{ratio:.3f} ({low:.3f} – {high:.3f})" for ratio, low, high in (wall, cpu)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    facts = machine(base.training.threads)
    print(f"\n{arguments.epochs} epochs of each by turns, {said(facts, ('torch', 'lightning'))}; goal ≤ {GOAL}.")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "goal": GOAL, "results": results}, indent=2) + "\n")
    return 1 if any(result["ratio"][0] > GOAL for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
