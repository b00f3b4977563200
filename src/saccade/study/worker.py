"""The far side of an engine: a process that takes calls, one at a time; of the local one, through a pipe.

A call is the dotted name of a function (``package.module:function``) and its arguments; the function gets ``notify``
beside them, and every event travels back before the result.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from saccade import builders
from saccade.decisions import auto_keys
from saccade.errors import UserError, explain_missing_packages, system_error_message
from saccade.events import Caution, DataOpened, Notify, SettingsDecided
from saccade.recipe import Recipe
from saccade.study.memory import keep_freed_memory
from saccade.trust import Trust

__all__ = ["Once", "answer", "check", "limit_threads", "named", "run", "serve", "warm"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def serve(pipe: Connection, threads: int, first: str | None) -> None:
    """Answer calls until the pipe is closed, or until this process's parent ends.

    Messages sent: ``("event", Event)`` and what :func:`answer` returns.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _die_with_parent()
    limit_threads(threads)
    keep_freed_memory()
    logging.getLogger("saccade").addFilter(Once())
    sys.path.append("")  # a notebook's modules lie in the folder it is in now, not in the one where it was started
    warm(first)
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(answer(function, arguments, lambda event: pipe.send(("event", event))))


class Once(logging.Filter):
    """Pass each warning once: a process builds the network of many runs, all from the same file of weights."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the text of ``record`` is new."""
        text = record.getMessage()
        new = text not in self._passed
        self._passed.add(text)
        return new


def limit_threads(threads: int) -> None:
    """What the numerical libraries will take; they read it when they are loaded, so this comes first."""
    for name in _THREADS:
        os.environ[name] = str(threads)


def warm(first: str | None) -> None:
    """Import what the function ``first`` needs while there is nothing else to do."""
    if first is not None:
        with suppress(Exception):  # what is wrong with it is said when it is called
            named(first)


def answer(function: str, arguments: Mapping[str, Any], notify: Notify) -> tuple[Literal["result", "error"], Any]:
    """The value of a call, or what it raised: ``message``, ``traceback``, ``user`` (whether the user can mend it)."""
    try:
        return "result", named(function)(**arguments, notify=notify)
    except Exception as error:
        words = str(error) if isinstance(error, UserError) else system_error_message(error)
        mended = words is not None
        message = words if mended else f"{type(error).__name__}: {error}"
        return "error", {"message": message, "traceback": traceback.format_exc(), "user": mended}


def named(dotted: str) -> Callable[..., Any]:
    """The function called ``package.module:function``."""
    module, _, name = dotted.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def run(
    train: str,
    recipe: Mapping[str, Any],
    folder: str,
    device: str,
    notify: Notify,
    functions: bytes = b"",
    trust: Trust = False,
) -> dict[str, Any]:
    """One run of a study: ``train`` with its arguments as they came through the pipe.

    ``functions`` are those of :func:`saccade.builders.packed`; ``trust`` is for the folder of a teacher.
    """
    builders.unpack(functions)
    more = {"trust": trust} if trust else {}  # a function that needs none need not take it
    result: dict[str, Any] = named(train)(Recipe.read(recipe), Path(folder), device=device, notify=notify, **more)
    return result


def check(
    recipes: list[Mapping[str, Any]],
    margin: float | None,
    device: str,
    notify: Notify,
    functions: bytes = b"",
    trust: Trust = False,
) -> dict[str, Any]:
    """Find everything a user can have got wrong about data, host and mechanisms before any training.

    Read every image once, build the network of every arm, and decide by timed steps of the plain host what the recipes
    leave open. ``functions`` are those of :func:`saccade.builders.packed`; ``trust`` is for the folder of a teacher.

    Returns:
        ``devices``, those to run on; ``decided``, what ``fastest.time_choices`` found, {} if nothing is
        open.

    Raises:
        UserError: the data, the task, a host, a mechanism, its place, the margin or the device is wrong, or a package
            is missing.
    """
    builders.unpack(functions)
    with explain_missing_packages():
        from saccade import tasks
        from saccade.study.images import open_once

        asked = [Recipe.read(recipe) for recipe in recipes]
        kind = tasks.get(tasks.choose(asked[0]))
        arms = [tasks.resolved(recipe, kind.target) for recipe in asked]
        split = open_once(arms[0].data, kind.target, notify)
        notify(DataOpened(split.description, tuple(split.cautions)))

        # Late: these bring all of training, which wrong data need not wait for.
        from saccade.training.environment import choose_device
        from saccade.training.preparing import prepare
    metric = kind(arms[0], split).verdict()
    if margin is not None:
        metric.check_margin(margin)
    found = choose_device(device)
    said = set()
    for recipe in sorted(arms, key=lambda recipe: recipe.data != arms[0].data):  # each set of images is opened once
        sentence = prepare(kind(recipe, open_once(recipe.data, kind.target, notify)), trust).frozen.sentence
        if sentence and sentence not in said:
            said.add(sentence)
            notify(Caution(sentence))
    decided: dict[str, Any] = {}
    if keys := auto_keys(arms):
        from saccade.training.fastest import time_choices

        decided = time_choices(kind(arms[0], split), keys, found, trust)
        notify(SettingsDecided(**decided))
    if device != "auto" or found.type != "cuda":
        return {"devices": [str(found)], "decided": decided}
    import torch

    return {"devices": [f"cuda:{i}" for i in range(torch.cuda.device_count())], "decided": decided}


def _die_with_parent() -> None:
    """End this process when its parent ends, even by ``kill -9``: a study begun again must not meet an orphan."""
    parent = parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    # Also covers a parent that died before the line above, and systems without it.
    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True, name="parent watch").start()
