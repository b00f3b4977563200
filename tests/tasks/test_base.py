"""The example in the docstring of ``tasks.base`` is a task that works."""

import textwrap

import pytest
import torch

from saccade.data import open_data
from saccade.data.samples import collate
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
