"""Recipes are read, changed and written without loss; errors name the key and similar keys."""

import subprocess
import sys
import tomllib

import pytest
from pydantic import ValidationError

import saccade.recipe as recipe_module
from saccade.errors import UserError
from saccade.recipe import Recipe, builtin_recipe

FULL = """
[data]
source = "photos"
size = 48
augment = ["flip", "crop"]
[data.options]
clutter = 6

[model]
name = "resnet18"
options = {width = 8, layers = [1, 2, 1, 1]}

[attention]
mechanism = "eca:kernel_size=5"
where = ["layer1", "layer2.*"]
start = "neutral"

[training]
epochs = 3
lr = 0.125
warmup_epochs = 0.5
precision = "bf16"
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "some.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_is_read(written):
    recipe = Recipe.load(written(FULL))
    assert (recipe.data.source, recipe.data.size, recipe.data.augment) == ("photos", 48, ("flip", "crop"))
    assert recipe.data.options == {"clutter": 6}
    assert recipe.model.options == {"width": 8, "layers": [1, 2, 1, 1]}
    assert recipe.attention.where == ("layer1", "layer2.*")
    assert (recipe.training.lr, recipe.training.warmup_epochs, recipe.training.precision) == (0.125, 0.5, "bf16")
    assert recipe.training.batch_size == Recipe().training.batch_size  # what is not said is the default


@pytest.mark.parametrize("text", ["", FULL, "[data]\nsize = [48, 64]\nresize = 'pad'\nlayout = 'image_masks'"])
def test_written_and_read_back_it_is_equal(written, text):
    recipe = Recipe.load(written(text))
    again = Recipe.load(written(recipe.to_toml()))
    assert again == recipe
    assert again != recipe.with_overrides({"training.seed": 7})
    values = tomllib.loads(recipe.to_toml())
    assert values["training"]["epochs"] == recipe.training.epochs  # defaults are written too
    assert "checkpoint" not in values["model"]  # TOML has no null


def test_tuples_in_options_come_back_equal(written):
    recipe = Recipe.read(
        {"model": {"options": {"layers": (1, 2), "nested": {"k": (3,)}}}, "training": {"seed": 2**63 - 1}}
    )
    assert recipe.model.options == {"layers": [1, 2], "nested": {"k": [3]}}
    assert Recipe.load(written(recipe.to_toml())) == recipe


def test_the_size_of_images_is_one_side_or_two(written):
    assert Recipe().data.height_width is None
    assert Recipe.load(written(FULL)).data.height_width == (48, 48)
    assert Recipe.load(written("[data]\nsize = [48, 64]")).data.height_width == (48, 64)
    assert (Recipe.load(written(FULL)).data.layout, Recipe.load(written(FULL)).data.resize) == ("auto", "crop")


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        Recipe().training.epochs = 5


@pytest.mark.parametrize(
    ("setting", "part", "key", "value"),
    [
        ("training.epochs=3", "training", "epochs", 3),
        ("training.lr = 2e-3", "training", "lr", 0.002),
        ("model.pretrained=true", "model", "pretrained", True),
        ("model.pretrained=False", "model", "pretrained", False),
        ("data.source=./my photos", "data", "source", "./my photos"),
        ("data.size=None", "data", "size", None),
        ("data.size=[48, 64]", "data", "size", (48, 64)),
        ("data.augment=['flip']", "data", "augment", ("flip",)),
        ("data.options.clutter=9", "data", "options", {"clutter": 9}),
        ("attention.where=layer1", "attention", "where", "layer1"),
        ("attention.mechanism=das:alpha=0.1", "attention", "mechanism", "das:alpha=0.1"),
    ],
)
def test_settings(setting, part, key, value):
    changed = Recipe().with_overrides([setting])
    assert getattr(getattr(changed, part), key) == value
    assert Recipe().with_overrides({f"{part}.{key}": value}) == changed


def test_later_settings_win_and_the_recipe_stays():
    recipe = Recipe()
    assert recipe.with_overrides(["training.seed=1", "training.seed=2"]).training.seed == 2
    assert recipe == Recipe()
    assert recipe.with_overrides([]) == recipe


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.epochs"], ["'training.epochs' is not a setting", "section.key=value"]),
        (["=3"], ["'=3' is not a setting"]),
        (["training.epoch=3"], ["no key 'training.epoch'", "Did you mean 'epochs'?"]),
        (["trainig.epochs=3"], ["no section 'trainig'", "Did you mean 'training'?"]),
        (["training.lr.x=3"], ["no section 'lr'"]),
        (["modl=3"], ["no key 'modl'", "Did you mean 'model'?"]),
        (["training.epochs=0"], ["training.epochs = 0", "greater than or equal to 1"]),
        (["training.epochs=many"], ["training.epochs = 'many'", "integer"]),
        (["training.epochs=2.5"], ["training.epochs = 2.5", "integer"]),
        (["training.lr=-1"], ["training.lr = -1", "greater than 0"]),
        (["training.optimizer=adam"], ["training.optimizer = 'adam'", "'sgd'", "'adamw'"]),
        (["training.precision=16"], ["training.precision = 16", "'bf16'"]),
        (["data.test_part=1"], ["data.test_part = 1", "less than 1"]),
        (["data.size=4"], ["data.size = 4", "one number of 8 to 2048 or two of them, [height, width]"]),
        (["data.size=[64]"], ["data.size = [64]", "[height, width]"]),
        (["data.size=[64, 4]"], ["data.size = [64, 4]", "8 to 2048"]),
        (["data.resize=fit"], ["data.resize = 'fit'", "'pad'"]),
        (["model.options.drop_rate=None"], ["drop_rate is None", "leave it out"]),
        (["model.options.a={'b': [1, None]}"], ["a.b[1] is None"]),
        (["data.options.clutter=None"], ["clutter is None"]),
        (["model.options.a={1, 2}"], ["a is a set"]),
        (["model.options.a={1: 2}"], ["a is a dict"]),
        ([f"training.seed={2**63}"], ["training.seed", f"less than or equal to {2**63 - 1}"]),
        ([f"data.split_seed={2**63}"], ["data.split_seed", f"less than or equal to {2**63 - 1}"]),
        (
            ["attention.control=noise"],
            ["attention.control = 'noise': a control replaces a mechanism", "'none'"],
        ),
        (
            ["attention.control=shuffled", "attention.mechanism=se", "training.batch_size=1"],
            ["attention.control = 'shuffled'", "training.batch_size is 1, at least 2 is needed"],
        ),
        (["training.seed=-1", "training.threads=0"], ["training.seed = -1", "training.threads = 0"]),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UserError) as caught:
        Recipe().with_overrides(settings)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_control_needs_it_may_have():
    for control, size in (("shuffled", 2), ("noise", 1), ("extra", 1)):
        asked = {"attention.control": control, "attention.mechanism": "se", "training.batch_size": size}
        assert Recipe().with_overrides(asked).attention.control == control
    assert Recipe().with_overrides({"training.batch_size": 1}).attention.control is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training\nepochs = 3", ["some.toml is not valid TOML"]),
        ("[data]\nsorce = 'x'", ["some.toml", "no key 'data.sorce'", "Did you mean 'source'?"]),
        ("training = 3", ["some.toml", "training = 3"]),
    ],
)
def test_wrong_files_are_named(written, text, words):
    with pytest.raises(UserError) as caught:
        Recipe.load(written(text))
    for word in words:
        assert word in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the recipe .*absent\.toml: No such file"):
        Recipe.load(tmp_path / "absent.toml")
    with pytest.raises(UserError, match="cannot read the recipe"):
        Recipe.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"[data]\nsource = '\xe9'")
    with pytest.raises(UserError, match="not valid TOML"):
        Recipe.load(tmp_path / "latin.toml")


def test_reading_a_recipe_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from saccade.recipe import Recipe; print(Recipe().to_toml())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert tomllib.loads(done.stdout)["data"]["source"] == "digits", done.stderr


PHASES = """
[training]
schedule = "multistep"
milestones = [1]
ema_decay = 0.999
[[training.phases]]
name = "backbone"
epochs = 2
trainable = ["*", "!*.saccade.*"]
[[training.phases]]
name = "all"
epochs = 3
lr = 0.005
"""


def test_phases_are_read_and_say_the_number_of_epochs(written):
    training = Recipe.load(written(PHASES)).training
    first, second = training.phases
    assert (first.name, first.epochs, first.trainable, first.lr) == ("backbone", 2, ("*", "!*.saccade.*"), None)
    assert (second.trainable, second.choose, second.lr) == (("*",), False, 0.005)
    assert training.epochs == 5
    recipe = Recipe.load(written(PHASES))
    assert Recipe.load(written(recipe.to_toml())) == recipe
    assert recipe != recipe.with_overrides({"training.phases": [{"name": "backbone", "epochs": 5}]})
    shorter = recipe.with_overrides(["training.phases=[{'name': 'backbone', 'epochs': 3}]"])
    assert shorter.training.epochs == 3
    assert shorter.with_overrides({"training.phases": [], "training.lr": 0.1}).training.epochs == 3


NEW = {
    "milestones", "step_epochs", "gamma", "nesterov", "rmsprop_alpha", "eps", "clip_norm", "mixup_alpha",
    "cutmix_alpha", "ema_decay", "teacher", "teacher_checkpoint", "distill_alpha", "distill_temperature", "sync_bn",
    "loggers", "phases",
}  # fmt: skip


def test_a_recipe_of_before_these_keys_is_the_same_recipe(written):
    now = Recipe.load(written(FULL))
    values = tomllib.loads(now.to_toml())
    before = {key: value for key, value in values["training"].items() if key not in NEW}
    assert len(before) < len(values["training"])
    assert Recipe.read({**values, "training": before}) == now


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"milestones": [3]}, ["milestones = [3]", "'cosine', which does not use it", "to 'multistep' or leave"]),
        ({"step_epochs": 3, "schedule": "constant"}, ["step_epochs = 3", "'constant'", "'step'"]),
        ({"gamma": 0.5}, ["gamma = 0.5", "'step' or 'multistep' or 'exponential'"]),
        ({"schedule": "multistep"}, ["'multistep' needs training.milestones"]),
        ({"schedule": "step"}, ["'step' needs training.step_epochs"]),
        ({"schedule": "exponential"}, ["'exponential' needs training.gamma"]),
        ({"schedule": "cosin"}, ["Did you mean 'cosine'?"]),
        ({"schedule": "multistep", "milestones": [3, 3]}, ["[3, 3]", "greater than the one before"]),
        ({"schedule": "multistep", "milestones": [0]}, ["milestones.0 = 0", "greater than or equal to 1"]),
        ({"schedule": "multistep", "milestones": [3, 10]}, ["after epoch 10", "training.epochs is 10"]),
        ({"schedule": "step", "step_epochs": 10}, ["after epoch 10", "training.epochs is 10"]),
        (
            {"schedule": "multistep", "milestones": [3], "epochs": 5,
             "phases": [{"name": "a", "epochs": 3}, {"name": "b", "epochs": 2}]},
            ["after epoch 3", "the longest phase has 3"],
        ),
        ({"gamma": 1.0}, ["gamma = 1.0", "less than 1"]),
        ({"nesterov": True, "optimizer": "adamw"}, ["nesterov = True", "'adamw'", "'sgd'"]),
        ({"nesterov": True, "momentum": 0}, ["nesterov = True needs training.momentum above 0"]),
        ({"rmsprop_alpha": 0.9}, ["rmsprop_alpha = 0.9", "'sgd'", "'rmsprop'"]),
        ({"eps": 0.1}, ["eps = 0.1", "'adamw' or 'rmsprop'"]),
        ({"clip_norm": 0}, ["clip_norm = 0", "greater than 0"]),
        ({"ema_decay": 1}, ["ema_decay = 1", "less than 1"]),
        ({"mixup_alpha": -1}, ["mixup_alpha = -1"]),
        ({"cutmix_alpha": 1.0, "batch_size": 1}, ["cutmix_alpha = 1.0", "batch_size is 1, at least 2"]),
        ({"sync_bn": True}, ["a run has one device", "Leave training.sync_bn out"]),
        ({"distill_alpha": 0.5}, ["distill_alpha = 0.5 has no effect without training.teacher"]),
        ({"distill_temperature": 2}, ["distill_temperature = 2.0 has no effect"]),
        ({"teacher_checkpoint": "a"}, ["teacher_checkpoint = 'a' has no effect"]),
        ({"loggers": ["tensorbord"]}, ["Did you mean 'tensorboard'?"]),
        ({"phases": [{"name": "a", "epochs": 3}], "epochs": 10}, ["epochs = 10: the phases have 3 epochs", "set 3"]),
        ({"phases": [{"name": "a", "epoch": 3}]}, ["no key 'training.phases.0.epoch'", "Did you mean 'epochs'?"]),
        ({"phases": [{"name": "a", "epochs": 0}]}, ["training.phases.0.epochs = 0"]),
        ({"phases": [{"name": "a", "epochs": 3, "lr": 0}]}, ["training.phases.0.lr = 0"]),
        ({"phases": 3}, ["training.phases = 3"]),
        ({"phases": [3]}, ["training.phases.0 = 3"]),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_named(settings, words):
    with pytest.raises(UserError) as caught:
        Recipe().with_overrides({f"training.{key}": value for key, value in settings.items()})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


STEP = {"optimizer": "sgd", "lr": 0.1, "schedule": "multistep"}
PUBLISHED = {
    # DAS (arXiv:2311.12091), as ECA and Triplet train: ResNet and MobileNetV2 on ImageNet, CIFAR-100, Stanford Dogs.
    "das, resnet": {
        **STEP, "epochs": 100, "batch_size": 256, "weight_decay": 1e-4, "milestones": [30, 60, 90], "gamma": 0.1,
    },
    "das, mobilenetv2": {
        "epochs": 400, "batch_size": 96, "lr": 0.045, "weight_decay": 4e-5, "schedule": "exponential", "gamma": 0.98,
    },
    "das, cifar-100": {
        **STEP, "epochs": 300, "batch_size": 128, "weight_decay": 5e-4, "milestones": [70, 130, 200, 260], "gamma": 0.2,
    },
    "das, stanford dogs": {"epochs": 300, "batch_size": 32, "lr": 0.1, "weight_decay": 1e-4, "schedule": "cosine"},
    "das, detector": {  # two parts: the backbone alone, then all
        "batch_size": 16, "lr": 0.02, "weight_decay": 1e-4,
        "phases": [{"name": "backbone", "epochs": 6, "trainable": ["*", "!*.saccade.*"]}, {"name": "all", "epochs": 6}],
    },
    # SE (arXiv:1709.01507): by 10 every 30 epochs; SENet-154 smooths its labels.
    "se": {
        "epochs": 100, "batch_size": 1024, "lr": 0.6, "weight_decay": 1e-4, "schedule": "step", "step_epochs": 30,
        "label_smoothing": 0.1,
    },
    # AA-ResNet (arXiv:1904.09925).
    "attention augmented": {
        "epochs": 130, "batch_size": 4096, "lr": 1.6, "nesterov": True, "warmup_epochs": 10, "schedule": "cosine",
        "ema_decay": 0.9999,
    },
    # VT-ResNet (arXiv:2006.03677), both recipes.
    "visual transformer, plain": {
        "epochs": 90, "batch_size": 256, "lr": 0.1, "weight_decay": 4e-5, "schedule": "step", "step_epochs": 30,
    },
    "visual transformer, advanced": {
        "epochs": 400, "batch_size": 2048, "optimizer": "rmsprop", "lr": 0.16, "warmup_epochs": 5,
        "schedule": "exponential", "gamma": 0.9875, "label_smoothing": 0.1, "ema_decay": 0.99985,
        "teacher": "teacher", "distill_alpha": 0.8,
    },
    # AG-CNN (arXiv:1801.09927): three phases of 50 epochs, by 10 after 20, each with the best epoch on val.
    "ag-cnn": {
        "lr": 0.01, "weight_decay": 1e-4, "schedule": "step", "step_epochs": 20,
        "phases": [{"name": name, "epochs": 50, "trainable": [f"{name}.*"], "choose": True}
                   for name in ("global", "local", "fusion")],
    },
    # STN (arXiv:1506.02025): 150,000 steps of 256 of 10,000 drawn digits, by 10 every 50,000; the localiser at a tenth.
    "spatial transformer": {"epochs": 150, "batch_size": 256, "lr": 0.01, "weight_decay": 0, "schedule": "step",
                            "step_epochs": 50},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trainings_are_recipes(written, name):
    recipe = Recipe.read({"training": PUBLISHED[name]})
    assert Recipe.load(written(recipe.to_toml())) == recipe
    for key, value in PUBLISHED[name].items():
        if key != "phases":
            found = getattr(recipe.training, key)
            assert found == (tuple(value) if isinstance(value, list) else value)


def test_published_augmentations_are_recipes():
    """Of VT-ResNet's advanced training: AutoAugment, dropout, and stochastic depth through the options of the host."""
    options = {"drop_path_rate": 0.1, "drop_rate": 0.2}
    recipe = Recipe().with_overrides({"data.augment": ["flip", "crop", "autoaugment"], "model.options": options})
    assert recipe.data.augment[-1] == "autoaugment"
    assert recipe.model.options == options


def test_precision_may_be_written_as_a_number():
    assert Recipe().with_overrides(["training.precision=32"]).training.precision == "32"
    assert Recipe.read({"training": {"precision": 32}}).training.precision == "32"


def test_a_missing_folder_of_recipes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_module, "__file__", str(tmp_path / "src" / "saccade" / "recipe.py"))
    with pytest.raises(UserError, match=r"there is neither .*src.saccade.recipes nor .*recipes; install Saccade again"):
        builtin_recipe("digits")
    monkeypatch.undo()
    assert builtin_recipe("digits").data.source == "digits"
