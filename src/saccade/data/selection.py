"""Which of the files in a folder a recipe takes: the parts as they lie there, or a part held back; a subset of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from saccade.data.groups import hold_back_groups, straddling
from saccade.data.survey import Survey
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.recipe import Data

__all__ = ["Selection", "select", "several"]


@dataclass(frozen=True)
class Selection:
    """The files a recipe takes.

    Attributes:
        classes: their names, in the order of their labels; one without a name where the files are in no classes.
        parts: ``train`` (to learn from), ``test`` (to be judged by) and, where there is one, ``val``: the files of
            each class.
        how: where the line between the parts comes from.
    """

    classes: list[str]
    parts: dict[str, list[list[Path]]]
    how: str

    def files(self, part: str) -> list[Path]:
        """All files of a part, class by class."""
        return [path for files in self.parts.get(part, ()) for path in files]

    @property
    def every(self) -> list[Path]:
        """All files of all parts."""
        return [path for part in self.parts for path in self.files(part)]

    def counts(self, of: Container[Path]) -> dict[str, dict[str, int]]:
        """Part -> class -> how many of the files ``of`` are taken, where there are any."""
        counts = {
            part: Counter(n for n, files in zip(self.classes, classes, strict=True) for path in files if path in of)
            for part, classes in self.parts.items()
        }
        return {part: dict(found) for part, found in counts.items() if found}

    def without(self, bad: Container[Path]) -> Selection:
        """The same but for the files ``bad``.

        Raises:
            UserError: nothing is left of a class to train on or to test on.
        """
        parts = {part: [[p for p in files if p not in bad] for files in of] for part, of in self.parts.items()}
        for part, what in (("train", "train on"), ("test", "test on")):
            for name, files in zip(self.classes, parts[part], strict=True):
                if not files:
                    owner = f"class {name!r} has" if name else "there is"
                    raise UserError(f"{owner} no image to {what} that can be read")
        return replace(self, parts=parts)


def select(spec: Data, seen: Survey) -> Selection:
    """What is trained on, tested on and set aside, of all that was ``seen``.

    Raises:
        UserError: the folder or its classes cannot be used; the message names each.
    """
    if seen.problems:
        raise UserError(several(f"{brief(seen.root)} cannot be used", seen.problems))
    if seen.groups and (leaks := straddling(seen.parts.values(), seen.groups)):
        raise UserError(
            several(f"{brief(seen.root)} has {len(leaks)} groups in two parts", leaks)
            + ". Move each into one part; data.options.group = false takes images as unrelated"
        )
    classes = seen.classes
    parts = {role: [part.classes.get(name, []) for name in classes] for role, part in seen.parts.items() if part.files}
    if "train" not in parts:
        raise UserError(f"{brief(seen.root)} has no image to train on")
    if "test" in parts:
        how = seen.named_parts()
    else:
        parts["train"], parts["test"], how = _held_back(spec, seen, parts["train"])
    whole = parts["test"]
    for part, at_most in (("train", spec.train_images), ("test", spec.test_images)):
        parts[part] = _subset(parts[part], classes, at_most, spec.split_seed, f"{part}_images")
    return Selection(
        classes,
        {part: parts[part] for part in ("train", "test", "val") if part in parts},
        "; ".join([how, *_cut(seen, whole, parts["test"]), *seen.unused]),
    )


def _held_back(spec: Data, seen: Survey, part: list[list[Path]]) -> tuple[list[list[Path]], list[list[Path]], str]:
    """Training and test files of each class, and where the line between them comes from."""
    share, seed = spec.test_part, spec.split_seed
    if not seen.groups:
        what = "each class" if seen.classes != [""] else "the images"
        return *_hold_back(seen.classes, part, share, seed), f"{share:.0%} of {what} held back with seed {seed}"
    train, test = hold_back_groups(seen.classes, part, seen.groups, share, seed)
    held, kept = ({seen.groups[path] for files in side for path in files} for side in (test, train))
    number = f"{len(held)} of {len(held) + len(kept)} groups"
    return train, test, f"{share:.0%} of the images held back with seed {seed} in whole groups ({number})"


def _cut(seen: Survey, before: list[list[Path]], after: list[list[Path]]) -> list[str]:
    """A clause where a subset of the test images leaves groups in part."""
    if not seen.groups or before is after:
        return []
    had, has = (Counter(seen.groups[path] for files in part for path in files) for part in (before, after))
    cut = sum(count < had[group] for group, count in has.items())
    return [f"data.test_images takes a part of {cut} of {len(has)} groups"] if cut else []


def several(what: str, sentences: Sequence[str], shown: int = 5) -> str:
    """``what: …; …; and 3 more``."""
    more = f"; and {len(sentences) - shown} more" if len(sentences) > shown else ""
    return f"{what}: {'; '.join(sentences[:shown])}{more}"


def _hold_back(
    classes: list[str], part: list[list[Path]], test_part: float, seed: int
) -> tuple[list[list[Path]], list[list[Path]]]:
    """Training and test files of each class; every class keeps at least one on either side.

    Raises:
        UserError: a class has a single image.
    """
    train, test = [], []
    single = [name for name, files in zip(classes, part, strict=True) if len(files) == 1]
    if len(single) > 1:
        raise UserError(
            f"{len(single)} of {len(classes)} classes have 1 image, such as {single[0]!r}; at least one to train on "
            "and one to test on are needed"
        )
    for name, files in zip(classes, part, strict=True):
        if len(files) < 2:
            owner = f"class {name!r} has" if name else "there is"
            raise UserError(f"{owner} 1 image; at least one to train on and one to test on are needed")
        count = min(max(1, round(test_part * len(files))), len(files) - 1)
        held_back, kept = _draw(files, count, seed, name, "hold back")
        train.append(kept)
        test.append(held_back)
    return train, test


def _subset(
    part: list[list[Path]], classes: list[str], at_most: int | None, seed: int, option: str
) -> list[list[Path]]:
    """At most so many files, the same number for each class as far as they reach.

    Raises:
        UserError: there are more classes than images are asked for.
    """
    if at_most is None or sum(map(len, part)) <= at_most:
        return part
    if at_most < len(part):
        raise UserError(f"data.{option} = {at_most} is less than one image for each of {len(part)} classes")
    left, shares = at_most, [0] * len(part)
    by_size = sorted(range(len(part)), key=lambda n: (len(part[n]), n))
    for done, n in enumerate(by_size):  # the small classes first: what they lack goes to the others
        shares[n] = min(len(part[n]), left // (len(part) - done))
        left -= shares[n]
    return [
        _draw(files, share, seed, name, option)[0] for files, share, name in zip(part, shares, classes, strict=True)
    ]


def _draw(files: list[Path], count: int, seed: int, name: str, purpose: str) -> tuple[list[Path], list[Path]]:
    """``count`` of the files and the rest, each in the order of names; more holds fewer."""
    import torch

    from saccade.data.sampling import generator

    order = torch.randperm(
        len(files), generator=generator(seed, crc32(name.encode("utf-8", "surrogatepass")), crc32(purpose.encode()))
    )
    drawn = set(order[:count].tolist())
    return [f for i, f in enumerate(files) if i in drawn], [f for i, f in enumerate(files) if i not in drawn]
