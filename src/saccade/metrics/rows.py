"""Rows: the per-image results of a run, from which scores are computed.

Rows are a dictionary of tensors whose first dimension is the N images, such as ``{"predicted": (N,), "label": (N,)}``.
Values of varying number per image are concatenated under keys with a prefix, such as ``found/boxes``; image i has the
entries offsets[i] to offsets[i + 1] − 1, with ``found/offsets`` (N + 1,).
The optional key ``group`` (N,) is the group (patient, scene) of each image; the optional ``by`` (N,) is its value of
``data.options.by``, as an index into ``by.values`` of ``done.json``, or -1 without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from saccade.errors import UserError

__all__ = ["Rows", "concatenate", "count_images", "is_finite", "select_images"]

Rows: TypeAlias = dict[str, Tensor]
_INTEGER_DTYPES = (torch.int32, torch.int64)


def _offsets_key(key: str) -> str | None:
    """Return the key of the offsets of ``key``, or None if ``key`` has one entry per image."""
    prefix, slash, _ = key.rpartition("/")
    return f"{prefix}/offsets" if slash else None


def count_images(rows: Rows) -> int:
    """Return the number of images in ``rows``, at least one, after checking all shapes.

    Raises:
        UserError: there is no tensor or no image, the tensors disagree on the number of images, offsets are invalid, or
            ``group`` does not hold one integer per image.
    """
    counts: dict[str, int] = {}
    for key, value in rows.items():
        if value.ndim < 1:
            raise UserError(f"{key!r} is a single number; one entry for each image is needed")
        if key == _offsets_key(key):
            is_valid = value.ndim == 1 and value.dtype in _INTEGER_DTYPES and len(value) > 0 and value[0] == 0
            if not is_valid or bool((value[1:] < value[:-1]).any()):  # diff() could overflow
                raise UserError(
                    f"{key!r} must be non-decreasing integers (int32, int64) that start at 0, one more than there are "
                    "images"
                )
            counts[key] = len(value) - 1
    for key, value in rows.items():
        offsets_key = _offsets_key(key)
        if offsets_key is None:
            counts[key] = len(value)
        elif offsets_key not in counts:
            raise UserError(f"{key!r} has no {offsets_key!r} beside it")
        elif key != offsets_key and len(value) != int(rows[offsets_key][-1]):
            raise UserError(f"{key!r} has {len(value)} entries; {offsets_key!r} needs {int(rows[offsets_key][-1])}")
    if len(set(counts.values())) != 1:
        counts_text = ", ".join(f"{key} {n}" for key, n in sorted(counts.items())) or "there are none"
        raise UserError(f"all tensors must have the same number of images: {counts_text}")
    image_groups = rows.get("group")
    if image_groups is not None and (image_groups.ndim != 1 or image_groups.dtype not in _INTEGER_DTYPES):
        raise UserError(
            f"'group' is {image_groups.dtype} of the shape {tuple(image_groups.shape)}; one whole number (int32, "
            "int64) for each image is needed"
        )
    n_images = next(iter(counts.values()))
    if not n_images:
        raise UserError("there are rows of 0 images; at least 1 is needed")
    return n_images


def select_images(rows: Rows, indices: Tensor | Sequence[int]) -> Rows:
    """Return the rows of the images ``indices`` (M,), in that order."""
    indices = torch.as_tensor(indices, dtype=torch.int64)
    selected: Rows = {}
    for key, value in rows.items():
        offsets_key = _offsets_key(key)
        if offsets_key is None:
            selected[key] = value[indices]
        elif key == offsets_key:
            selected[key] = torch.cat([value.new_zeros(1), value.diff()[indices].cumsum(0)])
        else:
            offsets = rows[offsets_key]
            starts, lengths = offsets[:-1][indices].long(), offsets.diff()[indices].long()
            ends = lengths.cumsum(0)
            n_entries = int(ends[-1]) if len(ends) else 0
            index_in_image = torch.arange(n_entries) - (ends - lengths).repeat_interleave(lengths)
            selected[key] = value[starts.repeat_interleave(lengths) + index_in_image]
    return selected


def concatenate(batches: Sequence[Rows]) -> Rows:
    """Concatenate the rows of several batches, in order; all batches have the same keys."""
    rows: Rows = {}
    for key in batches[0]:
        values = [batch[key] for batch in batches]
        if key == _offsets_key(key):
            lengths = torch.cat([value.diff() for value in values])
            rows[key] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        else:
            rows[key] = torch.cat(values)
    return rows


def is_finite(rows: Rows) -> bool:
    """Return True if every floating-point entry is finite."""
    return all(bool(torch.isfinite(value).all()) for value in rows.values() if value.is_floating_point())
