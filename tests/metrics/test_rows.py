"""Rows are counted, selected and concatenated, ragged ones too."""

import pytest
import torch

from saccade import UserError
from saccade.metrics.rows import concatenate, count_images, is_finite, select_images

LENGTHS = [2, 0, 3, 1]


def _rows(lengths=LENGTHS, first=0):
    total = sum(lengths)
    return {
        "label": torch.arange(first, first + len(lengths)),
        "table": torch.arange(2 * len(lengths)).reshape(-1, 2) + first,
        "found/offsets": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]),
        "found/box": torch.arange(4 * total).reshape(total, 4) + first,
        "found/score": torch.linspace(0, 1, total),
    }


def test_the_images_are_counted():
    assert count_images(_rows()) == 4
    assert count_images({**_rows(), "group": torch.tensor([3, 0, 0, 1])}) == 4
    short = {key: value.int() if key == "found/offsets" else value for key, value in _rows().items()}
    assert count_images(short) == 4


def test_images_are_selected_in_any_order():
    rows = _rows()
    chosen = select_images(rows, [2, 1, 2, 0])
    assert chosen["label"].tolist() == [2, 1, 2, 0]
    assert chosen["found/offsets"].tolist() == [0, 3, 3, 6, 8]
    assert chosen["found/box"][:, 0].tolist() == [8, 12, 16, 8, 12, 16, 0, 4]
    assert chosen["found/score"].tolist() == rows["found/score"][[2, 3, 4, 2, 3, 4, 0, 1]].tolist()
    assert count_images(chosen) == 4
    none = select_images(rows, torch.tensor([], dtype=torch.int64))
    assert {key: len(value) for key, value in none.items()} == dict.fromkeys(rows, 0) | {"found/offsets": 1}
    with pytest.raises(UserError, match="rows of 0 images; at least 1"):
        count_images(none)


def test_batches_are_joined():
    whole = _rows()
    parts = [select_images(whole, [0, 1]), select_images(whole, [2]), select_images(whole, [3])]
    joined = concatenate(parts)
    assert joined.keys() == whole.keys()
    for key in whole:
        torch.testing.assert_close(joined[key], whole[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label": torch.arange(3)},
            "all tensors must have the same number of images: found/offsets 4, label 3, table 4",
        ),
        ({"label": torch.tensor(3)}, "'label' is a single number"),
        ({"found/offsets": torch.tensor([0, 2, 1, 5, 6])}, "must be non-decreasing integers"),
        ({"found/offsets": torch.tensor([1, 2, 2, 5, 6])}, "must be non-decreasing integers"),
        ({"found/offsets": torch.tensor([0, 2**63 - 1, -(2**63) + 8, 6, 6])}, "must be non-decreasing integers"),
        ({"found/offsets": torch.tensor([])}, "must be non-decreasing integers"),
        *(
            ({"found/offsets": torch.tensor([0, 2, 2, 5, 6], dtype=dtype)}, "must be non-decreasing integers .int32")
            for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.float32)
        ),
        ({"group": torch.zeros(4)}, r"'group' is torch.float32 of the shape \(4,\); one whole number"),
        ({"group": torch.zeros(4, 1, dtype=torch.int64)}, r"'group' is torch.int64 of the shape \(4, 1\)"),
        ({"found/score": torch.zeros(5)}, "'found/score' has 5 entries; 'found/offsets' needs 6"),
        ({"lost/score": torch.zeros(5)}, "'lost/score' has no 'lost/offsets' beside it"),
    ],
)
def test_inconsistent_rows_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        count_images({**_rows(), **change})


def test_no_rows_at_all_are_refused():
    with pytest.raises(UserError, match="there are none"):
        count_images({})


def test_non_finite_values_are_detected():
    assert is_finite(_rows())
    for value in (torch.nan, torch.inf):
        rows = _rows()
        rows["found/score"][3] = value
        assert not is_finite(rows)
