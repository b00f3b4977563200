"""Folders that may hold a run, and their lock."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from saccade.errors import UserError
from saccade.training import RunFolder, train
from tiny_runs import TINY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training.lr": 0.5}, "another recipe: training.lr is 0.05 there and 0.5 here"),
        ({"data.options": {"clutter": 1}}, "another recipe: data.options.clutter is None there and 1 here"),
        ({"training.seed": 3}, "training.seed is 0 there and 3 here"),
        ({"task.metric": "NLL"}, "task.metric is None there and 'NLL' here"),
    ],
)
def test_a_folder_with_another_recipe_is_refused(straight, change, words):
    folder, _, _ = straight
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError) as caught:
        train(TINY.with_overrides(change), folder, device="cpu")
    assert words in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_that_cannot_hold_a_run(tmp_path, monkeypatch):
    def untouched(*_):
        pytest.fail("looked at the images first")

    (tmp_path / "file").write_text("here")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    for name, words in {
        "file": "is a file", "file/run": "is a file", "foreign": "holds config.json but no recipe.toml",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=words):
            train(TINY, tmp_path / name, device="cpu", opener=untouched)
    with monkeypatch.context() as patch:
        denied = lambda self, *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))  # noqa: E731
        patch.setattr(Path, "open", denied)
        with pytest.raises(UserError, match=r"cannot write into the run folder .*: Permission denied"):
            train(TINY, tmp_path / "new", device="cpu", opener=untouched)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "file", "foreign"]


def test_a_folder_is_held_by_one_process(tmp_path):
    holder = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'ab')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, tmp_path / ".running"], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        begun = time.monotonic()
        with pytest.raises(UserError, match=f"another process is working in {tmp_path}"):
            train(TINY, tmp_path, device="cpu", lock_timeout=0.1)
        assert time.monotonic() - begun < 10
        child.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".running"]
    with RunFolder.locked(tmp_path, TINY) as run:
        assert run.result() is None


def test_a_full_disk_is_the_machines_error(tmp_path):
    """Files are limited to a few bytes, as on a full disk; torch.save alone would report a file position."""
    state = {"rows": [], "network": {"w": torch.zeros(5000)}, "optimizer": None, "test": {}, "best": None}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder.locked(tmp_path, TINY) as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                run.save_state(state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == [tmp_path / ".running"]
        run.save_state(state)
        torch.testing.assert_close(run.load_state()["network"]["w"], state["network"]["w"], rtol=0, atol=0)
