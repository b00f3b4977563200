"""Worker process: executes calls one at a time, received through a pipe (local engine) or as a Ray actor.

A call is the dotted name of a function (``package.module:function``) and its arguments. The function is also passed
``notify``; events passed to ``notify`` are sent back before the result.
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

__all__ = [
    "OncePerMessage",
    "check_study",
    "execute_call",
    "execute_run",
    "import_function",
    "limit_threads",
    "preload_function",
    "serve",
]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def serve(pipe: Connection, threads: int, preload: str | None) -> None:
    """Execute calls until the pipe is closed.

    Args:
        pipe: connection to the parent process, which sends calls and receives ``("event", Event)`` and the results of
            :func:`execute_call`.
        threads: CPU threads of this process.
        preload: dotted name of a function to import in advance, or None.
    """
    # Ctrl-C reaches the whole process group; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    limit_threads(threads)
    keep_freed_memory()
    logging.getLogger("saccade").addFilter(OncePerMessage())
    sys.path.append("")  # a notebook may import modules from its current folder
    preload_function(preload)
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(execute_call(function, arguments, lambda event: pipe.send(("event", event))))


class OncePerMessage(logging.Filter):
    """Logging filter that passes each message once; every run would repeat the messages about its weights file."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the text of ``record`` is new."""
        text = record.getMessage()
        is_new = text not in self._passed
        self._passed.add(text)
        return is_new


def limit_threads(threads: int) -> None:
    """Set the thread count of numerical libraries that are imported later."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)


def preload_function(function: str | None) -> None:
    """Import the function named ``function`` in advance, if it is not None."""
    if function is not None:
        with suppress(Exception):  # errors are reported when the function is called
            import_function(function)


def execute_call(function: str, arguments: Mapping[str, Any], notify: Notify) -> tuple[Literal["result", "error"], Any]:
    """Execute a call and return ``("result", value)`` or ``("error", details)``.

    The details are ``message``, ``traceback`` and ``is_user_error``, True for an error that the user can correct.
    """
    try:
        return "result", import_function(function)(**arguments, notify=notify)
    except Exception as error:
        user_message = str(error) if isinstance(error, UserError) else system_error_message(error)
        is_user_error = user_message is not None
        message = user_message if is_user_error else f"{type(error).__name__}: {error}"
        return "error", {"message": message, "traceback": traceback.format_exc(), "is_user_error": is_user_error}


def import_function(dotted: str) -> Callable[..., Any]:
    """Import and return the function named ``package.module:function``."""
    module, _, name = dotted.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def execute_run(
    train: str,
    recipe: Mapping[str, Any],
    folder: str,
    device: str,
    notify: Notify,
    functions: bytes = b"",
    trust: Trust = False,
) -> dict[str, Any]:
    """Execute one run by a call of ``train``.

    ``functions`` come from :func:`saccade.builders.pickle_registered`; ``trust`` names the code that a
    saved teacher network may import.
    """
    builders.register_pickled(functions)
    extra_arguments = {"trust": trust} if trust else {}  # omitted if False, because ``train`` may lack it
    result: dict[str, Any] = import_function(train)(
        Recipe.read(recipe), Path(folder), device=device, notify=notify, **extra_arguments
    )
    return result


def check_study(
    recipes: list[Mapping[str, Any]],
    margin: float | None,
    device: str,
    notify: Notify,
    functions: bytes = b"",
    trust: Trust = False,
) -> dict[str, Any]:
    """Validate data, host and mechanisms of all arms before any training; choose open settings by timed steps.

    ``functions`` and ``trust`` are those of :func:`execute_run`.

    Returns:
        Dict of ``devices`` for the runs, and of ``decided``, the result of ``fastest.time_choices`` or {}.

    Raises:
        UserError: the data, the task, a host, a mechanism, its position, the margin or the device is wrong, or a
            package is missing.
    """
    builders.register_pickled(functions)
    with explain_missing_packages():
        from saccade import tasks
        from saccade.study.images import open_once

        parsed_recipes = [Recipe.read(recipe) for recipe in recipes]
        task_class = tasks.get(tasks.choose_task(parsed_recipes[0]))
        resolved = [tasks.resolve(recipe, task_class.target) for recipe in parsed_recipes]
        split = open_once(resolved[0].data, task_class.target, notify)
        notify(DataOpened(split.description, tuple(split.cautions)))

        # Imported late, because they import all of training.
        from saccade.training.environment import choose_device
        from saccade.training.preparing import prepare
    first_task = task_class(resolved[0], split)
    metric = first_task.primary_metric()
    if margin is not None:
        metric.check_margin(margin)
    for sentence in first_task.unscored():
        notify(Caution(sentence))
    torch_device = choose_device(device)
    notified = set()
    # Sorted, so that each data set is opened once.
    for recipe in sorted(resolved, key=lambda recipe: recipe.data != resolved[0].data):
        task = task_class(recipe, open_once(recipe.data, task_class.target, notify))
        frozen_note = prepare(task, trust).frozen.sentence
        if frozen_note and frozen_note not in notified:
            notified.add(frozen_note)
            notify(Caution(frozen_note))
    decided: dict[str, Any] = {}
    if keys := auto_keys(resolved):
        from saccade.training.fastest import time_choices

        decided = time_choices(first_task, keys, torch_device, trust)
        notify(SettingsDecided(**decided))
    if device != "auto" or torch_device.type != "cuda":
        return {"devices": [str(torch_device)], "decided": decided}
    import torch

    return {"devices": [f"cuda:{i}" for i in range(torch.cuda.device_count())], "decided": decided}


def _die_with_parent() -> None:
    """End this process when its parent ends, even by ``kill -9``."""
    parent = parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    # For systems without prctl, and a parent that died earlier.
    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True, name="parent watch").start()
