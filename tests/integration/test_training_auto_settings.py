"""Runs whose recipe leaves settings to timing: the choice is made once, by the plain host, and stored."""

import pytest
from safetensors.torch import save_file

from saccade import UserError
from saccade.events import SettingsDecided
from saccade.models import create_host
from saccade.recipe import Model
from saccade.runfiles import read_recipe
from saccade.training import run, train
from tiny_runs import TINY, Killed, after, assert_same_run, listener, same_run

FORMAT, PRECISION = "training.memory_format", "training.precision"
OPEN = TINY.with_overrides({FORMAT: "auto", PRECISION: "auto"})


@pytest.fixture
def decided(monkeypatch):
    """Function that replaces timing by given values, and returns the list of recipes that were timed."""
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
    assert_same_run(tmp_path / "auto", tmp_path / "said")
    train(TINY, tmp_path / "plain", device="cpu")
    assert not same_run(tmp_path / "auto", tmp_path / "plain")


def test_a_run_goes_on_with_what_was_decided(tmp_path, decided):
    asked, (_, listen) = decided(LAST), listener(after(1))
    with pytest.raises(Killed):
        train(OPEN, tmp_path / "a", device="cpu", notify=listen)
    decided({FORMAT: "contiguous", PRECISION: "bf16"})
    train(OPEN, tmp_path / "a", device="cpu")
    train(OPEN, tmp_path / "a", device="cpu")  # finished
    assert len(asked) == 1
    train(TINY.with_overrides(LAST), tmp_path / "said", device="cpu")
    assert_same_run(tmp_path / "a", tmp_path / "said")
    with pytest.raises(UserError, match=r"training\.memory_format is 'channels_last' there and 'contiguous' here"):
        train(TINY, tmp_path / "a", device="cpu")


def test_a_run_of_an_earlier_version_goes_on(tmp_path, decided):
    """A recipe without the key means contiguous."""
    asked, (_, listen) = decided(LAST), listener(after(1))
    with pytest.raises(Killed):
        train(TINY, tmp_path / "a", device="cpu", notify=listen)
    path = tmp_path / "a/recipe.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "memory_format" not in line))
    train(TINY.with_overrides({FORMAT: "auto"}), tmp_path / "a", device="cpu")
    assert asked == []
    train(TINY, tmp_path / "said", device="cpu")
    assert_same_run(tmp_path / "a", tmp_path / "said")


def test_the_weights_of_a_host_are_warned_of_once(tmp_path, caplog):
    save_file(create_host(Model(options={"width": 4}), 7, 1).state_dict(), tmp_path / "seven.safetensors")
    recipe = OPEN.with_overrides({"model.checkpoint": str(tmp_path / "seven.safetensors"), "training.epochs": 1})
    train(recipe, tmp_path / "a", device="cpu")
    assert [text for text in caplog.messages if "the head is of another size" in text] == caplog.messages
    assert len(caplog.messages) == 1
