"""Scores that another trainer made, gathered from files or from Python: one per arm and seed, or one per image too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.study.scores import logs
from saccade.study.scores.naming import Named, from_name, parsed
from saccade.study.scores.sheet import Sheet, from_python, read_sheet

__all__ = ["Given", "gather"]

Key = tuple[str, int]
_KEYS = ("arm", "seed", "image", "group")
_NAMED = 6
"""At most so many runs are named in a note."""


@dataclass(frozen=True)
class Given:
    """Scores by run.

    Attributes:
        name: of the file, or what the files have in common.
        column: the name of the scores.
        scores: (arm, seed) -> score; the mean over the images where there are any.
        images: (arm, seed) -> one score an image, the same images in the same order for all; None without images.
        groups: the group of each image; None without groups.
        files: (arm, seed) -> the file of the run.
        scored: which epoch was scored; "" where that is unknown.
        origin: how the files were read, term -> words.
        notes: sentences for the reader of the verdicts.
    """

    name: str
    column: str
    scores: Mapping[Key, float]
    images: Mapping[Key, NDArray[np.float64]] | None
    groups: tuple[str, ...] | None
    files: Mapping[Key, str]
    scored: str
    origin: Mapping[str, str]
    notes: tuple[str, ...]


def gather(scores: Any, metric: str | None) -> Given:
    """Read what :func:`saccade.judge` takes as ``scores``.

    Raises:
        UserError: a file cannot be read, a column is missing, a cell is no number, a run stands there twice, or its
            images differ from those of the others.
    """
    if isinstance(scores, str | Path):
        scores = [scores]
    if isinstance(scores, list | tuple) and scores and all(isinstance(each, str | Path) for each in scores):
        return _of_files([parsed(each) for each in scores], metric)
    return _of_rows([(Named(Path("scores")), from_python(scores))], metric)


def _of_files(named: Sequence[Named], metric: str | None) -> Given:
    sheets = [(each, read_sheet(each.path)) for each in named]
    kinds = {logs.is_log(sheet) for _, sheet in sheets}
    if len(kinds) > 1:
        log = next(sheet.name for _, sheet in sheets if logs.is_log(sheet))
        raise UserError(f"{log} is the log of one run, others are tables of scores; judge files of one kind")
    return _of_logs(sheets, metric) if kinds.pop() else _of_rows(sheets, metric)


def _of_logs(sheets: Sequence[tuple[Named, Sheet]], metric: str | None) -> Given:
    """One run a file: the last epoch is its score."""
    first = sheets[0][1]
    candidates = [name for name in first.columns if name.lower() not in ("epoch", "step")]
    column = logs.chosen_column(first) if metric is None else logs.match(first, metric, candidates)
    found: dict[Key, logs.LogScore] = {}
    files: dict[Key, str] = {}
    versions = []
    for named, sheet in sheets:
        if named.arm is not None and named.seed is not None:
            key, version = (named.arm, named.seed), False
        else:
            arm, seed, version = from_name(named.path)
            key = (arm, seed)
        if key in found:
            raise UserError(
                f"{files[key]} and {sheet.name} are both of {key[0]}, seed {key[1]}; one file a run is needed. "
                "ARM:SEED=FILE names a run"
            )
        found[key], files[key] = logs.last(sheet, column), sheet.name
        versions += [key] if version else []
    notes = [
        "The last epoch of every run is scored. Its best epoch would be chosen on the very images it is scored on, "
        "which flatters every arm."
    ]
    epochs = {key: score.epoch for key, score in found.items() if score.epoch is not None}
    longest = max(epochs.values(), default=0)
    if short := [f"{arm} seed {seed} at {epoch}" for (arm, seed), epoch in epochs.items() if epoch < longest]:
        more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
        notes.append(
            f"Some runs ended before the others, which ended at epoch {longest}: {', '.join(short[:_NAMED])}{more}."
        )
    if versions:
        notes.append(
            "The version of the logger's folder is taken for the seed, for want of another: write ARM:SEED=FILE where "
            "they differ."
        )
    others = [name for name in candidates if name != column and not name.startswith(("train", "lr", "time"))]
    return Given(
        name=_common(files.values()),
        column=column,
        scores={key: score.score for key, score in found.items()},
        images=None,
        groups=None,
        files=files,
        scored="the last epoch",
        origin=_origin(column, metric, others, files, first.delimiter) | _runs(files),
        notes=tuple(notes),
    )


def _of_rows(sheets: Sequence[tuple[Named, Sheet]], metric: str | None) -> Given:
    """Rows of arm, seed, score, and perhaps image and group; a file named ARM:SEED=FILE needs no arm and seed."""
    rows = _Rows()
    column = ""
    others: list[str] = []
    for named, sheet in sheets:
        column, others = _score_column(named, sheet, metric if not column else metric or column)
        rows.add(named, sheet, column)
    images, groups = rows.images()
    files = rows.files
    delimiter = sheets[0][1].delimiter
    facts = _runs(files) if len(set(files.values())) > 1 else {}
    if images is not None:
        count = str(len(next(iter(images.values()))))
        facts = {"Images": count if groups is None else f"{count}, in {len(set(groups))} groups"} | facts
    return Given(
        name=_common(files.values()),
        column=column,
        scores=rows.scores if images is None else {key: float(values.mean()) for key, values in images.items()},
        images=images,
        groups=groups,
        files=files,
        scored="",
        origin=_origin(column, metric, others, files, delimiter) | facts,
        notes=(),
    )


def _score_column(named: Named, sheet: Sheet, metric: str | None) -> tuple[str, list[str]]:
    """The column of the scores, and the others that could be it.

    Raises:
        UserError: a column is missing, or several could be the score.
    """
    for key in ("arm", "seed") if named.arm is None else ():
        if sheet.find(key) is None:
            raise UserError(
                f"{sheet.name} has no column {key!r}.{did_you_mean(key, sheet.columns)} Needed are arm, seed and "
                f"score, and image where there is a row a test image; it has {', '.join(map(brief, sheet.columns))}."
            )
    if named.arm is not None and sheet.find("arm") is not None:
        raise UserError(
            f"{sheet.name} names the arms itself, in a column; give the file without {named.arm}:{named.seed}="
        )
    columns = [name for name in sheet.columns if name.lower() not in _KEYS]
    if metric is not None:
        chosen = logs.match(sheet, metric, columns)
    elif (score := sheet.find("score")) is not None:
        chosen = sheet.columns[score]
    elif len(columns) == 1:
        chosen = columns[0]
    elif not columns:
        raise UserError(f"{sheet.name} has no column of scores; it has {', '.join(map(brief, sheet.columns))}")
    else:
        raise UserError(f"{sheet.name}: which column is the score? Name it with --metric: {', '.join(columns)}")
    return chosen, [name for name in columns if name != chosen]


@dataclass
class _Rows:
    """The rows of all files so far."""

    scores: dict[Key, float] = field(default_factory=dict)
    files: dict[Key, str] = field(default_factory=dict)
    by_image: dict[Key, dict[str, float]] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)

    def add(self, named: Named, sheet: Sheet, column: str) -> None:
        """Take the rows of a file.

        Raises:
            UserError: a cell is empty or of a wrong kind, a row stands there twice, an image is of two groups, or some
                files have images and others have not.
        """
        arms, seeds, images, groups = (sheet.find(key) for key in _KEYS)
        score = sheet.find(column)
        assert score is not None
        if groups is not None and images is None:
            raise UserError(f"{sheet.name} has a column 'group' but no column 'image': a group is of images")
        if self.files and bool(self.by_image) != (images is not None):
            raise UserError(f"{sheet.name}: some files have a column 'image' and others have none")
        for n in range(len(sheet.rows)):
            arm = sheet.text(n, arms) if named.arm is None and arms is not None else str(named.arm)
            seed = sheet.whole(n, seeds) if named.seed is None and seeds is not None else int(named.seed or 0)
            image = "" if images is None else sheet.text(n, images)
            value, key = sheet.number(n, score), (arm, seed)
            self.files.setdefault(key, sheet.name)
            own = self.by_image.setdefault(key, {}) if image else {}
            if image in own or key in self.scores:
                what = f", image {brief(image, 60)}, is there twice" if image else (
                    " is there twice; a row a test image needs a column 'image'"
                )  # fmt: skip
                raise UserError(f"{sheet.at(n)}: {arm}, seed {seed}{what}")
            if not image:
                self.scores[key] = value
                continue
            own[image] = value
            if groups is not None:
                group = sheet.text(n, groups)
                if (other := self.group_of.setdefault(image, group)) != group:
                    raise UserError(
                        f"{sheet.at(n)}: image {brief(image, 60)} is of the group {brief(group, 60)}, and of "
                        f"{brief(other, 60)} before; one group an image is needed"
                    )

    def images(self) -> tuple[dict[Key, NDArray[np.float64]] | None, tuple[str, ...] | None]:
        """(arm, seed) -> scores of the images, in the order of the first run; and the groups. None without them.

        Raises:
            UserError: two runs have other images, or there are fewer than two images or groups.
        """
        if not self.by_image:
            return None, None
        first, order = next(iter(self.by_image.items()))
        for key, own in self.by_image.items():
            for one, other, missing in (
                (key, first, order.keys() - own.keys()),
                (first, key, own.keys() - order.keys()),
            ):
                if missing:
                    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                    raise UserError(
                        f"{one[0]}, seed {one[1]} has no score of image {brief(min(missing), 60)}{more}, which "
                        f"{other[0]}, seed {other[1]} has; runs are compared on the same images"
                    )
        groups = tuple(self.group_of[image] for image in order) if self.group_of else None
        for units, what in ((order, "image"), (set(groups or ()) or order, "group")):
            if len(units) < 2:
                raise UserError(
                    f"all scores are of the one {what} {brief(next(iter(units)), 60)}; two are needed at least"
                )
        return {key: np.array([own[image] for image in order]) for key, own in self.by_image.items()}, groups


def _origin(
    column: str, metric: str | None, others: Sequence[str], files: Mapping[Key, str], delimiter: str
) -> dict[str, str]:
    names = list(dict.fromkeys(files.values()))
    parted = f", columns parted by {delimiter}" if delimiter else ""
    found = {"Files": f"{names[0] if len(names) == 1 else f'{len(names)} files'}{parted}"} if delimiter else {}
    beside = f"; not read: {', '.join(others)}" if others else ""
    chosen = ", chosen by its name" if metric is None and others else ""
    return found | {"Column": f"{column}{chosen}{beside}"}


def _runs(files: Mapping[Key, str]) -> dict[str, str]:
    return {f"{arm}, seed {seed}": file for (arm, seed), file in files.items()}


def _common(files: Any) -> str:
    """The name of the one file, or of the folder that all lie in."""
    names = list(dict.fromkeys(files))
    if len(names) == 1:
        return Path(names[0]).name
    home = Path(os.path.commonpath([Path(name).resolve() for name in names])).name
    return home or f"{len(names)} files"
