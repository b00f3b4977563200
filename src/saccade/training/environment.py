"""Device of a run, and the versions and hardware that its result depends on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from saccade import __version__
from saccade.errors import UserError, did_you_mean

__all__ = ["choose_device", "environment", "peak_memory", "use_threads"]

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device ``name``: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``, an accelerator or else the CPU.

    Raises:
        UserError: the name is unknown, or PyTorch finds no such device on this machine.
    """
    if name == "auto":
        kinds = [
            kind for kind, is_available in (("cuda", torch.cuda.is_available), ("mps", _has_mps)) if is_available()
        ]
        name = kinds[0] if kinds else "cpu"
    kind, separator, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (separator and (kind != "cuda" or not number.isdecimal())):
        suggestion = did_you_mean(kind, ("auto", "cpu", "cuda", "mps"))
        raise UserError(f"there is no device {name!r}; choose auto, cpu, cuda, cuda:<number> or mps.{suggestion}")
    if kind == "mps" and not _has_mps():
        raise UserError("device 'mps' is not available on this machine; choose cpu or auto")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            devices = f"PyTorch {torch.__version__} finds {count} CUDA device{'s' * (count != 1)} here"
            raise UserError(f"device {name!r} was asked for, but {devices}")
        return torch.device("cuda", int(number or 0))
    return torch.device(kind)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Return versions and hardware, without names of persons, machines or folders."""
    return {
        "python": platform.python_version(),
        "packages": {"saccade": __version__} | {name: _version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """Return the model name of the processor."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> float | None:
    """Return the peak memory in MB of CUDA's allocator, or of this process on other devices; None on Windows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB, but bytes on macOS
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Set the number of CPU threads within a ``with`` block."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
