"""Match tables by hand, against pycocotools with annotations, and what is refused."""

import builtins
import math

import numpy as np
import pytest
import torch
from torchvision.tv_tensors import BoundingBoxes

from coco_evaluation import boxes, evaluate, random_scenes
from saccade import UserError
from saccade.metrics.matching import match
from saccade.metrics.rows import concatenate, count_images, is_finite, select_images

DTYPES = {
    "found/offsets": torch.int64, "found/label": torch.int16, "found/score": torch.float32, "found/hit": torch.int16,
    "found/ignored": torch.int16, "truth/offsets": torch.int64, "truth/label": torch.int16, "truth/counted": torch.bool,
}  # fmt: skip
SQUARE = (0, 0, 100, 100)
NO_BOXES = boxes(scores=[])


def assert_same(rows, others):
    assert {key: value.tolist() for key, value in rows.items()} == {k: value.tolist() for k, value in others.items()}


def test_one_image_by_hand():
    prediction = boxes(
        (0, 0, 100, 50), (0, 0, 100, 72), (200, 200, 210, 210), (0, 0, 100, 100), labels=[2, 2, 2, 1],
        scores=[0.25, 0.5, 0.75, 0.125],
    )  # fmt: skip
    rows = match([prediction], [boxes(SQUARE, (300, 0, 310, 10), labels=[2, 0])])
    assert rows["found/label"].tolist() == [1, 2, 2, 2]
    assert rows["found/score"].tolist() == [0.125, 0.75, 0.5, 0.25]
    # 0.72 reaches the thresholds 0.50 to 0.70; the detection of IoU 0.50 gets nothing, the truth being taken.
    assert rows["found/hit"].tolist() == [[0] * 4, [0] * 4, [0b11111] * 4, [0] * 4]
    # 7,200 and 5,000 pixels are medium, and so ignored in other ranges: unmatched, or matched with a truth of 10,000.
    everything = 2**10 - 1
    assert rows["found/ignored"].tolist() == [
        [0, everything, everything, 0],
        [0, 0, everything, everything],
        [0, everything, 0b11111, everything - 0b11111],
        [0, everything, 0, everything],
    ]
    assert rows["truth/label"].tolist() == [2, 0]
    assert rows["truth/counted"].tolist() == [[True, False, False, True], [True, True, False, False]]
    assert {key: value.dtype for key, value in rows.items()} == DTYPES


@pytest.mark.parametrize(("height", "hit"), [(50, 0b1), (49.9, 0), (100, 0b1111111111), (94.9, 0b111111111)])
def test_an_overlap_at_the_threshold_is_a_hit(height, hit):
    rows = match([boxes((0, 0, 100, height), scores=[0.5])], [boxes(SQUARE)])
    assert rows["found/hit"][:, 0].tolist() == [hit]


def test_the_higher_score_takes_the_truth():
    prediction = boxes((0, 0, 100, 90), SQUARE, scores=[0.9, 0.8])
    assert match([prediction], [boxes(SQUARE)])["found/hit"][:, 0].tolist() == [0b111111111, 0b1000000000]


@pytest.mark.parametrize(
    ("side", "counted"),
    [(31, "small"), (32, "small medium"), (33, "medium"), (96, "medium large"), (97, "large"), (0, "small")],
)
def test_area_ranges_include_their_ends(side, counted):
    truth = match([NO_BOXES], [boxes((0, 0, side, side))])["truth/counted"]
    assert truth.tolist() == [[True, *(name in counted.split() for name in ("small", "medium", "large"))]]


def test_a_hundred_detections_of_a_class_are_kept():
    scores = torch.linspace(0, 1, 130).tolist()
    prediction = boxes(*[SQUARE] * 130, (5, 5, 9, 9), labels=[0] * 130 + [1], scores=[*scores, 0.5])
    rows = match([prediction], [boxes(SQUARE)])
    assert rows["found/label"].tolist() == [0] * 100 + [1]
    assert rows["found/score"][:100].tolist() == pytest.approx(scores[:29:-1])


def test_equal_scores_stay_in_order():
    rows = match([boxes((50, 50, 60, 60), SQUARE, scores=[0.5, 0.5])], [boxes(SQUARE)])
    assert rows["found/hit"][:, 0].tolist() == [0, 1023]


@pytest.mark.parametrize(("classes", "levels"), [(5, None), (5, 4), (1, None)])
def test_equal_to_pycocotools_with_annotations(classes, levels):
    predictions, truths = random_scenes(classes, 10, classes, levels=levels, false=200)
    rows = match(predictions, truths)
    evaluator = evaluate(predictions, truths)
    found_offsets, truth_offsets = rows["found/offsets"].tolist(), rows["truth/offsets"].tolist()
    for result in filter(None, evaluator.evalImgs):
        image, label = result["image_id"], result["category_id"]
        column = evaluator.params.areaRng.index(result["aRng"])
        in_image = slice(found_offsets[image], found_offsets[image + 1])
        chosen = rows["found/label"][in_image] == label
        assert rows["found/score"][in_image][chosen].tolist() == result["dtScores"]
        for key, flags in (("hit", result["dtMatches"] > 0), ("ignored", result["dtIgnore"])):
            bits = rows[f"found/{key}"][in_image][chosen][:, column].numpy()
            assert ((bits[None] >> np.arange(10)[:, None]) & 1).astype(bool).tolist() == flags.tolist(), (key, result)
        in_image = slice(truth_offsets[image], truth_offsets[image + 1])
        chosen = rows["truth/label"][in_image] == label
        n_counted = int(rows["truth/counted"][in_image][chosen][:, column].sum())
        assert n_counted == np.count_nonzero(result["gtIgnore"] == 0)
    assert 4 * len(rows["found/label"]) == sum(len(result["dtIds"]) for result in evaluator.evalImgs if result)
    assert len(rows["found/label"]) >= 100
    assert count_images(rows) == len(truths)


