"""Base class of the layouts with one class mask per image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from saccade.data.layouts._folder import FolderLayout
from saccade.data.resizing import common_size
from saccade.data.survey import Survey
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

_FRAMES_PER_SEQUENCE = 3
"""Mean number of images per prefix from which images look like the frames of videos."""

__all__ = ["MaskFolderLayout"]


class MaskFolderLayout(FolderLayout):
    """Layout of image files and mask files."""

    targets = ("mask",)
    full_resolution = True
    options = MappingProxyType(
        {
            "void": "names of classes to ignore, or 255; false ignores none",
            "group": "folder or prefix (name without the digits at its end): images of one are kept in one split",
            "palette": "false: palette indices are the classes, though palettes differ",
            "upright_masks": "true: masks fit the images as turned by EXIF",
            "threshold": "grey level, such as 128, above which a pixel is foreground and else background",
        }
    )

    def survey_with_options(self, root: Path, options: Mapping[str, Any]) -> Survey:
        """Return the survey of ``root`` with the groups that ``data.options.group`` asks for.

        Raises:
            UserError: the folder is not in this layout, or the option has another value.
        """
        survey, group = super().survey_with_options(root, options), options.get("group", False)
        if group is False:
            return replace(survey, notes=[*survey.notes, *_sequence_note(survey)])
        if group not in _GROUPS:
            raise UserError(
                f"data.options.group: {brief(str(group))!r} is not possible.{did_you_mean(str(group), _GROUPS)} There "
                f"are {', '.join(_GROUPS)} and false"
            )
        return replace(survey, groups={path: _GROUPS[group](path) for path in survey.files})

    def default_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """Return the common (H, W) of the images, square or not, so that masks are used at full size."""
        return common_size(sizes)


def _prefix(path: Path) -> str:
    return re.sub(r"\d+$", "", path.stem)


def _folder_name(path: Path) -> str:
    return path.parent.name


_GROUPS = MappingProxyType({"folder": _folder_name, "prefix": _prefix})
"""Maps each value of ``data.options.group`` to the function that returns an image's group."""


def _sequence_note(survey: Survey) -> list[str]:
    """Return a note, as a list, if a random split would divide numbered frames of several sequences."""
    frames = Counter(map(_prefix, survey.files))
    n_sequences, n_images = len(frames), frames.total()
    example = brief(frames.most_common(1)[0][0]) if frames else ""
    if "test" in survey.splits or n_sequences < 2 or n_images < _FRAMES_PER_SEQUENCE * n_sequences:
        return []
    return [
        f"{n_images} images have {n_sequences} names but for their numbers, such as {example!r}"
        ": if they are frames of videos, data.options.group = 'prefix' keeps each in one split"
    ]
