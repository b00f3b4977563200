"""Files written whole or not at all, and locks of folders."""

import os
import subprocess
import sys

import pytest

from saccade.files import lock, make_folders, remove_unfinished, replacing, write_atomically


def test_old_content_or_new(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail():
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="midst"):
        fail()
    assert path.read_text() == "old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_leaves_is_removed(tmp_path):
    write_atomically(tmp_path / "kept.part.json", "x")
    (tmp_path / ".a.json.x1.part").touch()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["kept.part.json"]


def test_one_process_at_a_time(tmp_path):
    code = (
        f"from pathlib import Path\nfrom saccade.files import lock\nwith lock(Path({str(tmp_path / '.lock')!r})): pass"
    )

    def other():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    with lock(tmp_path / ".lock"):
        assert f"another process is working in {tmp_path}" in other().stderr
    assert not (tmp_path / ".lock").exists()
    assert other().stderr == ""


def test_folders_are_made_or_none(tmp_path):
    assert make_folders(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert make_folders(tmp_path / "a/b") == []
    with pytest.raises(OSError, match="too long"):
        make_folders(tmp_path / "c/d" / ("x" * 300))
    assert not (tmp_path / "c").exists()
