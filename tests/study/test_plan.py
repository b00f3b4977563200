"""The plan of a study: arms, seeds, folders, and the file that holds it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saccade import Recipe, UserError
from saccade.study.plan import Arm, Study, arms, seeds, shipped, write_atomically


def study(folder="runs/s", attention=("se", "das"), controls=(), numbers=(0, 1), margin=1.0, **settings):
    recipe = Recipe().with_overrides({key.replace("__", "."): value for key, value in settings.items()})
    return Study(recipe, arms(attention, controls), numbers, folder, margin)


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


def test_runs_differ_in_mechanism_and_seed_alone():
    first, *others = study(training__epochs=3, data__size=31).runs()
    for run in others:
        changes = {"attention.mechanism": "none", "attention.control": None, "training.seed": 0}
        assert run.recipe != first.recipe
        assert run.recipe.with_overrides(changes) == first.recipe


def test_the_plain_network_comes_first_wherever_it_was_asked_for():
    for asked in (["se", "das"], ["none", "se", "das"], ["se", "none", "das"]):
        assert [arm.name for arm in arms(asked)] == ["none", "se", "das"]


def test_a_control_for_each_mechanism_or_for_one():
    assert arms(["se", "das"], ["extra"])[3:] == (
        Arm("extra for se", "se", "extra"),
        Arm("extra for das", "das", "extra"),
    )
    assert arms(["se", "das"], ["extra:se"])[3:] == (Arm("extra for se", "se", "extra"),)
    assert arms(["se", "das"], ["shuffled:das", "noise"])[3:] == (
        Arm("shuffled for das", "das", "shuffled"),
        Arm("noise for se", "se", "noise"),
        Arm("noise for das", "das", "noise"),
    )
    named = arms(["se:rd_ratio=0.5"], ["noise", "shuffled:se:rd_ratio=0.5"])[2:]
    assert [arm.name for arm in named] == ["noise for se:rd_ratio=0.5", "shuffled for se:rd_ratio=0.5"]


def test_a_class_that_states_nothing_may_have_a_gate_to_lend():
    name = "saccade.surgery.controls.shuffled:Shuffled"
    assert arms([name], [f"shuffled:{name}"])[2] == Arm(f"shuffled for {name}", name, "shuffled")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("none", "none"),
        ("extra for das", "extra-for-das"),
        ("se:rd_ratio=0.25", "se-rd_ratio=0.25"),
        ("eca:kernel_size=[3,5,5,7]", "eca-kernel_size=-3-5-5-7"),
        ("my.module:Class", "my.module-Class"),
        ("../../etc:x", "..-..-etc-x"),
        ("das:where=stage[-1]", "das-where=stage--1"),
        ("das:where=stage[:-1]", "das-where=stage-_-1"),
        ("das:where=stage[1]", "das-where=stage-1"),
        ("das:where=stage[1:]:alpha=0.1", "das-where=stage-1_-alpha=0.1"),
    ],
)
def test_slugs_are_single_folder_names(name, slug):
    assert Arm(name, name).slug == slug
    assert re.fullmatch(r"[A-Za-z0-9._=-]+", slug)


def test_an_arm_names_a_position_of_its_own(tmp_path):
    asked = ["das", "das:where=block", "das:where=stage[:-1]:alpha=0.1"]
    found = arms(asked, ["extra:das:where=block", "shuffled"])
    assert [arm.name for arm in found[1:5]] == [*asked, "extra for das:where=block"]
    assert found[2] == Arm("das:where=block", "das", where="block")
    assert found[3] == Arm(asked[2], "das:alpha=0.1", where="stage[:-1]")
    assert found[4] == Arm("extra for das:where=block", "das", "extra", "block")
    assert [(arm.control, arm.where) for arm in found[5:]] == [
        ("shuffled", where) for where in (None, "block", "stage[:-1]")
    ]
    study = Study(Recipe().with_overrides({"attention.where": "residual"}), found, (0,), tmp_path / "s")
    parts = [run.recipe.attention for run in study.runs()]
    assert [(part.mechanism, part.where) for part in parts[:4]] == [
        ("none", "residual"), ("das", "residual"), ("das", "block"), ("das:alpha=0.1", "stage[:-1]")
    ]  # fmt: skip
    study.write()
    assert Study.open(study.folder) == study


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("das:where=", "''"),
        ("das:where= :alpha=0.1", "''"),
        ("das:where=block:where=stage[:-1]", "'block' and 'stage[:-1]'"),
    ],
)
def test_an_arm_names_one_position(text, found):
    with pytest.raises(UserError, match=re.escape(f"where= names one position, as in das:where=block; found {found}")):
        arms([text])


def test_blanks_around_a_position_are_none_of_it():
    assert arms(["das: where = block :alpha=0.1"])[1] == Arm(
        "das: where = block :alpha=0.1", "das:alpha=0.1", None, "block"
    )


def test_arms_that_would_share_a_folder_are_refused():
    with pytest.raises(UserError, match="'se:rd_divisor=8' and 'se rd_divisor=8' would share"):
        Study(
            Recipe(), (Arm("none", "none"), Arm("se:rd_divisor=8", "se"), Arm("se rd_divisor=8", "se")), (0,), Path("s")
        )


@pytest.mark.parametrize(
    ("text", "found"), [("1", (0,)), ("3", (0, 1, 2)), ("3,7,9", (3, 7, 9)), ("7,", (7,)), ("0,5", (0, 5))]
)
def test_seeds(text, found):
    assert seeds(text) == found


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
        seeds(text)


@pytest.mark.parametrize(
    ("attention", "controls", "message"),
    [
        (["cbma"], [], "no mechanism is called 'cbma'. Did you mean 'cbam'"),
        (["das:alpah=0.1"], [], "Did you mean 'alpha'"),
        (["se", "se"], [], "the arm 'se' is given twice"),
        (["none", "none", "se"], [], "the arm 'none' is given twice"),
        (["none"], [], "nothing to compare"),
        ([], [], "nothing to compare"),
        (["se"], ["noize"], "no control 'noize'. Did you mean 'noise'? Known: extra, noise, shuffled."),
        (["se"], ["shufled:se"], "Did you mean 'shuffled'"),
        (["sa"], ["shuffled"], "the control 'shuffled' cannot be made for 'sa', a transform: only the gate or"),
        (["se", "sa:groups=4"], ["noise", "shuffled"], "name the mechanisms it is meant for, as in shuffled:se"),
        (["se"], ["extr"], "Did you mean 'extra'"),
        (["se", "cbam"], ["extra:cbma"], "Did you mean 'cbam'"),
        (["se:where=stage"], ["extra:se"], "needs 'se' among the mechanisms compared, se:where=stage."),
        (
            ["none:where=block"],
            [],
            "'none:where=block': 'none' is the network without attention, which has no position",
        ),
        (["none:size=3"], [], "'none:size=3': none is the network without attention and has no options"),
        (["se"], ["extra", "extra:se"], "the arm 'extra for se' is given twice"),
    ],
)
def test_wrong_arms(attention, controls, message):
    with pytest.raises(UserError, match=re.escape(message)):
        arms(attention, controls)


def test_an_empty_or_crooked_design_is_refused():
    with pytest.raises(UserError, match="at least one seed; found 0"):
        study(numbers=())
    with pytest.raises(UserError, match="the seed 0 is given twice"):
        study(numbers=(0, 1, 0))
    with pytest.raises(UserError, match="first arm of a study is 'none'"):
        Study(Recipe(), (Arm("se", "se"),), (0,), Path("s"))
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="margin"):
            study(margin=margin)


def test_it_reads_back_what_it_wrote(tmp_path):
    plan = study(
        tmp_path / "a/b", ["se:rd_ratio=0.25"], ["extra"], (4, 2), 0.75,
        data__augment=["flip"], data__options={"clutter": 3}, model__options={"width": 24}, training__lr=0.03,
    )  # fmt: skip
    assert plan.claim() is False
    plan.write()
    found = Study.open(tmp_path / "a/b")
    assert found == plan
    assert found.runs() == plan.runs()
    assert found.claim() is True
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["study.toml"]


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
    ],
)
def test_another_study_in_the_folder_is_refused_with_the_key_that_differs(tmp_path, change, key):
    study(tmp_path).write()
    before = (tmp_path / "study.toml").read_bytes()
    with pytest.raises(UserError, match=re.escape(key)):
        study(tmp_path, **change).claim()
    assert (tmp_path / "study.toml").read_bytes() == before


def test_what_a_killed_write_leaves_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".study.toml.x1y2").write_text("margin = ")
    (tmp_path / ".lock").touch()
    assert not study(tmp_path).claim()
    study(tmp_path).write()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "study.toml"]
    assert study(tmp_path).claim()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=re.escape("not empty (it holds 'holiday.jpg')")):
        study(tmp_path).claim()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/in/it"):
        with pytest.raises(UserError, match="is a file, not a folder"):
            study(place).claim()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", r"study\.toml is damaged: it is no TOML"),
        ("seeds = [0]", r"study\.toml is damaged: margin is missing\. Put the file back"),
        ("seeds = [0]\nmargin = 1\narms = [{colour = 1}]\n[recipe]", r"damaged: arms\.0\.name is missing"),
        ("seeds = ['0']\nmargin = 1\narms = []\n[recipe]", r"damaged: seeds\.0 = '0': input should be a valid int"),
        ("seeds = [0]\nmargin = 1\narms = []\n[recipe.data]\nsze = 3", "Did you mean 'size'"),
    ],
)
def test_a_damaged_study_is_named(tmp_path, text, message):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        Study.open(tmp_path)


def test_what_is_no_study(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        Study.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no study"):
        Study.open(tmp_path)


def test_a_run_is_finished_only_with_a_whole_result_of_the_same_recipe(tmp_path):
    run = study(tmp_path).runs()[0]
    run.folder.mkdir(parents=True)
    assert run.finished is None
    (run.folder / "done.json").write_text('{"top1": 9')
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    with pytest.raises(UserError, match=rf"done\.json is damaged: it is no JSON.* Delete the folder {run.folder} and"):
        assert run.finished
    done = {"top1": 91.5, "test_loss": 1.0, "epochs": 1, "seconds": 1.0, "parameters": 1, "diverged": None}
    (run.folder / "done.json").write_text(json.dumps(done))
    assert run.finished == done
    (run.folder / "recipe.toml").write_text(run.recipe.with_overrides(["training.epochs=11"]).to_toml())
    assert run.finished is None


def test_shipped_recipes_are_valid_and_a_misspelt_one_is_told():
    for name in ("digits", "small_images", "photos"):
        assert isinstance(shipped(name), Recipe)
    assert shipped("digits").data.source == "digits"
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        shipped("digist")


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "x.toml"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.toml", "old")]
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_planning_imports_no_torch():
    code = (
        "import sys\nfrom saccade.study.plan import *\nfrom saccade import Recipe\n"
        "Study(Recipe(), arms(['se:rd_ratio=0.5', 'das'], ['extra']), seeds('3'), 's').runs()\n"
        "print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
