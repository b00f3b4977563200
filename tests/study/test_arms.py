"""Arms of a study: their texts on the command line and their recipes."""

import re
from pathlib import Path

import pytest

from saccade import Recipe, UserError
from saccade.study.arms import Arm, arms
from saccade.study.plan import Study


def arm(name, mechanism, control=None, where=None):
    settings = {"attention.mechanism": mechanism, "attention.where": where, "attention.control": control}
    return Arm(name, {key: value for key, value in settings.items() if value is not None})


def test_the_baseline_comes_first():
    for asked in (["se", "das"], ["none", "se", "das"], ["se", "none", "das"]):
        assert [arm.name for arm in arms(asked)] == ["none", "se", "das"]


def test_a_control_for_each_mechanism_or_for_one():
    assert arms(["se", "das"], ["extra"])[3:] == (
        arm("extra for se", "se", "extra"),
        arm("extra for das", "das", "extra"),
    )
    assert arms(["se", "das"], ["extra:se"])[3:] == (arm("extra for se", "se", "extra"),)
    assert arms(["se", "das"], ["shuffled:das", "noise"])[3:] == (
        arm("shuffled for das", "das", "shuffled"),
        arm("noise for se", "se", "noise"),
        arm("noise for das", "das", "noise"),
    )
    named = arms(["se:rd_ratio=0.5"], ["noise", "shuffled:se:rd_ratio=0.5"])[2:]
    assert [arm.name for arm in named] == ["noise for se:rd_ratio=0.5", "shuffled for se:rd_ratio=0.5"]


def test_a_class_without_a_spec_may_have_a_control():
    name = "saccade.surgery.controls.shuffled:Shuffled"
    assert arms([name], [f"shuffled:{name}"])[2] == arm(f"shuffled for {name}", name, "shuffled")


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
    assert Arm(name).slug == slug
    assert re.fullmatch(r"[A-Za-z0-9._=-]+", slug)


