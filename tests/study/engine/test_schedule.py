"""Scheduler with local processes and a fake training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saccade import Recipe, UserError
from saccade.events import ChecksBegan, DataOpened, EpochEnded, RunBegan, RunEnded, RunEvent, StudyBegan, TrainingBegan
from saccade.study import engine
from saccade.study.arms import arms
from saccade.study.plan import Study

SHARED = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SHARED))


def study(folder, seeds=(0, 1), threads=1, **options):
    recipe = Recipe().with_overrides({"data.options": options, "training.threads": threads})
    return Study(recipe, arms(["se", "das"]), seeds, folder, 2.5)


def execute(plan, slots=1, **more):
    events = []
    more = {"train": "fake_training:train", "check": "fake_training:check"} | more
    return engine.execute(plan, slots, "cpu", events.append, **more), events


def names(outcomes, status):
    return [(o.run.arm.name, o.run.seed) for o in outcomes if o.status == status]


def of_kind(kind, events):
    return [event for event in events if isinstance(event, kind)]


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_runs_are_executed_and_reported_in_order(tmp_path):
    outcomes, events = execute(study(tmp_path / "s", threads=3))
    assert [o.status for o in outcomes] == ["done"] * 6
    assert [o.result["scores"]["top-1"] for o in outcomes] == [90, 90, 90, 91, 91, 91]
    assert {o.result["threads"] for o in outcomes} == {"3"}
    assert len({o.result["process"] for o in outcomes}) == 1, "a worker lives as long as the study"
    assert events[:3] == [
        ChecksBegan(),
        DataOpened("3 arms on cpu, margin 2.5"),
        StudyBegan(runs=6, finished=0, slots=1),
    ]
    begun = [(event.seed, event.arm) for event in of_kind(RunBegan, events)]
    assert begun == [(seed, arm) for seed in (0, 1) for arm in ("none", "se", "das")]
    first = (0, "none", 0)
    row = {"epoch": 2, "scores": {"top-1": 90.0}, "gates": {}}
    assert events[3:7] == [
        RunBegan(*first, attempt=1),
        RunEvent(*first, TrainingBegan(2, 3, 0)),
        RunEvent(*first, EpochEnded(2, row, "90.00 %")),
        RunEnded(*first, "done", None, "90.00 %"),
    ]
    assert Study.open(tmp_path / "s") == study(tmp_path / "s", threads=3)


def test_two_slots_use_two_processes_and_alternate_devices(tmp_path):
    outcomes, events = execute(study(tmp_path / "s"), slots=None, check="fake_training:check_two_devices")
    assert {event.slot for event in of_kind(RunBegan, events)} == {0, 1}
    assert len({(o.result["process"], o.result["device"]) for o in outcomes}) == 2
    assert {o.result["device"] for o in outcomes} == {"cuda:0", "cuda:1"}


AUTO = {"training.memory_format": "auto"}
DECIDE = {"check": "fake_training:check_and_decide"}


def left_open(folder, seeds=(0, 1), **options):
    plan = study(folder, seeds, **options)
    return Study(plan.base.with_overrides(AUTO), plan.arms, seeds, folder, 2.5)


def test_open_settings_are_decided_once_before_the_first_run(tmp_path):
    plan = left_open(tmp_path / "s", act="raise", arm="se", seed=0)
    outcomes, _ = execute(plan, **DECIDE)
    assert names(outcomes, "failed") == [("se", 0)]
    assert {o.run.recipe.training.memory_format for o in outcomes} == {"channels_last"}
    written = Study.open(tmp_path / "s")
    assert written.decided == {
        "settings": dict.fromkeys(AUTO, "channels_last"),
        "step_ms": {"contiguous": 3.5},
        "batch": 8,
    }
    recipes = list((tmp_path / "s").glob("*/seed*/recipe.toml"))
    assert len(recipes) == 6
    assert [path for path in recipes if 'memory_format = "channels_last"' not in path.read_text()] == []
    again, events = execute(plan, **DECIDE)
    assert names(again, "failed") == [("se", 0)]
    assert len(names(again, "skipped")) == 5
    assert of_kind(DataOpened, events) == [DataOpened("0 settings open")]
    assert Study.open(tmp_path / "s") == written


def test_stated_settings_are_not_decided(tmp_path):
    """Same check, for a study without open settings."""
    _, events = execute(study(tmp_path / "s"), **DECIDE)
    assert of_kind(DataOpened, events) == [DataOpened("0 settings open")]
    assert "decided" not in (tmp_path / "s/study.toml").read_text()
    assert Study.open(tmp_path / "s").base.training.memory_format == "contiguous"


def test_a_stored_study_with_open_settings_is_decided(tmp_path):
    left_open(tmp_path / "s").write()
    outcomes, _ = execute(left_open(tmp_path / "s"), **DECIDE)
    assert len(names(outcomes, "done")) == 6
    assert Study.open(tmp_path / "s").base.training.memory_format == "channels_last"


def test_the_same_study_again_does_nothing(tmp_path):
    execute(study(tmp_path / "s"))
    before = everything(tmp_path)
    outcomes, events = execute(study(tmp_path / "s"))
    assert [o.status for o in outcomes] == ["skipped"] * 6
    assert outcomes[5].result["scores"]["top-1"] == 91
    assert events == [StudyBegan(runs=6, finished=6, slots=0)]
    assert everything(tmp_path) == before


def test_only_missing_runs_are_executed(tmp_path):
    execute(study(tmp_path / "s"))
    (tmp_path / "s/se/seed1/done.json").unlink()
    strange = tmp_path / "s/das/seed0/recipe.toml"
    strange.write_text(strange.read_text().replace("epochs = 10", "epochs = 11"))
    outcomes, events = execute(study(tmp_path / "s"))
    assert names(outcomes, "done") == [("das", 0), ("se", 1)]
    assert [event.finished for event in of_kind(StudyBegan, events)] == [4]


def test_a_run_that_raises_is_recorded(tmp_path):
    outcomes, events = execute(study(tmp_path / "s", act="raise", arm="se", seed=0))
    assert names(outcomes, "failed") == [("se", 0)]
    assert len(names(outcomes, "done")) == 5
    record = json.loads((tmp_path / "s/se/seed0/failed.json").read_text())
    assert record["reason"] == "ValueError: no luck"
    assert "fake_training.py" in record["traceback"]
    (end,) = (event for event in of_kind(RunEnded, events) if event.status == "failed")
    assert (end.arm, end.reason, end.score) == ("se", "ValueError: no luck", "")
    again, _ = execute(study(tmp_path / "s", act="raise", arm="se", seed=0))
    assert names(again, "failed") == [("se", 0)], "what failed is tried again"
    assert len(names(again, "skipped")) == 5


def test_a_process_that_dies_once_is_replaced(tmp_path):
    outcomes, events = execute(study(tmp_path / "s", act="die once", arm="se", seed=0))
    assert [o.status for o in outcomes] == ["done"] * 6
    assert [event.attempt for event in of_kind(RunBegan, events) if (event.arm, event.seed) == ("se", 0)] == [1, 2]
    assert not (tmp_path / "s/se/seed0/failed.json").exists()
    assert len({o.result["process"] for o in outcomes}) == 2


def test_a_run_whose_process_always_dies_is_recorded(tmp_path):
    outcomes, _ = execute(study(tmp_path / "s", act="die", arm="das", seed=0), slots=2)
    assert names(outcomes, "failed") == [("das", 0)]
    assert len(names(outcomes, "done")) == 5
    assert "killed by SIGKILL" in json.loads((tmp_path / "s/das/seed0/failed.json").read_text())["reason"]
    assert (tmp_path / "s/das/seed0/attempts").read_text() == str(engine.ATTEMPTS)


def test_a_dead_worker_is_detected_while_a_child_holds_the_pipe(tmp_path):
    outcomes, _ = execute(study(tmp_path / "s", (0,), act="leave a child", arm="se"))
    assert names(outcomes, "failed") == [("se", 0)]
    assert "exit code 3" in outcomes[1].reason
    children = [int(pid) for pid in (tmp_path / "s/se/seed0/children").read_text().split()]
    try:
        assert len(children) == engine.ATTEMPTS
        assert [child for child in children if not _alive(child)] == [], "waited for the child"
    finally:
        for child in filter(_alive, children):
            os.kill(child, signal.SIGKILL)


def test_a_diverged_run_is_reported(tmp_path):
    outcomes, _ = execute(study(tmp_path / "s", (0,), act="diverge"))
    assert {o.status for o in outcomes} == {"diverged"}
    again, _ = execute(study(tmp_path / "s", (0,), act="diverge"))
    assert {o.status for o in again} == {"skipped"}


def test_errors_of_the_check_are_raised_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="class 'dog' is empty"):
        execute(study(tmp_path / "s"), check="fake_training:refuse")
    with pytest.raises(RuntimeError, match="a bug of ours"):
        execute(study(tmp_path / "s"), check="fake_training:crash")
    with pytest.raises(UserError, match="killed by SIGKILL"):
        execute(study(tmp_path / "s"), check="fake_training:die")
    with pytest.raises(UserError, match="slots = 0"):
        execute(study(tmp_path / "s"), slots=0)
    assert everything(tmp_path) == {}


def test_a_folder_taken_during_the_check_is_not_changed(tmp_path):
    events = []

    def another_is_quicker(event):
        events.append(event)
        if isinstance(event, DataOpened):
            study(tmp_path / "s", (5,)).write()

    with pytest.raises(UserError, match="seeds is 5 there and 0, 1 here"):
        engine.execute(
            study(tmp_path / "s"), 1, "cpu", another_is_quicker,
            train="fake_training:train", check="fake_training:check",
        )  # fmt: skip
    assert Study.open(tmp_path / "s").seeds == (5,)
    assert of_kind(RunBegan, events) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    for place in ("/proc/nowhere/s", "/dev/null/s"):
        with pytest.raises(UserError, match="cannot write to"):
            execute(study(place))


def test_an_unwritable_run_folder_ends_the_study(tmp_path):
    plan = study(tmp_path / "s")
    plan.write()
    (tmp_path / "s/se").write_text("a file where the runs of se should be")
    with pytest.raises(UserError, match=r"^se, seed 0 failed \(.*\), and .*/s/se/seed0 cannot be written: "):
        execute(plan)
    (tmp_path / "s/se").unlink()
    assert len(names(execute(plan)[0], "skipped")) == 1, "what was done before stays"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="looks for processes as POSIX does")
class TestProcesses:
    """A study in another process, which is ended from outside."""

    CODE = """
