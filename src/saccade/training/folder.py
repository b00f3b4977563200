"""The folder of one run: its files, the order in which they are written, and its lock.

    recipe.toml          the recipe
    environment.json     versions and hardware
    metrics.jsonl        one row an epoch, epoch 0 before training; a copy of the rows in resume.pt
    resume.pt            the run after its last finished epoch; gone when the run is done
    rows.safetensors, model.safetensors, config.json
    done.json            the result; written last, so that a folder with it is whole

Every file is written beside its place and moved there: at any moment each is absent, old or new. ``resume.pt`` alone
decides where a killed run goes on; everything after it can be made again from it.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from saccade import decisions
from saccade.errors import UserError
from saccade.escaping import printable
from saccade.files import atomic_writer, lock, make_folders, remove_unfinished, write_atomically
from saccade.recipe import Recipe
from saccade.runfiles import epochs, read_done, read_recipe

__all__ = ["RunFolder"]

_LOG = logging.getLogger(__name__)
_LOCK, _RECIPE, _ENVIRONMENT, _METRICS, _RESUME, _DONE = (
    ".running",
    "recipe.toml",
    "environment.json",
    "metrics.jsonl",
    "resume.pt",
    "done.json",
)
_RESULTS = (_ENVIRONMENT, _METRICS, _RESUME, _DONE, "rows.safetensors", "model.safetensors", "config.json")


class RunFolder:
    """One run's files, held by one process at a time; opened with :meth:`hold`.

    Attributes:
        path: the folder.
        recipe: the one that lay in it when it was opened; None in a new folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: Recipe | None = None

    @classmethod
    @contextmanager
    def hold(cls, path: Path, recipe: Recipe, patience: float = 1.0) -> Iterator[RunFolder]:
        """Lock the folder for a run of ``recipe`` until the block ends; make it first if it is missing.

        Wait up to ``patience`` seconds for another process that holds it. A folder made here and left empty is
        removed again. The lock ends with the process, however that ends.

        Raises:
            UserError: the folder cannot be made or written, holds a run of another recipe or files of another
                kind, or another process works in it.
        """
        made: list[Path] = []
        try:
            with ExitStack() as stack:
                try:
                    made += make_folders(path)
                    stack.enter_context(lock(path / _LOCK, patience))
                except (FileExistsError, NotADirectoryError):
                    raise UserError(f"the run folder {path} is a file, or lies in one; a folder is needed") from None
                except OSError as error:
                    raise UserError(f"cannot write into the run folder {path}: {error.strerror}") from None
                run = cls(path)
                run._check(recipe)
                remove_unfinished(path)
                yield run
        finally:
            with suppress(OSError):  # not empty
                for folder in made:
                    folder.rmdir()

    def _check(self, recipe: Recipe) -> None:
        if not (self.path / _RECIPE).exists():
            foreign = [name for name in _RESULTS if (self.path / name).exists()]
            if foreign:
                raise UserError(
                    f"{self.path} holds {foreign[0]} but no {_RECIPE}: it is no run folder, and is not written over"
                )
            return
        self.recipe = there = read_recipe(self.path / _RECIPE) or recipe
        found, asked = (_flat(r.model_dump(mode="json")) for r in (there, recipe))
        for key in {**asked, **found}:
            if found.get(key) != asked.get(key) and not decisions.is_open(key, asked.get(key)):
                why = " (the code of the function that builds the host)" * (key == "model.code")
                raise UserError(
                    f"{self.path} holds a run of another recipe: {key}{why} is {found.get(key)!r} there and "
                    f"{asked.get(key)!r} here. Choose another folder, or remove that one."
                )

    def result(self) -> dict[str, Any] | None:
        """Return what done.json says, None while the run is not done.

        Raises:
            UserError: it is damaged.
        """
        found = read_done(self.path / _DONE)
        if found is None:
            return None
        (self.path / _RESUME).unlink(missing_ok=True)  # the run was killed between its last two steps
        return found

    def begin(self, recipe: Recipe, environment: Mapping[str, Any]) -> None:
        """Write the recipe and the environment."""
        self._write_text(_RECIPE, recipe.to_toml())  # first: without it the other files are a stranger's
        self._write_text(_ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def resume(self) -> dict[str, Any] | None:
        """Return the state after the last finished epoch and set metrics.jsonl back to it; None without a state.

        A state that cannot be read is logged as a warning and the run starts over.
        """
        path = self.path / _RESUME
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                if torn := archive.testzip():  # PyTorch does not compare checksums
                    raise zipfile.BadZipFile(torn)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = epochs(path, state["rows"])
            if missing := {"network", "optimizer", "test", "best"} - state.keys():
                raise KeyError(min(missing))
        except Exception as error:  # an unpickler raises whatever damaged bytes lead it to
            self.disown(type(error).__name__)
            return None
        self._write_rows(found)
        return state

    def disown(self, why: str) -> None:
        """Warn that the run starts over because its saved state cannot be used."""
        _LOG.warning("%s cannot be used (%s); the run starts over", printable(self.path / _RESUME), why)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Save ``state`` as the one to resume from.

        It has ``rows`` (of metrics.jsonl), ``network``, ``optimizer``, ``test`` (the rows of the test part), the
        ``fingerprint`` of the images, and ``best``, the chosen epoch of the phase, or None; ``average``, the averaged
        network, and ``teacher``, the digest of the teacher's weights, are None or absent in a run without them.
        """
        try:
            with atomic_writer(self.path / _RESUME) as file:
                torch.save(dict(state), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch.save reports a full disk by a position in the file
            raise
        self._write_rows(state["rows"])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write done.json; every other file must be there."""
        self._write_text(_DONE, json.dumps(result, indent=2, allow_nan=False) + "\n")
        (self.path / _RESUME).unlink(missing_ok=True)

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        self._write_text(_METRICS, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def write(self, name: str, content: bytes) -> None:
        """Write the file ``name`` whole or not at all."""
        write_atomically(self.path / name, content)

    def _write_text(self, name: str, text: str) -> None:
        self.write(name, text.encode("utf-8"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
