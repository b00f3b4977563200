"""Forecast of a study's duration, disk space and detectable difference; nothing is written."""

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

from saccade import tasks
from saccade.data import find_layout
from saccade.data.sampling import EpochSampler
from saccade.errors import UserError
from saccade.events import Notify, SettingsDecided, ignore
from saccade.metrics.metric import Metric
from saccade.study.arms import Arm
from saccade.study.collecting import collect
from saccade.study.engine import cpu_slots
from saccade.study.findings import with_unit
from saccade.study.images import open_once
from saccade.study.plan import Study
from saccade.study.precision import MAX_SEEDS, ImageError, image_floor, planned_detectable
from saccade.tasks.base import Task
from saccade.training.environment import choose_device, use_threads
from saccade.training.fastest import time_choices
from saccade.training.preparing import prepare
from saccade.training.steps import test_steps, training_steps
from saccade.trust import Trust

__all__ = ["ASSUMED_SDS", "RUN_DISAGREEMENT", "Forecast", "forecast_study"]

ASSUMED_SDS = (0.3, 0.5, 1.0)
"""Residual SDs in per cent of the metric's span, shown if none is known."""
RUN_DISAGREEMENT = 0.15
"""Fraction of the test images that one run is assumed to get right and a run of another arm wrong.

8 to 20 % were measured on digits and on CIFAR-10, nearly all of it random variation between runs."""
ARM_DISAGREEMENT = 0.005
"""Part of ``RUN_DISAGREEMENT`` that is due to the arms, not to the seed; 0 to 0.2 % were measured on the digits."""
_TIMED_STEPS = 3
"""Number of timed steps."""
_SMALL_BATCH = 4
"""Number of images in a timed step if a full batch takes too long."""
_LONG_STEP_MS = 300.0
"""Milliseconds above which a step on the CPU is timed with ``_SMALL_BATCH`` images and scaled."""


