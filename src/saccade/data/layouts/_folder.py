"""What all layouts of image files share: files are surveyed by name, a selection is opened, checked and split."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

from saccade.data.duplicates import Duplicates, find_duplicates
from saccade.data.labels import NoTargets, TargetSource
from saccade.data.layouts.base import Layout
from saccade.data.resizing import DEFAULT_SIZE, Frame, common_square, swaps_sides
from saccade.data.selection import Selection, join_sentences, select_files
from saccade.data.sheet import Cell, evenly_spaced
from saccade.data.survey import Survey, find_folder, no_source_error
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import UnreadableError, is_image, left_out, opened, walk
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import Splits

__all__ = ["FolderLayout"]

_SMALL = 64
"""Images up to this many pixels a side get the small host."""
_LEAST = 16
"""Smaller images are enlarged to this: the small host halves them three times."""
_LOOK = 64
"""Side at which images are looked at."""
_FLAT = 16
"""Levels of 256: a picture that uses fewer in every channel counts as one colour. Values of 12 bits in a 16-bit file
come out as 0 to 15."""


class FolderLayout(Layout):
    """A layout of image files below one folder.

    Attributes:
        exact: whether images are decoded at full size, as a target in the image's plane needs.
        options: what ``data.options`` may hold: name -> what it says.
    """

    exact: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def survey(self, root: Path) -> Survey:
        """The parts and files of a folder that is of this layout."""

    @abstractmethod
    def reason(self, root: Path) -> str | None:
        """None where the folder is of this layout, else why not."""

    def mistaken(self, root: Path) -> str | None:
        """None, or why a folder that can be read in this layout is not, unless a recipe names the layout."""
        return None

    def survey_by(self, root: Path, options: Mapping[str, Any]) -> Survey:
        """The survey as ``data.options`` ask for it; of a layout whose options leave the survey as it is, the same.

        Raises:
            UserError: the folder is not of this layout.
        """
        reason = self.reason(root)
        if reason is not None:
            raise UserError(f"{brief(root)} is not read as {self.name}: {reason}")
        return self.survey(root)

    @abstractmethod
    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> TargetSource:
        """The natural targets of files.

        Args:
            seen: what lies in the folder.
            sizes: width and height of each image that can be read and is asked about.
            notify: as of :meth:`read`.
        """

    def own_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """(H, W) for images of these sizes (width, height), where no recipe says one."""
        return common_square(sizes)

    @final
    def recognise(self, source: str) -> str | None:
        root = find_folder(source)
        return "there is no such folder" if root is None else self.reason(root) or self.mistaken(root)

    @final
    def located(self, source: str) -> str:
        return str(self._root(source).resolve())

    def _root(self, source: str) -> Path:
        root = find_folder(source)
        if root is None:
            raise no_source_error(source)
        return root

    @final
    def _survey(self, spec: Data) -> Survey:
        """What lies in the source.

        Raises:
            UserError: there is no such folder, or it is not of this layout.
        """
        unknown = self._unknown(spec.options)
        known = {name: value for name, value in spec.options.items() if name in self.options}
        seen = self.survey_by(self._root(spec.source), known)
        return replace(seen, options=known, problems=[*seen.problems, *unknown])

    def _unknown(self, options: Mapping[str, Any]) -> list[str]:
        """A sentence on the options that this layout does not know, if there are any."""
        names = [name for name in options if name not in self.options]
        if not names:
            return []
        if not self.options:
            return [f"data.options: a folder of images has no options, got {', '.join(names)}"]
        return [
            f"data.options: {self.name} has no option {name!r}.{did_you_mean(name, self.options)} "
            f"There are {', '.join(self.options)}"
            for name in names
        ]

    @final
    def stamp(self, spec: Data) -> tuple[Any, ...]:
        seen = self._survey(spec)
        return tuple(map(_facts, (*seen.files, *seen.masks.values(), *seen.definition_files)))

    @final
    def suited(self, source: str) -> tuple[str, dict[str, Any]]:
        sizes = _some_sizes(self._root(source))
        sides = sorted(map(min, sizes))
        side = sides[len(sides) // 2] if sides else _SMALL + 1
        if side > _SMALL:
            return "photos", {}
        # The size is said, because without it images that are not all squares of one size would be 224.
        height, width = self.own_size(set(sizes))
        if height == width:
            return "small_images", {"data.size": max(_LEAST, side)}
        scale = max(1.0, _LEAST / side)
        return "small_images", {"data.size": (round(scale * height), round(scale * width))}

    @final
    def read(self, spec: Data, target: str, notify: Notify | None = None) -> Splits:
        from saccade.data.normalisation import describe_settings, normalisation
        from saccade.data.opening import open_images
        from saccade.data.samples import ImageSet, Splits, channel_statistics, digest_values

        seen = self._survey(spec)
        chosen = select_files(spec, seen)
        paths = chosen.all_files
        found = open_images(paths, spec, self.own_size, notify, self.exact)
        labels = NoTargets() if target == "none" else self.label(seen, found.sizes, notify)
        bad = found.errors | seen.missing | labels.problems
        beside = set(chosen.files("val"))
        sentences = [f"{brief(path)} {problem}" for path, problem in bad.items() if path not in beside]
        if sentences and not spec.skip_bad:
            raise UserError(
                join_sentences(f"{len(sentences)} of {len(paths)} images cannot be used", sentences)
                + ". Mend them, or leave them out: --skip-bad (data.skip_bad = true)."
            )
        gone = chosen.counts(bad)
        chosen, found = chosen.without(bad), found.without(labels.problems)
        if len(found.sizes) != len(chosen.all_files):
            raise ValueError(
                f"{len(chosen.all_files)} files have {len(found.sizes)} pictures; the survey names one twice"
            )
        count = len(chosen.files("train"))
        areas = found.areas()[:count] if spec.resize == "pad" else None
        mean, std = normalisation(spec, 3, lambda: channel_statistics(found.images[:count], areas))
        if spec.resize == "pad":
            red, green, blue = (round(255 * value) for value in mean)
            found = found.padded((red, green, blue))
        sets, start = {}, 0
        for part in chosen.splits:
            files = chosen.files(part)
            pictures = found.images[start : start + len(files)]
            augment = spec.augment if part == "train" else ()
            targets = labels.targets(files, found.frame)
            groups = [seen.groups[path] for path in files] if seen.groups else None
            sets[part] = ImageSet(pictures, targets, mean, std, augment, groups)
            start += len(files)
        size = found.frame.height, found.frame.width
        return Splits(
            train=sets["train"],
            test=sets["test"],
            val=sets.get("val") or None,
            target=target,
            classes=list(labels.classes),
            channels=3,
            size=size,
            mean=mean,
            std=std,
            description=_described(seen.root, chosen, labels, size, gone) + describe_settings(spec),
            fingerprint=digest_values(
                [part, labels.fingerprint_entry(path), path.relative_to(seen.root).as_posix(), found.contents[path][1]]
                + ([seen.groups[path]] if seen.groups else [])
                for part in ("train", "test")
                for path in chosen.files(part)
            ),
            left_out=gone,
            cautions=_duplicates(chosen, found.contents).sentences(seen.root),
        )

    @final
    def describe(self, spec: Data, notify: Notify | None = None) -> dict[str, Any]:
        import numpy as np

        from saccade.data.opening import read_images

        seen = self._survey(spec)
        paths = seen.files
        good: dict[Path, tuple[int, int]] = {}
        contents: dict[Path, tuple[int, int]] = {}
        bad: dict[Path, str] = {}
        flat: list[Path] = []
        for path, found in zip(paths, read_images(paths, Frame(_LOOK, _LOOK), notify), strict=True):
            if found.pixels is None or found.size is None or found.content is None:
                bad[path] = f"{brief(path)} {found.problem}"
                continue
            good[path], contents[path] = found.size, found.content
            if np.ptp(found.pixels, axis=(1, 2)).max() < _FLAT:
                flat.append(path)
        labels = self.label(seen, good, notify)
        bad |= {path: f"{brief(path)} {problem}" for path, problem in (seen.missing | labels.problems).items()}
        refused, notes = list(seen.problems), [*seen.notes, *labels.notes]
        taken, val, used, twice = set(paths), set[Path](), None, Duplicates()
        if not seen.problems:
            try:
                chosen = select_files(spec, seen)
                taken, val = set(chosen.all_files), set(chosen.files("val"))
                twice = _duplicates(chosen, contents)
                rest = chosen.without(bad if spec.skip_bad else bad.keys() & val)
            except UserError as error:
                refused.append(str(error))
            else:
                used = {part: len(rest.files(part)) for part in rest.splits}
                notes.append(chosen.description)
        notes += twice.sentences(seen.root)
        met = [sentence for path, sentence in bad.items() if path in (taken if spec.skip_bad else val)]
        if not spec.skip_bad:
            refused += [sentence for path, sentence in bad.items() if path in taken - val]
            if met:
                notes.append(f"left out of val are {len(met)} images, which a phase that chooses on val would miss")
        if beside := [sentence for path, sentence in bad.items() if path not in taken]:
            notes.append(f"{len(beside)} bad files are not among the images that are taken: {_listed(beside)}")
        notes += _passed_over(seen)
        if flat := [path for path in flat if path in taken]:
            notes.append(_of_one_colour(flat, sum(path in taken for path in good)))
        sizes = Counter(size for path, size in good.items() if path in taken)
        height, width = spec.height_width or self.own_size(sizes)
        return {
            "source": spec.source,
            "layout": self.name,
            "parts": [
                {
                    "name": part.name,
                    "images": sum(path in good for path in part.files),
                    "classes": labels.class_counts(part, good),
                }
                for part in seen.splits.values()
            ],
            "sizes": [{"size": list(size), "images": images} for size, images in sizes.most_common()],
            "used": used if not refused else None,
            "height": height,
            "width": width,
            "channels": 3,
            "same_bytes": twice.counts(),
            "notes": notes,
            "left_out": met,
            "refused": refused,
        }

    @final
    def cells(self, spec: Data, part: str, count: int) -> list[Cell]:
        import torch

        from saccade.data.opening import read_image

        seen = self._survey(spec)
        files = select_files(spec, seen).files(part)
        frame = Frame.from_spec(spec, spec.height_width or DEFAULT_SIZE)
        found = {path: one for path in evenly_spaced(files, count) if (one := read_image(path, frame, self.exact)).size}
        labels = self.label(seen, {path: one.size for path, one in found.items() if one.size}, None)
        shown = [path for path in found if path not in labels.problems]
        targets = labels.targets(shown, frame)
        return [labels.cell(torch.from_numpy(found[path].pixels), targets[n]) for n, path in enumerate(shown)]


def _described(
    root: Path, chosen: Selection, labels: TargetSource, size: tuple[int, int], gone: dict[str, dict[str, int]]
) -> str:
    words = {"train": "training", "test": "test", "val": "validation"}
    counts = [f"{len(chosen.files(part))} {words[part]}" for part in chosen.splits]
    classes = f" of {len(labels.classes)} classes" if labels.classes else ""
    turned = " (height × width)" if size[0] != size[1] else ""
    return (
        f"folder {brief(root)}: {', '.join(counts[:-1])} and {counts[-1]} images{classes}, "
        f"{size[0]}×{size[1]} pixels{turned}, {chosen.description}{f', {left_out(gone)}' if gone else ''}"
    )


def _duplicates(chosen: Selection, contents: dict[Path, tuple[int, int]]) -> Duplicates:
    """Those among what is trained and tested on."""
    return find_duplicates({part: chosen.splits[part] for part in ("train", "test")}, contents)


def _facts(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:  # a link to nowhere; whether it may be is for ``read`` to say
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns


def _some_sizes(folder: Path) -> list[tuple[int, int]]:
    """Upright width and height of images under ``folder``, from the heads of a few files."""
    sizes = []
    for path in islice(filter(is_image, walk(folder)), 200):
        try:
            with opened(path) as image:
                sizes.append(image.size[::-1] if swaps_sides(image) else image.size)
        except UnreadableError:  # the check of the data names it
            continue
        if len(sizes) == 20:
            break
    return sizes


def _passed_over(seen: Survey) -> list[str]:
    notes = []
    if seen.hidden:
        notes.append(
            f"passed over {seen.hidden.total()} of what systems and programs leave or what begins with a dot: "
            f"{_counted(seen.hidden)}"
        )
    if seen.other_files:
        notes.append(
            f"{seen.other_files.total()} files do not end like an image and are not read: {_counted(seen.other_files)}"
        )
    if seen.n_links:
        notes.append(f"{seen.n_links} files are links to others of their class, which are taken once")
    return notes


def _of_one_colour(flat: list[Path], of: int) -> str:
    """A note on pictures that show nothing, and why 16-bit grey may."""
    note = f"{len(flat)} of {of} images are of one colour or nearly so: {_listed(flat)}"
    deep = sum(map(_is_deep, flat))
    return note + (
        f". {deep} of them hold 16-bit grey, of which the upper byte is kept: were their values of fewer bits, write "
        "the files anew with values that reach 65535"
        if deep
        else ""
    )


def _is_deep(path: Path) -> bool:
    try:
        with opened(path) as image:
            return image.mode.startswith("I")
    except UnreadableError:  # gone meanwhile
        return False


def _counted(names: Counter[str], shown: int = 5) -> str:
    return _listed([f"{name or 'no ending'} ({n})" for name, n in names.most_common()], shown)


def _listed(things: Sequence[object], shown: int = 3) -> str:
    return ", ".join(map(brief, things[:shown])) + (f" and {len(things) - shown} more" if len(things) > shown else "")
