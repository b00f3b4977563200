"""Folder of one run: its files and its lock.

    recipe.toml, environment.json
    metrics.jsonl        one row per epoch; epoch 0 precedes training
    resume.pt            state after the last finished epoch; removed at the end
    rows.safetensors     outputs for the test images, one row per image
    model.safetensors, config.json
    done.json            result; written last, so its presence means that the run is complete

Files are written under another name and renamed, so that each is absent, old or new at any moment.
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
from saccade.runfiles import check_epochs, read_done, read_recipe

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
_RUN_FILES = (_ENVIRONMENT, _METRICS, _RESUME, _DONE, "rows.safetensors", "model.safetensors", "config.json")


class RunFolder:
    """Files of one run, locked by one process at a time; opened with :meth:`locked`.

    Attributes:
        path: path of the folder.
        recipe: recipe saved in the folder; None in a new folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: Recipe | None = None

    @classmethod
    @contextmanager
    def locked(cls, path: Path, recipe: Recipe, timeout: float = 1.0) -> Iterator[RunFolder]:
        """Lock the folder, created if needed, for a run of ``recipe``; a context manager.

        Waits up to ``timeout`` seconds for another process. A new folder that stays empty is removed.

        Raises:
            UserError: the folder cannot be written, is locked, or contains other files or a run of another recipe.
        """
        created: list[Path] = []
        try:
            with ExitStack() as stack:
                try:
                    created += make_folders(path)
                    stack.enter_context(lock(path / _LOCK, timeout))
                except (FileExistsError, NotADirectoryError):
                    raise UserError(
                        f"the run folder {path} or one of its parents is a file; choose a path for a folder"
                    ) from None
                except OSError as error:
                    raise UserError(f"cannot write into the run folder {path}: {error.strerror}") from None
                run = cls(path)
                run._check(recipe)
                remove_unfinished(path)
                yield run
        finally:
            with suppress(OSError):  # not empty
                for folder in created:
                    folder.rmdir()

    def _check(self, recipe: Recipe) -> None:
        if not (self.path / _RECIPE).exists():
            run_files = [name for name in _RUN_FILES if (self.path / name).exists()]
            if run_files:
                raise UserError(
                    f"{self.path} holds {run_files[0]} but no {_RECIPE}: it is not a run folder, so "
                    "nothing is written; choose another folder"
                )
            return
        self.recipe = saved_recipe = read_recipe(self.path / _RECIPE) or recipe
        saved, given = (_flatten(each_recipe.model_dump(mode="json")) for each_recipe in (saved_recipe, recipe))
        for key in {**given, **saved}:
            if saved.get(key) != given.get(key) and not decisions.is_auto(key, given.get(key)):
                note = " (the code of the function that builds the host)" * (key == "model.code")
                raise UserError(
                    f"{self.path} holds a run of another recipe: {key}{note} is {saved.get(key)!r} there "
                    f"and {given.get(key)!r} here. Choose another folder, or remove that one."
                )

    def result(self) -> dict[str, Any] | None:
        """Return done.json's contents, or None if unfinished; remove a leftover resume.pt.

        Raises:
            UserError: the file is damaged.
        """
        done = read_done(self.path / _DONE)
        if done is None:
            return None
        (self.path / _RESUME).unlink(missing_ok=True)  # the process may have been killed just before removing it
        return done

    def begin(self, recipe: Recipe, environment: Mapping[str, Any]) -> None:
        """Write recipe.toml and environment.json."""
        self._write_text(_RECIPE, recipe.to_toml())  # first, because _check refuses files without a recipe
        self._write_text(_ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def load_state(self) -> dict[str, Any] | None:
        """Return the state after the last finished epoch and rewrite metrics.jsonl from its rows.

        None is returned without a readable state; the log warns of an unreadable one, and the run starts over.
        """
        path = self.path / _RESUME
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                if member := archive.testzip():  # PyTorch does not check checksums
                    raise zipfile.BadZipFile(member)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            rows = check_epochs(path, state["rows"])
            if missing := {"network", "optimizer", "test", "best"} - state.keys():
                raise KeyError(min(missing))
        except Exception as error:  # unpickling damaged bytes may raise anything
            self.warn_unusable(type(error).__name__)
            return None
        self._write_rows(rows)
        return state

    def warn_unusable(self, reason: str) -> None:
        """Log that the saved state cannot be used, so that the run starts over."""
        _LOG.warning("%s cannot be used (%s); the run starts over", printable(self.path / _RESUME), reason)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Save ``state`` to resume.pt and its ``rows`` to metrics.jsonl.

        Other keys: state dicts of ``network`` and ``optimizer``; ``test``, the outputs for the test images;
        ``fingerprint`` of the images; ``best`` epoch of the phase, or None. Optional: ``average``, the state dict of
        the averaged network; ``teacher``, the digest of the teacher's weights.
        """
        try:
            with atomic_writer(self.path / _RESUME) as file:
                torch.save(dict(state), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch.save hides the OSError of a full disk
            raise
        self._write_rows(state["rows"])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write done.json and remove resume.pt."""
        self._write_text(_DONE, json.dumps(result, indent=2, allow_nan=False) + "\n")
        (self.path / _RESUME).unlink(missing_ok=True)

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        self._write_text(_METRICS, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def write(self, name: str, content: bytes) -> None:
        """Write the file ``name`` atomically."""
        write_atomically(self.path / name, content)

    def _write_text(self, name: str, text: str) -> None:
        self.write(name, text.encode("utf-8"))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert nested mappings to one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
