"""Map scores of one run, stored in its folder as ``looking.safetensors``.

The file is used again while weights, images, classes and settings stay the same; a damaged one is made anew.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from saccade.explanation.map_scores import CONTROLS, OWN, Examples, map_score_rows
from saccade.files import write_atomically
from saccade.metrics.rows import Rows
from saccade.saving import load
from saccade.trust import Trust

__all__ = ["FILE", "MapSettings", "run_rows"]

FILE = "looking.safetensors"
_VERSION = 1
"""Number to raise when a score is computed differently."""
_MAX_BYTES = 2**26
"""Largest size of the file that is read."""


@dataclass(frozen=True)
class MapSettings:
    """Settings of the maps and their scores.

    Attributes:
        steps: steps of insertion and deletion; 0 leaves them out.
        method: method of the maps.
        layer: path of the layer; None for the last feature map.
    """

    steps: int
    method: str = "gradcam"
    layer: str | None = None


def run_rows(folder: Path, examples: Examples, settings: MapSettings, seed: int, trust: Trust) -> dict[str, Rows]:
    """Return ``map_score_rows`` of the network in ``folder``, from the stored file if it is still valid.

    Raises:
        UserError: the network cannot be loaded, or has no maps.
    """
    key = _key(folder, examples, settings, seed)
    stored = _read(folder / FILE, key, len(examples.indices))
    if stored is not None:
        return stored
    model = load(folder, trust=trust)
    rows = map_score_rows(model, examples, seed=seed, **asdict(settings))
    rows = {name: {column: values.double() for column, values in own.items()} for name, own in rows.items()}
    with suppress(OSError):  # a read-only folder only costs the time to compute again
        _write(folder / FILE, key, rows)
    return rows


def _key(folder: Path, examples: Examples, settings: MapSettings, seed: int) -> str:
    """Return a digest of all that the scores depend on."""
    digest = hashlib.sha256()
    described = {"version": _VERSION, "torch": torch.__version__, "seed": seed, **asdict(settings)}
    described |= {key: getattr(examples, key) for key in ("indices", "classes", "others", "multilabel")}
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name in ("config.json", "model.safetensors"):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    for tensor in (examples.images, examples.regions, *(examples.points or ())):
        if tensor is not None:
            digest.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str, count: int) -> dict[str, Rows] | None:
    """Return the rows stored under ``key``, each of ``count`` images; None if the file holds others or is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError):
        return None
    rows: dict[str, Rows] = {name: {} for name in (OWN, *CONTROLS)}
    for name, values in tensors.items():
        control, _, column = name.partition(".")
        if control not in rows or values.dtype != torch.float64 or values.shape[:1] != (count,):
            return None
        rows[control][column] = values
    return {name: own for name, own in rows.items() if own} or None


def _write(path: Path, key: str, rows: dict[str, Rows]) -> None:
    from safetensors.torch import save

    tensors = {f"{name}.{column}": values.contiguous() for name, own in rows.items() for column, values in own.items()}
    write_atomically(path, save(tensors, {"key": key}))
