"""Find groups of images (patient, scene) that span two splits; hold back whole groups for testing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from saccade.data.survey import SplitFiles
from saccade.errors import UserError
from saccade.escaping import brief

_MIN_GAIN = 1e-9
"""Smallest gain for which a group is moved; it exceeds float rounding, so that the search terminates."""

__all__ = ["GROUP_FOLDER", "folder_groups", "group_key", "group_name_notes", "groups_in_two_splits", "hold_back_groups"]

GROUP_FOLDER = re.compile(r"(patient|subject|sub|case|participant)[ _-]?\d+", re.IGNORECASE)
"""Names of folders of one group, as in CheXpert and BIDS."""


def group_key(name: str) -> str:
    """Return ``name`` without repeated spaces, leading zeros and ``.0``."""
    text = " ".join(name.split())
    number = re.fullmatch(r"0*(\d+)(\.0+)?", text)
    return number[1] if number else text


def group_name_notes(groups: Iterable[str]) -> list[str]:
    """Return one note if names of ``groups`` differ in capital letters only."""
    by_key = defaultdict[str, list[str]](list)
    for group in sorted(set(groups)):
        by_key[group.casefold()].append(group)
    similar = [names for names in by_key.values() if len(names) > 1]
    if not similar:
        return []
    pair = " and ".join(repr(brief(name)) for name in similar[0])
    return [
        f"the groups {pair} differ in capital letters only and are kept apart; so do {len(similar) - 1} other pairs"
    ]


def folder_groups(paths: Iterable[Path], root: Path) -> dict[Path, str]:
    """Map each image to its first folder such as ``patient00001``; return {} if one has none, or no two share one."""
    groups = {path: next(filter(GROUP_FOLDER.fullmatch, path.parts[len(root.parts) : -1]), "") for path in paths}
    return {} if "" in groups.values() or len(set(groups.values())) == len(groups) else groups


def groups_in_two_splits(splits: Iterable[SplitFiles], groups: Mapping[Path, str]) -> list[str]:
    """Return one sentence per group that has images in two of ``splits``."""
    counts_by_group = defaultdict[str, Counter[str]](Counter)
    for split in splits:
        for path in split.files:
            counts_by_group[groups[path]][split.name] += 1
    return [
        f"the group {brief(group)!r} is in "
        + " and in ".join(f"{brief(name)!r} ({count} image{'s' * (count != 1)})" for name, count in counts.items())
        for group, counts in sorted(counts_by_group.items())
        if len(counts) > 1
    ]


def hold_back_groups(
    classes: Sequence[str],
    files_by_class: list[list[Path]],
    groups: Mapping[Path, str],
    test_fraction: float,
    seed: int,
) -> tuple[list[list[Path]], list[list[Path]]]:
    """Return the training and the test files of each class, with whole groups held back for testing.

    Groups move between train and test, in random order, until no move brings the classes' test fractions nearer to
    ``test_fraction``; classes in the fewest groups come first. Every class keeps a training and a test file.

    Raises:
        UserError: a class occurs in a single group, or no choice of whole groups was found.
    """
    names = sorted({groups[path] for files in files_by_class for path in files})
    counts = _count_files(names, files_by_class, groups)
    for name, column in zip(classes, counts.T, strict=True):
        if (rows := np.flatnonzero(column)).size < 2:
            subject = f"class {name!r} has images" if name else "there are images"
            raise UserError(
                f"{subject} of only {rows.size} group ({brief(names[rows[0]])!r}); groups are held back whole, so "
                "at least one to train on and one to test on are needed"
            )
    is_test = _choose_test_groups(counts, test_fraction, _random_order(len(names), seed))
    if is_test is None:
        raise UserError(
            f"no choice of whole groups was found that leaves each of {len(classes)} classes images to train on and to "
            "test on; give a column split, or fewer classes"
        )
    test_groups = {name for name, held_back in zip(names, is_test, strict=True) if held_back}
    return (
        [[path for path in files if groups[path] not in test_groups] for files in files_by_class],
        [[path for path in files if groups[path] in test_groups] for files in files_by_class],
    )


def _count_files(names: list[str], files_by_class: list[list[Path]], groups: Mapping[Path, str]) -> NDArray[np.int64]:
    """Return the number of files of each group and class, (groups, classes)."""
    rows = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(files_by_class)), np.int64)
    for column, files in enumerate(files_by_class):
        np.add.at(counts[:, column], [rows[groups[path]] for path in files], 1)
    return counts


def _random_order(count: int, seed: int) -> list[int]:
    import torch

    from saccade.data.sampling import generator

    order: list[int] = torch.randperm(count, generator=generator(seed, crc32(b"groups"), crc32(b"hold back"))).tolist()
    return order


def _choose_test_groups(counts: NDArray[np.int64], test_fraction: float, order: list[int]) -> NDArray[np.bool_] | None:
    """Return the mask (G,) of test groups for file ``counts`` (G, K); None if a class lacks test or training files."""
    totals = counts.sum(0)
    goals = np.clip(np.rint(test_fraction * totals), 1, totals - 1)
    weights = 1 / np.sqrt(goals)
    n_test, is_test = np.zeros_like(totals), np.zeros(len(counts), np.bool_)

    def gain(group: int, min_test: int = 1) -> float:
        """Return the decrease in weighted distance to the goals if ``group`` moves; -inf if a class lacks files."""
        n_after = n_test - counts[group] if is_test[group] else n_test + counts[group]
        is_feasible = (n_after < totals).all() and (n_after >= min_test).all()
        return float((abs(n_test - goals) - abs(n_after - goals)) @ weights) if is_feasible else -np.inf

    def move(group: int) -> None:
        n_test[:] += -counts[group] if is_test[group] else counts[group]
        is_test[group] = not is_test[group]

    for column in np.argsort((counts > 0).sum(0), kind="stable"):
        if n_test[column]:
            continue
        gains = {group: gain(group, min_test=0) for group in order if counts[group, column]}
        best = max(gains, key=lambda group: gains[group])
        if gains[best] == -np.inf:
            return None
        move(next((group for group, value in gains.items() if value > 0), best))
    has_moved = True
    while has_moved:
        has_moved = False
        for group in order:
            if gain(group) > _MIN_GAIN:
                move(group)
                has_moved = True
    return is_test
