"""What a study will cost and what it will be able to see, said before it is run; nothing is written."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from threading import Barrier
from typing import Any

import torch
from torch import nn

from saccade import tasks
from saccade.data import layout_of
from saccade.data.sampling import EpochSampler
from saccade.errors import UserError
from saccade.events import Notify, SettingsDecided, ignore
from saccade.metrics.metric import Metric
from saccade.study.arms import Arm
from saccade.study.collecting import collect
from saccade.study.engine import slots_for
from saccade.study.findings import measure
from saccade.study.images import open_once
from saccade.study.plan import Study
from saccade.study.precision import MOST_SEEDS, ImageError, image_floor, planned_detectable
from saccade.tasks.base import Task
from saccade.training.environment import choose_device, use_threads
from saccade.training.fastest import time_choices
from saccade.training.preparing import prepare
from saccade.training.steps import test_steps, training_steps
from saccade.trust import Trust

__all__ = ["ASSUMED", "CHANGED", "Forecast", "forecast"]

ASSUMED = (0.3, 0.5, 1.0)
"""Residual SDs in per cent of the metric's span that are shown where none is known."""
CHANGED = 0.15
"""Share of the test images that one run is assumed to get right and a run of another arm wrong: 8 to 20 % were measured
on digits and on CIFAR-10. Nearly all of it is the chance of single runs, and so part of the residual SD."""
LASTING = 0.005
"""The same share at any number of seeds: 0 to 0.2 % were measured on the digits with ``se`` and ``eca``."""
_TIMED = 3
_FEW = 4
_LONG_MS = 300.0
"""On the CPU a step that would take longer is timed with ``_FEW`` images and scaled."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What lies ahead.

    Attributes:
        data: the images in a sentence.
        runs: still to be done.
        finished: done already.
        slots: runs at a time.
        minutes: about, for the runs still to be done.
        disk_mb: what the folder will hold at most.
        step_ms: arm -> one training step, its batch drawn and augmented; the median of three,
            or of what the runs at a time take side by side where it is scaled.
        timed_images: images of the timed steps where they are fewer than a batch, whose time is scaled from theirs;
            None elsewhere.
        decided: what ``fastest.time_choices`` found for settings that the recipe leaves open; the study
            decides them anew. Empty if none is open.
        test_ms: arm -> one batch of test images.
        metric: its name.
        unit: of differences and SDs.
        detectable: (residual SD, smallest difference to ``none`` found with probability 0.8); the difference is None
            where the study could not estimate its own error. Empty where no SD is known, as of a metric without bound.
        sigma_from: where the residual SD comes from.
        test_images: how many.
        lasting_se: standard error that the test images are reckoned to leave at any number of seeds.
        lasting_from: where that comes from.
        set_by_images: the residual SDs at which it is larger than the error of the seeds.
        seeds_for_margin: seeds that would find a difference as large as the margin, for the first SD; None above 100.
        margin: half-width of "equal".
        margin_needs_images: the test images are too few to find such a difference at any number of seeds.
        tuning_runs: still to be done before them.
        tuning_minutes: about, for these; they see less than the judged runs, so at most.
    """

    data: str
    runs: int
    finished: int
    slots: int
    minutes: float
    disk_mb: float
    step_ms: dict[str, float]
    test_ms: dict[str, float]
    metric: str
    unit: str
    detectable: tuple[tuple[float, float | None], ...]
    sigma_from: str
    test_images: int
    lasting_se: float
    lasting_from: str
    set_by_images: tuple[float, ...]
    seeds_for_margin: int | None
    margin: float
    margin_needs_images: bool
    timed_images: int | None = None
    decided: Mapping[str, Any] = field(default_factory=dict)
    tuning_runs: int = 0
    tuning_minutes: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers."""
        return asdict(self)

    def text(self) -> str:
        """In a few lines."""
        steps = ", ".join(f"{name} {ms:.0f}" for name, ms in self.step_ms.items())
        done = f" ({self.finished} are finished)" if self.finished else ""
        scaled = "" if self.timed_images is None else f" (scaled from {self.timed_images} images)"
        lines = [
            f"data    {self.data}",
            f"time    about {_minutes(self.minutes)} for {self.runs} runs{done}, {self.slots} at a time; "
            f"one training step in ms{scaled}: {steps}",
            *([f"with    {SettingsDecided(**self.decided).text()}"] if self.decided else []),
            f"disk    about {self.disk_mb:.0f} MB",
        ]
        if self.tuning_runs:
            lines.insert(1, f"tuning  about {_minutes(self.tuning_minutes)} for {self.tuning_runs} runs before these")
        if not self.detectable:
            lines.append(f"sees    unknown: how far runs differ in {self.metric} is known after a first study")
            return "\n".join(lines)
        if all(difference is None for _, difference in self.detectable):
            lines.append(
                "sees    nothing: one seed cannot tell a difference from chance, nor can a handful of test images"
            )
            return "\n".join(lines)
        if len(self.detectable) == 1:
            ((sigma, difference),) = self.detectable
            lines.append(
                f"sees    differences of {measure(f'{difference:.1f}', self.unit)} with probability 0.8 "
                f"(residual SD {measure(f'{sigma:.2f}', self.unit)}: {self.sigma_from})"
            )
        else:
            shown = ", ".join(f"{difference:.1f} (SD {sigma:.3g})" for sigma, difference in self.detectable)
            unit = f", in {self.unit}" if self.unit else ""
            lines.append(f"sees    differences{unit}, with probability 0.8: {shown}; {self.sigma_from}")
        if self.set_by_images:
            where = f" at SD {', '.join(f'{sd:.2g}' for sd in self.set_by_images)}" if len(self.detectable) > 1 else ""
            lines.append(
                f"        the {self.test_images} test images leave the larger part of the error{where}: "
                f"{measure(f'{self.lasting_se:.2f}', self.unit)} at any number of seeds ({self.lasting_from})"
            )
        sigma = self.detectable[0][0]
        needed = f"more than {MOST_SEEDS}" if self.seeds_for_margin is None else str(self.seeds_for_margin)
        margin = f"a difference as large as the margin, {self.margin:g}"
        if self.margin_needs_images:
            lines.append(f"        no number of seeds would find {margin}: more test images would")
        else:
            lines.append(f"        {margin}, would take {needed} seeds (SD {sigma:.3g})")
        return "\n".join(lines)


def forecast(
    study: Study, slots: int | None, device: str = "auto", trust: Trust = False, notify: Notify = ignore
) -> Forecast:
    """Time one training step and one test step of every arm, and count.

    Args:
        study: the plan.
        slots: runs at a time; None is what ``saccade.study.engine.execute`` takes.
        device: as for ``saccade train``.
        trust: what the folder of a teacher may name; see ``saccade.load``.
        notify: receives ``FilesChecked`` and ``ImagesNotCached``.

    Raises:
        UserError: the data, the host, a mechanism or the device is wrong.
    """
    where = choose_device(device)
    training = study.base.training
    if slots is None:
        several = where.type == "cuda" and device == "auto"
        slots = torch.cuda.device_count() if several else slots_for(training.threads, where.type) or 1
    kind = tasks.get(tasks.choose(study.base))
    with use_threads(training.threads):
        base = tasks.resolved(study.base, kind.target)
        split = open_once(base.data, kind.target, notify)
        metric = kind(base, split).verdict()
        margin = metric.margin if study.margin is None else study.margin
        metric.check_margin(margin)
        decided: dict[str, Any] = {}
        if keys := study.undecided():
            decided = time_choices(kind(base, split), keys, where, trust)
            study = study.decide(decided)
        todo = [run for run in study.runs() if run.finished is None]
        slots = min(slots, max(1, len(todo)))
        timed = {arm.name: _timed(study, arm, kind, where, slots, trust) for arm in study.arms}
    fewer = [each.images for each in timed.values() if each.images < training.batch_size]
    count = len(split.test)
    busy = sum(timed[run.arm.name].run_ms for run in todo)
    kept = sum(timed[run.arm.name].weights + 32 * count + 50_000 for run in study.runs())
    known = _known(study, metric, count)
    arms, family = len(study.arms), sum(arm.control is None for arm in study.arms[1:])
    floor = 0.0 if metric.span is None else image_floor(count, metric.span)
    images = ImageError(known.lasting, max(count - 1, 1), floor)

    def sees(sigma: float, seeds: int) -> float:
        return planned_detectable(sigma, seeds, arms, family, images=images)

    sigmas, seeds = known.sigmas, len(study.seeds)
    enough = (n for n in range(2, MOST_SEEDS + 1) if sigmas and sees(sigmas[0], n) <= margin)
    found = [(sigma, sees(sigma, seeds)) for sigma in sigmas]
    most = sys.float_info.max if metric.span is None else metric.span
    return Forecast(
        data=split.description,
        runs=len(todo),
        finished=len(study.runs()) - len(todo),
        slots=slots,
        minutes=busy / slots / 60e3,
        disk_mb=(kept + slots * 4 * max(each.weights for each in timed.values())) / 1e6,
        step_ms={name: each.step_ms for name, each in timed.items()},
        test_ms={name: each.test_ms for name, each in timed.items()},
        metric=metric.name,
        unit=metric.points,
        detectable=tuple((sigma, size if size <= most else None) for sigma, size in found),
        sigma_from=known.sigma_from,
        test_images=count,
        lasting_se=math.sqrt(known.lasting),
        lasting_from=known.lasting_from,
        set_by_images=tuple(sigma for sigma in sigmas if known.lasting > 2 * sigma**2 / seeds),
        seeds_for_margin=next(enough, None),
        margin=margin,
        margin_needs_images=bool(sigmas) and sees(0.0, MOST_SEEDS) > margin,
        timed_images=min(fewer) if fewer else None,
        decided=decided,
    )


_Steps = Callable[[nn.Module, Task, torch.device, int], Iterator[Any]]


@dataclass(frozen=True)
class _Timed:
    """A training step, a test step and a run of an arm in ms, the bytes of its weights, the images of a timed step."""

    step_ms: float
    test_ms: float
    run_ms: float
    weights: int
    images: int


def _timed(study: Study, arm: Arm, kind: type[Task], device: torch.device, slots: int, trust: Trust) -> _Timed:
    recipe = tasks.resolved(study.run(arm, study.seeds[0]).recipe, kind.target)
    part = recipe.training
    task = kind(recipe, open_once(recipe.data, kind.target))
    ready = prepare(task, trust)
    network, frozen = ready.network, ready.frozen.modules
    epochs = sum(phase.epochs for phase in ready.phases)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    network.to(device)
    size, threads = part.batch_size, part.threads
    others = range(slots - 1 if device.type == "cpu" else 0)
    copies = [(network, frozen), *(copy.deepcopy((network, frozen)) for _ in others)]
    training = [
        partial(training_steps, each, task, device, frozen=still, teacher=ready.teacher) for each, still in copies
    ]
    step_ms, images = _whole(training, size, device, threads)
    test_ms, _ = _whole([partial(test_steps, each, task, device) for each, _ in copies], size, device, threads)
    steps = len(EpochSampler(task.data.train, 0, part.batch_size))
    tests = math.ceil(len(task.data.test) / part.batch_size)
    return _Timed(step_ms, test_ms, epochs * steps * step_ms + (epochs + 1) * tests * test_ms, weights, images)


def _whole(
    makers: Sequence[Callable[[int], Iterator[Any]]], batch: int, device: torch.device, threads: int
) -> tuple[float, int]:
    """Milliseconds of a step of a whole batch, and how many images the timed steps had.

    On the CPU, where such a step would take over 0.3 s, steps of fewer images are timed and scaled, as many at once
    as there will be runs: they share caches and memory.

    Args:
        makers: of each run at a time, the steps for a number of images.
        batch: images of a batch.
        device: where they run.
        threads: of a run.
    """
    images = min(batch, _FEW)
    if device.type == "cpu" and images < batch:
        steps = [make(images) for make in makers]
        if _milliseconds(steps[0]) * batch / images > _LONG_MS:
            return _at_once(steps, threads) * batch / images, images
    steps_of_all = makers[0](batch)
    next(steps_of_all)
    return median(_milliseconds(steps_of_all) for _ in range(_TIMED)), batch


def _at_once(steps: Sequence[Iterator[Any]], threads: int) -> float:
    """The median of at least two steps in milliseconds, done in a thread for each of ``steps``, all warmed up."""
    together, timed = Barrier(len(steps)), 2 if len(steps) == 1 else 1

    def times(each: Iterator[Any]) -> list[float]:
        torch.set_num_threads(threads)  # a thread has a number of its own
        next(each)
        together.wait()
        return [_milliseconds(each) for _ in range(timed)]

    with ThreadPoolExecutor(len(steps)) as pool:
        return median(ms for found in pool.map(times, steps) for ms in found)


def _milliseconds(steps: Iterator[Any]) -> float:
    begun = time.perf_counter()
    next(steps)
    return 1e3 * (time.perf_counter() - begun)


@dataclass(frozen=True)
class _Known:
    """Errors of a study as known or assumed, in the unit of the metric; the lasting one is squared."""

    sigmas: tuple[float, ...]
    sigma_from: str
    lasting: float
    lasting_from: str


def _known(study: Study, metric: Metric, images: int) -> _Known:
    """The errors to reckon with on so many test images."""
    try:
        analysis = collect(study.folder).analysis
    except UserError:  # no study there yet
        analysis = None
    span = 0.0 if metric.span is None else metric.span
    rows = analysis.differences if analysis and analysis.images else ()  # without images all of them say 0
    measured = [row.se_images**2 for row in rows if row.se_images is not None]
    if measured:
        lasting, lasting_from = math.fsum(measured) / len(measured), "measured in this folder"
    else:
        lasting = span**2 * LASTING / images
        lasting_from = f"assumed: two arms answer {100 * LASTING:g} % differently"
    if analysis and analysis.sigma:
        return _Known((analysis.sigma,), "the runs finished in this folder", lasting, lasting_from)
    layout = layout_of(study.base.data)
    if (known := layout.residual_sd.get(metric.name)) is not None:
        sigmas: tuple[float, ...] = (known,)
        sigma_from = f"measured on the {layout.name}"
    elif metric.span is None:
        return _Known((), "", lasting, lasting_from)
    else:
        sigmas = tuple(sd * span / 100 for sd in ASSUMED)
        sigma_from = "the SD of your images is known after a first study"
    chance = span * math.sqrt(CHANGED / (2 * images))  # SD of a run's score from the chance of single answers
    if chance > min(sigmas):
        assumed = f"assumed, as two runs answer {100 * CHANGED:g} % of {images} test images differently"
        sigmas = tuple(dict.fromkeys(max(sigma, chance) for sigma in sigmas))
        sigma_from = assumed if sigmas == (chance,) else f"{sigma_from}; the smallest is {assumed}"
    return _Known(sigmas, sigma_from, lasting, lasting_from)


def _minutes(value: float) -> str:
    if value >= 600:
        return f"{value / 60:.0f} hours"
    return f"{value:.{0 if value >= 10 else 1}f} minutes"