_JSON_KEYS = {"image_se": "lasting_se", "image_se_from": "lasting_from", "image_limited_sigmas": "set_by_images"}
"""Maps attributes of ``Forecast`` to their keys in JSON, where these differ."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Predicted duration, disk space and detectable difference of a study.

    Attributes:
        data: description of the images.
        runs: number of unfinished runs.
        finished: number of finished runs.
        slots: number of concurrent runs.
        minutes: minutes for the unfinished runs.
        disk_mb: largest size of the study folder in MB.
        step_ms: arm -> median milliseconds of a training step of a batch, data loading included.
        timed_images: number of images in a timed step, if fewer than a batch.
        decided: settings that timed steps chose; the study times them again.
        test_ms: arm -> milliseconds of a test batch.
        metric: name of the metric.
        unit: unit of differences and SDs.
        detectable: pairs of residual SD and detectable difference, None if no difference is detectable.
        sigma_from: source of the residual SD.
        test_images: number of test images.
        image_se: standard error from the test images.
        image_se_from: source of ``image_se``.
        image_limited_sigmas: residual SDs at which ``image_se`` exceeds the error from the seeds.
        seeds_for_margin: number of seeds, up to 100, that finds a difference of ``margin`` at the first SD.
        margin: largest negligible difference.
        margin_needs_images: True if that needs more test images.
        tuning_runs: number of unfinished tuning runs.
        tuning_minutes: minutes for the tuning runs, at most.
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
    image_se: float
    image_se_from: str
    image_limited_sigmas: tuple[float, ...]
    seeds_for_margin: int | None
    margin: float
    margin_needs_images: bool
    timed_images: int | None = None
    decided: Mapping[str, Any] = field(default_factory=dict)
    tuning_runs: int = 0
    tuning_minutes: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}

    def text(self) -> str:
        """Return the forecast as a few lines of text."""
        steps = ", ".join(f"{name} {ms:.0f}" for name, ms in self.step_ms.items())
        finished = f" ({self.finished} are finished)" if self.finished else ""
        digits = max(1, 1 - math.floor(math.log10(self.margin)))  # one more than the margin needs
        scaled = "" if self.timed_images is None else f" (scaled from {self.timed_images} images)"
        lines = [
            f"data    {self.data}",
            f"time    about {_format_minutes(self.minutes)} for {self.runs} runs{finished}, {self.slots} at a time; "
            f"one training step in ms{scaled}: {steps}",
            *([f"with    {SettingsDecided(**self.decided).text()}"] if self.decided else []),
            f"disk    about {self.disk_mb:.0f} MB",
        ]
        if self.tuning_runs:
            lines.insert(
                1, f"tuning  about {_format_minutes(self.tuning_minutes)} for {self.tuning_runs} runs before these"
            )
        if not self.detectable:
            lines.append(f"detects unknown: how far runs differ in {self.metric} is known after a first study")
            return "\n".join(lines)
        if all(difference is None for _, difference in self.detectable):
            lines.append(
                "detects no difference: one seed or a handful of test images cannot separate a difference from chance"
            )
            return "\n".join(lines)
        if len(self.detectable) == 1:
            ((sigma, difference),) = self.detectable
            lines.append(
                f"detects differences of {with_unit(f'{difference:.{digits}f}', self.unit)} with probability 0.8 "
                f"(residual SD {with_unit(f'{sigma:.{digits + 1}f}', self.unit)}: {self.sigma_from})"
            )
        else:
            shown = ", ".join(f"{difference:.{digits}f} (SD {sigma:.3g})" for sigma, difference in self.detectable)
            unit = f", in {self.unit}" if self.unit else ""
            lines.append(f"detects differences{unit}, with probability 0.8: {shown}; {self.sigma_from}")
        if self.image_limited_sigmas:
            at_sds = (
                f" at SD {', '.join(f'{sd:.2g}' for sd in self.image_limited_sigmas)}"
                if len(self.detectable) > 1
                else ""
            )
            lines.append(
                f"        the {self.test_images} test images cause the larger part of the error{at_sds}: "
                f"{with_unit(f'{self.image_se:.{digits + 1}f}', self.unit)} at any number of seeds "
                f"({self.image_se_from})"
            )
        sigma = self.detectable[0][0]
        needed = f"more than {MAX_SEEDS}" if self.seeds_for_margin is None else str(self.seeds_for_margin)
        margin = f"a difference as large as the margin, {self.margin:g}"
        if self.margin_needs_images:
            lines.append(f"        no number of seeds would find {margin}: more test images would")
        else:
            lines.append(f"        {margin}, would take {needed} seeds (SD {sigma:.3g})")
        return "\n".join(lines)


def forecast_study(
    study: Study, slots: int | None, device: str = "auto", trust: Trust = False, notify: Notify = ignore
) -> Forecast:
    """Forecast a study from timed training and test steps of every arm.

    Args:
        study: the study.
        slots: number of concurrent runs; None is the default of ``saccade.study.engine.execute``.
        device: device as in ``saccade train``.
        trust: code that a saved teacher network may import; see ``saccade.load``.
        notify: receives ``FilesChecked`` and ``ImagesNotCached``.

    Raises:
        UserError: the data, the host, a mechanism or the device is wrong.
    """
    torch_device = choose_device(device)
    training = study.base.training
    if slots is None:
        use_all_gpus = torch_device.type == "cuda" and device == "auto"
        slots = torch.cuda.device_count() if use_all_gpus else cpu_slots(training.threads, torch_device.type) or 1
    task_class = tasks.get(tasks.choose_task(study.base))
    with use_threads(training.threads):
        base = tasks.resolve(study.base, task_class.target)
        split = open_once(base.data, task_class.target, notify)
        metric = task_class(base, split).primary_metric()
        margin = metric.margin if study.margin is None else study.margin
        metric.check_margin(margin)
        decided: dict[str, Any] = {}
        if keys := study.undecided():
            decided = time_choices(task_class(base, split), keys, torch_device, trust)
            study = study.decide(decided)
        unfinished = [run for run in study.runs() if run.done_record is None]
        slots = min(slots, max(1, len(unfinished)))
        timings = {arm.name: _time_arm(study, arm, task_class, torch_device, slots, trust) for arm in study.arms}
    scaled_images = [timing.images for timing in timings.values() if timing.images < training.batch_size]
    test_images = len(split.test)
    total_ms = sum(timings[run.arm.name].run_ms for run in unfinished)
    total_bytes = sum(timings[run.arm.name].weight_bytes + 32 * test_images + 50_000 for run in study.runs())
    errors = _expected_errors(study, metric, test_images)
    arms, family = len(study.arms), sum(arm.control is None for arm in study.arms[1:])
    floor = 0.0 if metric.span is None else image_floor(test_images, metric.span)
    image_error = ImageError(errors.image_variance, max(test_images - 1, 1), floor)

    def detectable_difference(sigma: float, seeds: int) -> float:
        return planned_detectable(sigma, seeds, arms, family, image_error=image_error)

    sigmas, seeds = errors.sigmas, len(study.seeds)
    sufficient_seeds = (n for n in range(2, MAX_SEEDS + 1) if sigmas and detectable_difference(sigmas[0], n) <= margin)
    detectable_by_sigma = [(sigma, detectable_difference(sigma, seeds)) for sigma in sigmas]
    max_difference = sys.float_info.max if metric.span is None else metric.span
    return Forecast(
        data=split.description,
        runs=len(unfinished),
        finished=len(study.runs()) - len(unfinished),
        slots=slots,
        minutes=total_ms / slots / 60e3,
        disk_mb=(total_bytes + slots * 4 * max(timing.weight_bytes for timing in timings.values())) / 1e6,
        step_ms={name: timing.step_ms for name, timing in timings.items()},
        test_ms={name: timing.test_ms for name, timing in timings.items()},
        metric=metric.name,
        unit=metric.difference_unit,
        detectable=tuple(
            (sigma, difference if difference <= max_difference else None) for sigma, difference in detectable_by_sigma
        ),
        sigma_from=errors.sigma_from,
        test_images=test_images,
        image_se=math.sqrt(errors.image_variance),
        image_se_from=errors.image_variance_from,
        image_limited_sigmas=tuple(sigma for sigma in sigmas if errors.image_variance > 2 * sigma**2 / seeds),
        seeds_for_margin=next(sufficient_seeds, None),
        margin=margin,
        margin_needs_images=bool(sigmas) and detectable_difference(0.0, MAX_SEEDS) > margin,
        timed_images=min(scaled_images) if scaled_images else None,
        decided=decided,
    )


@dataclass(frozen=True)
class _ArmTiming:
    """Milliseconds of a training step, a test step and a run; bytes of the weights; images in a timed step."""

    step_ms: float
    test_ms: float
    run_ms: float
    weight_bytes: int
    images: int


def _time_arm(
    study: Study, arm: Arm, task_class: type[Task], device: torch.device, slots: int, trust: Trust
) -> _ArmTiming:
    recipe = tasks.resolve(study.run(arm, study.seeds[0]).recipe, task_class.target)
    training = recipe.training
    task = task_class(recipe, open_once(recipe.data, task_class.target))
    prepared = prepare(task, trust)
    network, frozen = prepared.network, prepared.frozen.modules
    epochs = sum(phase.epochs for phase in prepared.phases)
    weight_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    network.to(device)
    batch_size, threads = training.batch_size, training.threads
    extra_slots = range(slots - 1 if device.type == "cpu" else 0)
    networks = [(network, frozen), *(copy.deepcopy((network, frozen)) for _ in extra_slots)]
    step_makers = [
        partial(training_steps, copied, task, device, frozen=frozen_modules, teacher=prepared.teacher)
        for copied, frozen_modules in networks
    ]
    step_ms, images = _full_batch_ms(step_makers, batch_size, device, threads)
    test_ms, _ = _full_batch_ms(
        [partial(test_steps, copied, task, device) for copied, _ in networks], batch_size, device, threads
    )
    steps = len(EpochSampler(task.data.train, 0, training.batch_size))
    test_batches = math.ceil(len(task.data.test) / training.batch_size)
    return _ArmTiming(
        step_ms, test_ms, epochs * steps * step_ms + (epochs + 1) * test_batches * test_ms, weight_bytes, images
    )


def _full_batch_ms(
    step_makers: Sequence[Callable[[int], Iterator[Any]]], batch: int, device: torch.device, threads: int
) -> tuple[float, int]:
    """Return the milliseconds of a step with a full batch, and the number of images in the timed steps.

    Steps of over 0.3 s on the CPU are timed with fewer images and scaled. They run concurrently, one per slot, because
    runs share caches and memory. Each of ``step_makers`` maps a number of images to the steps of a run.
    """
    images = min(batch, _SMALL_BATCH)
    if device.type == "cpu" and images < batch:
        steps = [make(images) for make in step_makers]
        if _step_ms(steps[0]) * batch / images > _LONG_STEP_MS:
            return _concurrent_ms(steps, threads) * batch / images, images
    full_steps = step_makers[0](batch)
    next(full_steps)
    return median(_step_ms(full_steps) for _ in range(_TIMED_STEPS)), batch


def _concurrent_ms(steps: Sequence[Iterator[Any]], threads: int) -> float:
    """Run each iterator in its own thread and return the median milliseconds of a step after a warm-up step."""
    barrier, n_timed = Barrier(len(steps)), 2 if len(steps) == 1 else 1

    def time_steps(iterator: Iterator[Any]) -> list[float]:
        torch.set_num_threads(threads)  # because torch's thread count is set per thread
        next(iterator)
        barrier.wait()
        return [_step_ms(iterator) for _ in range(n_timed)]

    with ThreadPoolExecutor(len(steps)) as pool:
        return median(ms for times_ms in pool.map(time_steps, steps) for ms in times_ms)


def _step_ms(steps: Iterator[Any]) -> float:
    start = time.perf_counter()
    next(steps)
    return 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class _ExpectedErrors:
    """Measured or assumed errors of a study, in the unit of the metric; ``image_variance`` is squared."""

    sigmas: tuple[float, ...]
    sigma_from: str
    image_variance: float
    image_variance_from: str


def _expected_errors(study: Study, metric: Metric, images: int) -> _ExpectedErrors:
    """Return the errors for ``images`` test images: measured in the study folder, else of the layout, else defaults."""
    try:
        analysis = collect(study.folder).analysis
    except UserError:  # the folder holds no study yet
        analysis = None
    span = 0.0 if metric.span is None else metric.span
    differences = (
        analysis.differences if analysis and analysis.images else ()
    )  # se_images is 0 if the images are unknown
    measured = [row.se_images**2 for row in differences if row.se_images is not None]
    if measured:
        image_variance, image_variance_from = math.fsum(measured) / len(measured), "measured in this folder"
    else:
        image_variance = span**2 * ARM_DISAGREEMENT / images
        image_variance_from = f"assumed: two arms differ in {100 * ARM_DISAGREEMENT:g} % of their answers"
    if analysis and analysis.sigma:
        return _ExpectedErrors(
            (analysis.sigma,), "the runs finished in this folder", image_variance, image_variance_from
        )
    layout = find_layout(study.base.data)
    if (layout_sd := layout.residual_sd.get(metric.name)) is not None:
        sigmas: tuple[float, ...] = (layout_sd,)
        sigma_from = f"measured on the {layout.name}"
    elif metric.span is None:
        return _ExpectedErrors((), "", image_variance, image_variance_from)
    else:
        sigmas = tuple(sd * span / 100 for sd in ASSUMED_SDS)
        sigma_from = "the SD on your data is known after a first study"
    # SD of a score if the answers of runs vary independently.
    chance_sd = span * math.sqrt(RUN_DISAGREEMENT / (2 * images))
    if chance_sd > min(sigmas):
        assumed = f"assumed: two runs differ in their answers on {100 * RUN_DISAGREEMENT:g} % of {images} test images"
        sigmas = tuple(dict.fromkeys(max(sigma, chance_sd) for sigma in sigmas))
        sigma_from = assumed if sigmas == (chance_sd,) else f"{sigma_from}; the smallest is {assumed}"
    return _ExpectedErrors(sigmas, sigma_from, image_variance, image_variance_from)


def _format_minutes(value: float) -> str:
    if value >= 600:
        return f"{value / 60:.0f} hours"
    return f"{value:.{0 if value >= 10 else 1}f} minutes"
