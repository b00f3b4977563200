"""What a study shows while it runs and when it has ended: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from saccade.escaping import printable
from saccade.events import (
    Caution,
    ChecksBegan,
    DataOpened,
    EngineStatus,
    EpochEnded,
    Event,
    FilesChecked,
    ImagesNotCached,
    ReportBegan,
    RunBegan,
    RunEnded,
    RunEvent,
    RunPlanned,
    SettingsDecided,
    StepTaken,
    StudyBegan,
    StudyPlanned,
    TrainingBegan,
)

if TYPE_CHECKING:
    from saccade.study.results import ArmResult, StudyResults

__all__ = ["RunScreen", "Screen"]

_QUIET = 10.0
"""Seconds without a line after which a pipe hears how far the runs are."""
_WIDE = 140
"""Columns where there is no terminal to ask."""
_COSTS = ("parameters", "MACs", "latency")
"""Columns that are left out where no arm has an entry."""
_STYLE = {"helps": "green", "hurts": "red", "equal": "cyan", "not decided": "yellow"}


class Screen:
    """Takes the events of ``saccade.compare``; use it in a ``with``.

    Attributes:
        folder: of the study, once it is known.
    """

    def __init__(self, err: bool = False) -> None:
        self.console = Console(stderr=err, highlight=False)
        if not self.console.is_terminal:
            self.console = Console(stderr=err, highlight=False, width=_WIDE)
        self.bars = _Bars(self.console) if self.console.is_terminal else None
        self.runs = self.ended = 0
        self.states: dict[int, _State] = {}
        self.last = time.monotonic()
        self.folder: Path | None = None

    def __enter__(self) -> Screen:
        if self.bars is not None:
            self.bars.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bars is not None:
            self.bars.progress.stop()

    def say(self, text: str) -> None:
        """One line, above the bars where there are any."""
        self.console.print(Text(printable(text)))
        self.last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case FilesChecked(done, total):
                self._checked(done, total)
            case StudyPlanned(folder, description):
                self.folder = folder
                self.console.print(Text(printable(description)), soft_wrap=True)
            case ReportBegan():
                self.say("measuring what each arm costs, writing the report")
            case ChecksBegan():
                self.say("checking the images, building every network")
            case EngineStatus(description):
                self.say(description)
            case ImagesNotCached(reason):
                self.say(f"decoded images are not kept for the next run: {reason}")
            case SettingsDecided():
                self.say(event.text())
            case DataOpened(description, cautions):
                self.say(description)
                for caution in cautions:
                    self.say(f"caution: {caution}")
            case Caution(text):
                self.say(f"caution: {text}")
            case StudyBegan(runs, finished):
                self.runs, self.ended = runs, finished
                if finished:
                    self.say(f"{finished} of {runs} runs are there already")
            case RunBegan(slot, arm, seed, attempt):
                state = _State(arm, seed)
                if attempt > 1:
                    self.say(f"{state.name}: its process died; once more")
                    self.states = {place: other for place, other in self.states.items() if other.name != state.name}
                self.states[slot] = state
            case RunEnded(slot):
                self._ended(self.states.pop(slot), event)
            case RunEvent(slot, event=inner):
                self.states[slot].take(inner)
        self._refresh()

    def _checked(self, done: int, total: int) -> None:
        if self.bars is not None:
            self.bars.total(f"checking images {done}/{total}", done, total)
        elif time.monotonic() - self.last > _QUIET:
            self.say(f"checking images {done}/{total}")

    def _ended(self, state: _State, event: RunEnded) -> None:
        self.ended += 1
        if event.status in ("failed", "diverged"):
            why = f" ({event.reason})" if event.reason else ""
            self.say(f"{self.ended}/{self.runs}  {state.name}  {event.status}{why}")
        elif self.bars is None:
            seconds = time.monotonic() - state.begun
            self.say(f"{self.ended}/{self.runs}  {state.name}  {event.score}  {seconds:.0f} s")

    def _refresh(self) -> None:
        if self.bars is not None:
            if self.runs:
                done = self.ended + sum(state.part for state in self.states.values())
                self.bars.total(f"runs {self.ended}/{self.runs}", done, self.runs)
                self.bars.slots(self.states)
        elif self.states and time.monotonic() - self.last > _QUIET:
            self.say("…  " + "; ".join(f"{state.name} {state.words}" for state in self.states.values()))

    def show(self, results: StudyResults) -> None:
        """The table of a study, its verdicts and its notes; before them, that the host has not learnt the task."""
        if results.alarm:
            self.console.print(Text(printable(results.alarm), style="bold red"), soft_wrap=not self.bars)
        self.console.print(_table(results))
        for row in results.verdicts.values():
            self.console.print(Text(printable(row.sentence()), style=_STYLE.get(row.word, "")), soft_wrap=not self.bars)
        for note in results.notes:
            self.console.print(Text(printable(f"note: {note.text}")), soft_wrap=not self.bars)


class RunScreen:
    """Takes the events of ``saccade.train``; use it in a ``with``: a bar of steps, and a line for each epoch.

    Args:
        err: print to stderr.
        quiet: print nothing.
    """

    def __init__(self, err: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=err, quiet=quiet, highlight=False, soft_wrap=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task("starting", total=None)
        self.steps = self.epochs = 0

    def __enter__(self) -> RunScreen:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        self.console.print(Text(printable(text)))

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunPlanned(_, description):
                self.say(description)
            case FilesChecked(done, total):
                self.progress.update(self.bar, total=total, completed=done, description="looking at the images")
            case Caution(text):
                self.console.print(f"caution: {text}", markup=False)
            case ImagesNotCached(reason):
                self.say(f"decoded images are not kept for the next run: {reason}")
            case SettingsDecided():
                self.say(event.text())
            case TrainingBegan(epochs, steps, epoch):
                self.epochs, self.steps = epochs, steps
                self._at(epoch, 0)
            case StepTaken(epoch, step):
                self._at(epoch - 1, step)
            case EpochEnded(epoch, row):
                self._at(epoch, 0)
                self.console.print(_line(row, self.epochs), markup=False)

    def _at(self, epoch: int, step: int) -> None:
        """Show ``step`` steps done after ``epoch`` whole epochs."""
        words = f"epoch {min(epoch + (step > 0), self.epochs)}/{self.epochs}"
        done, total = self.steps * epoch + step, self.steps * self.epochs
        self.progress.update(self.bar, total=total, completed=done, description=words)


def _line(row: Mapping[str, Any], epochs: int) -> str:
    """One epoch in words."""
    parts = [f"loss {math.fsum(row['losses'].values()):.3f}"] if row["losses"] else []
    parts += [f"{name} {score:.2f}" for name, score in row["scores"].items() if score is not None]
    number = f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}"
    return "   ".join([number, *parts, f"{row['seconds']:.1f} s"])


class _State:
    """How far one slot is with its run."""

    def __init__(self, arm: str, seed: int) -> None:
        self.name = printable(f"{arm}, seed {seed}")
        self.begun = time.monotonic()
        self.epoch = self.step = 0
        self.epochs = self.steps = 1
        self.score = ""

    def take(self, event: Event) -> None:
        match event:
            case TrainingBegan(epochs, steps, epoch):
                self.epochs, self.steps, self.epoch = epochs, steps, epoch
            case StepTaken(epoch, step):
                self.epoch, self.step = epoch - 1, step
            case EpochEnded(epoch, score=score):
                self.epoch, self.step, self.score = epoch, 0, score

    @property
    def part(self) -> float:
        """Of the run, 0 to 1."""
        return min(1.0, (self.epoch + self.step / max(1, self.steps)) / max(1, self.epochs))

    @property
    def words(self) -> str:
        return f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}{f'  {self.score:>7}' if self.score else ''}"


class _Bars:
    """One bar for the study and one line for each slot."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.whole = self.progress.add_task("starting", total=None, words="")
        self.lines: dict[int, TaskID] = {}

    def total(self, words: str, done: float, total: float) -> None:
        self.progress.update(self.whole, description=words, completed=done, total=total)

    def slots(self, states: Mapping[int, _State]) -> None:
        for slot, state in states.items():
            if slot not in self.lines:
                self.lines[slot] = self.progress.add_task("", total=1.0, words="")
            self.progress.update(
                self.lines[slot], description=f"  {state.name}", completed=state.part, words=state.words, visible=True
            )
        for slot in self.lines.keys() - states.keys():
            self.progress.update(self.lines[slot], visible=False)


