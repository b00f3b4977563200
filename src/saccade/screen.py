"""Terminal output of studies and runs: progress bars on a terminal, plain lines elsewhere."""

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

_HEARTBEAT_SECONDS = 10.0
"""Seconds without output after which a progress line is printed if the output is not a terminal."""
_DEFAULT_WIDTH = 140
"""Width of the output, in characters, without a terminal."""
_COSTS = ("parameters", "MACs", "latency")
"""Columns of the results table that are left out if no arm has a value."""
_STYLE = {"helps": "green", "hurts": "red", "equal": "cyan", "not decided": "yellow"}
"""Maps a verdict to its rich style."""


class Screen:
    """Displays the events of ``saccade.compare``; a context manager.

    Args:
        err: True to print to stderr.

    Attributes:
        folder: folder of the study; None until it is known.
    """

    def __init__(self, err: bool = False) -> None:
        self.console = Console(stderr=err, highlight=False)
        if not self.console.is_terminal:
            self.console = Console(stderr=err, highlight=False, width=_DEFAULT_WIDTH)
        self.bars = _ProgressBars(self.console) if self.console.is_terminal else None
        self.n_runs = self.n_ended = 0
        self.progress_by_slot: dict[int, _RunProgress] = {}
        self.last_output_time = time.monotonic()
        self.folder: Path | None = None

    def __enter__(self) -> Screen:
        if self.bars is not None:
            self.bars.progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.progress.stop()

    def print_line(self, text: str) -> None:
        """Print one line, above the progress bars on a terminal."""
        self.console.print(Text(printable(text)))
        self.last_output_time = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Display one event."""
        match event:
            case FilesChecked(done, total):
                self._show_file_check(done, total)
            case StudyPlanned(folder, description):
                self.folder = folder
                self.console.print(Text(printable(description)), soft_wrap=True)
            case ReportBegan():
                self.print_line("measuring the cost of each arm and writing the report")
            case ChecksBegan():
                self.print_line("checking the images, building every network")
            case EngineStatus(description):
                self.print_line(description)
            case ImagesNotCached(reason):
                self.print_line(f"decoded images could not be cached: {reason}")
            case SettingsDecided():
                self.print_line(event.text())
            case DataOpened(description, cautions):
                self.print_line(description)
                for caution in cautions:
                    self.print_line(f"caution: {caution}")
            case Caution(text):
                self.print_line(f"caution: {text}")
            case StudyBegan(runs, finished):
                self.n_runs, self.n_ended = runs, finished
                if finished:
                    self.print_line(f"{finished} of {runs} runs are already finished")
            case RunBegan(slot, arm, seed, attempt):
                run = _RunProgress(arm, seed)
                if attempt > 1:
                    self.print_line(f"{run.name}: its process died; retrying")
                    self.progress_by_slot = {
                        other_slot: other
                        for other_slot, other in self.progress_by_slot.items()
                        if other.name != run.name
                    }
                self.progress_by_slot[slot] = run
            case RunEnded(slot):
                self._show_run_end(self.progress_by_slot.pop(slot), event)
            case RunEvent(slot, event=inner):
                self.progress_by_slot[slot].update(inner)
        self._refresh()

    def _show_file_check(self, done: int, total: int) -> None:
        if self.bars is not None:
            self.bars.update_total(f"checking images {done}/{total}", done, total)
        elif time.monotonic() - self.last_output_time > _HEARTBEAT_SECONDS:
            self.print_line(f"checking images {done}/{total}")

    def _show_run_end(self, run: _RunProgress, event: RunEnded) -> None:
        self.n_ended += 1
        if event.status in ("failed", "diverged"):
            reason = f" ({event.reason})" if event.reason else ""
            self.print_line(f"{self.n_ended}/{self.n_runs}  {run.name}  {event.status}{reason}")
        elif self.bars is None:
            seconds = time.monotonic() - run.start_time
            self.print_line(f"{self.n_ended}/{self.n_runs}  {run.name}  {event.score}  {seconds:.0f} s")

    def _refresh(self) -> None:
        if self.bars is not None:
            if self.n_runs:
                done = self.n_ended + sum(run.fraction for run in self.progress_by_slot.values())
                self.bars.update_total(f"runs {self.n_ended}/{self.n_runs}", done, self.n_runs)
                self.bars.update_slots(self.progress_by_slot)
        elif self.progress_by_slot and time.monotonic() - self.last_output_time > _HEARTBEAT_SECONDS:
            self.print_line("…  " + "; ".join(f"{run.name} {run.text}" for run in self.progress_by_slot.values()))

    def show(self, results: StudyResults) -> None:
        """Print a warning if the host did not learn the task, then the results table, verdicts and notes."""
        if results.alarm:
            self.console.print(Text(printable(results.alarm), style="bold red"), soft_wrap=not self.bars)
        self.console.print(_results_table(results))
        for verdict in results.verdicts.values():
            self.console.print(
                Text(printable(verdict.sentence()), style=_STYLE.get(verdict.verdict_text, "")), soft_wrap=not self.bars
            )
        for note in results.notes:
            self.console.print(Text(printable(f"note: {note.text}")), soft_wrap=not self.bars)


class RunScreen:
    """Displays the events of ``saccade.train`` as a bar of steps and a line per epoch; a context manager.

    Args:
        err: True to print to stderr.
        quiet: True to print nothing.
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

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def print_line(self, text: str) -> None:
        """Print one line, above the progress bar on a terminal."""
        self.console.print(Text(printable(text)))

    def __call__(self, event: Event) -> None:
        """Display one event."""
        match event:
            case RunPlanned(_, description):
                self.print_line(description)
            case FilesChecked(done, total):
                self.progress.update(self.bar, total=total, completed=done, description="checking images")
            case Caution(text):
                self.console.print(f"caution: {text}", markup=False)
            case ImagesNotCached(reason):
                self.print_line(f"decoded images could not be cached: {reason}")
            case SettingsDecided():
                self.print_line(event.text())
            case TrainingBegan(epochs, steps, epoch):
                self.epochs, self.steps = epochs, steps
                self._update_bar(epoch, 0)
            case StepTaken(epoch, step):
                self._update_bar(epoch - 1, step)
            case EpochEnded(epoch, row):
                self._update_bar(epoch, 0)
                self.console.print(_format_epoch(row, self.epochs), markup=False)

    def _update_bar(self, epoch: int, step: int) -> None:
        """Show that ``step`` steps are done after ``epoch`` full epochs."""
        text = f"epoch {min(epoch + (step > 0), self.epochs)}/{self.epochs}"
        done, total = self.steps * epoch + step, self.steps * self.epochs
        self.progress.update(self.bar, total=total, completed=done, description=text)


