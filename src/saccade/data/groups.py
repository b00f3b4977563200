"""Groups of images (patient, scene): none lies in two parts, and a part is held back in whole groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from saccade.data.survey import Part
from saccade.errors import UserError
from saccade.escaping import brief

_LEAST_GAIN = 1e-9
"""Above the rounding of floats, so that moving groups comes to an end."""

__all__ = ["hold_back_groups", "straddling"]


def straddling(parts: Iterable[Part], groups: Mapping[Path, str]) -> list[str]:
    """A sentence on each group that has images in two parts."""
    where = defaultdict[str, Counter[str]](Counter)
    for part in parts:
        for path in part.files:
            where[groups[path]][part.name] += 1
    return [
        f"the group {brief(group)!r} is in "
        + " and in ".join(f"{brief(name)!r} ({count} image{'s' * (count != 1)})" for name, count in found.items())
        for group, found in sorted(where.items())
        if len(found) > 1
    ]


def hold_back_groups(
    classes: Sequence[str], part: list[list[Path]], groups: Mapping[Path, str], test_part: float, seed: int
) -> tuple[list[list[Path]], list[list[Path]]]:
    """Training and test files of each class, no group on both sides; every class keeps a file on either side.

    In a drawn order, groups change sides where that brings the classes nearer to ``test_part``: first those of the
    classes that fewest groups have.

    Raises:
        UserError: a class lies in one group alone, or whole groups cannot give every class a file on either side.
    """
    names = sorted({groups[path] for files in part for path in files})
    counts = _counts(names, part, groups)
    for name, column in zip(classes, counts.T, strict=True):
        if (owners := np.flatnonzero(column)).size < 2:
            owner = f"class {name!r} has images" if name else "there are images"
            raise UserError(
                f"{owner} of {owners.size} group alone ({brief(names[owners[0]])!r}); groups are held back whole, so "
                "at least one to train on and one to test on are needed"
            )
    chosen = _chosen(counts, test_part, _order(len(names), seed))
    if chosen is None:
        raise UserError(
            f"no choice of whole groups was found that leaves each of {len(classes)} classes images to train on and to "
            "test on; give a column split, or fewer classes"
        )
    held = {name for name, taken in zip(names, chosen, strict=True) if taken}
    return (
        [[path for path in files if groups[path] not in held] for files in part],
        [[path for path in files if groups[path] in held] for files in part],
    )


def _counts(names: list[str], part: list[list[Path]], groups: Mapping[Path, str]) -> NDArray[np.int64]:
    """Files of each group (row) and class (column)."""
    rows = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(part)), np.int64)
    for column, files in enumerate(part):
        np.add.at(counts[:, column], [rows[groups[path]] for path in files], 1)
    return counts


def _order(count: int, seed: int) -> list[int]:
    import torch

    from saccade.data.sampling import generator

    order: list[int] = torch.randperm(count, generator=generator(seed, crc32(b"groups"), crc32(b"hold back"))).tolist()
    return order


def _chosen(counts: NDArray[np.int64], test_part: float, order: list[int]) -> NDArray[np.bool_] | None:
    """Which groups are held back; None where a class would be left without a file on one side."""
    total = counts.sum(0)
    goal = np.clip(np.rint(test_part * total), 1, total - 1)
    weight = 1 / np.sqrt(goal)
    held, chosen = np.zeros_like(total), np.zeros(len(counts), np.bool_)

    def gain(group: int, least: int = 1) -> float:
        """How much nearer the classes come to their goal if ``group`` changes sides; -inf where one is used up."""
        after = held - counts[group] if chosen[group] else held + counts[group]
        whole = (after < total).all() and (after >= least).all()
        return float((abs(held - goal) - abs(after - goal)) @ weight) if whole else -np.inf

    def move(group: int) -> None:
        held[:] += -counts[group] if chosen[group] else counts[group]
        chosen[group] = not chosen[group]

    for column in np.argsort((counts > 0).sum(0), kind="stable"):
        if held[column]:
            continue
        gains = {group: gain(group, least=0) for group in order if counts[group, column]}
        best = max(gains, key=lambda group: gains[group])
        if gains[best] == -np.inf:
            return None
        move(next((group for group, found in gains.items() if found > 0), best))
    moved = True
    while moved:
        moved = False
        for group in order:
            if gain(group) > _LEAST_GAIN:
                move(group)
                moved = True
    return chosen