def test_images_without_truths_or_detections():
    rows = match([NO_BOXES, boxes(SQUARE, scores=[0.5]), NO_BOXES], [boxes(), boxes(), boxes(SQUARE)])
    assert rows["found/offsets"].tolist() == [0, 0, 1, 1]
    assert rows["truth/offsets"].tolist() == [0, 0, 0, 1]
    assert rows["found/hit"].tolist() == [[0] * 4]
    empty = match([NO_BOXES] * 2, [boxes()] * 2)
    assert {key: tuple(value.shape) for key, value in empty.items()} == {
        "found/offsets": (3,), "found/label": (0,), "found/score": (0,), "found/hit": (0, 4), "found/ignored": (0, 4),
        "truth/offsets": (3,), "truth/label": (0,), "truth/counted": (0, 4),
    }  # fmt: skip
    for tables in (rows, empty):
        assert {key: value.dtype for key, value in tables.items()} == DTYPES
        assert is_finite(tables)


def test_batches_are_matched_as_one():
    predictions, truths = random_scenes(3)
    rows = match(predictions, truths)
    assert_same(rows, concatenate([match(predictions[a:b], truths[a:b]) for a, b in ((0, 7), (7, 8), (8, 20))]))
    order = [4, 19, 4, 0]
    assert_same(select_images(rows, order), match([predictions[n] for n in order], [truths[n] for n in order]))
    assert not torch.equal(
        select_images(rows, order)["found/offsets"], match(predictions[:4], truths[:4])["found/offsets"]
    )


def test_tensors_of_other_types():
    prediction, truth = boxes((0, 0, 100, 72), scores=[0.7]), boxes(SQUARE)
    rows = match([prediction], [truth])
    tv_boxes = BoundingBoxes(truth["boxes"], format="XYXY", canvas_size=(200, 200))
    assert_same(rows, match([prediction], [truth | {"boxes": tv_boxes}]))
    whole = {"boxes": prediction["boxes"].to(torch.int32), "labels": prediction["labels"].to(torch.uint8)}
    assert_same(rows, match([prediction | whole], [truth]))
    double = {"boxes": prediction["boxes"].double().requires_grad_(), "scores": prediction["scores"].double()}
    assert_same(rows, match([prediction | double], [truth]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["boxes", "scores"])
def test_a_detection_that_is_not_finite_gets_no_score(key, value):
    prediction = boxes(*[SQUARE] * 121, scores=[0.75, *[0.5] * 120])
    assert is_finite(match([prediction], [boxes(SQUARE)]))
    prediction[key][(0, 2) if key == "boxes" else 0] = value
    rows = match([prediction, NO_BOXES], [boxes(SQUARE), boxes()])
    assert not is_finite(rows)
    assert rows["found/score"].tolist() == pytest.approx([0.5] * 100 + [math.nan], nan_ok=True)
    assert rows["found/hit"][:, 0].tolist() == [1023] + [0] * 100


GOOD = boxes(SQUARE, (0, 0, 5, 5), scores=[0.5, 0.25])
WRONG = {
    "boxes of one row": ({"boxes": torch.zeros(4)}, r"predictions\[1\]\['boxes'\] has the shape \(4,\); \(n, 4\)"),
    "five columns": ({"boxes": torch.zeros(2, 5)}, r"has the shape \(2, 5\)"),
    "labels": ({"labels": torch.zeros(3, dtype=torch.int64)}, r"\['labels'\] has the shape \(3,\) beside 2 boxes"),
    "scores": ({"scores": torch.zeros(2, 7)}, r"\['scores'\] has the shape \(2, 7\) beside 2 boxes"),
    "labels as floats": ({"labels": torch.zeros(2)}, r"is torch.float32; whole numbers"),
    "label of the background": ({"labels": torch.tensor([-1, 3])}, r"holds -1 to 3; 0 to 32767"),
    "label too large": ({"labels": torch.tensor([0, 2**15])}, r"holds 0 to 32768"),
    "width and height": ({"boxes": torch.tensor([[0, 0, 9, 9], [50, 50, 10, 20]])}, r"\(50, 50, 10, 20\); left, top"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_predictions(name):
    change, message = WRONG[name]
    match([GOOD], [boxes()])
    with pytest.raises(UserError, match=message):
        match([GOOD, GOOD | change], [boxes(), boxes()])


def test_other_mistakes():
    with pytest.raises(UserError, match="2 predictions for 1 images"):
        match([GOOD, GOOD], [boxes()])
    with pytest.raises(UserError, match=r"predictions\[0\] has no 'scores'; it has 'boxes', 'labels'"):
        match([boxes()], [boxes()])
    with pytest.raises(UserError, match=r"truths\[0\]\['boxes'\] holds numbers that are not finite"):
        match([GOOD], [boxes((0, 0, math.inf, 1))])


def test_without_pycocotools(monkeypatch):
    find = builtins.__import__

    def absent(name, *rest, **options):
        if name.startswith(missing):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return find(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    missing = "pycocotools"
    with pytest.raises(UserError, match=r"pip install 'saccade-attention\[detect\]'"):
        match([], [])
