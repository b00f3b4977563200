"""Progress of a study, on a terminal and in a pipe."""

import time
from dataclasses import replace

import pytest
from made_results import ERROR, made

from saccade import screen as screen_module
from saccade.events import (
    ChecksBegan,
    DataOpened,
    EngineStatus,
    EpochEnded,
    FilesChecked,
    RunBegan,
    RunEnded,
    RunEvent,
    StepTaken,
    StudyBegan,
    TrainingBegan,
)
from saccade.screen import Screen
from saccade.study.costs import ArmCost, Latency
from saccade.study.run_notes import StudyNote

RUN = (0, "eca:kernel_size=[3,5]", 1)
EVENTS = [
    ChecksBegan(),
    FilesChecked(3, 9),
    DataOpened("nine images", ("[2] of 4 are trained on",)),
    StudyBegan(runs=6, finished=2, slots=1),
    RunBegan(*RUN, attempt=1),
    RunBegan(*RUN, attempt=2),
    RunEvent(*RUN, TrainingBegan(epochs=4, steps=10, epoch=0)),
    RunEvent(*RUN, EpochEnded(1, {}, "50.00 %")),
    RunEvent(*RUN, StepTaken(2, 5)),
    RunEnded(*RUN, "done", None, "80.00 %"),
    RunBegan(*RUN, attempt=1),
    RunEnded(*RUN, "failed", "ValueError: [no] luck"),
]


def test_pipe_gets_plain_lines(capsys):
    with Screen() as screen:
        for event in EVENTS:
            screen(event)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "checking the images, building every network",
        "nine images",
        "caution: [2] of 4 are trained on",
        "2 of 6 runs are already finished",
        "eca:kernel_size=[3,5], seed 1: its process died; retrying",
        "3/6  eca:kernel_size=[3,5], seed 1  80.00 %  0 s",
        "4/6  eca:kernel_size=[3,5], seed 1  failed (ValueError: [no] luck)",
    ]


def test_pipe_gets_a_regular_progress_line(capsys, monkeypatch):
    with Screen() as screen:
        for event in EVENTS[:8]:
            screen(event)
        assert "…" not in capsys.readouterr().out
        monkeypatch.setattr(screen_module, "_HEARTBEAT_SECONDS", 0.01)
        time.sleep(0.02)
        screen(EVENTS[8])
        assert capsys.readouterr().out == "…  eca:kernel_size=[3,5], seed 1 epoch 2/4  50.00 %\n"
        time.sleep(0.02)
        screen(EVENTS[1])
        assert capsys.readouterr().out == "checking images 3/9\n"


def test_run_moved_to_another_slot_is_shown_once(capsys, monkeypatch):
    monkeypatch.setattr(screen_module, "_HEARTBEAT_SECONDS", 0.01)
    lost, moved, other = (0, "das", 1), (1, "das", 1), (1, "none", 0)
    with Screen() as screen:
        screen(EngineStatus("a cluster"))
        for run in (lost, other):
            screen(RunBegan(*run, attempt=1))
        screen(RunEnded(*other, "done", None, "80.00 %"))
        screen(RunBegan(*moved, attempt=2))
        capsys.readouterr()
        time.sleep(0.02)
        screen(RunEvent(*moved, TrainingBegan(epochs=4, steps=10, epoch=2)))
        assert capsys.readouterr().out == "…  das, seed 1 epoch 3/4\n"


def test_terminal_gets_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    with Screen(err=True) as screen:
        assert screen.bars is not None
        for event in EVENTS[:9]:
            screen(event)
        whole, slot = screen.bars.progress.tasks
        assert (whole.description, whole.total) == ("runs 2/6", 6)
        # 1.5 of 4 epochs of a run, in addition to two finished runs.
        assert whole.completed == pytest.approx(2 + 1.5 / 4)
        assert slot.completed == pytest.approx(1.5 / 4)
        assert slot.fields["text"] == "epoch 2/4  50.00 %"
        screen.bars.progress.refresh()
        for event in EVENTS[9:]:
            screen(event)
        assert not slot.visible
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "eca:kernel_size=[3,5], seed 1" in streams.err
    assert "failed (ValueError: [no] luck)" in streams.err


def _results(**more):
    found = made({"none": [89.0, 90, 91], "eca": [91.0, 92.5, None], "se": [None] * 3},
                 notes=[StudyNote("analysis", "a [first] look")], **more)  # fmt: skip
    cost = ArmCost(1234, 25_500_000, Latency(3.21, 3.0, 3.5), 16, Latency(9, 8, 10), 1, "cpu")
    none, eca, se = found.arms
    return replace(found, arms=(none, replace(eca, cost=cost), replace(se, parameters=None)))


def test_alarm_is_printed_first(capsys):
    with Screen() as screen:
        screen.show(_results(trivial=("always cat", 89.9)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("none scores 90.00 %, the trivial answer (always cat) 89.90 %: the host has not learnt")
    assert lines[0].endswith("Try more epochs.")
    said = "\n".join(lines)
    assert "eca: not judged. +2.2 points" in said
    assert "not decided" not in said


def test_the_table_shows_numbers_and_verdicts(capsys):
    results = _results()
    Screen().show(results)
    lines = capsys.readouterr().out.splitlines()
    row = results.analysis.differences[0]
    assert lines[0].split()[:3] == ["arm", "top-1", "%"]
    assert lines[1].split() == ["none", "90.00", "±", "1.00", "1,234"]
    assert lines[2].split()[:4] == ["eca", "91.75", "±", "1.06"]
    for part in (f"{row.difference:+.2f}", f"{row.low:+.2f} to {row.high:+.2f}", row.verdict, "25.5 M", "3.21 ms"):
        assert part in lines[2]
    assert lines[3].split() == ["se", "–", "not", "decided"]
    assert lines[4:] == [*(each.sentence() for each in results.analysis.differences), "note: a [first] look"]


def test_digits_and_unit_are_those_of_the_metric(capsys):
    Screen().show(made({"none": [0.5, 0.25], "se": [0.125, 0.25]}, ERROR))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["arm", "error", "px"]
    assert lines[1].split()[:4] == ["none", "0.375", "±", "0.177"]


def test_without_a_plain_network_there_is_still_a_table(capsys):
    Screen().show(replace(_results(), analysis=None))
    assert "91.75" in capsys.readouterr().out
