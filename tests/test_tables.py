"""The folder is the table."""

import pytest

from saccade import UserError, tasks
from saccade.tasks.base import Task


def test_the_files_of_a_folder_are_the_names():
    assert {"classify", "segment"} <= set(tasks.names())
    assert not {"base", "__init__"} & set(tasks.names())


def test_each_file_holds_one_class_of_its_kind():
    for name in tasks.names():
        kind = tasks.get(name)
        assert issubclass(kind, Task)
        assert kind.__module__ == f"saccade.tasks.{name}"


def test_a_misspelt_name_has_neighbours():
    with pytest.raises(UserError, match=r"there is no task 'clasify'\. Did you mean 'classify'"):
        tasks.get("clasify")