def _format_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """Return loss, scores and duration of one epoch as a line."""
    parts = [f"loss {math.fsum(row['losses'].values()):.3f}"] if row["losses"] else []
    parts += [f"{name} {score:.2f}" for name, score in row["scores"].items() if score is not None]
    epoch_text = f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}"
    return "   ".join([epoch_text, *parts, f"{row['seconds']:.1f} s"])


class _RunProgress:
    """Progress of the run in one slot."""

    def __init__(self, arm: str, seed: int) -> None:
        self.name = printable(f"{arm}, seed {seed}")
        self.start_time = time.monotonic()
        self.epoch = self.step = 0
        self.epochs = self.steps = 1
        self.score = ""

    def update(self, event: Event) -> None:
        """Record one event of the run."""
        match event:
            case TrainingBegan(epochs, steps, epoch):
                self.epochs, self.steps, self.epoch = epochs, steps, epoch
            case StepTaken(epoch, step):
                self.epoch, self.step = epoch - 1, step
            case EpochEnded(epoch, score=score):
                self.epoch, self.step, self.score = epoch, 0, score

    @property
    def fraction(self) -> float:
        """Fraction of the run that is done, 0 to 1."""
        return min(1.0, (self.epoch + self.step / max(1, self.steps)) / max(1, self.epochs))

    @property
    def text(self) -> str:
        """Epoch and latest score."""
        return f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}{f'  {self.score:>7}' if self.score else ''}"


class _ProgressBars:
    """One progress bar for the study and one for each slot."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.total_bar = self.progress.add_task("starting", total=None, text="")
        self.bars_by_slot: dict[int, TaskID] = {}

    def update_total(self, text: str, done: float, total: float) -> None:
        self.progress.update(self.total_bar, description=text, completed=done, total=total)

    def update_slots(self, progress_by_slot: Mapping[int, _RunProgress]) -> None:
        for slot, run in progress_by_slot.items():
            if slot not in self.bars_by_slot:
                self.bars_by_slot[slot] = self.progress.add_task("", total=1.0, text="")
            self.progress.update(
                self.bars_by_slot[slot],
                description=f"  {run.name}",
                completed=run.fraction,
                text=run.text,
                visible=True,
            )
        for slot in self.bars_by_slot.keys() - progress_by_slot.keys():
            self.progress.update(self.bars_by_slot[slot], visible=False)


def _results_table(results: StudyResults) -> Table:
    """Return the results as a table, one row per arm."""
    metric, digits = results.metric, results.metric.digits
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    columns = [f"{metric.name} {metric.unit}".strip(), "difference", "95 % interval", "verdict", *_COSTS]
    cells: list[list[Text | str]] = []
    for arm in results.arms:
        verdict, cost = results.verdicts.get(arm.arm.name), arm.cost
        verdict_text = verdict.verdict_text if verdict else ""
        interval = None if verdict is None or verdict.low is None else (verdict.low, verdict.high)
        cells.append([
            Text(printable(arm.arm.name)),
            _mean_and_sd(arm, digits),
            "" if verdict is None or verdict.difference is None else f"{verdict.difference:+.{digits}f}",
            "" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}",
            Text(verdict_text, style=_STYLE.get(verdict_text, "")),
            "" if arm.parameters is None else f"{arm.parameters:,}",
            f"{cost.macs / 1e6:.1f} M" if cost else "",
            f"{cost.latency.median:.2f} ms" if cost else "",
        ])  # fmt: skip
    shown_columns = [i for i, name in enumerate(columns, 1) if name not in _COSTS or any(row[i] for row in cells)]
    for i in shown_columns:
        table.add_column(columns[i - 1], justify="right")
    for row in cells:
        table.add_row(row[0], *(row[i] for i in shown_columns))
    return table


def _mean_and_sd(arm: ArmResult, digits: int) -> str:
    """Return mean ± standard deviation over the seeds, as text."""
    if arm.mean is None:
        return "–"
    return f"{arm.mean:.{digits}f}" + ("" if arm.sd is None else f" ± {arm.sd:.{digits}f}")
