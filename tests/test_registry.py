"""A registry finds one class per module."""

import pytest

from saccade import UserError, tasks
from saccade.tasks.base import Task


def test_names_are_module_names():
    assert {"classify", "segment"} <= set(tasks.names())
    assert not {"base", "__init__"} & set(tasks.names())


def test_each_module_defines_one_class():
    for name in tasks.names():
        kind = tasks.get(name)
        assert issubclass(kind, Task)
        assert kind.__module__ == f"saccade.tasks.{name}"


def test_similar_names_are_suggested():
    with pytest.raises(UserError, match=r"there is no task 'clasify'\. Did you mean 'classify'"):
        tasks.get("clasify")
