"""One thread a process, for the tests run in as many as there are cores; and Ctrl-C means what it means on a terminal.

A shell that starts the tests in the background has SIGINT ignored, which every process here would inherit.
"""

import os
import signal
import subprocess
from contextlib import ExitStack, suppress

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SACCADE_CACHE"] = "off"  # tests of the pictures on disk name a folder of their own
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