def _table(results: StudyResults) -> Table:
    metric, digits = results.metric, results.metric.digits
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    columns = [f"{metric.name} {metric.unit}".strip(), "difference", "95 % interval", "verdict", *_COSTS]
    cells: list[list[Text | str]] = []
    for arm in results.arms:
        row, cost = results.verdicts.get(arm.arm.name), arm.cost
        word = row.word if row else ""
        cells.append([
            Text(printable(arm.arm.name)),
            _spread(arm, digits),
            "" if row is None or row.difference is None else f"{row.difference:+.{digits}f}",
            "" if row is None or row.low is None else f"{row.low:+.{digits}f} to {row.high:+.{digits}f}",
            Text(word, style=_STYLE.get(word, "")),
            "" if arm.parameters is None else f"{arm.parameters:,}",
            f"{cost.macs / 1e6:.1f} M" if cost else "",
            f"{cost.latency.median:.2f} ms" if cost else "",
        ])  # fmt: skip
    known = [n for n, name in enumerate(columns, 1) if name not in _COSTS or any(row[n] for row in cells)]
    for n in known:
        table.add_column(columns[n - 1], justify="right")
    for line in cells:
        table.add_row(line[0], *(line[n] for n in known))
    return table


def _spread(arm: ArmResult, digits: int) -> str:
    if arm.mean is None:
        return "–"
    return f"{arm.mean:.{digits}f}" + ("" if arm.sd is None else f" ± {arm.sd:.{digits}f}")
