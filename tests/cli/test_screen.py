"""What a study shows while it runs: the same events on a terminal and into a pipe."""

import time

import pytest

from saccade.cli import _screen
from saccade.cli._screen import Screen

RUN = {"slot": 0, "arm": "eca:kernel_size=[3,5]", "seed": 1}
EVENTS = [
    {"event": "check"},
    {"event": "check", "done": 3, "total": 9},
    {"event": "data", "description": "nine images", "cautions": ["[2] of 4 are trained on"]},
    {"event": "study", "runs": 6, "finished": 2, "slots": 1},
    {"event": "begin", **RUN, "attempt": 1},
    {"event": "begin", **RUN, "attempt": 2},
    {"event": "start", **RUN, "epochs": 4, "steps": 10, "epoch": 0},
    {"event": "epoch", **RUN, "epoch": 1, "test_top1": 50.0},
    {"event": "step", **RUN, "epoch": 2, "step": 5},
    {"event": "done", **RUN, "top1": 80.0},
    {"event": "end", **RUN, "status": "done", "reason": None, "top1": 80.0},
    {"event": "begin", **RUN, "attempt": 1},
    {"event": "end", **RUN, "status": "failed", "reason": "ValueError: [no] luck", "top1": None},
]
COST = {"macs": 25_500_000, "latency_ms": {"median": 3.21}}
WON = {"difference": 1.5, "low": 0.5, "high": 2.5, "verdict": "helps", "sentence": "eca helps."}
OPEN = {"difference": None, "low": None, "high": None, "verdict": "not decided", "sentence": "se: who knows."}
RESULTS = {
    "arms": {
        "none": {"mean": 90.0, "sd": 1.0, "parameters": 1234567, "cost": None},
        RUN["arm"]: {"mean": 91.5, "sd": None, "parameters": 1234569, "cost": COST},
        "se": {"mean": None, "sd": None, "parameters": None, "cost": None},
    },
    "analysis": {"differences": [{"name": RUN["arm"], **WON}, {"name": "se", **OPEN}]},
    "notes": ["a first look"],
}


def test_a_pipe_gets_plain_lines(capsys):
    with Screen() as screen:
        for event in EVENTS:
            screen(event)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "checking the images, building every network",
        "nine images",
        "caution: [2] of 4 are trained on",
        "2 of 6 runs are there already",
        "eca:kernel_size=[3,5], seed 1: its process died; once more",
        "3/6  eca:kernel_size=[3,5], seed 1  80.00 %  0 s",
        "4/6  eca:kernel_size=[3,5], seed 1  failed (ValueError: [no] luck)",
    ]


def test_a_pipe_hears_something_now_and_then(capsys, monkeypatch):
    with Screen() as screen:
        for event in EVENTS[:8]:
            screen(event)
        assert "…" not in capsys.readouterr().out
        monkeypatch.setattr(_screen, "_QUIET", 0.01)
        time.sleep(0.02)
        screen(EVENTS[8])
        assert capsys.readouterr().out == "…  eca:kernel_size=[3,5], seed 1 epoch 2/4  50.00 %\n"
        time.sleep(0.02)
        screen(EVENTS[1])
        assert capsys.readouterr().out == "checking images 3/9\n"


def test_a_run_that_moved_to_another_worker_is_shown_once(capsys, monkeypatch):
    monkeypatch.setattr(_screen, "_QUIET", 0.01)
    lost, other = {"slot": 0, "arm": "das", "seed": 1}, {"slot": 1, "arm": "none", "seed": 0}
    with Screen() as screen:
        screen({"event": "engine", "description": "a cluster"})
        for run in (lost, other):
            screen({"event": "begin", **run, "attempt": 1})
        screen({"event": "end", **other, "status": "done", "reason": None, "top1": 80.0})
        screen({"event": "begin", **lost, "slot": 1, "attempt": 2})
        capsys.readouterr()
        time.sleep(0.02)
        screen({"event": "start", **lost, "slot": 1, "epochs": 4, "steps": 10, "epoch": 2})
        assert capsys.readouterr().out == "…  das, seed 1 epoch 3/4\n"


def test_a_terminal_gets_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    with Screen(err=True) as screen:
        assert screen.bars is not None
        for event in EVENTS[:9]:
            screen(event)
        whole, slot = screen.bars.progress.tasks
        assert (whole.description, whole.total) == ("runs 2/6", 6)
        # One of four epochs and half of the next: 1.5 / 4 of a run, besides the two that are done.
        assert whole.completed == pytest.approx(2 + 1.5 / 4)
        assert slot.completed == pytest.approx(1.5 / 4)
        assert slot.fields["words"] == "epoch 2/4  50.00 %"
        screen.bars.progress.refresh()
        for event in EVENTS[9:]:
            screen(event)
        assert not slot.visible
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "eca:kernel_size=[3,5], seed 1" in streams.err
    assert "failed (ValueError: [no] luck)" in streams.err


def test_the_table_shows_numbers_and_verdicts(capsys):
    Screen().show(RESULTS)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[1].split() == ["none", "90.00", "±", "1.00", "1,234,567"]
    assert lines[2].split()[:2] == ["eca:kernel_size=[3,5]", "91.50"]
    for part in ("+1.50", "+0.50 to +2.50", "helps", "25.5 M", "3.21 ms"):
        assert part in lines[2]
    assert lines[3].split() == ["se", "–", "not", "decided"]
    assert lines[4:] == ["eca helps.", "se: who knows.", "note: a first look"]


def test_without_a_plain_network_there_is_still_a_table(capsys):
    Screen().show(RESULTS | {"analysis": None})
    assert "91.50" in capsys.readouterr().out
