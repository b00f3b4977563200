"""Start of a Ray cluster on this machine, and check of a cluster at an address."""

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

__all__ = ["check_cluster", "start_ray", "suppress_ray_output"]

_MAX_STARTS = 3
"""Number of attempts to start Ray on this machine."""
_CONNECT_TIMEOUT_S = 5.0
"""Seconds for a cluster to accept a connection."""
_REPLY_TIMEOUT_S = 15.0
"""Seconds for a cluster to reply to the probe process after its start."""
_PROBE = "import sys; from ray._raylet import GcsClient; print(flush=True); GcsClient(address=sys.argv[1])"
"""Program of the probe process, which ends soon if Ray listens at the address, else hangs for minutes."""


@contextmanager
def suppress_ray_output() -> Iterator[None]:
    """Disable Ray's usage statistics and its reports of dead actors.

    Ray prints these reports to stdout through a private function that ignores ``log_to_driver``.
    """
    previous_setting = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    original_print = getattr(ray._private.worker, "print_to_stdstream", None)
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        if original_print is not None:
            ray._private.worker.print_to_stdstream = original_print
        if previous_setting is None:
            os.environ.pop("RAY_USAGE_STATS_ENABLED", None)


def start_ray(**options: Any) -> None:
    """Start Ray on this machine, in up to three attempts, because a loaded machine may exceed Ray's timeout of 30 s.

    Raises:
        UserError: all attempts failed.
    """
    for attempts_left in reversed(range(_MAX_STARTS)):
        try:
            ray.init("local", **options)
        except Exception as error:  # Ray has no exception class for a timeout at start
            ray.shutdown()
            if not attempts_left:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"Ray did not start on this machine in {_MAX_STARTS} attempts ({reason}); try again when the "
                    "machine is less loaded, or use --engine local, which needs no Ray"
                ) from error
        else:
            return


def check_cluster(address: str) -> None:
    """Raise UserError unless a Ray cluster answers at ``address``; Ray itself would try for minutes and then exit."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise UserError(f"address {address!r}: HOST:PORT of a Ray cluster is needed, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from None
    # In another process, because the call cannot be cancelled and writes to stderr.
    with subprocess.Popen(
        [sys.executable, "-c", _PROBE, address],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as probe:  # fmt: skip
        assert probe.stdout is not None
        try:
            probe.stdout.readline()  # the start of the probe may take longer than the reply
            probe.wait(_REPLY_TIMEOUT_S)
            return
        except subprocess.TimeoutExpired:
            pass
        finally:
            probe.kill()
    raise UserError(
        f"no Ray cluster answers at {address}: something takes connections there, but does not answer as Ray in "
        f"{_REPLY_TIMEOUT_S:.0f} s; the address is the one that `ray start --head` names, with port 6379 unless "
        "another is given"
    )
