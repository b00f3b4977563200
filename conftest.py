"""One thread a process, for the tests run in as many as there are cores; and Ctrl-C means what it means on a terminal.

A shell that starts the tests in the background has SIGINT ignored, which every process here would inherit.
"""

import copy
import functools
import gc
import os
import signal
import subprocess
from collections import OrderedDict
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
from torch.utils import _device

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SACCADE_CACHE"] = "off"  # tests of the pictures on disk name a folder of their own
os.environ["SACCADE_MAP_IMAGES"] = "0"  # tests of the heat maps of reports name a number of their own
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Keep the garbage collector off modules and collected tests, which live to the end; a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Hand everything back, so that nothing counts as leaked when Python ends."""
    gc.unfreeze()


def _poisoned(make):
    """Fill the floating-point tensors that ``make`` leaves uninitialised with NaN."""

    @functools.wraps(make)
    def poisoned(*arguments, **options):
        tensor = make(*arguments, **options)
        if tensor.is_floating_point() or tensor.is_complex():
            with torch.no_grad():
                tensor.fill_(float("nan"))
        return tensor

    return poisoned


@pytest.fixture(autouse=True, scope="session")
def _uninitialised_memory_is_nan():
    """Turn every read of a value that nothing wrote into NaN, which no test expects."""
    _device._device_constructors()  # caches which functions ``torch.device`` acts on: the original ones
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


@pytest.fixture(autouse=True, scope="session")
def _empty_dictionaries_are_copied_directly():
    """Copy a network in two thirds of the time: a module has a dozen dictionaries of hooks, nearly all empty."""

    def copied(source, memo):
        if not source and not vars(source):
            return OrderedDict()
        return copy._reconstruct(source, memo, *source.__reduce_ex__(4))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(copy._deepcopy_dispatch, OrderedDict, copied)
        yield


@pytest.fixture
def real_data():
    """Folder of real image sets that SACCADE_DATA names; the test is skipped without it."""
    folder = os.environ.get("SACCADE_DATA")
    if not folder:
        pytest.skip("needs real images: SACCADE_DATA names no folder of image sets (see CONTRIBUTING.md)")
    return Path(folder)


@pytest.fixture
def run(capsys, monkeypatch):
    """Function that calls ``saccade`` with arguments in this process and returns exit code, stdout and stderr."""
    from saccade.cli import main

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return call


@pytest.fixture(scope="session")
def warm_python():
    """Function like ``subprocess.run`` for scripts that need no Python of their own: see tests/warm_python.py."""
    from warm_python import WarmPython

    python = WarmPython()
    yield python.run
    python.close()


@pytest.fixture
def start():
    """``start(command, **how)`` -> a process in a session of its own.

    It is killed with its session and its pipes are closed when the test ends, however that ends: a pipe that a failed
    test left open would be reported in whatever test runs next.
    """
    with ExitStack() as stack:

        def call(command, **how):
            process = stack.enter_context(subprocess.Popen(command, start_new_session=True, **how))
            stack.callback(_kill, process)
            return process

        yield call


def _kill(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
