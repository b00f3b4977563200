"""Polygons and run lengths become the masks they describe."""

from array import array
from itertools import pairwise

import numpy as np
import pytest

from saccade.data.annotations import LabelError, Rle
from saccade.data.layouts._coco_json import run_lengths
from saccade.data.outlines import polygon_mask, rle_mask


def outline(x1, y1, x2, y2):
    return array("d", [x1, y1, x2, y1, x2, y2, x1, y2])


def runs(mask):
    flat = np.asarray(mask, np.uint8).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    bounds = [0, *edges, len(flat)]
    return [b - a for a, b in pairwise(bounds)]


def test_a_polygon_is_filled_where_pixel_centres_are_inside():
    mask = polygon_mask([outline(1, 1, 4, 3)], 5, 6)
    assert mask.tolist() == [[0] * 6, [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6, [0] * 6]
    triangle = polygon_mask([array("d", [0, 0, 4, 0, 0, 4])], 4, 4)
    assert triangle.sum(1).tolist() == [3, 2, 1, 0]  # a centre on the line itself is outside
    parts = polygon_mask([outline(0, 0, 2, 1), outline(1, 0, 3, 1)], 1, 4)
    assert parts.tolist() == [[1, 1, 1, 0]]
    assert polygon_mask([outline(-5, -5, 50, 50)], 3, 4).all()
    assert not polygon_mask([outline(7, 0, 9, 3)], 3, 4).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_masks_agree_with_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for n in range(30):
        height, width = (int(side) for side in random.integers(5, 60, 2))
        mask = np.asfortranarray((random.random((height, width)) < random.random()).astype(np.uint8))
        if n % 3 == 0:
            mask[:, : width // 2] = n % 2
        packed = coco.encode(mask)
        counts = run_lengths(packed["counts"].decode())
        assert counts == runs(mask)
        np.testing.assert_array_equal(rle_mask(Rle(height, width, array("q", counts))), mask)
    corners = random.random((20, 12)) * 50
    for polygon in corners:
        around_centre = polygon.reshape(-1, 2)
        angles = np.arctan2(*(around_centre - around_centre.mean(0)).T[::-1])
        star = around_centre[np.argsort(angles)].ravel()
        theirs = coco.decode(coco.merge(coco.frPyObjects([star.tolist()], 50, 50)))
        ours = polygon_mask([array("d", star)], 50, 50)
        assert (theirs != ours).sum() <= 0.12 * max(ours.sum(), 100)  # they also take pixels that the line touches


@pytest.mark.parametrize(("text", "why"), [("o4", "cut"), ("é", "invalid character, 'é'")])
def test_malformed_run_lengths_are_refused(text, why):
    with pytest.raises(LabelError, match=why):
        run_lengths(text if why != "cut" else "o")
