"""Select the files that a recipe uses: the source's splits or a held-back test set, optionally subsampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from saccade.data.groups import groups_in_two_splits, hold_back_groups
from saccade.data.labels import TargetSource
from saccade.data.survey import SplitFiles, Survey
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.recipe import Data

__all__ = ["Selection", "join_sentences", "select_files", "untrained_classes_note"]


@dataclass(frozen=True)
class Selection:
    """Files that a recipe uses.

    Attributes:
        classes: class names, in the order of their indices; a single empty name if files have no classes.
        splits: Maps ``train``, ``test`` and, if there is one, ``val`` to the files of each class.
        description: clause on how the images were divided into training and test images.
    """

    classes: list[str]
    splits: dict[str, list[list[Path]]]
    description: str

    def files(self, split: str) -> list[Path]:
        """Return all files of a split, class by class."""
        return [path for files in self.splits.get(split, ()) for path in files]

    @property
    def all_files(self) -> list[Path]:
        """Files of all splits."""
        return [path for split in self.splits for path in self.files(split)]

    def counts(self, files: Container[Path]) -> dict[str, dict[str, int]]:
        """Return the number of selected files among ``files``, by split and class; empty splits are left out."""
        counts = {
            split: Counter(
                name for name, paths in zip(self.classes, classes, strict=True) for path in paths if path in files
            )
            for split, classes in self.splits.items()
        }
        return {split: dict(class_counts) for split, class_counts in counts.items() if class_counts}

    def without(self, excluded: Container[Path]) -> Selection:
        """Return the selection without the files ``excluded``.

        Raises:
            UserError: a class has no image left to train on or to test on.
        """
        splits = {
            split: [[path for path in files if path not in excluded] for files in classes]
            for split, classes in self.splits.items()
        }
        for split, purpose in (("train", "train on"), ("test", "test on")):
            for name, files in zip(self.classes, splits[split], strict=True):
                if not files:
                    subject = f"class {name!r} has" if name else "there is"
                    raise UserError(f"{subject} no image to {purpose} that can be read")
        return replace(self, splits=splits)


def select_files(spec: Data, survey: Survey) -> Selection:
    """Select the files to train on, to test on and to validate on from ``survey``.

    Raises:
        UserError: the folder or its classes cannot be used; the message lists the problems.
    """
    if survey.problems:
        raise UserError(join_sentences(f"{brief(survey.root)} cannot be used", survey.problems))
    if survey.groups and (conflicts := groups_in_two_splits(survey.splits.values(), survey.groups)):
        raise UserError(
            join_sentences(f"{brief(survey.root)} has {len(conflicts)} groups in two splits", conflicts)
            + ". Move each into one split, or set data.options.group = false to treat images as unrelated"
        )
    classes = survey.classes
    splits = {
        split: [split_files.classes.get(name, []) for name in classes]
        for split, split_files in survey.splits.items()
        if split_files.files
    }
    if "train" not in splits:
        raise UserError(f"{brief(survey.root)} has no image to train on")
    if "test" in splits:
        description = survey.describe_splits()
    else:
        splits["train"], splits["test"], description = _hold_back_test(spec, survey, splits["train"])
    full_test = splits["test"]
    for split, max_images in (("train", spec.train_images), ("test", spec.test_images)):
        splits[split] = _subset(splits[split], classes, max_images, spec.split_seed, f"{split}_images")
    return Selection(
        classes,
        {split: splits[split] for split in ("train", "test", "val") if split in splits},
        "; ".join([description, *_partial_groups(survey, full_test, splits["test"]), *survey.unused]),
    )


def _hold_back_test(
    spec: Data, survey: Survey, files_by_class: list[list[Path]]
) -> tuple[list[list[Path]], list[list[Path]], str]:
    fraction, seed = spec.test_part, spec.split_seed
    if not survey.groups:
        unit = "each class" if survey.classes != [""] else "the images"
        train, test = _hold_back_per_class(survey.classes, files_by_class, fraction, seed)
        return train, test, f"{fraction:.0%} of {unit} held back with seed {seed}"
    train, test = hold_back_groups(survey.classes, files_by_class, survey.groups, fraction, seed)
    test_groups, train_groups = (
        {survey.groups[path] for files in classes for path in files} for classes in (test, train)
    )
    counts = f"{len(test_groups)} of {len(test_groups) + len(train_groups)} groups"
    return train, test, f"{fraction:.0%} of the images held back with seed {seed} in whole groups ({counts})"


def _partial_groups(survey: Survey, full: list[list[Path]], subset: list[list[Path]]) -> list[str]:
    """Return a clause on test groups made incomplete by subsampling, as a list; [] if all are complete."""
    if not survey.groups or full is subset:
        return []
    full_counts, counts = (
        Counter(survey.groups[path] for files in classes for path in files) for classes in (full, subset)
    )
    n_partial = sum(count < full_counts[group] for group, count in counts.items())
    return [f"data.test_images takes a part of {n_partial} of {len(counts)} groups"] if n_partial else []


def untrained_classes_note(selection: Selection, targets: TargetSource, readable: Container[Path]) -> list[str]:
    """Return a note, as a list, on the classes that test images have and training images lack."""
    train, test = (
        targets.class_counts(
            SplitFiles(split, dict(zip(selection.classes, selection.splits[split], strict=True))), readable
        )
        for split in ("train", "test")
    )
    names = [name for name, count in test.items() if count and not train.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    listed = ", ".join(map(brief, names[:3]))
    return [f"{len(names)} classes are in test images and in no training image: {listed}{more}"] if names else []


def join_sentences(start: str, sentences: Sequence[str], limit: int = 5) -> str:
    """Return ``start: …; …; and 3 more``, with at most ``limit`` of ``sentences``."""
    more = f"; and {len(sentences) - limit} more" if len(sentences) > limit else ""
    return f"{start}: {'; '.join(sentences[:limit])}{more}"


def _hold_back_per_class(
    classes: list[str], files_by_class: list[list[Path]], test_fraction: float, seed: int
) -> tuple[list[list[Path]], list[list[Path]]]:
    """Return the training and the test files of each class, at least one of each."""
    train, test = [], []
    single = [name for name, files in zip(classes, files_by_class, strict=True) if len(files) == 1]
    if len(single) > 1:
        raise UserError(
            f"{len(single)} of {len(classes)} classes have 1 image, such as {single[0]!r}; at least one to train on "
            "and one to test on are needed"
        )
    for name, files in zip(classes, files_by_class, strict=True):
        if len(files) < 2:
            subject = f"class {name!r} has" if name else "there is"
            raise UserError(f"{subject} 1 image; at least one to train on and one to test on are needed")
        n_test = min(max(1, round(test_fraction * len(files))), len(files) - 1)
        test_files, train_files = _draw(files, n_test, seed, name, "hold back")
        train.append(train_files)
        test.append(test_files)
    return train, test


def _subset(
    files_by_class: list[list[Path]], classes: list[str], max_images: int | None, seed: int, option: str
) -> list[list[Path]]:
    """Draw at most ``max_images`` files, balanced over the classes where possible."""
    if max_images is None or sum(map(len, files_by_class)) <= max_images:
        return files_by_class
    if max_images < len(files_by_class):
        raise UserError(
            f"data.{option} = {max_images} is less than one image for each of {len(files_by_class)} classes"
        )
    remaining, counts = max_images, [0] * len(files_by_class)
    by_size = sorted(range(len(files_by_class)), key=lambda n: (len(files_by_class[n]), n))
    for n_done, n in enumerate(by_size):  # smallest classes first, so that larger classes make up for them
        counts[n] = min(len(files_by_class[n]), remaining // (len(files_by_class) - n_done))
        remaining -= counts[n]
    return [
        _draw(files, count, seed, name, option)[0]
        for files, count, name in zip(files_by_class, counts, classes, strict=True)
    ]


def _draw(files: list[Path], count: int, seed: int, name: str, seed_word: str) -> tuple[list[Path], list[Path]]:
    """Divide ``files`` into ``count`` random files and the rest; larger draws of one seed contain smaller draws."""
    import torch

    from saccade.data.sampling import generator

    order = torch.randperm(
        len(files), generator=generator(seed, crc32(name.encode("utf-8", "surrogatepass")), crc32(seed_word.encode()))
    )
    drawn = set(order[:count].tolist())
    return [f for i, f in enumerate(files) if i in drawn], [f for i, f in enumerate(files) if i not in drawn]
