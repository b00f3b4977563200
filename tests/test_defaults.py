"""Choice of the recipe by images and host, and overrides by the caller."""

import pytest
from PIL import Image

from saccade import UserError
from saccade.defaults import choose_recipe, make_paths_absolute, overrides_from
from saccade.recipe import Recipe, builtin_recipe
from saccade.study.arms import arms


@pytest.fixture
def photos(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (120, 100)).save(tmp_path / f"photos/{label}/{number}.png")
    return tmp_path / "photos"


def test_without_a_word_it_is_the_digits():
    assert choose_recipe(None, None, {}) == builtin_recipe("digits")
    assert choose_recipe("digits", None, {}) == builtin_recipe("digits")


def test_several_labels_of_the_digits_have_a_recipe(photos):
    chosen = choose_recipe(None, None, overrides_from(task="multilabel", settings={"training.epochs": 2}))
    assert chosen == builtin_recipe("digits_multilabel").with_overrides({"training.epochs": 2})
    assert chosen.data.options["distractors"] > builtin_recipe("digits").data.options["distractors"]
    assert choose_recipe(None, None, overrides_from(task="segment")).data == builtin_recipe("digits").data
    assert choose_recipe(None, photos, overrides_from(task="multilabel")).data.augment == ("flip", "crop")


def test_boxes_and_fixations_have_recipes_that_cut_nothing_off(photos, tmp_path):
    for part in ("images", "labels"):
        (tmp_path / "boxes" / part).mkdir(parents=True)
    (tmp_path / "boxes/data.yaml").write_text("train: images\nnames: [cat]\n")
    for number in range(2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"boxes/images/{number}.png")
        (tmp_path / f"boxes/labels/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "gaze").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "gaze/a.png")
    (tmp_path / "gaze/fixations.csv").write_text("image,x,y\na.png,5,6\na.png,7,8\n")
    for name, folder in (("boxes", "boxes"), ("fixations", "gaze")):
        chosen = choose_recipe(None, tmp_path / folder, {})
        builtin = builtin_recipe(name)
        assert (chosen.model, chosen.training, chosen.data.resize) == (builtin.model, builtin.training, "pad")
        tuned = choose_recipe(None, tmp_path / folder, overrides_from(pretrained=True))
        assert (tuned.training, tuned.data) == (builtin_recipe("finetune").training, chosen.data)
    assert choose_recipe(None, photos, {}).data.resize == "crop"


def test_a_host_with_weights_is_tuned(photos):
    plain, pretrained, checkpoint = (
        choose_recipe(None, photos, overrides_from(**words))
        for words in ({}, {"pretrained": True, "model": "resnet34"}, {"checkpoint": "w.safetensors"})
    )
    finetune = builtin_recipe("finetune")
    assert plain.training == builtin_recipe("photos").training != finetune.training
    assert pretrained.training == checkpoint.training == finetune.training
    assert (finetune.training.optimizer, finetune.training.lr, finetune.data.size) == ("adamw", 1e-4, None)
    assert (pretrained.model.name, pretrained.model.pretrained, pretrained.model.checkpoint) == ("resnet34", True, None)
    assert (checkpoint.model.name, checkpoint.model.pretrained) == ("resnet18", False)
    assert checkpoint.model.checkpoint.endswith("/w.safetensors"), "whole, so that a study goes on from any folder"
    assert finetune.model.pretrained, "saccade compare --recipe finetune says it by itself"


def test_what_is_set_wins(photos):
    settings = ["model.pretrained=true", "training.lr=0.01", "data.size=64"]
    recipe = choose_recipe(None, photos, overrides_from(settings=settings))
    assert (recipe.training.lr, recipe.data.size, recipe.training.optimizer) == (0.01, 64, "adamw")
    named = choose_recipe("photos", photos, overrides_from(pretrained=True))
    assert named.training == builtin_recipe("photos").training, "a recipe that is named is taken"
    assert named.model.pretrained
    settings = {"training": {"lr": 0.5}, "model": {"options": {"width": 8}}}
    recipe = choose_recipe(Recipe(), None, overrides_from(settings=settings))
    assert (recipe.training.lr, recipe.training.epochs, recipe.model.options) == (0.5, 10, {"width": 8})


def test_another_host_drops_the_options_of_the_recipe():
    assert choose_recipe("digits", None, overrides_from(model="resnet18")).model.options == {}
    assert choose_recipe("digits", None, overrides_from(model="resnet10_small")).model.options["stem_stride"] == 2
    options = {"name": "resnet18", "options": {"drop_rate": 0.1}}
    assert choose_recipe("digits", None, overrides_from(model=options)).model.options == {"drop_rate": 0.1}


def test_the_data_of_a_setting_chooses_too(photos):
    assert choose_recipe(None, None, {"data.source": str(photos)}).training == builtin_recipe("photos").training


@pytest.mark.parametrize(
    ("recipe", "words"), [("digist", "Did you mean 'digits'"), ("absent.toml", "cannot read the recipe absent.toml")]
)
def test_a_recipe_that_is_not_there(recipe, words):
    with pytest.raises(UserError, match=words):
        choose_recipe(recipe, None, {})


def test_paths_of_weights_and_runs_are_whole_whoever_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taught").mkdir()
    paths = {
        "model.init_from": "runs/a", "model.checkpoint": "w.safetensors", "training.teacher": "taught",
        "training.teacher_checkpoint": "t.safetensors",
    }  # fmt: skip
    whole = {key: str(tmp_path / path) for key, path in paths.items()}
    assert overrides_from(settings=paths) == whole
    assert overrides_from(settings=[f"{key}={path}" for key, path in paths.items()]) == whole
    recipe = make_paths_absolute(Recipe().with_overrides(paths))
    assert recipe == Recipe().with_overrides(whole)
    assert arms([], others=["a: checkpoint=w.safetensors"])[1].settings["model.checkpoint"] == whole["model.checkpoint"]
    teacher = {"training.teacher": "resnet18"}
    assert overrides_from(settings=teacher) == teacher, "the name of a timm model is not a path"
