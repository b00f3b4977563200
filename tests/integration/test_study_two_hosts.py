"""Arms of a study share the data, and the initial weights if they share the host."""

import pytest
import torch

from saccade import Recipe
from saccade.data import open_data
from saccade.data.sampling import EpochSampler
from saccade.study.arms import arms
from saccade.study.plan import Study
from saccade.tasks.classify import Classify
from saccade.training import build

TINY = {"data.size": 16, "data.train_images": 40, "data.test_images": 20, "model.options": {"width": 16},
        "data.augment": ["crop"]}  # fmt: skip
OTHERS = ["wide: model.options.width=20", "resnet: model=resnet18 model.options={}", "slow: training.lr=0.001"]


@pytest.fixture(scope="module")
def made():
    """Study, and a mapping of arm to task and network with seed 5."""
    study = Study(Recipe().with_overrides(TINY), arms(["se", "das"], ["noise:se"], OTHERS), (5,), "s")
    tasks = {run.arm.name: Classify(run.recipe, open_data(run.recipe.data, "label")) for run in study.runs()}
    return study, {name: (task, build(task)) for name, task in tasks.items()}


def _host(made, name):
    return made[1]["none"][1].state_dict(), made[1][name][1].state_dict()


@pytest.mark.parametrize("name", ["se", "das", "noise for se", "slow"])
def test_arms_that_share_the_host_share_its_first_weights(made, name):
    assert next(arm for arm in made[0].arms if arm.name == name).shares_host(made[0].base)
    plain, own = _host(made, name)
    torch.testing.assert_close({key: own[key] for key in plain}, dict(plain), rtol=0, atol=0)
    assert [key for key in plain if "conv" in key]


@pytest.mark.parametrize("name", ["wide", "resnet"])
def test_arms_with_another_host_do_not_share_weights(made, name):
    assert not next(arm for arm in made[0].arms if arm.name == name).shares_host(made[0].base)
    plain, own = _host(made, name)
    common = [key for key in plain.keys() & own.keys() if plain[key].is_floating_point() and "conv" in key]
    assert common
    same_shape = [key for key in common if plain[key].shape == own[key].shape]
    assert [key for key in same_shape if torch.equal(plain[key], own[key])] == []


def test_another_seed_gives_other_weights(made):
    study = made[0]
    recipe = study.arms[0].recipe(study.base, 6)
    other = build(Classify(recipe, open_data(recipe.data, "label"))).state_dict()
    assert not torch.equal(other["fc.weight"], made[1]["none"][1].state_dict()["fc.weight"])


def test_all_arms_get_the_same_images_in_the_same_order(made):
    def first(task, seed=None):
        training, images = task.recipe.training, task.data.train
        keys = next(iter(EpochSampler(images, training.seed if seed is None else seed, training.batch_size)))
        return keys, torch.stack([images[key][0] for key in keys])

    expected = first(made[1]["none"][0])
    for task, _ in made[1].values():
        keys, batch = first(task)
        assert keys == expected[0]
        torch.testing.assert_close(batch, expected[1], rtol=0, atol=0)
    keys, batch = first(made[1]["none"][0], seed=6)
    assert [key.image for key in keys] != [key.image for key in expected[0]]
    assert not torch.equal(batch, expected[1])
