"""Choice of the images that the report shows, and how predictions are drawn."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from made_results import TOP1
from PIL import Image

import saccade
from saccade.metrics.metric import Metric
from saccade.study.report.sections.pictures import _make_cells
from saccade.study.report.shown_images import choose_images, image_definition
from saccade.tasks.base import Box, Drawing


class _Task:
    def __init__(self, *metrics):
        self.metrics = metrics


RAGGED = Metric(name="mAP", unit="%", margin=1.0, score=lambda rows: 0.0)


LABELS = torch.zeros(9, dtype=torch.int64)


@pytest.mark.parametrize(
    ("metric", "one", "other", "differ"),
    [
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9).clamp(max=7)}, {8}),
        (RAGGED, {"a": torch.ones(9, 2)}, {"a": torch.ones(9, 2).index_fill_(0, torch.tensor([3, 4]), 0)}, {3, 4}),
        (
            RAGGED,
            {"f/offsets": torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2, 2]), "f/s": torch.tensor([1.0, 1.0]), "l": LABELS},
            {"f/offsets": torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 3, 3]), "f/s": torch.tensor([1, 0, 0.5]), "l": LABELS},
            {1, 2},
        ),
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9)}, set()),
    ],
)  # fmt: skip
def test_half_of_the_images_are_disputed(metric, one, other, differ):
    chosen, sentence = choose_images(9, _Task(metric), [one, None, other])
    assert len(set(chosen)) == 6
    assert set(chosen[len(chosen) - len(differ) :]) == differ if differ else "at random" in sentence
    assert choose_images(9, _Task(metric), [one])[1] == "6 test images, drawn at random."
    with pytest.raises(saccade.UserError, match="scored on 9 test images; there are 8 now"):
        choose_images(8, _Task(metric), [one])


def test_networks_that_differ_on_every_image_dispute_none():
    """Scores of boxes never agree to the last digit."""
    chosen, sentence = choose_images(9, _Task(RAGGED), [{"a": torch.arange(9.0)}, {"a": torch.arange(9.0) + 1e-6}])
    assert (len(set(chosen)), sentence) == (6, "6 test images, drawn at random.")
    part = [{"a": torch.arange(9.0)}, {"a": torch.arange(9.0).clamp(max=7)}]
    assert "1 drawn from the 11.1" in choose_images(9, _Task(RAGGED), part)[1]


def _drawn(drawing, has_boxes=False):
    """Return the drawing of one cell as text."""
    ((_, _, picture),) = _make_cells("se", [None], [drawing], has_boxes)
    return str(picture)


def _embedded(text):
    """Return the format and the pixels of the image in an element."""
    file_format, data = re.search(r"data:image/(\w+);base64,([^\"]+)", str(text)).groups()
    return file_format, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


STRIPES = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (300, 150)))


def test_masks_keep_their_colours_and_heat_maps_are_averaged():
    mask, heat_map = (_drawn(Drawing("", picture=STRIPES, smooth=smooth)) for smooth in (False, True))
    assert 'class="plane answered"' in mask
    assert set(np.unique(_embedded(mask)[1])) <= {0, 255}
    assert 'class="plane answered smooth"' in heat_map
    inner = _embedded(heat_map)[1][8:-8, 8:-8]
    assert inner.std() < 30, inner.std()


def test_boxes_are_drawn_over_the_image_or_over_a_picture():
    box = Box(0.1, 0.2, 0.3, 0.4, 0, "dog 0.9")
    over_image = _drawn(Drawing("1 dog", boxes=(box,)), has_boxes=True)
    assert re.search(
        r'<svg class="plane boxes".*><use href="#picture-0"></use><path .*<title>dog 0.9</title>', over_image
    )
    assert "<image" not in over_image
    over_picture = _drawn(Drawing("1 dog", picture=STRIPES, boxes=(box,)), has_boxes=True)
    assert re.search(r'<svg class="plane answered boxes".*><image .*<path ', over_picture)


def test_an_image_without_detections_is_shown_beside_others_with_boxes():
    assert "<use" in _drawn(Drawing("nothing found"), has_boxes=True)
    assert "<path" not in _drawn(Drawing("nothing found"), has_boxes=True)
    assert _drawn(Drawing("dog"), has_boxes=False) == "None"


@pytest.mark.parametrize(
    ("size", "max_side", "stored"),
    [((240, 320), 256, ("jpeg", (192, 256, 3))), ((240, 320), 128, ("png", (96, 128, 3))),
     ((40, 56), 256, ("png", (40, 56, 3)))],
)  # fmt: skip
def test_only_large_photographs_are_compressed_with_loss(size, max_side, stored):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    definition = image_definition(4, image, max_side)
    file_format, pixels = _embedded(definition)
    assert (file_format, pixels.shape) == stored
    assert 'id="picture-4"' in definition
    if pixels.shape[:2] == size:
        assert np.array_equal(pixels, image.permute(1, 2, 0).numpy())
