"""The device of a run, and the versions and hardware its result depends on."""

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
    """Return the device called ``name``: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``, an accelerator if any.

    Raises:
        UserError: there is no such device, or this machine or this PyTorch has none.
    """
    if name == "auto":
        kinds = [kind for kind, there in (("cuda", torch.cuda.is_available), ("mps", _has_mps)) if there()]
        name = kinds[0] if kinds else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        near = did_you_mean(kind, ("auto", "cpu", "cuda", "mps"))
        raise UserError(f"there is no device {name!r}; it is auto, cpu, cuda, cuda:<number> or mps.{near}")
    if kind == "mps" and not _has_mps():
        raise UserError("device 'mps' was asked for, but this machine has none that PyTorch can use")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            here = f"PyTorch {torch.__version__} sees {count} CUDA device{'s' * (count != 1)} here"
            raise UserError(f"device {name!r} was asked for, but {here}")
        return torch.device("cuda", int(number or 0))
    return torch.device(kind)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Return versions and hardware; nothing that names a person, a machine or a folder."""
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
    """Return the model of the processor as its maker names it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> float | None:
    """Return the peak memory in MB: of the accelerator's allocator, else of this process; None on Windows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB, on macOS bytes
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Use ``count`` CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
