"""Small runs for tests, and readers of their folders."""

import json

import pytest
import torch

from saccade.data import open_data
from saccade.events import EpochEnded
from saccade.recipe import Recipe
from saccade.tasks.classify import Classify
from saccade.training import build, train

# Everything that draws random numbers is in it: augmentation, dropout, a mechanism.
TINY = Recipe().with_overrides(
    {
        "data.size": 24,
        "data.train_images": 90,
        "data.test_images": 37,
        "data.augment": ["crop"],
        "model.options": {"width": 4, "drop_rate": 0.2},
        "attention.mechanism": "se:rd_ratio=0.5",
        "attention.where": "stage",
        "training.epochs": 2,
        "training.batch_size": 31,
        "training.lr": 0.05,
        "training.warmup_epochs": 0.5,
    }
)
# What else a recipe can ask for, in two phases.
COMBINED = TINY.with_overrides(
    {
        "data.augment": ["crop", "randaugment"],
        "training.optimizer": "rmsprop",
        "training.eps": 1e-3,
        "training.lr": 0.01,
        "training.schedule": "multistep",
        "training.milestones": [1],
        "training.clip_norm": 1.0,
        "training.mixup_alpha": 0.4,
        "training.cutmix_alpha": 1.0,
        "training.ema_decay": 0.9,
        "training.epochs": 3,
        "training.phases": [
            {"name": "head", "epochs": 1, "trainable": ["fc.*"], "lr": 0.1},
            {"name": "all", "epochs": 2},
        ],
    }
)
FILES = {
    "recipe.toml", "environment.json", "metrics.jsonl", "rows.safetensors", "model.safetensors", "config.json",
    "done.json",
}  # fmt: skip
VARYING = ("seconds", "memory_mb")


class Killed(BaseException):
    """Exception that stands for the end of the process."""


def opened(recipe):
    return open_data(recipe.data, "label")


def network_of(recipe, split):
    """Return the untrained network of a recipe."""
    return build(Classify(recipe, split))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def done(folder):
    return json.loads((folder / "done.json").read_text())


def _contents(folder):
    """Return the results of a run by name, without times and memory."""
    lines = {f"row {number}": row for number, row in enumerate(rows(folder))} | {"done.json": done(folder)}
    values = {name: {k: v for k, v in line.items() if k not in VARYING} for name, line in lines.items()}
    files = ("model.safetensors", "rows.safetensors", "config.json")
    return values | {name: (folder / name).read_bytes() for name in files}


def _differing(one, other):
    first, second = _contents(one), _contents(other)
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def same_run(one, other):
    """Return True if two runs have the same results, except times and memory."""
    return not _differing(one, other)


def assert_same_run(one, other):
    """Raise AssertionError with what differs unless two runs have the same results."""
    if names := _differing(one, other):
        first, second = _contents(one), _contents(other)
        values = [f"{name}: {first.get(name)!r} != {second.get(name)!r}"[:2000] for name in names]
        raise AssertionError(f"{one} and {other} differ in " + "; ".join(values))


def assert_weights_equal(state, expected):
    """Raise AssertionError unless ``state`` has the tensors of ``expected``, bit by bit; it may have more."""
    torch.testing.assert_close({key: state[key] for key in expected}, dict(expected), rtol=0, atol=0)


def listener(until=None):
    """Return a list of events and the callback that fills it; the callback raises Killed at the event ``until``."""
    heard = []

    def listen(event):
        heard.append(event)
        if until is not None and until(event):
            raise Killed

    return heard, listen


def after(epoch):
    """Return a function that is True for the end of ``epoch``."""
    return lambda event: isinstance(event, EpochEnded) and event.epoch == epoch


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Folder, result and events of one uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "new" / "run"
    heard, listen = listener()
    result = train(TINY, folder, device="cpu", notify=listen)
    return folder, result, heard


@pytest.fixture(scope="session")
def split():
    """Images of the tiny recipe."""
    return opened(TINY)
