"""Registry of tasks: training losses with their metrics, one task per file. To add a task, see ``tasks/base.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.errors import UserError
from saccade.registry import Registry
from saccade.tasks._resolving import describe_resolved, resolve

if TYPE_CHECKING:
    from saccade.recipe import Recipe
    from saccade.tasks.base import Task

__all__ = ["choose_task", "describe_resolved", "get", "names", "resolve"]

_REGISTRY: Registry[Task] = Registry(__name__, "task")
names = _REGISTRY.names


def get(name: str) -> type[Task]:
    """Return the task class called ``name``.

    Raises:
        UserError: there is no such task.
    """
    from saccade.tasks.base import Task

    return _REGISTRY.get(name, Task)  # type: ignore[type-abstract]


def choose_task(recipe: Recipe) -> str:
    """Return the name of the recipe's task: ``task.name``, or the default task for the targets of its data.

    Raises:
        UserError: there is no such task, or the data has no targets for it.
        TypeError: two tasks are the default for the same kind of target.
    """
    from saccade.data.layouts import explain_rejection, find_layout

    name = recipe.task.name
    layout = find_layout(recipe.data, "none" if name == "auto" else get(name).target)
    kinds = layout.list_targets(recipe.data)
    if name != "auto":
        needed = get(name).target
        if needed not in (*kinds, "none"):
            reason = explain_rejection(recipe.data.source, needed)
            raise UserError(
                f"the task {name} learns from targets of the kind {needed!r}; {recipe.data.source}, read as "
                f"{layout.name}, has {' and '.join(map(repr, kinds))}{f' ({reason})' if reason else ''}"
            )
        return name
    kind = kinds[0]
    defaults = [name for name in names() if (task := get(name)).is_default and task.target == kind]
    if len(defaults) > 1:
        files = " and ".join(f"tasks/{name}.py" for name in defaults)
        raise TypeError(
            f"{files} are both the default task for targets of the kind {kind!r}; set is_default = False in all but one"
        )
    if not defaults:
        known = ", ".join(f"{name} ({get(name).target})" for name in names())
        raise UserError(
            f"no task learns from targets of the kind {kind!r}, which {layout.name} gives. There are {known}"
        )
    return defaults[0]
