"""Base class of the layouts that read image files from a folder."""

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
from saccade.data.selection import Selection, join_sentences, select_files, untrained_classes_note
from saccade.data.sheet import Cell, evenly_spaced
from saccade.data.survey import Survey, find_folder, no_source_error
from saccade.data.vectors import LabelVectors
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import UnreadableError, describe_left_out, is_image, open_image, walk
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import Splits

__all__ = ["FolderLayout"]

_SMALL_SIDE = 64
"""Largest median of the shorter image sides, in pixels, for which recipe ``small_images`` is suggested."""
_MIN_SIDE = 16
"""Smallest input side in pixels for recipe ``small_images``, whose host halves its input three times."""
_CHECK_SIDE = 64
"""Side in pixels to which images are resized when the data is checked."""
_FLAT_LEVELS = 16
"""An image is flat if, in each channel, maximum - minimum is below this number of the 256 levels.

12-bit values in a 16-bit file become 0 to 15, the upper byte.
"""


class FolderLayout(Layout):
    """Layout of image files below one folder.

    Attributes:
        full_resolution: True if images are decoded at full size, because their targets are in image coordinates.
        options: maps each key allowed in ``data.options`` to its description.
    """

    full_resolution: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def survey(self, root: Path) -> Survey:
        """Return the splits and files of a folder that ``check_folder`` accepted; opens no image.

        Raises:
            UserError: the files of the layout cannot be read.
        """

    @abstractmethod
    def check_folder(self, root: Path) -> str | None:
        """Return None if the folder is in this layout, else the reason it is not, as a clause; opens no image.

        Raises:
            UserError: the folder cannot be read.
        """

    def check_auto_choice(self, root: Path) -> str | None:
        """Return the reason to skip this layout for a readable folder if ``data.layout`` is ``auto``, else None."""
        return None

    def survey_with_options(self, root: Path, options: Mapping[str, Any]) -> Survey:
        """Return the survey of ``root`` under ``data.options``; the base class ignores the options.

        Raises:
            UserError: the folder is not in this layout.
        """
        reason = self.check_folder(root)
        if reason is not None:
            raise UserError(f"{brief(root)} cannot be read as {self.name}: {reason}")
        return self.survey(root)

    @abstractmethod
    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> TargetSource:
        """Return the targets of the layout's default kind.

        Args:
            survey: result of ``survey_with_options``.
            sizes: maps each readable image whose target is needed to its (width, height) in pixels.
            notify: receives progress events; None reports nothing.
        """

    def default_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """Return the default (H, W) of images of these (width, height) sizes; a recipe can override it."""
        return common_square(sizes)

    @final
    def check_source(self, source: str) -> str | None:
        root = find_folder(source)
        return "there is no such folder" if root is None else self.check_folder(root) or self.check_auto_choice(root)

    @final
    def resolve_source(self, source: str) -> str:
        return str(self._root(source).resolve())

    def _root(self, source: str) -> Path:
        root = find_folder(source)
        if root is None:
            raise no_source_error(source)
        return root

    @final
    def _survey(self, spec: Data) -> Survey:
        """Return the survey of the source; raise UserError unless it is a folder in this layout."""
        option_problems = self._option_problems(spec.options)
        options = {name: value for name, value in spec.options.items() if name in self.options}
        survey = self.survey_with_options(self._root(spec.source), options)
        return replace(survey, options=options, problems=[*survey.problems, *option_problems])

    def _option_problems(self, options: Mapping[str, Any]) -> list[str]:
        """Return messages on the options that the layout does not have."""
        names = [name for name in options if name not in self.options]
        if not names:
            return []
        if not self.options:
            return [f"data.options: this layout has no options, got {', '.join(names)}"]
        return [
            f"data.options: {self.name} has no option {name!r}.{did_you_mean(name, self.options)} "
            f"There are {', '.join(self.options)}"
            for name in names
        ]

    @final
    def stamp(self, spec: Data) -> tuple[Any, ...]:
        survey = self._survey(spec)
        return tuple(map(_path_size_mtime, (*survey.files, *survey.masks.values(), *survey.definition_files)))

    @final
    def suggest_recipe(self, source: str) -> tuple[str, dict[str, Any]]:
        sizes = _sample_sizes(self._root(source))
        sides = sorted(map(min, sizes))
        side = sides[len(sides) // 2] if sides else _SMALL_SIDE + 1
        if side > _SMALL_SIDE:
            return "photos", {}
        # Set explicitly, because the default for images that are not squares of one size is 224.
        height, width = self.default_size(set(sizes))
        if height == width:
            return "small_images", {"data.size": max(_MIN_SIDE, side)}
        scale = max(1.0, _MIN_SIDE / side)
        return "small_images", {"data.size": (round(scale * height), round(scale * width))}

    @final
    def read(self, spec: Data, target: str, notify: Notify | None = None) -> Splits:
        from saccade.data.normalisation import describe_settings, normalisation
        from saccade.data.opening import open_images
        from saccade.data.samples import ImageColumn, ImageSet, Splits, channel_statistics, digest_values

        survey = self._survey(spec)
        selection = select_files(spec, survey)
        paths = selection.all_files
        opened = open_images(paths, spec, self.default_size, notify, self.full_resolution)
        target_source = NoTargets() if target == "none" else self.load_targets(survey, opened.sizes, notify)
        bad_files = opened.errors | survey.missing | target_source.problems
        val_files = set(selection.files("val"))
        problems = [f"{brief(path)} {problem}" for path, problem in bad_files.items() if path not in val_files]
        if problems and not spec.skip_bad:
            raise UserError(
                join_sentences(f"{len(problems)} of {len(paths)} images cannot be used", problems)
                + ". Repair them, or leave them out: --skip-bad (data.skip_bad = true)."
            )
        left_out_counts = selection.counts(bad_files)
        selection, opened = selection.without(bad_files), opened.without(target_source.problems)
        if len(opened.sizes) != len(selection.all_files):
            raise ValueError(
                f"the survey lists a file twice: {len(selection.all_files)} files, {len(opened.sizes)} images"
            )
        n_train = len(selection.files("train"))
        areas = opened.areas()[:n_train] if spec.resize == "pad" else None
        mean, std = normalisation(spec, 3, lambda: channel_statistics(opened.images[:n_train], areas))
        if spec.resize == "pad":
            red, green, blue = (round(255 * value) for value in mean)
            opened = opened.padded((red, green, blue))
        image_sets, offset = {}, 0
        for split in selection.splits:
            files = selection.files(split)
            images = opened.images[offset : offset + len(files)]
            augment = spec.augment if split == "train" else ()
            targets = target_source.targets(files, opened.frame)
            groups = [survey.groups[path] for path in files] if survey.groups else None
            by = survey.by and ImageColumn(survey.by[0], [survey.by[1][path] for path in files])
            image_sets[split] = ImageSet(images, targets, mean, std, augment, groups, by)
            offset += len(files)
        size = opened.frame.height, opened.frame.width
        return Splits(
            train=image_sets["train"],
            test=image_sets["test"],
            val=image_sets.get("val") or None,
            target=target,
            classes=list(target_source.classes),
            channels=3,
            size=size,
            mean=mean,
            std=std,
            description=_description(survey.root, selection, target_source, size, left_out_counts)
            + describe_settings(spec),
            fingerprint=digest_values(
                [
                    split,
                    target_source.fingerprint_entry(path),
                    path.relative_to(survey.root).as_posix(),
                    opened.contents[path][1],
                ]
                + ([survey.groups[path]] if survey.groups else [])
                for split in ("train", "test")
                for path in selection.files(split)
            ),
            left_out=left_out_counts,
            cautions=_duplicates(selection, opened.contents, target_source).sentences(survey.root)
            + untrained_classes_note(selection, target_source, opened.sizes)
            + target_source.cautions(selection.files("test"), opened.frame),
        )

    @final
    def describe(self, spec: Data, notify: Notify | None = None) -> dict[str, Any]:
        import numpy as np

        from saccade.data.opening import read_images

        survey = self._survey(spec)
        paths = survey.files
        sizes_of, content_digests = dict[Path, tuple[int, int]](), dict[Path, tuple[int, int]]()
        bad_files, flat_images = dict[Path, str](), list[Path]()
        for path, result in zip(paths, read_images(paths, Frame(_CHECK_SIDE, _CHECK_SIDE), notify), strict=True):
            if result.pixels is None or result.size is None or result.content is None:
                bad_files[path] = f"{brief(path)} {result.problem}"
                continue
            sizes_of[path], content_digests[path] = result.size, result.content
            if np.ptp(result.pixels, axis=(1, 2)).max() < _FLAT_LEVELS:
                flat_images.append(path)
        target_source = self.load_targets(survey, sizes_of, notify)
        bad_files |= {
            path: f"{brief(path)} {problem}" for path, problem in (survey.missing | target_source.problems).items()
        }
        errors, notes = list(survey.problems), [*survey.notes, *target_source.notes]
        selected, val, used, duplicates = set(paths), set[Path](), None, Duplicates()
        if not survey.problems:
            try:
                selection = select_files(spec, survey)
                selected, val = set(selection.all_files), set(selection.files("val"))
                duplicates = _duplicates(selection, content_digests, target_source)
                remaining = selection.without(bad_files if spec.skip_bad else bad_files.keys() & val)
            except UserError as error:
                errors.append(str(error))
            else:
                used = {split: len(remaining.files(split)) for split in remaining.splits}
                notes += [selection.description, *untrained_classes_note(remaining, target_source, sizes_of)]
        notes += duplicates.sentences(survey.root)
        left_out = [sentence for path, sentence in bad_files.items() if path in (selected if spec.skip_bad else val)]
        if not spec.skip_bad:
            errors += [sentence for path, sentence in bad_files.items() if path in selected - val]
            if left_out:
                notes.append(
                    f"{len(left_out)} bad images are left out of val, so they do not count when a checkpoint is chosen"
                )
        if unselected := [sentence for path, sentence in bad_files.items() if path not in selected]:
            notes.append(f"{len(unselected)} bad files are not among the selected images: {_join_first(unselected)}")
        notes += _ignored_notes(survey)
        if flat_images := [path for path in flat_images if path in selected]:
            notes.append(_flat_note(flat_images, sum(path in selected for path in sizes_of)))
        sizes = Counter(size for path, size in sizes_of.items() if path in selected)
        height, width = spec.height_width or self.default_size(sizes)
        return {
            "source": spec.source,
            "layout": self.name,
            "parts": [
                {
                    "name": split_files.name,
                    "images": sum(path in sizes_of for path in split_files.files),
                    "classes": target_source.class_counts(split_files, sizes_of),
                }
                for split_files in survey.splits.values()
            ],
            "sizes": [{"size": list(size), "images": images} for size, images in sizes.most_common()],
            "used": used if not errors else None,
            "height": height,
            "width": width,
            "channels": 3,
            "same_bytes": duplicates.counts(),
            "notes": notes,
            "left_out": left_out,
            "refused": errors,
        }

    @final
    def read_cells(self, spec: Data, split: str, count: int) -> list[Cell]:
        import torch

        from saccade.data.opening import read_image

        survey = self._survey(spec)
        files = select_files(spec, survey).files(split)
        frame = Frame.from_spec(spec, spec.height_width or DEFAULT_SIZE)
        images = {
            path: image
            for path in evenly_spaced(files, count)
            if (image := read_image(path, frame, self.full_resolution)).size
        }
        target_source = self.load_targets(
            survey, {path: image.size for path, image in images.items() if image.size}, None
        )
        paths = [path for path in images if path not in target_source.problems]
        targets = target_source.targets(paths, frame)
        return [target_source.cell(torch.from_numpy(images[path].pixels), targets[n]) for n, path in enumerate(paths)]


def _description(
    root: Path,
    selection: Selection,
    target_source: TargetSource,
    size: tuple[int, int],
    left_out_counts: dict[str, dict[str, int]],
) -> str:
    adjectives = {"train": "training", "test": "test", "val": "validation"}
    counts = [f"{len(selection.files(split))} {adjectives[split]}" for split in selection.splits]
    classes = f" of {len(target_source.classes)} classes" if target_source.classes else ""
    axis_note = " (height × width)" if size[0] != size[1] else ""
    left_out = f", {describe_left_out(left_out_counts)}" if left_out_counts else ""
    return (
        f"folder {brief(root)}: {', '.join(counts[:-1])} and {counts[-1]} images{classes}, "
        f"{size[0]}×{size[1]} pixels{axis_note}, {selection.description}{left_out}"
    )


def _duplicates(selection: Selection, digests: dict[Path, tuple[int, int]], targets: TargetSource) -> Duplicates:
    """Return the duplicates among the training and test images."""
    labels_of = targets.fingerprint_entry if isinstance(targets, LabelVectors) else None
    return find_duplicates({split: selection.splits[split] for split in ("train", "test")}, digests, labels_of)


def _path_size_mtime(path: Path) -> tuple[str, int, int]:
    """Return path, size in bytes and modification time in ns; -1 for a broken link."""
    try:
        status = path.stat()
    except OSError:  # a broken link; ``read`` reports it
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def _sample_sizes(folder: Path) -> list[tuple[int, int]]:
    """Return (width, height) after EXIF rotation of at most 20 images under ``folder``, from their headers."""
    sizes = []
    for path in islice(filter(is_image, walk(folder)), 200):
        try:
            with open_image(path) as image:
                sizes.append(image.size[::-1] if swaps_sides(image) else image.size)
        except UnreadableError:  # reported when the data is checked
            continue
        if len(sizes) == 20:
            break
    return sizes


def _ignored_notes(survey: Survey) -> list[str]:
    """Return notes on files that are not read."""
    notes = []
    if survey.hidden:
        notes.append(
            f"ignored {survey.hidden.total()} hidden files and files of operating systems: "
            f"{_join_counts(survey.hidden)}"
        )
    if survey.other_files:
        notes.append(
            f"{survey.other_files.total()} files have no image suffix and are not read: "
            f"{_join_counts(survey.other_files)}"
        )
    if survey.n_links:
        notes.append(f"{survey.n_links} files are links to images of the same class; each image is used once")
    return notes


def _flat_note(flat_images: list[Path], n_images: int) -> str:
    """Return a note on images of nearly one colour, with a hint for 16-bit greyscale files."""
    note = f"{len(flat_images)} of {n_images} images are of one colour or nearly so: {_join_first(flat_images)}"
    n_high_depth = sum(map(_has_high_bit_depth, flat_images))
    return note + (
        f". {n_high_depth} of them are 16-bit greyscale, reduced to the upper byte: if their values use fewer bits, "
        "rescale them to 0 to 65535"
        if n_high_depth
        else ""
    )


def _has_high_bit_depth(path: Path) -> bool:
    """Return True if the file holds 16- or 32-bit greyscale."""
    try:
        with open_image(path) as image:
            return image.mode.startswith("I")
    except UnreadableError:  # deleted since the check
        return False


def _join_counts(counts: Counter[str], n_shown: int = 5) -> str:
    """Return the ``n_shown`` most frequent names with their counts, as text."""
    return _join_first([f"{name or 'no suffix'} ({count})" for name, count in counts.most_common()], n_shown)


def _join_first(things: Sequence[object], n_shown: int = 3) -> str:
    """Return the first ``n_shown`` values as text, and the number of the others."""
    return ", ".join(map(brief, things[:n_shown])) + (
        f" and {len(things) - n_shown} more" if len(things) > n_shown else ""
    )
