"""The Ray engine behaves like the local engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saccade import Recipe, UserError, __version__
from saccade.runfiles import read_recipe
from saccade.study.arms import arms
from saccade.study.engine import ATTEMPTS, execute
from saccade.study.engine.interrupts import track_interrupts
from saccade.study.plan import Study

SHARED = Path(__file__).parents[1]
STUCK = 600.0
"""Seconds after which a process counts as stuck, even on a loaded machine."""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Outcomes of the studies in ray_studies.py, and their folder."""
    pytest.importorskip("ray", reason="ray is not installed")
    home = tmp_path_factory.mktemp("ray")
    _python([str(SHARED / "ray_studies.py"), str(home)])
    return json.loads((home / "told.json").read_text()), home


def _python(words):
    paths = os.pathsep.join([str(SHARED), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(of, status):
    return [(arm, seed) for arm, seed, how, *_ in of["outcomes"] if how == status]


def results(of):
    return [result for *_, result in of["outcomes"]]


def test_two_actors_execute_all_runs(told):
    plain = told[0]["plain"]
    assert [result["scores"]["top-1"] for result in results(plain)] == [90, 90, 90, 91, 91, 91]
    assert {result["threads"] for result in results(plain)} == {"1"}
    assert {result["device"] for result in results(plain)} == {"cpu"}
    events = plain["events"]
    assert [e["event"] for e in events[:3]] == ["ChecksBegan", "DataOpened", "StudyBegan"]
    assert events[2] == {"event": "StudyBegan", "runs": 6, "finished": 0, "slots": 2}
    begun = [(e["seed"], e["arm"]) for e in events if e["event"] == "RunBegan"]
    assert begun == [(seed, arm) for seed in (0, 1) for arm in ("none", "se", "das")]
    run = [e["event"] for e in events if (e.get("arm"), e.get("seed")) == ("das", 1)]
    assert run == ["RunBegan", "TrainingBegan", "EpochEnded", "RunEnded"]
    assert ended(told[0]["again"], "skipped") == ended(plain, "done")


def test_results_are_bitwise_those_of_the_local_engine(told):
    said, home = told
    events = [e for e in said["ray"]["events"] if e.get("arm") == "se"]
    assert [e["attempt"] for e in events if e["event"] == "RunBegan"] == [1, 2]
    assert [e["epoch"] for e in events if e["event"] == "TrainingBegan"] == [0, 1], (
        "it goes on after its last finished epoch"
    )
    names = ("model.safetensors", "rows.safetensors", "config.json", "recipe.toml")
    for arm in ("none", "se"):
        there, here = (home / engine / arm / "seed0" for engine in ("ray", "local"))
        for name in names:
            assert (there / name).read_bytes() == (here / name).read_bytes()
        assert _rows(there) == _rows(here)
    assert _rows(home / "ray/none/seed0") != _rows(home / "ray/se/seed0"), "the comparison can fail"


def _rows(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory_mb")} for row in rows]


def test_decided_settings_reach_every_run(told):
    assert len(ended(told[0]["open"], "done")) == 6
    recipes = [read_recipe(path) for path in (told[1] / "open").glob("*/seed*/recipe.toml")]
    assert [recipe.training.memory_format for recipe in recipes] == ["channels_last"] * 6
    assert Study.open(told[1] / "open").decided["step_ms"] == {"contiguous": 3.5}


def test_a_function_of_a_script_builds_the_host(told):
    said, home = told
    assert len(ended(said["own"], "done")) == 2, said["own"]
    host = json.loads((home / "own/se/seed0/config.json").read_text())["host"]
    assert host["passed"] == "__main__:own_host.<locals>.own"


def test_a_run_that_raises_is_recorded(told):
    assert ended(told[0]["raise"], "failed") == [("se", 0)]
    assert len(ended(told[0]["raise"], "done")) == 5
    record = json.loads((told[1] / "raise/se/seed0/failed.json").read_text())
    assert record["reason"] == "ValueError: no luck"
    assert "fake_training.py" in record["traceback"]


def test_a_killed_worker_is_replaced(told):
    assert len(ended(told[0]["die once"], "done")) == 6
    begun = [e for e in told[0]["die once"]["events"] if e["event"] == "RunBegan"]
    assert [e["attempt"] for e in begun if (e["arm"], e["seed"]) == ("se", 0)] == [1, 2]
    assert not (told[1] / "die once/se/seed0/failed.json").exists()


@pytest.mark.parametrize(("act", "run"), [("die", ("das", 0)), ("exit", ("se", 1))])
def test_a_run_whose_worker_always_dies_is_recorded(told, act, run):
    assert ended(told[0][act], "failed") == [run]
    assert len(ended(told[0][act], "done")) == 5
    folder = told[1] / act / run[0] / f"seed{run[1]}"
    reason = json.loads((folder / "failed.json").read_text())["reason"]
    assert reason.startswith("its process died (")
    assert (folder / "attempts").read_text() == str(ATTEMPTS)


def test_workers_without_room_do_not_block_the_others(told):
    third = told[0]["no room for the third"]
    assert len(ended(third, "done")) == 6
    assert [e["slots"] for e in third["events"] if e["event"] == "StudyBegan"] == [3]
    assert {e["slot"] for e in third["events"] if e["event"] == "RunBegan"} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "refuse": "class 'dog' is empty",
        "too large": "no node of the Ray cluster has the 64 CPUs that a run asks for",
        "another version": f"has saccade {__version__}, the study was started with 0.0.1",
        "not shared": "does not see the study folder",
    }.items(),
)
def test_user_errors_are_reported_and_nothing_is_written(told, name, message):
    assert message in told[0][name]["error"]
    assert "RunBegan" not in [event["event"] for event in told[0][name]["events"]]
    assert not (told[1] / name).exists()


def test_workers_that_do_not_start_end_the_study(told):
    assert "the workers of the Ray cluster do not start" in told[0]["stillborn"]["error"]


def test_the_callers_cluster_stays_connected_without_leftover_files(told):
    assert told[0]["still connected"] is True
    assert not list(told[1].rglob(".lock.*"))


def test_two_concurrent_starts_do_not_interfere(told):
    """Both use the folder until one of them holds its lock."""
    assert len(ended(told[0]["two starts"], "done")) == 6
    assert [e["slots"] for e in told[0]["two starts"]["events"] if e["event"] == "StudyBegan"] == [2]


def test_each_start_has_its_own_handshake_file(tmp_path):
    cluster = pytest.importorskip("saccade.study.engine.cluster", reason="ray is not installed")
    study = Study(Recipe(), arms(["se"]), (0,), tmp_path / "a" / "s")
    with cluster._handshake_file(study.folder, "first") as first:
        with cluster._handshake_file(study.folder, "second") as second:
            assert (first.read_text(), second.read_text()) == ("first", "second")
            assert study.check_folder() is False, "the folder is free"
        assert first.read_text() == "first"
    assert not (tmp_path / "a").exists()


@pytest.fixture
def study(tmp_path):
    return Study(Recipe(), arms(["se"]), (0,), tmp_path / "s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"address": "127.0.0.1:1"}, "no Ray cluster answers at 127.0.0.1:1"),
        ({"address": "127.0.0.1"}, "HOST:PORT"),
        ({"address": "127.0.0.1:99999"}, "no Ray cluster answers"),
        ({"address": "ray://127.0.0.1:10001"}, "that of a Ray client"),
        ({"device": "cuda:1"}, "Ray chooses the device"),
        ({"device": "mps"}, "Ray chooses the device"),
        ({"engine": "rya"}, "there is no engine 'rya'.*Did you mean 'ray'"),
        ({"engine": "local", "address": "127.0.0.1:1"}, "the local engine has no address"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(study, words, message):
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(UserError, match=message):
        execute(study, **{"engine": "ray"} | words)
    assert not study.folder.exists()


def test_the_address_comes_from_the_environment(study, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        execute(study, engine="ray")


def test_without_ray_the_message_names_the_extra(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "saccade.study.engine.cluster", raising=False)
    with pytest.raises(UserError, match=r"ray is not installed: pip install 'saccade-attention\[ray\]'"):
        execute(study, engine="ray")
    assert not study.folder.exists()


def test_ray_is_imported_only_if_needed():
    code = "import saccade.study.engine, saccade.cli.compare, sys; print('ray' in sys.modules)"
    assert _python(["-c", code]) == "False\n"


class Interrupted:
    """Object whose deletion raises SIGINT."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_a_dropped_interrupt_is_detected(study, monkeypatch):
    cluster = pytest.importorskip("saccade.study.engine.cluster", reason="ray is not installed")
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    handler = signal.getsignal(signal.SIGINT)
    place = cluster.Cluster(study, 1, "cpu", None, print)
    with track_interrupts() as place._interrupted:
        assert not place._interrupted.is_set()
        Interrupted()
        with pytest.raises(KeyboardInterrupt):
            next(place.messages([]))
    assert [lost.exc_type for lost in dropped] == [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGINT) is handler
    with track_interrupts() as raised, pytest.raises(KeyboardInterrupt):  # and one that is not dropped goes its way
        signal.raise_signal(signal.SIGINT)
    assert raised.is_set()


INTERRUPTED = """
from saccade import Recipe
from saccade.study.arms import arms
from saccade.study.engine import execute
from saccade.study.plan import Study
study = Study(Recipe().with_overrides({{"data.options": {{"act": "die, then wait"}}}}), arms(["se"]), (0,), {folder!r})
execute(study, 1, "cpu", engine="ray", train="fake_training:train", check="fake_training:check")
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupt_stops_the_started_cluster_without_output(tmp_path, start):
    pytest.importorskip("ray", reason="ray is not installed")
    code = INTERRUPTED.format(folder=str(tmp_path / "s"))
    paths = os.pathsep.join([str(SHARED), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    parent = start(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        running = tmp_path / "s/none/seed0/process"
        assert _within(STUCK, lambda: running.exists() or parent.poll() is not None)
        assert parent.poll() is None, parent.communicate()
        family = _session(parent.pid)
        assert len(family) > 3, "Ray's own processes belong to the session"
        os.killpg(parent.pid, signal.SIGINT)
        said, complaint = parent.communicate(timeout=STUCK)
        assert complaint.count("Traceback") == 1, complaint
        assert "KeyboardInterrupt" in complaint
        assert said == "", "Ray itself says nothing, not even of the worker that died"
        assert _within(STUCK, lambda: not _session(parent.pid)), _session(parent.pid)
        assert list((tmp_path / "s").glob(".lock*")) == []
    finally:
        for process in _session(parent.pid):
            os.kill(process, signal.SIGKILL)
    assert not list(Path("/tmp").glob(f"ray-*/session_*_{parent.pid}")), "its folder is gone"


def _session(leader):
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(entry.name))
    return found


def _within(seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
