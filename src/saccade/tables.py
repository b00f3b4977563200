"""The folder is the table: the modules of a package, by name, each with one class of a kind."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Generic, TypeVar

from saccade.errors import UserError, did_you_mean

__all__ = ["Table"]

T = TypeVar("T")


class Table(Generic[T]):
    """The files of a folder, each with one subclass of an abstract class; files that begin with _ do not count.

    Args:
        package: the dotted name of the folder, whose ``base.py`` holds the abstract class.
        what: what one entry is called in messages, such as "task".
    """

    def __init__(self, package: str, what: str) -> None:
        self.package, self.what = package, what
        self.home = Path(__file__).parent.joinpath(*package.split(".")[1:])

    def names(self) -> list[str]:
        """Return the names of all entries, sorted, without importing them."""
        return sorted(path.stem for path in self.home.glob("[!_]*.py") if path.stem != "base")

    def get(self, name: str, kind: type[T]) -> type[T]:
        """Return the subclass of ``kind`` that the file ``name`` defines.

        Raises:
            UserError: there is no such file.
            TypeError: the file does not define exactly one.
        """
        names = self.names()
        if name not in names:
            raise UserError(
                f"there is no {self.what} {name!r}.{did_you_mean(name, names)} There are {', '.join(names)}."
            )
        module = importlib.import_module(f"{self.package}.{name}")
        found = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, kind) and value.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} defines {len(found)} subclasses of {kind.__name__}; one is needed")
        return found[0]
