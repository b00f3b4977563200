"""Scores of maps: each from one map at a time, the choice of images and classes, and controls that differ."""

from dataclasses import replace

import pytest
import torch
from timm import create_model

from saccade.contract.randomize import randomize
from saccade.data import open_data
from saccade.explanation import activation_maps, deletion, insertion, map_scores, random_maps, target_layer
from saccade.explanation.control_maps import centre_prior, random_weights
from saccade.explanation.map_scores import CONTROLS, OWN, evenly_spaced, find_examples, has_example, map_score_rows
from saccade.metrics import iou_by_threshold, pointing_game, sfd
from saccade.recipe import Recipe
from saccade.tasks import get

DATA = {"data.size": 24, "data.train_images": 20, "data.test_images": 20}


def task_of(name):
    task_class = get(name)
    recipe = Recipe().with_overrides(DATA)
    return task_class(recipe, open_data(recipe.data, task_class.target))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    network = create_model("resnet10_small", num_classes=10, in_chans=1, width=4, stem_stride=2)
    with torch.no_grad():
        randomize(network).fc.weight.mul_(3)  # for probabilities far from 0.1
    return network.eval()


@pytest.fixture(scope="module")
def examples():
    return find_examples(task_of("classify"), [0, 3, 7])


@pytest.fixture(scope="module")
def rows(net, examples):
    return map_score_rows(net, examples, steps=3, seed=5)


def test_scores_are_those_of_one_map_at_a_time(net, examples, rows):
    assert list(rows) == [OWN, *CONTROLS]
    layer, untrained = target_layer(net, examples.images), random_weights(net, 5)
    for i, label in enumerate(examples.classes):
        image, region = examples.images[i : i + 1], examples.regions[i]
        for name, model, shown in (
            (OWN, net, label),
            (CONTROLS[0], untrained, label),
            (CONTROLS[1], net, examples.others[i]),
        ):
            (map_,) = activation_maps(model, image, [shown], layers=[layer])[layer]
            assert rows[name]["sfd"][i, 4] == pytest.approx(float(sfd(map_, region, 0.5)), abs=1e-5)
            assert rows[name]["sfd"][i, 8] == pytest.approx(float(sfd(map_, region, 0.9)), abs=1e-5)
            assert rows[name]["pointing"][i] == pointing_game(map_, region)
            torch.testing.assert_close(rows[name]["iou"][i], iou_by_threshold(map_, region))
    centre = centre_prior((24, 24)).float()
    assert rows["centre"]["sfd"][0, 4] == pytest.approx(float(sfd(centre, examples.regions[0], 0.5)))


def test_faithfulness_is_the_advantage_over_a_random_map(net, examples, rows):
    layer = target_layer(net, examples.images)
    maps = activation_maps(net, examples.images, examples.classes, layers=[layer])[layer]
    centre = centre_prior((24, 24)).float().expand(3, -1, -1)
    # In one batch, since the place in the batch orders the pixels of equal value.
    every, images = torch.cat([maps, centre, random_maps(maps, 5)]), examples.images.repeat(3, 1, 1, 1)
    for name, curve, sign in (("insertion", insertion, 1), ("deletion", deletion, -1)):
        own, at_centre, random = curve(net, images, every, 3 * examples.classes, steps=3, seed=5).split(3)
        torch.testing.assert_close(rows[OWN][name], sign * (own - random))
        torch.testing.assert_close(rows["centre"][name], sign * (at_centre - random))
        assert (own - random).abs().max() > 1e-4  # far above the tolerance
    assert not {"insertion", "deletion"} & (rows["random weights"].keys() | rows["another class"].keys())
    assert "insertion" not in map_score_rows(net, examples, steps=0)[OWN]


def test_a_control_without_maps_is_left_out(net, examples, monkeypatch):
    def silent(model, seed):  # every score is constant
        copied = random_weights(model, seed)
        torch.nn.init.zeros_(copied.fc.weight)
        return copied

    monkeypatch.setattr(map_scores, "random_weights", silent)
    assert list(map_score_rows(net, examples, steps=0)) == [OWN, *CONTROLS[1:]], "a constant map has sfd 0.5"


def test_the_other_class_is_not_in_the_image():
    examples = find_examples(task_of("multilabel"), range(20))
    task = task_of("multilabel")
    present = [{subject.index for subject in task.subjects(i)} for i in examples.indices]
    assert all(own in has and other not in has
               for own, other, has in zip(examples.classes, examples.others, present, strict=True))  # fmt: skip
    assert len(set(examples.others)) > 3
    assert examples.multilabel
    assert not find_examples(task_of("classify"), [0]).multilabel
    assert find_examples(task_of("classify"), [0]).others is None  # a single class


def test_images_without_a_class_are_left_out(monkeypatch):
    task = task_of("classify")
    every = type(task).subjects
    monkeypatch.setattr(type(task), "subjects", lambda self, i: [] if i < 2 else every(self, i))
    assert find_examples(task, [0, 1, 2, 3]).indices == [2, 3]
    assert find_examples(task, [0, 1]) is None
    assert [has_example(task, i) for i in (1, 2)] == [False, True]


def test_maps_of_saliency_are_compared_with_fixations():
    task = task_of("saliency")
    examples = find_examples(task, [0, 1])
    assert (examples.classes, examples.regions, examples.names) == (None, None, ["", ""])
    assert torch.equal(examples.points[1], task.data.test.target(1)["points"])


def test_evenly_spaced_images_have_every_label():
    labels = [i % 10 for i in range(2000)]  # as in digits
    assert {labels[i] for i in evenly_spaced(2000, 100)} == set(range(10))
    assert {labels[i] for i in range(0, 2000, 20)} == {0}
    assert len(set(evenly_spaced(2000, 100))) == 100


def test_one_image_without_a_region_is_counted(monkeypatch):
    task = task_of("classify")
    assert find_examples(task, [0, 3, 7]).without_region == 0
    own = type(task).subjects
    monkeypatch.setattr(type(task), "subjects", lambda self, i: [replace(own(self, i)[0], region=None)]
                        if i == 3 else own(self, i))  # fmt: skip
    found = find_examples(task, [0, 3, 7])
    assert (found.regions, found.without_region) == (None, 1)
    assert find_examples(task, [3]).without_region == 0, "no image has one"
