"""Rows: what a task keeps of each test image, sufficient for its scores.

A dictionary of tensors whose first dimension is the images. Ragged values are flat: the keys ``found/boxes`` and
``found/scores`` of one group share ``found/offsets`` (N + 1,); image i has the entries offsets[i] to offsets[i + 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from saccade.errors import UserError

__all__ = ["Rows", "concatenate", "count", "is_finite", "select"]

Rows: TypeAlias = dict[str, Tensor]
OFFSETS = "offsets"
_WHOLE = (torch.int32, torch.int64)


def _group(key: str) -> str | None:
    """Return the key of the offsets that belong to ``key``; None for a tensor with one entry an image."""
    group, slash, _ = key.rpartition("/")
    return f"{group}/{OFFSETS}" if slash else None


def count(rows: Rows) -> int:
    """Return the number of images of ``rows``, at least one, after checking that all shapes agree.

    Raises:
        UserError: there is no tensor or no image, the tensors disagree on the number of images, offsets do not fit, or
            ``group`` is not one whole number for each image.
    """
    counts: dict[str, int] = {}
    for key, value in rows.items():
        if value.ndim < 1:
            raise UserError(f"{key!r} is a single number; one entry for each image is needed")
        if key == _group(key):
            fits = value.ndim == 1 and value.dtype in _WHOLE and len(value) > 0 and value[0] == 0
            if not fits or bool((value[1:] < value[:-1]).any()):  # a difference may overflow
                raise UserError(f"{key!r} must rise from 0, one whole number (int32, int64) more than there are images")
            counts[key] = len(value) - 1
    for key, value in rows.items():
        offsets = _group(key)
        if offsets is None:
            counts[key] = len(value)
        elif offsets not in counts:
            raise UserError(f"{key!r} has no {offsets!r} beside it")
        elif key != offsets and len(value) != int(rows[offsets][-1]):
            raise UserError(f"{key!r} has {len(value)} entries; {offsets!r} needs {int(rows[offsets][-1])}")
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{key} {n}" for key, n in sorted(counts.items())) or "nothing"
        raise UserError(f"the number of images must be one: {found}")
    group = rows.get("group")
    if group is not None and (group.ndim != 1 or group.dtype not in _WHOLE):
        raise UserError(
            f"'group' is {group.dtype} of the shape {tuple(group.shape)}; one whole number (int32, int64) for each "
            "image is needed"
        )
    images = next(iter(counts.values()))
    if not images:
        raise UserError("there are rows of 0 images; at least 1 is needed")
    return images


def select(rows: Rows, index: Tensor | Sequence[int]) -> Rows:
    """Return the rows of the images ``index`` (M,), in that order."""
    index = torch.as_tensor(index, dtype=torch.int64)
    found: Rows = {}
    for key, value in rows.items():
        offsets = _group(key)
        if offsets is None:
            found[key] = value[index]
        elif key == offsets:
            found[key] = torch.cat([value.new_zeros(1), value.diff()[index].cumsum(0)])
        else:
            starts, lengths = rows[offsets][:-1][index].long(), rows[offsets].diff()[index].long()
            ends = lengths.cumsum(0)
            within = torch.arange(int(ends[-1]) if len(ends) else 0) - (ends - lengths).repeat_interleave(lengths)
            found[key] = value[starts.repeat_interleave(lengths) + within]
    return found


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Join the rows of several batches."""
    found: Rows = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        if key == _group(key):
            lengths = torch.cat([value.diff() for value in values])
            found[key] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        else:
            found[key] = torch.cat(values)
    return found


def is_finite(rows: Rows) -> bool:
    """Return whether every floating-point entry is finite."""
    return all(bool(torch.isfinite(value).all()) for value in rows.values() if value.is_floating_point())
