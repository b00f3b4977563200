"""Logging to TensorBoard and Weights & Biases, which does not change the run."""

import os
import subprocess
import sys

import pytest

from saccade.errors import UserError
from saccade.training import loggers, train
from tiny_runs import FILES, TINY, Killed, after, assert_same_run, listener, rows

BOARD = TINY.with_overrides({"training.loggers": ["tensorboard"]})


def curves(folder):
    """Return the values in all TensorBoard files by tag and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    return {
        (tag, event.step): pytest.approx(event.value, rel=1e-5)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }


def scalars(folder):
    """Return the expected values: rows of metrics.jsonl, three steps per epoch."""
    found = {}
    for row in rows(folder):
        values = {key: row[key] for key in ("epoch", "lr", "seconds", "memory_mb")}
        values |= {f"loss/{name}": value for name, value in row["losses"].items()}
        values |= {f"score/{name}": value for name, value in row["scores"].items()}
        found |= {(tag, 3 * row["epoch"]): value for tag, value in values.items() if value is not None}
    return found


def test_tensorboard_is_given_every_row_and_the_run_is_the_same(straight, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(loggers, "_LOSS_INTERVAL", 2)
    train(BOARD, tmp_path, device="cpu")
    assert_same_run(straight[0], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"tensorboard"}
    found = curves(tmp_path)
    steps = {step for tag, step in found if tag == "training loss"}
    assert steps == {2, 4, 6}
    assert {key: value for key, value in found.items() if key[0] != "training loss"} == scalars(tmp_path)
    assert capfd.readouterr().out == ""


def test_a_run_that_goes_on_goes_on_in_the_same_curves(straight, tmp_path):
    _, listen = listener(until=after(1))
    with pytest.raises(Killed):
        train(BOARD, tmp_path, device="cpu", notify=listen)
    train(BOARD, tmp_path, device="cpu")
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 2
    found = curves(tmp_path)
    assert {key: value for key, value in found.items() if key[0].startswith(("loss", "score"))} == {
        key: value for key, value in scalars(tmp_path).items() if key[0].startswith(("loss", "score"))
    }
    assert_same_run(straight[0], tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"{name} is not installed: pip install 'saccade-attention\[{name}\]'"):
        train(TINY.with_overrides({"training.loggers": [name]}), tmp_path / "run", device="cpu")
    assert list(tmp_path.iterdir()) == []


CHILD = """
import sys
from saccade.recipe import Recipe
from saccade.training import train
recipe = Recipe.load(sys.argv[1])
def stop(event):
    if hasattr(event, "row") and event.epoch == 1:
        raise ZeroDivisionError
try:
    train(recipe, sys.argv[2], device="cpu", notify=stop)
except ZeroDivisionError:
    train(recipe, sys.argv[2], device="cpu")
"""


def test_wandb_is_given_the_run_offline_and_no_process_is_left(straight, tmp_path):
    """Run in a separate process, because wandb keeps a service until the process ends."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY.with_overrides({"training.loggers": ["wandb"]}).to_toml())
    private = {name: str(tmp_path / "private") for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "TMPDIR")}
    (tmp_path / "private").mkdir()
    environment = {**os.environ, **private, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, recipe, tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert_same_run(straight[0], tmp_path / "run")
    kept = tmp_path / "run" / "wandb"
    name = (kept / "id.txt").read_text()
    runs = sorted(kept.glob("offline-run-*"))
    assert runs  # one, or two where the run goes on in another second
    assert [run.name for run in runs if not run.name.endswith(name)] == []
    assert [run.name for run in runs if not list(run.glob("run-*.wandb"))] == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed
