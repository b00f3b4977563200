"""Timed steps choose memory format and precision."""

import itertools

import pytest
import torch

from saccade.decisions import choices
from saccade.tasks.classify import Classify
from saccade.training import fastest as timing
from saccade.training.fastest import time_choices
from tiny_runs import TINY, opened

FORMAT, PRECISION = "training.memory_format", "training.precision"
OPEN = TINY.with_overrides({FORMAT: "auto", PRECISION: "auto"})
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Function that sets the milliseconds of a step for each combination, in their order."""
    now, made = [0.0], []

    def spend(seconds):
        while True:
            now[0] += seconds
            yield 0.0

    def steps(costs):
        def begin(task, settings, device, batch, teacher):
            cost = costs[len(made)]
            made.append(tuple(settings.values()))
            return spend(cost / 1e3)

        monkeypatch.setattr(timing, "_steps", begin)
        monkeypatch.setattr(timing.time, "process_time", lambda: now[0])
        return made

    return steps


@pytest.mark.parametrize(
    ("costs", "wanted"),
    [
        ((10, 10, 10, 10), ("contiguous", "32")),
        ((10, 10, 9.6, 9.6), ("contiguous", "32")),  # not worth it
        ((10, 10, 9.4, 9.6), ("channels_last", "32")),
        ((10, 8, 7, 5), ("channels_last", "bf16")),
        ((10, 5, 100, 100), ("contiguous", "bf16")),
    ],
)
def test_the_fastest_wins_where_it_is_worth_it(clock, costs, wanted):
    made = clock(costs)
    found = time_choices(Classify(OPEN, opened(OPEN)), [FORMAT, PRECISION], CPU)
    assert found["settings"] == dict(zip((FORMAT, PRECISION), wanted, strict=True))
    names = ["contiguous, 32", "contiguous, bf16", "channels_last, 32", "channels_last, bf16"]
    assert found["step_ms"] == pytest.approx(dict(zip(names, costs, strict=True)))
    assert found["batch"] == 31, "small images: a whole batch"
    assert made == list(itertools.product(choices(FORMAT), choices(PRECISION)))


def test_a_hopeless_choice_is_timed_once(clock, monkeypatch):
    clock((10, 100))
    taken, inner = [], timing._steps

    def counted(task, settings, *more):
        steps = inner(task, settings, *more)
        return (taken.append(settings[FORMAT]) or step for step in steps)

    monkeypatch.setattr(timing, "_steps", counted)
    time_choices(Classify(OPEN, opened(OPEN)), [FORMAT], CPU)
    assert [taken.count(name) for name in choices(FORMAT)] == [3, 2], "one warms up, one is timed"


def test_large_images_are_timed_a_few_at_a_time(clock):
    clock((1, 1))
    recipe = OPEN.with_overrides({"data.size": 320, "data.train_images": 20})
    assert time_choices(Classify(recipe, opened(recipe)), [FORMAT], CPU)["batch"] == 3


def test_real_steps_are_timed(monkeypatch):
    """Either choice may win, depending on the machine."""
    found = time_choices(Classify(timing.without_attention(OPEN), opened(OPEN)), [FORMAT], CPU)
    assert found["settings"][FORMAT] in choices(FORMAT)
    assert set(found["step_ms"]) == set(choices(FORMAT))
    assert [ms for ms in found["step_ms"].values() if ms <= 0] == []
