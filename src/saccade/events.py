"""Progress events that Saccade passes to ``notify`` callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Caution",
    "ChecksBegan",
    "DataOpened",
    "EngineStatus",
    "EpochEnded",
    "Event",
    "FilesChecked",
    "ImagesNotCached",
    "Notify",
    "ReportBegan",
    "RunBegan",
    "RunEnded",
    "RunEvent",
    "RunPlanned",
    "SettingsDecided",
    "StepTaken",
    "StudyBegan",
    "StudyPlanned",
    "TrainingBegan",
    "ignore",
]


class Event:
    """Base class of all events."""


Notify = Callable[[Event], None]
"""Callback that receives events."""


def ignore(event: Event) -> None:
    """Discard the event; the default callback."""


@dataclass(frozen=True)
class FilesChecked(Event):
    """Progress of a check of image files: ``done`` of ``total`` have been opened."""

    done: int
    total: int


@dataclass(frozen=True)
class ImagesNotCached(Event):
    """Decoded images could not be cached, for ``reason``; every run decodes them again."""

    reason: str


@dataclass(frozen=True)
class Caution(Event):
    """Warning about the images or the host, for readers of the score."""

    text: str


@dataclass(frozen=True)
class TrainingBegan(Event):
    """Training starts or resumes.

    Attributes:
        epochs: number of epochs of the whole training.
        steps: number of steps per epoch.
        epoch: last finished epoch, 0 at the start.
    """

    epochs: int
    steps: int
    epoch: int


@dataclass(frozen=True)
class StepTaken(Event):
    """A training step ended; ``epoch`` and ``step`` count from 1. At most five of these events are sent per second."""

    epoch: int
    step: int


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch ended; ``row`` is the line of metrics.jsonl, ``score`` the formatted score of the primary metric."""

    epoch: int
    row: Mapping[str, Any]
    score: str


@dataclass(frozen=True)
class RunPlanned(Event):
    """A run in ``folder`` is about to start, or is already finished; ``description`` summarises the run."""

    folder: Path
    description: str


@dataclass(frozen=True)
class StudyPlanned(Event):
    """A study in ``folder`` is about to start or resume; ``description`` lists its arms, seeds and number of runs."""

    folder: Path
    description: str


@dataclass(frozen=True)
class ReportBegan(Event):
    """All runs of a study have ended; measuring costs and writing the report begins."""


@dataclass(frozen=True)
class ChecksBegan(Event):
    """A study's data, hosts and mechanisms are being checked."""


@dataclass(frozen=True)
class EngineStatus(Event):
    """Status message of the engine that executes the runs."""

    description: str


@dataclass(frozen=True)
class DataOpened(Event):
    """A study's images have been opened."""

    description: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettingsDecided(Event):
    """Settings given as ``auto`` have been chosen by timing training steps.

    Attributes:
        settings: maps key to the chosen value.
        step_ms: maps each tried combination of values, joined by commas, to milliseconds per step.
        batch: number of images per step.
    """

    settings: Mapping[str, str]
    step_ms: Mapping[str, float]
    batch: int

    def text(self) -> str:
        """Return settings and times as text."""
        settings = ", ".join(f"{key} = {value}" for key, value in self.settings.items())
        times = ", ".join(f"{name} {ms:.0f}" for name, ms in self.step_ms.items())
        return f"{settings} (ms for a step of {self.batch} images: {times})"


@dataclass(frozen=True)
class StudyBegan(Event):
    """A study of ``runs`` runs starts, ``slots`` runs at a time; ``finished`` runs are already done."""

    runs: int
    finished: int
    slots: int


@dataclass(frozen=True)
class RunBegan(Event):
    """A run starts; ``slot`` is its index among parallel runs; ``attempt`` counts from 1."""

    slot: int
    arm: str
    seed: int
    attempt: int


@dataclass(frozen=True)
class RunEvent(Event):
    """Event of the run of ``arm`` with ``seed`` in ``slot``."""

    slot: int
    arm: str
    seed: int
    event: Event


@dataclass(frozen=True)
class RunEnded(Event):
    """A run ended; ``score`` is the formatted score of the primary metric."""

    slot: int
    arm: str
    seed: int
    status: Literal["done", "diverged", "failed"]
    reason: str | None = None
    score: str = ""


# Names until version 0.2.
PicturesNotKept = ImagesNotCached
Reporting = ReportBegan
Checking = ChecksBegan
EngineChanged = EngineStatus
