"""Events that long work reports: the argument of every ``notify``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Caution",
    "Checking",
    "DataOpened",
    "EngineChanged",
    "EpochEnded",
    "Event",
    "FilesChecked",
    "Notify",
    "Reporting",
    "RunBegan",
    "RunEnded",
    "RunEvent",
    "RunPlanned",
    "StepTaken",
    "StudyBegan",
    "StudyPlanned",
    "TrainingBegan",
    "ignore",
]


class Event:
    """Base class of all events."""


Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing: the ``notify`` of a caller that gave none."""


@dataclass(frozen=True)
class FilesChecked(Event):
    """``done`` of ``total`` image files have been opened."""

    done: int
    total: int


@dataclass(frozen=True)
class Caution(Event):
    """What a reader of the score must know of its images or its host."""

    text: str


@dataclass(frozen=True)
class TrainingBegan(Event):
    """A training of ``epochs`` epochs of ``steps`` steps goes on after ``epoch``."""

    epochs: int
    steps: int
    epoch: int


@dataclass(frozen=True)
class StepTaken(Event):
    """Step ``step`` of epoch ``epoch``, both from 1; at most five events a second."""

    epoch: int
    step: int


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch ended; ``row`` is its line of metrics.jsonl, ``score`` that of the verdicts as a person reads it."""

    epoch: int
    row: Mapping[str, Any]
    score: str


@dataclass(frozen=True)
class RunPlanned(Event):
    """A run in ``folder`` is about to begin, or its result is there; ``description`` says of what, in a few words."""

    folder: Path
    description: str


@dataclass(frozen=True)
class StudyPlanned(Event):
    """A study in ``folder`` is about to begin or go on; ``description`` says its arms, seeds and runs in a line."""

    folder: Path
    description: str


@dataclass(frozen=True)
class Reporting(Event):
    """All runs of a study have ended; costs are measured and the report is written."""


@dataclass(frozen=True)
class Checking(Event):
    """A study's data, hosts and mechanisms are being checked."""


@dataclass(frozen=True)
class EngineChanged(Event):
    """``description`` says what the engine is doing."""

    description: str


@dataclass(frozen=True)
class DataOpened(Event):
    """A study's images are open."""

    description: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyBegan(Event):
    """A study of ``runs`` runs, ``finished`` of them before, on ``slots`` workers."""

    runs: int
    finished: int
    slots: int


@dataclass(frozen=True)
class RunBegan(Event):
    """A worker was given a run; ``attempt`` counts from 1."""

    slot: int
    arm: str
    seed: int
    attempt: int


@dataclass(frozen=True)
class RunEvent(Event):
    """An event of the run of ``arm`` with ``seed``."""

    slot: int
    arm: str
    seed: int
    event: Event


@dataclass(frozen=True)
class RunEnded(Event):
    """A run ended; ``score`` is that of the verdicts as a person reads it."""

    slot: int
    arm: str
    seed: int
    status: Literal["done", "diverged", "failed"]
    reason: str | None = None
    score: str = ""
