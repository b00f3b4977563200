"""Read the numbers computed with the authors' own code, and compare results with them.

Each file holds one forward and backward pass of a class of the authors, in float64. The small files lie in this folder
(README.md names their sources). The environment variable ``SACCADE_ORACLES`` may name a folder with larger files of the
same names and keys; tests then read both sets.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

__all__ = ["EACH_SET", "HERE", "SETS", "Oracle", "counts", "disagreement", "names", "read", "sets", "tolerance"]

HERE = Path(__file__).parent
GIVEN = ("x", "cotangent", "param", "buffer", "input")
RESULTS = ("y", "grad_x", "grad", "grad_input", "buffer_after", "aux")
ROUNDING = 2.0**-42
"""The results of the small files are rounded to multiples of 2^-41."""
STEPS = 4096
"""How far two orders of summation may lie apart, in steps of float64 at the largest value of an array.

The most seen is 13, and 933 at one gradient that is what remains of larger terms (``srm_train`` with a batch of two). A
factor of four is left for other processors and other releases of torch.
"""


def sets(environment: Mapping[str, str]) -> dict[str, Path]:
    """Return the folders to read, by name: ``golden``, and ``large`` where ``SACCADE_ORACLES`` is set.

    Raises:
        NotADirectoryError: ``SACCADE_ORACLES`` names no folder.

    """
    large = environment.get("SACCADE_ORACLES")
    if not large:
        return {"golden": HERE}
    if not Path(large).is_dir():
        raise NotADirectoryError(f"SACCADE_ORACLES={large} is no folder; unset it to test with tests/golden alone")
    return {"golden": HERE, "large": Path(large)}


SETS = sets(os.environ)
EACH_SET = pytest.mark.parametrize("folder", SETS.values(), ids=SETS)


@dataclass(frozen=True)
class Oracle:
    """One forward and backward pass of a class of the authors.

    The arrays go by their keys in the file: ``x``, ``y``, ``param:fc.0.weight``, … What stands behind the colon is the
    authors' own name.
    """

    name: str
    meta: dict[str, Any]
    arrays: dict[str, Tensor]

    def of(self, kind: str) -> dict[str, Tensor]:
        """Return the arrays of one kind (``param``, ``grad``, ``buffer``, …) by the authors' names."""
        return {key.partition(":")[2]: value for key, value in self.arrays.items() if key.partition(":")[0] == kind}

    @property
    def results(self) -> dict[str, Tensor]:
        """All arrays that a pass must reproduce, by key."""
        return {key: value for key, value in self.arrays.items() if key.partition(":")[0] in RESULTS}


def names(folder: Path) -> list[str]:
    """Return the names of all oracles in a folder."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def read(folder: Path, name: str) -> Oracle:
    """Read one file.

    Raises:
        ValueError: an array is of an unknown kind or not in float64.

    """
    with np.load(folder / f"{name}.npz") as archive:
        meta = json.loads(str(archive["meta"]))
        arrays = {key: archive[key] for key in archive.files if key != "meta"}
    for key, value in arrays.items():
        if key.partition(":")[0] not in (*GIVEN, *RESULTS) or value.dtype != np.float64:
            raise ValueError(f"{name}.npz: unexpected array {key} of {value.dtype}")
    return Oracle(name, meta, {key: torch.from_numpy(value) for key, value in arrays.items()})


def counts() -> dict[str, dict[str, Any]]:
    """Return the sizes of the authors' networks, by repository and network."""
    nets: dict[str, dict[str, Any]] = json.loads((HERE / "counts_official.json").read_text(encoding="utf-8"))["nets"]
    return nets


def tolerance(oracle: Oracle, key: str) -> float:
    """Return the largest difference from a result that rounding explains.

    A gradient that is zero by construction is what remains of terms as large as the other gradients.
    """
    sums = [oracle.arrays[key]]
    if key.partition(":")[2] in oracle.meta["zero_grad_params"]:
        sums = list(oracle.of("grad").values())
    largest = max(1.0, *(array.abs().max().item() for array in sums))
    return ROUNDING + STEPS * torch.finfo(torch.float64).eps * largest


def disagreement(oracle: Oracle, found: Mapping[str, Tensor]) -> dict[str, float]:
    """Return, for each result of the oracle, the largest difference of the found array over the tolerance.

    Arrays agree if no value exceeds 1. A value is infinite if the array was not found, has another number of elements
    or holds a NaN. Shapes are not compared: a linear layer may stand for a 1×1 convolution.
    """

    def of(key: str, expected: Tensor) -> float:
        if key not in found or found[key].numel() != expected.numel():
            return float("inf")
        apart = (found[key].detach().reshape(-1) - expected.reshape(-1)).abs().max() / tolerance(oracle, key)
        return apart.nan_to_num(nan=float("inf")).item()

    return {key: of(key, expected) for key, expected in oracle.results.items()}
