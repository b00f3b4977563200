"""Tasks by name, and the default task for the data."""

from types import SimpleNamespace

import pytest

from saccade import tasks
from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.tasks.base import Task


def test_every_task_is_complete():
    assert tasks.names() == ["classify", "detect", "multilabel", "segment"]
    for name in tasks.names():
        kind = tasks.get(name)
        assert issubclass(kind, Task)
        assert getattr(kind, "__final__", False)
        assert len({metric.name.lower() for metric in kind.metrics}) == len(kind.metrics)
        for metric in kind.metrics:
            metric.check_margin(metric.margin)


def test_the_data_decide_unless_the_recipe_does():
    assert tasks.choose_task(Recipe()) == "classify"
    assert tasks.choose_task(Recipe().with_overrides({"task.name": "segment"})) == "segment"
    assert tasks.choose_task(Recipe().with_overrides({"task.name": "multilabel"})) == "multilabel"
    with pytest.raises(UserError, match=r"no task 'segmnt'\. Did you mean 'segment'"):
        tasks.choose_task(Recipe().with_overrides({"task.name": "segmnt"}))


@pytest.fixture
def with_another(monkeypatch):
    """``with_another(name, is_default)`` adds a task that learns from labels."""

    def call(name, is_default):
        known, get = tasks.names(), tasks.get
        monkeypatch.setattr(tasks, "names", lambda: sorted([*known, name]))
        other = type("Other", (Task,), {"target": "label", "is_default": is_default})
        monkeypatch.setattr(tasks, "get", lambda asked: other if asked == name else get(asked))

    return call


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_task_that_is_not_the_default_changes_nothing(with_another, name):
    with_another(name, False)
    assert tasks.choose_task(Recipe()) == "classify"
    assert tasks.choose_task(Recipe().with_overrides({"task.name": name})) == name


@pytest.mark.parametrize(("name", "files"), [("a", "a.py and tasks/classify"), ("z", "classify.py and tasks/z")])
def test_two_tasks_for_the_same_targets_are_refused(with_another, name, files):
    with_another(name, True)
    with pytest.raises(TypeError, match=f"tasks/{files}.py are both the default task for targets of the kind 'label'"):
        tasks.choose_task(Recipe())


def test_a_task_without_its_targets_is_refused(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").touch()
    recipe = Recipe().with_overrides({"data.source": str(tmp_path), "task.name": "segment"})
    with pytest.raises(UserError, match=r"the task segment learns from targets of the kind 'mask'; .* has 'label'"):
        tasks.choose_task(recipe)


@pytest.mark.parametrize(("name", "found"), [(None, "top-1"), ("TOP-5", "top-5"), ("nll", "NLL")])
def test_the_metric_of_the_verdicts(name, found):
    task = tasks.get("classify")(Recipe().with_overrides({"task.metric": name}), SimpleNamespace(classes="abcdef"))
    assert task.primary_metric().name == found
