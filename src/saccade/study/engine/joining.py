"""How the Ray engine gets its cluster: one started on this machine, or one that answers at an address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._private.worker

from saccade.errors import UserError

__all__ = ["reach", "silent", "start"]

_STARTS = 3
"""Tries to start Ray on this machine."""
_REACH = 5.0
"""Seconds for a cluster to accept a connection."""
_ANSWER = 15.0
"""Seconds in which a cluster says that it is one, once the process that asks is up."""
_ASK = "import sys; from ray._raylet import GcsClient; print(flush=True); GcsClient(address=sys.argv[1])"
"""Returns at once from a cluster, in words or with an error; from anything else not for minutes."""


@contextmanager
def silent() -> Iterator[None]:
    """No statistics sent by a cluster started inside, and no report of a dead actor in the midst of our own output.

    Ray prints the latter to stdout whatever ``log_to_driver`` says, through a function that is not public.
    """
    statistics = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    printing = getattr(ray._private.worker, "print_to_stdstream", None)
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        if printing is not None:
            ray._private.worker.print_to_stdstream = printing
        if statistics is None:
            os.environ.pop("RAY_USAGE_STATS_ENABLED", None)


def start(**options: Any) -> None:
    """Ray, started on this machine.

    Ray gives each of its processes 30 s to come up, which a loaded machine can exceed, so it is tried again.

    Raises:
        UserError: it did not start in any of the tries.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init("local", **options)
        except Exception as error:  # Ray has no class of its own for a start that took too long
            ray.shutdown()
            if not left:
                said = " ".join(str(error).split())
                raise UserError(
                    f"Ray did not start on this machine in {_STARTS} tries ({said}); a machine with less load may do, "
                    "and --engine local needs no Ray"
                ) from error
        else:
            return


def reach(address: str) -> None:
    """Is there a cluster at ``address``? Ray itself would try for minutes and then end this process.

    Raises:
        UserError: nothing answers, what answers is no cluster, or it is no address.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise UserError(f"address {address!r}: HOST:PORT of a Ray cluster is needed, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from None
    # In a process of its own: the call cannot be given up, and complains to stderr meanwhile.
    with subprocess.Popen(
        [sys.executable, "-c", _ASK, address],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as asking:  # fmt: skip
        assert asking.stdout is not None
        try:
            asking.stdout.readline()  # it is up: on a loaded machine that takes longer than the answer
            asking.wait(_ANSWER)
            return
        except subprocess.TimeoutExpired:
            pass
        finally:
            asking.kill()
    raise UserError(
        f"no Ray cluster answers at {address}: something takes connections there, but does not answer as Ray in "
        f"{_ANSWER:.0f} s; the address is the one that `ray start --head` names, with port 6379 unless another is given"
    )
