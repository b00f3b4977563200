"""Registry of the classes that the modules of a package define, one class per module."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Generic, TypeVar

from saccade.errors import UserError, did_you_mean

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Finds the subclasses of an abstract class by module name; modules that begin with _ are not entries.

    Args:
        package: dotted name of the package, whose ``base.py`` defines the abstract class.
        entry_name: noun for one entry in messages, such as "task".
    """

    def __init__(self, package: str, entry_name: str) -> None:
        self.package, self.entry_name = package, entry_name
        self.folder = Path(__file__).parent.joinpath(*package.split(".")[1:])

    def names(self) -> list[str]:
        """Return the names of all entries, sorted, without importing their modules."""
        return sorted(path.stem for path in self.folder.glob("[!_]*.py") if path.stem != "base")

    def get(self, name: str, base_class: type[T]) -> type[T]:
        """Return the subclass of ``base_class`` that the module ``name`` defines.

        Raises:
            UserError: there is no such module.
            TypeError: the module does not define exactly one subclass of ``base_class``.
        """
        names = self.names()
        if name not in names:
            raise UserError(
                f"there is no {self.entry_name} {name!r}.{did_you_mean(name, names)} There are {', '.join(names)}."
            )
        module = importlib.import_module(f"{self.package}.{name}")
        classes = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, base_class) and value.__module__ == module.__name__
        ]
        if len(classes) != 1:
            raise TypeError(
                f"{module.__name__} defines {len(classes)} subclasses of {base_class.__name__}; one is needed"
            )
        return classes[0]
