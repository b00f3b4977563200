"""Files are written atomically, and folders are locked."""

import os
import subprocess
import sys

import pytest

from saccade.files import atomic_writer, lock, make_folders, remove_unfinished, write_atomically


def test_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail():
        with atomic_writer(path) as file:
            file.write(b"half of the n")
            raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="midst"):
        fail()
    assert path.read_text() == "old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    write_atomically(tmp_path / "kept.part.json", "x")
    (tmp_path / ".a.json.x1.part").touch()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["kept.part.json"]


def test_lock_excludes_other_processes(tmp_path):
    code = (
        f"from pathlib import Path\nfrom saccade.files import lock\nwith lock(Path({str(tmp_path / '.lock')!r})): pass"
    )

    def other():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    with lock(tmp_path / ".lock"):
        assert f"another process is working in {tmp_path}" in other().stderr
    assert not (tmp_path / ".lock").exists()
    assert other().stderr == ""


def test_failed_make_folders_removes_what_it_created(tmp_path):
    assert make_folders(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert make_folders(tmp_path / "a/b") == []
    with pytest.raises(OSError, match="too long"):
        make_folders(tmp_path / "c/d" / ("x" * 300))
    assert not (tmp_path / "c").exists()
