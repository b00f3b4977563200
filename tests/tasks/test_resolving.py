"""Unset values of a recipe are filled in from the origin of its host's weights."""

import pytest
import torch
from safetensors.torch import save_file

from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.tasks import describe_resolved, resolve

FACTS = {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "input_size": "3,96,96", "interpolation": "bicubic",
         "crop_pct": "0.8"}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    def write(**facts):
        path = tmp_path / "weights.safetensors"
        save_file({"w": torch.ones(1)}, path, facts)
        return path

    return write


def asking(path, **settings):
    return Recipe().with_overrides({"model.checkpoint": str(path), **settings})


def test_what_is_unset_is_filled_in_and_reported(checkpoint):
    asked = asking(checkpoint(**FACTS))
    found = resolve(asked, "label")
    assert found.data.size == 96
    assert found.data.mean == (0.5,) * 3
    assert found.data.std == (0.25,) * 3
    assert (found.data.interpolation, found.data.crop_pct) == ("bicubic", 0.8)
    said = describe_resolved(asked, found)
    assert "data.size = 96, data.mean = [0.5, 0.5, 0.5], data.std = [0.25, 0.25, 0.25]" in said
    assert resolve(found, "label") == found
    assert describe_resolved(found, found) is None


def test_set_values_are_kept(checkpoint):
    asked = asking(checkpoint(**FACTS), **{"data.size": [40, 60], "data.mean": 0.1, "data.crop_pct": 1.0})
    found = resolve(asked, "label")
    assert (found.data.size, found.data.mean, found.data.crop_pct) == ((40, 60), (0.1,), 1.0)
    assert found.data.std == (0.25,) * 3


def test_spatial_targets_keep_size_and_crop_unset(checkpoint):
    found = resolve(asking(checkpoint(**FACTS)), "mask")
    assert (found.data.size, found.data.crop_pct) == (None, None)
    assert found.data.interpolation == "bicubic"
    assert resolve(asking(checkpoint(**FACTS), **{"data.resize": "pad"}), "label").data.crop_pct is None


def test_padding_that_the_weights_need_is_applied_or_refused(checkpoint):
    path = checkpoint(pad_type="same")
    settings = {"model.name": "mobilenetv2_100"}
    assert resolve(asking(path, **settings), "label").model.options == {"pad_type": "same"}
    stated = settings | {"model.options": {"pad_type": "same"}}
    assert resolve(asking(path, **stated), "label").model.options == {"pad_type": "same"}
    with pytest.raises(UserError, match=r"needs model\.options\.pad_type = 'same'; the recipe says ''"):
        resolve(asking(path, **settings | {"model.options": {"pad_type": ""}}), "label")


def test_numbers_of_another_range_are_refused_until_the_recipe_states_them(checkpoint):
    path = checkpoint(mean="123.7,116.3,103.5")
    with pytest.raises(UserError, match=r"weights.safetensors: data.mean = .*\[0, 1\].*; set the value in the recipe"):
        resolve(asking(path), "label")
    assert resolve(asking(path, **{"data.mean": 0.4}), "label").data.mean == (0.4,)


def test_a_random_host_and_one_of_unknown_weights_stay_as_they_are(checkpoint):
    recipe = Recipe().with_overrides({"model.name": "resnet18"})
    assert resolve(recipe, "label") is recipe
    asked = asking(checkpoint())
    assert resolve(asked, "label") == asked
    trained = recipe.with_overrides({"model.pretrained": True})
    assert resolve(trained, "label").data.mean == pytest.approx((0.485, 0.456, 0.406))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        resolve(asking(tmp_path / "none.safetensors"), "label")
    with pytest.raises(UserError, match="there is no folder"):
        resolve(Recipe().with_overrides({"model.init_from": str(tmp_path / "none")}), "label")
    with pytest.raises(UserError, match="holds no finished run"):
        resolve(Recipe().with_overrides({"model.init_from": str(tmp_path)}), "label")