import sys
sys.path.insert(0, {here!r})
from saccade import Recipe
from saccade.study.arms import arms
from saccade.study.engine import execute
from saccade.study.plan import Study
recipe = Recipe().with_overrides({{"data.options": {{"act": "wait"}}}})
execute(Study(recipe, arms(["se"]), (0,), {folder!r}), 1, train="fake_training:train", check="fake_training:check")
"""

    @pytest.fixture
    def running(self, tmp_path, start):
        """Folder of a study during its first run, its process, and the id of its worker."""
        code = self.CODE.format(here=str(SHARED), folder=str(tmp_path / "s"))
        parent = start([sys.executable, "-c", code], stderr=subprocess.PIPE)
        told = tmp_path / "s/none/seed0/process"
        assert _within(lambda: parent.poll() is not None or (told.exists() and told.read_text() != ""))
        assert parent.poll() is None, parent.stderr.read().decode()
        return tmp_path / "s", parent, int(told.read_text())

    def test_workers_die_with_a_killed_parent(self, running):
        _, parent, worker = running
        assert _alive(worker)
        os.kill(parent.pid, signal.SIGKILL)
        assert _within(lambda: not _alive(worker))

    def test_an_interrupt_ends_workers_at_once(self, running):
        _, parent, worker = running
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal sends it, to the worker too
        assert _within(lambda: parent.poll() is not None)  # the run itself would sleep for longer
        assert not _alive(worker)
        said = parent.stderr.read().decode()
        assert said.count("Traceback") == 1, said
        assert "KeyboardInterrupt" in said

    def test_two_processes_never_run_one_study(self, running):
        folder, _, _ = running
        plan = Study(Recipe().with_overrides({"data.options": {"act": "wait"}}), arms(["se"]), (0,), folder)
        with pytest.raises(UserError, match="another process is working in"):
            execute(plan)

    def test_the_parent_imports_no_torch(self):
        code = "import saccade.study.engine, sys; print({'torch', 'scipy', 'rich'} & set(sys.modules))"
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
            == "set()\n"
        )


def _within(condition):
    """Return True once ``condition`` holds, False if it does not within ten minutes."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if Path("/proc").exists():
            return False
        return subprocess.run(["ps", "-p", str(process)], capture_output=True, check=False).returncode == 0
    return state not in "ZX"