def test_an_arm_may_have_its_own_position(tmp_path):
    asked = ["das", "das:where=block", "das:where=stage[:-1]:alpha=0.1"]
    found = arms(asked, ["extra:das:where=block", "shuffled"])
    assert [arm.name for arm in found[1:5]] == [*asked, "extra for das:where=block"]
    assert found[2] == arm("das:where=block", "das", where="block")
    assert found[3] == arm(asked[2], "das:alpha=0.1", where="stage[:-1]")
    assert found[4] == arm("extra for das:where=block", "das", "extra", "block")
    assert [(each.control, each.settings.get("attention.where")) for each in found[5:]] == [
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


def test_spaces_around_a_position_are_ignored():
    assert arms(["das: where = block :alpha=0.1"])[1] == arm(
        "das: where = block :alpha=0.1", "das:alpha=0.1", None, "block"
    )


def test_arms_with_the_same_folder_are_refused():
    with pytest.raises(UserError, match="'se:rd_divisor=8' and 'se rd_divisor=8' would share"):
        Study(Recipe(), (Arm("none"), Arm("se:rd_divisor=8"), Arm("se rd_divisor=8")), (0,), Path("s"))


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
        (["se", "sa:groups=4"], ["noise", "shuffled"], "name the mechanisms that need the control, as in shuffled:se"),
        (["se"], ["extr"], "Did you mean 'extra'"),
        (["se", "cbam"], ["extra:cbma"], "Did you mean 'cbam'"),
        (["se:where=stage"], ["extra:se"], "needs the mechanism 'se'; compared are se:where=stage."),
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


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a: model.options.width=32 attention=se", {"model.options.width": 32, "attention.mechanism": "se"}),
        (
            " a b :model=resnet18, training.lr = 1 ,  pretrained=true",
            {"model.name": "resnet18", "training.lr": 1.0, "model.pretrained": True},
        ),
        (
            "a: model=fcn model.options.levels=2 model.options.encoder=resnet18",
            {"model.name": "fcn", "model.options.levels": 2, "model.options.encoder": "resnet18"},
        ),
        (
            "a: attention=das:where=stage[:-1]:alpha=0.1 control=noise start=neutral",
            {
                "attention.mechanism": "das:alpha=0.1", "attention.control": "noise", "attention.start": "neutral",
                "attention.where": "stage[:-1]",
            },
        ),
        ("a: attention=eca:kernel_size=[3, 5, 5, 7] where=block",
         {"attention.mechanism": "eca:kernel_size=[3, 5, 5, 7]", "attention.where": "block"}),
        ("a: data.augment=('flip', 'crop') data.size=(24, 32)",
         {"data.augment": ["flip", "crop"], "data.size": [24, 32]}),
        ("a: model.options={'layers': (1, 2)} checkpoint=/a.safetensors",
         {"model.options": {"layers": [1, 2]}, "model.checkpoint": "/a.safetensors"}),
    ],
)  # fmt: skip
def test_an_arm_may_change_any_setting(text, settings):
    none, found = arms([], [], [text])
    assert none == Arm("none")
    assert (found.name, found.settings) == (text.partition(":")[0].strip(), settings)
    recipe = found.recipe(Recipe(), 7)
    assert recipe == Recipe().with_overrides({**settings, "training.seed": 7})
    assert recipe != Recipe().with_overrides({"training.seed": 7})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wide model.options.width=32", "--arm 'wide model.options.width=32': write a name and what differs, as in"),
        ("wide:", "--arm 'wide:': write a name and what differs"),
        (": attention=se", "--arm ': attention=se': write a name"),
        ("a: model", "--arm a: 'model' is not a setting; write section.key=value"),
        ("a: model.nme=resnet18", "--arm a: there is no key 'model.nme'. Did you mean 'name'?"),
        ("a: modle.name=resnet18", "--arm a: a recipe has no section 'modle' (in 'modle.name'). Did you mean 'model'?"),
        ("a: atention=se", "Did you mean 'attention'?"),
        ("a: attention=cbma", "--arm a: no mechanism is called 'cbma'. Did you mean 'cbam'"),
        ("a: training.lr=fast", "--arm a: training.lr = 'fast': input should be a valid number"),
        ("a: data.source=photos", "--arm a: data.source must be the same for all arms of a study; set it with --set"),
        ("a: data.test_images=40", "data.test_images must be the same for all arms"),
        ("a: training.seed=3", "--arm a: training.seed must be the same for all arms of a study; set it with --seeds"),
        ("a: task.name=segment", "task.name must be the same for all arms"),
        ("a: task.metric=top-5", "task.metric must be the same for all arms"),
        ("a: training.lr=1 training.lr=2", "--arm a: training.lr is given twice"),
        ("a: attention=se attention.mechanism=das", "--arm a: attention.mechanism is given twice"),
        ("a: attention=das:where=block where=stage", "--arm a: attention.where is given twice"),
        ("a: control=noise", "attention.mechanism is 'none'; name one"),
        ("a: data.size=None", "--arm a: data.size is None, which a recipe file cannot hold; give a value"),
        ("none: attention=se", "is the name of the plain network"),
        ("das: attention=se", "the arm 'das' is given twice"),
    ],
)
def test_wrong_settings(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        arms(["das"], [], [text])


def test_other_arms_are_ordered_between_mechanisms_and_controls():
    found = arms(["se", "das"], ["noise:se"], ["a: model=resnet18", "b: attention=eca"])
    assert [each.name for each in found] == ["none", "se", "das", "a", "b", "noise for se"]
    assert [each.mechanism for each in found] == ["none", "se", "das", "none", "eca", "se"]
    own = arms(["se"], ["noise:b", "extra:squeeze_excite"], ["b: attention=eca training.lr=0.1"])[3:]
    assert [each.name for each in own] == ["noise for b", "extra for se"]
    assert own[0].settings == {"attention.mechanism": "eca", "training.lr": 0.1, "attention.control": "noise"}
    with pytest.raises(UserError, match="the control 'noise:c' needs the mechanism 'c'; compared are se, b"):
        arms(["se"], ["noise:c"], ["b: attention=eca"])
    with pytest.raises(UserError, match="no mechanism is compared"):
        arms([], ["noise"], ["a: model=resnet18"])


def test_arms_with_the_same_recipe_are_refused():
    def study(*names, others=()):
        return Study(Recipe(), arms(names, [], others), (0,), Path("s"))

    for names, others in (
        (["se", "squeeze_excite"], ()),
        (["se"], ["x: attention=squeeze_excite"]),
        (["se"], ["x: training.epochs=10"]),
    ):
        with pytest.raises(UserError, match="have the same recipe; remove one of them"):
            study(*names, others=others)
    assert len(study("se", others=["x: training.epochs=11"]).arms) == 3


def test_a_reserved_file_name_is_refused():
    with pytest.raises(UserError, match="the name of a file of the study"):
        Study(Recipe(), arms([], [], ["study.toml: training.epochs=3"]), (0,), Path("s"))


def test_another_model_drops_the_options():
    base = Recipe().with_overrides({"model.options": {"width": 32}})
    same, other = arms([], [], ["a: model=resnet10_small training.lr=1", "b: model=resnet18 model.options.in_chans=3"])[
        1:
    ]
    assert same.recipe(base, 0).model.options == {"width": 32}
    assert other.recipe(base, 0).model.options == {"in_chans": 3}


def test_arms_that_share_the_host():
    others = ["a: model=resnet18", "b: model.options.width=8", "c: data.size=24", "d: attention=se training.lr=0.1",
              "e: model=resnet10_small", "f: pretrained=true", "g: data.augment=('flip',)"]  # fmt: skip
    found = {each.name: each.shares_host(Recipe()) for each in arms(["se"], ["noise"], others)}
    assert {name for name, shared in found.items() if not shared} == {"a", "b", "c", "f"}
