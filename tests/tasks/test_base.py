"""The example in the docstring of ``tasks.base`` is a task that works."""

import textwrap
from types import SimpleNamespace

import pytest
import torch
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade import tasks
from saccade.data import open_data
from saccade.data.digits import make_scenes
from saccade.data.samples import ImageColumn, collate
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import base


@pytest.fixture(scope="module")
def task():
    example = base.__doc__.partition("::\n")[2]
    namespace = {}
    exec(textwrap.dedent(example), namespace)
    (cls,) = [value for value in namespace.values() if isinstance(value, type) and value.__name__ == "Regress"]
    return cls(Recipe(), open_data(Data(train_images=20, test_images=10, size=16), "label"))


def test_its_network_is_trained_on_its_loss(task):
    network = task.build(task.recipe.model)
    images, labels = collate([task.data.train[i] for i in range(4)])
    assert task.output_problem(network(images), images) is None
    assert "gives shape (4, 1)" in task.output_problem(network(images), images[:2])
    (loss,) = task.loss(network, images, labels).values()
    loss.backward()
    assert torch.isfinite(network.conv1.weight.grad).all()


def test_its_rows_give_its_metric(task):
    network = task.build(task.recipe.model).eval()
    images, labels = collate([task.data.test[i] for i in range(10)])
    with torch.no_grad():
        rows = task.rows(network, images, labels)
    scores = task.scores(rows)
    assert scores == {"MAE": pytest.approx(float((rows["predicted"] - labels).abs().mean()))}
    name, baseline = task.trivial_baseline()
    assert (name, task.scores(baseline)["MAE"]) == ("the mean label", pytest.approx(2.5))
    assert set(task.truth_keys) <= baseline.keys() == rows.keys()


def test_it_draws(task):
    network = task.build(task.recipe.model).eval()
    assert [drawing.caption for drawing in task.draw([3, 5], None)] == ["3", "5"]
    with torch.no_grad():
        assert len(task.draw([3, 5], network)) == 2


def test_class_weights_are_refused_by_a_loss_without_them(task):
    recipe = Recipe().with_overrides({"task.class_weights": "balanced"})
    with pytest.raises(UserError, match=r"task.class_weights = 'balanced': the loss of regress has no class weights"):
        type(task)(recipe, task.data)


def test_sigma_is_refused_by_a_task_without_it(task):
    recipe = Recipe().with_overrides({"task.sigma": 4})
    with pytest.raises(UserError, match=r"task.sigma = 4: regress blurs no fixations"):
        type(task)(recipe, task.data)


