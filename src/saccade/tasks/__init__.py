"""What is learnt and how it is scored: one task, one file; the folder is the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.errors import UserError
from saccade.registry import Registry
from saccade.tasks._resolved import filled_in, resolved

if TYPE_CHECKING:
    from saccade.recipe import Recipe
    from saccade.tasks.base import Task

__all__ = ["choose", "filled_in", "get", "names", "resolved"]

_TABLE: Registry[Task] = Registry(__name__, "task")
names = _TABLE.names


def get(name: str) -> type[Task]:
    """Return the task called ``name``.

    Raises:
        UserError: there is no such task.
    """
    from saccade.tasks.base import Task

    return _TABLE.get(name, Task)  # type: ignore[type-abstract]


def choose(recipe: Recipe) -> str:
    """Return the name of the task: the one ``recipe`` names, else the one for the targets of its data.

    Raises:
        UserError: there is no such task, or the data has no targets for it.
        TypeError: two tasks are the one for the same targets.
    """
    from saccade.data.layouts import explain_rejection, find_layout

    asked = recipe.task.name
    layout = find_layout(recipe.data, "none" if asked == "auto" else get(asked).target)
    gives = layout.list_targets(recipe.data)
    if asked != "auto":
        needed = get(asked).target
        if needed not in (*gives, "none"):
            why = explain_rejection(recipe.data.source, needed)
            raise UserError(
                f"the task {asked} learns from targets of the kind {needed!r}; {recipe.data.source}, read as "
                f"{layout.name}, has {' and '.join(map(repr, gives))}{f' ({why})' if why else ''}"
            )
        return asked
    kind = gives[0]
    found = [name for name in names() if (task := get(name)).auto and task.target == kind]
    if len(found) > 1:
        files = " and ".join(f"tasks/{name}.py" for name in found)
        raise TypeError(f"{files} are both the task for targets of the kind {kind!r}; set auto = False in all but one")
    if not found:
        known = ", ".join(f"{name} ({get(name).target})" for name in names())
        raise UserError(
            f"no task learns from targets of the kind {kind!r}, which {layout.name} gives. There are {known}"
        )
    return found[0]
