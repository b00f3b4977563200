"""Plan of a study: arms, seeds, folders and ``study.toml``."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saccade import Recipe, UserError
from saccade.study.arms import Arm, arms
from saccade.study.plan import Study, parse_seeds

NONE = "seeds = [0]\nrecipe = {}\n[[arms]]\nname = 'none'\n[[arms]]\nname = 'a'\n"


def study(folder="runs/s", attention=("se", "das"), controls=(), numbers=(0, 1), margin=1.0, others=(), **settings):
    recipe = Recipe().with_overrides({key.replace("__", "."): value for key, value in settings.items()})
    return Study(recipe, arms(attention, controls, others), numbers, folder, margin)


def test_runs_are_blocks():
    runs = study(controls=["extra:das"], numbers=(3, 7)).runs()
    assert [(run.seed, run.arm.name) for run in runs] == [
        (seed, name) for seed in (3, 7) for name in ("none", "se", "das", "extra for das")
    ]
    assert [str(run.folder) for run in runs[:4]] == [
        "runs/s/none/seed3", "runs/s/se/seed3", "runs/s/das/seed3", "runs/s/extra-for-das/seed3",
    ]  # fmt: skip
    assert [run.recipe.attention.mechanism for run in runs[:4]] == ["none", "se", "das", "das"]
    assert [run.recipe.attention.control for run in runs[:4]] == [None, None, None, "extra"]
    assert [run.recipe.training.seed for run in runs] == [3] * 4 + [7] * 4


def test_runs_differ_only_in_mechanism_and_seed():
    first, *others = study(training__epochs=3, data__size=31).runs()
    for run in others:
        changes = {"attention.mechanism": "none", "attention.control": None, "training.seed": 0}
        assert run.recipe != first.recipe
        assert run.recipe.with_overrides(changes) == first.recipe


@pytest.mark.parametrize(
    ("text", "found"), [("1", (0,)), ("3", (0, 1, 2)), ("3,7,9", (3, 7, 9)), ("7,", (7,)), ("0,5", (0, 5))]
)
def test_seeds(text, found):
    assert parse_seeds(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "at least one seed"),
        ("-3", "at least one seed"),
        ("", "at least one seed"),
        (",", "at least one seed"),
        ("many", "write their number"),
        ("2.5", "write their number"),
        ("1,-2", "found -2"),
        ("4,0,4", "the seed 4 is given twice"),
        ("0,0", "the seed 0 is given twice"),
        (f"{2**63},", f"at most {2**63 - 1}"),
        ("10001", "at most 10000"),
    ],
)
def test_wrong_seeds(text, message):
    with pytest.raises(UserError, match=message):
        parse_seeds(text)


def test_an_invalid_design_is_refused():
    with pytest.raises(UserError, match="at least one seed; found 0"):
        study(numbers=())
    with pytest.raises(UserError, match="the seed 0 is given twice"):
        study(numbers=(0, 1, 0))
    with pytest.raises(UserError, match="first arm of a study is 'none'"):
        Study(Recipe(), (Arm("se", {"attention.mechanism": "se"}),), (0,), Path("s"))
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="margin"):
            study(margin=margin)


def test_a_study_is_read_as_written(tmp_path):
    plan = study(
        tmp_path / "a/b", ["se:rd_ratio=0.25"], ["extra"], (4, 2), 0.75,
        ["a: data.augment=('flip','crop') model.options={'a': (1, 2)} training.lr=1"],
        data__augment=["flip"], data__options={"clutter": 3}, model__options={"width": 24}, training__lr=0.03,
    )  # fmt: skip
    assert plan.check_folder() is False
    plan.write()
    found = Study.open(tmp_path / "a/b")
    assert found == plan
    assert found.runs() == plan.runs()
    assert found.check_folder() is True
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["study.toml"]


def test_a_study_continues_with_its_stored_margin(tmp_path):
    plain = study(tmp_path / "s", margin=None)
    plain.write()
    assert "margin" not in (tmp_path / "s/study.toml").read_text()
    assert Study.open(tmp_path / "s").margin is None
    assert plain.check_folder()
    with pytest.raises(UserError, match=r"margin is not set there and 2\.0 here"):
        study(tmp_path / "s", margin=2.0).check_folder()
    study(tmp_path / "t", margin=2.0).write()
    assert study(tmp_path / "t", margin=None).check_folder(), "the margin that stands there"


def test_the_mechanism_and_seed_of_the_base_do_not_matter(tmp_path):
    assert study(tmp_path, attention__mechanism="das", training__seed=9) == study(tmp_path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"training__epochs": 3}, "recipe.training.epochs is 10 there and 3 here"),
        ({"numbers": (0, 1, 2)}, "seeds is 0, 1 there and 0, 1, 2 here"),
        ({"attention": ("se", "cbam")}, "arms is none, se, das there and none, se, cbam here"),
        ({"margin": 2.0}, "margin is 1.0 there and 2.0 here"),
        ({"data__size": 31}, "recipe.data.size is not set there and 31 here"),
        ({"others": ["a: training.lr=0.1"]}, "arms is none, se, das there and none, se, das, a here (and 1 more)"),
    ],
)
def test_another_study_in_the_folder_is_refused_with_the_key_that_differs(tmp_path, change, key):
    study(tmp_path).write()
    before = (tmp_path / "study.toml").read_bytes()
    with pytest.raises(UserError, match=re.escape(key)):
        study(tmp_path, **change).check_folder()
    assert (tmp_path / "study.toml").read_bytes() == before


def test_an_arm_of_the_same_name_that_differs_is_another_study(tmp_path):
    study(tmp_path, others=["a: attention=eca training.lr=0.1"]).write()
    assert study(tmp_path, others=["a: training.lr=0.1 attention=eca"]).check_folder(), "the order does not matter"
    with pytest.raises(UserError, match=r"arms\.a\.training\.lr is 0\.1 there and 0\.2 here; name another"):
        study(tmp_path, others=["a: attention=eca training.lr=0.2"]).check_folder()


def test_leftovers_of_a_killed_write_are_ignored(tmp_path):
    (tmp_path / ".study.toml.x1y2.part").write_text("margin = ")
    (tmp_path / ".lock").touch()
    assert not study(tmp_path).check_folder()
    study(tmp_path).write()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "study.toml"]
    assert study(tmp_path).check_folder()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=re.escape("not empty (it holds 'holiday.jpg')")):
        study(tmp_path).check_folder()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/in/it"):
        with pytest.raises(UserError, match="is a file, not a folder"):
            study(place).check_folder()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", r"study\.toml is damaged: it is not valid TOML"),
        ("margin = 1", r"study\.toml is damaged: seeds is missing\. Restore the file"),
        ("seeds = [0]\nmargin = 1\narms = [{colour = 1}]\n[recipe]", r"damaged: arms\.0\.name is missing"),
        ("seeds = ['0']\nmargin = 1\narms = []\n[recipe]", r"damaged: seeds\.0 = '0': input should be a valid int"),
        ("seeds = [0]\nmargin = 1\narms = []\n[recipe.data]\nsze = 3", "Did you mean 'size'"),
        (NONE + "[arms.settings]\n'model.nme' = 3", r"study\.toml: the arm 'a': there is no key 'model.nme'.*'name'"),
        (NONE + "settings = 3", r"damaged: arms\.1\.settings = 3: input should be a valid dict"),
    ],
)
def test_a_damaged_study_is_named(tmp_path, text, message):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        Study.open(tmp_path)


OLD = """
margin = 1.0
seeds = [0, 1]
[[arms]]
name = "none"
mechanism = "none"
[[arms]]
name = "das:where=block"
mechanism = "das"
where = "block"
[[arms]]
name = "extra for das:where=block"
mechanism = "das"
control = "extra"
where = "block"
[recipe.data]
source = "digits"
"""


def test_a_study_of_earlier_versions_is_read(tmp_path):
    (tmp_path / "study.toml").write_text(OLD)
    found = Study.open(tmp_path)
    assert found.arms == arms(["das:where=block"], ["extra"])
    assert found.margin == 1.0
    assert found == study(tmp_path, ["das:where=block"], ["extra"])
    for margin in (1.0, None):
        assert study(tmp_path, ["das:where=block"], ["extra"], margin=margin).check_folder()


def test_unknown_settings_are_refused_naming_the_arm(tmp_path):
    with pytest.raises(UserError, match=r"the arm 'a': attention.control = 'shuffled'.*batch_size is 1"):
        study(tmp_path, others=["a: attention=se control=shuffled"], training__batch_size=1)


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        Study.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a study"):
        Study.open(tmp_path)


def test_a_run_is_finished_only_with_a_result_of_the_same_recipe(tmp_path):
    run = study(tmp_path).runs()[0]
    run.folder.mkdir(parents=True)
    assert run.done_record is None
    (run.folder / "done.json").write_text('{"top1": 9')
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    with pytest.raises(
        UserError, match=rf"done\.json is damaged: it is not valid JSON.* Delete the folder {run.folder} and"
    ):
        assert run.done_record
    done = {"top1": 91.5, "test_loss": 1.0, "epochs": 1, "seconds": 1.0, "parameters": 1, "diverged": None}
    (run.folder / "done.json").write_text(json.dumps(done))
    assert run.done_record == done | {
        "task": "classify", "metric": "top-1", "score": "91.50 %", "scores": {"top-1": 91.5, "NLL": 1.0}
    }  # fmt: skip
    (run.folder / "recipe.toml").write_text(run.recipe.with_overrides(["training.epochs=11"]).to_toml())
    assert run.done_record is None


def test_planning_imports_no_torch():
    code = (
        "import sys\nfrom saccade import Recipe\nfrom saccade.study.arms import arms\n"
        "from saccade.study.plan import *\n"
        "Study(Recipe(), arms(['se:rd_ratio=0.5', 'das'], ['extra']), parse_seeds('3'), 's').runs()\n"
        "print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


LAST = {"settings": {"training.memory_format": "channels_last"}, "step_ms": {"contiguous": 31.5}, "batch": 8}
AUTO = {"training__memory_format": "auto"}


def test_open_settings_are_decided_once_and_written(tmp_path):
    asked = study(tmp_path / "s", **AUTO)
    assert asked.undecided() == ["training.memory_format"]
    found = asked.decide(LAST)
    assert found.undecided() == []
    assert {run.recipe.training.memory_format for run in found.runs()} == {"channels_last"}
    found.write()
    assert Study.open(tmp_path / "s") == found
    assert Study.open(tmp_path / "s").decided == LAST
    assert asked.check_folder()
    assert study(tmp_path / "s", training__memory_format="channels_last").check_folder(), (
        "the value itself is the same study"
    )
    with pytest.raises(UserError, match=r"memory_format is 'channels_last' there and 'contiguous' here"):
        study(tmp_path / "s").check_folder()
    with pytest.raises(UserError, match=r"epochs is 10 there and 9 here"):
        study(tmp_path / "s", training__epochs=9, **AUTO).check_folder()


def test_a_study_of_an_earlier_version_continues_contiguous(tmp_path):
    study(tmp_path / "s").write()
    path = tmp_path / "s/study.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "memory_format" not in line))
    assert study(tmp_path / "s", **AUTO).check_folder()
    assert Study.open(tmp_path / "s").base.training.memory_format == "contiguous"


def test_an_arm_may_have_open_settings(tmp_path):
    """Settings decided with the baseline are used for the arm."""
    asked = study(tmp_path / "s", others=["fast: training.precision=auto training.epochs=3"])
    assert asked.undecided() == ["training.precision"]
    found = asked.decide({"settings": {"training.precision": "bf16"}})
    assert [run.recipe.training.precision for run in found.runs()[:4]] == ["32", "32", "32", "bf16"]
    found.write()
    assert asked.check_folder()
    alone = study(tmp_path / "t", others=["fast: training.precision=auto"])
    with pytest.raises(UserError, match="'none' and 'fast' have the same recipe"):
        alone.decide({"settings": {"training.precision": "32"}})


@pytest.mark.parametrize("wrong", ["3", "{batch = 3}", "{settings = {a = 1}}"])
def test_a_damaged_decision_is_named(tmp_path, wrong):
    (tmp_path / "study.toml").write_text(f"decided = {wrong}\n{NONE}")
    with pytest.raises(UserError, match=r"study\.toml is damaged: decided"):
        Study.open(tmp_path)