def test_metrics_of_values_with_enough_images():
    test = open_data(Data(train_images=20, test_images=40, size=16), "label").test
    values = ["AP"] * 15 + ["PA"] * 14 + ["LL"] * 10 + [""]
    test.by = ImageColumn("view", values)
    kind = tasks.get("classify")
    labels = torch.arange(40) % 10
    rows = {"predicted": torch.where(torch.arange(40) < 6, labels, -1), "label": labels, **test.codes()}
    (top1, *_) = kind.metrics_by(kind.metrics, "view", test.by.levels, rows)
    assert (top1.name, top1.compute(rows)) == ("top-1 (view = AP)", pytest.approx(100 * 6 / 15))
    assert kind.metrics[0].compute(rows) == pytest.approx(100 * 6 / 40)
    names = {metric.name for metric in kind.metrics_by(kind.metrics, "view", test.by.levels, rows)}
    assert names == {f"{metric.name} (view = AP)" for metric in kind.metrics}
    assert kind(Recipe(), SimpleNamespace(test=test)).unscored() == [
        "view = LL is not scored: it has 10 test images in 10 groups; 15 in 10 are needed.",
        "view = PA is not scored: it has 14 test images in 14 groups; 15 in 10 are needed.",
    ]
    test.groups = [str(i // 2) for i in range(40)]
    assert kind.metrics_by(kind.metrics, "view", test.by.levels, rows | test.codes()) == ()


DIGITS = Data(train_images=10, test_images=12, size=24, options={"distractors": 2})


@pytest.mark.parametrize(
    ("name", "offset"), [("classify", 0), ("multilabel", 0), ("segment", 1), ("detect", 1), ("saliency", None)]
)
def test_subjects_of_digits_are_where_their_ink_is(name, offset):
    kind = tasks.get(name)
    task, scenes = kind(Recipe(), open_data(DIGITS, kind.target)), make_scenes(DIGITS, "test")
    if offset is None:
        assert all(task.subjects(i) == [] for i in range(12))
        return
    seen_distractors = 0
    for i in range(12):
        scene, subjects = scenes.scene(i), task.subjects(i)
        labels = scene.box_labels
        shown = {scene.label} if name == "classify" else set(labels.tolist())
        assert {(s.index, s.name) for s in subjects} == {(k + offset, str(k)) for k in shown}
        sizes = [int(subject.region.sum()) for subject in subjects]
        assert sizes == sorted(sizes, reverse=True)
        for subject in subjects:
            own = labels == int(subject.name)
            if name == "classify":
                own = torch.arange(len(labels)) == 0
            seen_distractors += int((~own).sum())
            assert torch.equal(subject.region, scene.masks[own].any(0))
            assert not (subject.region & scene.masks[~own].any(0)).any()
            assert (task.data.test.raw_image(i)[0][subject.region] > 0).all()
    assert seen_distractors > 12
    assert not torch.equal(task.subjects(0)[0].region, task.subjects(10)[0].region)


def test_subjects_of_data_without_regions():
    data = open_data(Data(train_images=10, test_images=12, size=16), "vector")
    data.test.regions = None
    found = tasks.get("multilabel")(Recipe(), data).subjects(3)
    labels = torch.nonzero(data.test.target(3))[:, 0].tolist()
    assert [(s.index, s.region) for s in found] == [(k, None) for k in labels]


def test_subjects_of_masks_leave_out_background_and_void():
    mask = Mask(torch.tensor([[0, 0, 2], [255, 1, 2]], dtype=torch.uint8))
    for classes, names in ((["background", "cat", "dog"], ["dog", "cat"]), (["sky", "cat", "dog"], None)):
        test = SimpleNamespace(target=lambda i: mask)
        found = tasks.get("segment")(Recipe(), SimpleNamespace(test=test, classes=classes)).subjects(0)
        assert [s.name for s in found] == (names or ["sky", "dog", "cat"])
        assert type(found[0].region) is torch.Tensor
        (salient,) = tasks.get("salient_objects")(Recipe(), SimpleNamespace(test=test, classes=classes)).subjects(0)
        assert (salient.index, salient.region.int().tolist()) == (0, [[0, 0, 1], [0, 1, 1]])
        dog = next(s for s in found if s.name == "dog")
        assert (dog.index, dog.region.int().tolist()) == (2, [[0, 0, 1], [0, 0, 1]])


def test_subjects_of_boxes_are_their_union():
    boxes = BoundingBoxes(torch.tensor([[0.0, 0, 1, 1], [2, 0, 4, 1], [0, 1, 1, 2]]), format="XYXY", canvas_size=(2, 4))
    objects = {"boxes": boxes, "labels": torch.tensor([1, 0, 1])}
    data = SimpleNamespace(test=SimpleNamespace(target=lambda i: objects), classes=["cat", "dog"], size=(2, 4))
    task = tasks.get("detect")(Recipe(), data)
    found = {s.name: (s.index, s.region.int().tolist()) for s in task.subjects(0)}
    assert found == {"dog": (2, [[1, 0, 0, 0], [1, 0, 0, 0]]), "cat": (1, [[0, 0, 1, 1], [0, 0, 0, 0]])}
    objects["masks"] = Mask(torch.zeros(3, 2, 4, dtype=torch.uint8))
    objects["masks"][1, 1, 3] = 1
    assert task.subjects(0)[0].region.int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
