"""What a recipe leaves open is decided by timed steps of the plain host, once, and written down."""

import itertools

import pytest
import torch
from safetensors.torch import save_file

from saccade import Recipe, UserError
from saccade.decisions import auto_keys, choices, decide, is_auto
from saccade.events import SettingsDecided
from saccade.models import create_host
from saccade.recipe import Model
from saccade.runfiles import read_recipe
from saccade.tasks.classify import Classify
from saccade.training import run, train
from saccade.training import fastest as timing
from saccade.training.fastest import time_choices
from tiny_runs import TINY, Killed, after, listener, opened, same

FORMAT, PRECISION = "training.memory_format", "training.precision"
OPEN = TINY.with_overrides({FORMAT: "auto", PRECISION: "auto"})
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """``clock(ms of a step of each choice, in their order)``; a step costs that and nothing else."""
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


def test_what_is_open():
    assert choices(FORMAT) == ("contiguous", "channels_last")
    assert choices(PRECISION) == ("32", "bf16"), "the default first"
    assert auto_keys([TINY]) == []
    assert auto_keys([TINY, OPEN]) == [FORMAT, PRECISION]
    assert decide(OPEN, {FORMAT: "channels_last", PRECISION: "32"}) == TINY.with_overrides({FORMAT: "channels_last"})
    assert decide(TINY, {FORMAT: "channels_last"}) == TINY
    assert is_auto(f"arms.x.{FORMAT}", "auto")
    assert not is_auto("data.layout", "auto")
    assert not is_auto(FORMAT, "contiguous")
    assert (Recipe().training.memory_format, Recipe().training.precision) == ("contiguous", "32")


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
    """On the machine of the test either may win."""
    found = time_choices(Classify(timing.without_attention(OPEN), opened(OPEN)), [FORMAT], CPU)
    assert found["settings"][FORMAT] in choices(FORMAT)
    assert set(found["step_ms"]) == set(choices(FORMAT))
    assert all(ms > 0 for ms in found["step_ms"].values())


@pytest.fixture
def decided(monkeypatch):
    """``decided(values)``: what timing is made to find; the tasks it was asked about."""
    asked = []

    def find(values):
        def stand_in(task, keys, device, trust):
            asked.append(task.recipe)
            return {"settings": {key: values[key] for key in keys}, "step_ms": {"contiguous": 1.0}, "batch": 31}

        monkeypatch.setattr(run, "time_choices", stand_in)
        return asked

    return find


LAST = {FORMAT: "channels_last", PRECISION: "32"}


def test_a_run_writes_what_was_decided_and_is_that_of_the_value(tmp_path, decided):
    asked, (heard, listen) = decided(LAST), listener()
    train(OPEN, tmp_path / "auto", device="cpu", notify=listen)
    assert [recipe.attention.mechanism for recipe in asked] == ["none"], "the plain host decides"
    assert [event.settings for event in heard if isinstance(event, SettingsDecided)] == [LAST]
    assert read_recipe(tmp_path / "auto/recipe.toml") == TINY.with_overrides(LAST)
    train(TINY.with_overrides(LAST), tmp_path / "said", device="cpu")
    assert len(asked) == 1, "nothing is open"
    assert same(tmp_path / "auto", tmp_path / "said")
    train(TINY, tmp_path / "plain", device="cpu")
    assert not same(tmp_path / "auto", tmp_path / "plain")


def test_a_run_goes_on_with_what_was_decided(tmp_path, decided):
    asked, (_, listen) = decided(LAST), listener(after(1))
    with pytest.raises(Killed):
        train(OPEN, tmp_path / "a", device="cpu", notify=listen)
    decided({FORMAT: "contiguous", PRECISION: "bf16"})
    train(OPEN, tmp_path / "a", device="cpu")
    train(OPEN, tmp_path / "a", device="cpu")  # finished
    assert len(asked) == 1
    train(TINY.with_overrides(LAST), tmp_path / "said", device="cpu")
    assert same(tmp_path / "a", tmp_path / "said")
    with pytest.raises(UserError, match=r"training\.memory_format is 'channels_last' there and 'contiguous' here"):
        train(TINY, tmp_path / "a", device="cpu")


def test_a_run_of_an_earlier_version_goes_on(tmp_path, decided):
    """Its recipe has no such key: it was contiguous."""
    asked, (_, listen) = decided(LAST), listener(after(1))
    with pytest.raises(Killed):
        train(TINY, tmp_path / "a", device="cpu", notify=listen)
    path = tmp_path / "a/recipe.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "memory_format" not in line))
    train(TINY.with_overrides({FORMAT: "auto"}), tmp_path / "a", device="cpu")
    assert asked == []
    train(TINY, tmp_path / "said", device="cpu")
    assert same(tmp_path / "a", tmp_path / "said")


def test_the_weights_of_a_host_are_warned_of_once(tmp_path, caplog):
    save_file(create_host(Model(options={"width": 4}), 7, 1).state_dict(), tmp_path / "seven.safetensors")
    recipe = OPEN.with_overrides({"model.checkpoint": str(tmp_path / "seven.safetensors"), "training.epochs": 1})
    train(recipe, tmp_path / "a", device="cpu")
    assert [text for text in caplog.messages if "the head is of another size" in text] == caplog.messages
    assert len(caplog.messages) == 1
