"""Scenes: what they promise about labels, boxes, masks, sources and chance."""

import hashlib

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes
from torchvision.tv_tensors import BoundingBoxes

from saccade.data import digits, open_data, samples
from saccade.data.digits import Scenes, source_digits
from saccade.errors import UserError
from saccade.recipe import Data

GOLDEN = [15697109.0, 16454582.0, 23194638.0]


def test_a_scene_is_a_function_of_its_arguments():
    here, there = Scenes("train", 30, 40, seed=3), Scenes("train", 50, 40, seed=3)
    torch.testing.assert_close(here.images(), there.images()[:30], rtol=0, atol=0)
    torch.testing.assert_close(here[17], there.scene(17).image, rtol=0, atol=0)
    one, two = here.scene(9), there.scene(9)
    assert one.label == two.label
    for name in ("image", "boxes", "box_labels", "masks"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=0)


@pytest.mark.parametrize("other", [{"seed": 4}, {"split": "test"}, {"clutter": 5}, {"distractors": 2}, {"size": 41}])
def test_its_twin_differs(other):
    asked = {"split": "train", "count": 8, "size": 40, "seed": 3}
    one, two = Scenes(**asked), Scenes(**{**asked, **other})
    for i in range(8):
        a, b = one[i], two[i]
        assert a.shape != b.shape or not torch.equal(a, b)


def test_the_first_scene_is_what_it_was():
    # A golden value: another drawing under the same seed would silently make old studies unrepeatable.
    images = Scenes("train", 3, 40, clutter=4, distractors=1, seed=0).images().double()
    rows = torch.arange(1, 41, dtype=torch.float64)
    assert (images[:, 0] * rows[:, None] * rows).sum((1, 2)).tolist() == GOLDEN


@pytest.mark.parametrize(("part", "hashed"), [("train", "d532111e5a751bf9"), ("test", "06326a81eb8e84d9")])
def test_the_first_images_of_the_shipped_recipe_are_what_they_were(part, hashed):
    split = open_data(Data(), "label")
    images = getattr(split, part)
    found = hashlib.sha256(b"".join(images.raw_image(i).numpy().tobytes() for i in range(50)))
    assert found.hexdigest()[:16] == hashed
    assert (split.mean, split.std) == (pytest.approx((0.08943490563725486,)), pytest.approx((0.19716683676144658,)))
    assert split.fingerprint == "d74f3eab70782c94"
    assert split.size == (40, 40)
    found.update(split.test.raw_image(50).numpy().tobytes())  # the twin: one image more is another hash
    assert found.hexdigest()[:16] != hashed


def test_source_digits_are_disjoint_and_complete():
    train, test = source_digits("train"), source_digits("test")
    assert not set(train) & set(test)
    assert sorted(train + test) == list(range(1797))
    classes = digits._read_source_digits()[1]
    for label in range(10):
        members = np.flatnonzero(classes == label)
        assert len(set(members) & set(test)) == len(members) // 3


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_a_part_draws_from_its_own_digits_only(part, other, monkeypatch):
    scenes = Scenes(part, 60, 40, clutter=9, distractors=4)
    clean = scenes.images()
    poisoned = digits._read_source_digits()[0].copy()
    poisoned[source_digits(other)] = np.nan
    monkeypatch.setattr(scenes, "_sources", poisoned)
    torch.testing.assert_close(scenes.images(), clean, rtol=0, atol=0)
    poisoned[source_digits(part)] = np.nan
    with pytest.raises(RuntimeWarning, match="invalid value"):
        scenes.images()


@pytest.mark.parametrize("size", [16, 33, 40, 64, 97])
def test_boxes_are_tight_and_masks_have_ink(size):
    scenes = Scenes("test", 40, size, clutter=3, distractors=3, seed=11)
    for i in range(40):
        scene = scenes.scene(i)
        assert scene.image.shape == (1, size, size)
        assert scene.image.dtype == torch.uint8
        assert scene.masks.shape == (len(scene.boxes), size, size)
        assert scene.masks.flatten(1).any(1).all()
        inclusive = masks_to_boxes(scene.masks)
        torch.testing.assert_close(scene.boxes, inclusive + torch.tensor([0.0, 0.0, 1.0, 1.0]), rtol=0, atol=0)
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= size
        assert (scene.image[0][scene.masks.any(0)] > 0).all()


def test_without_clutter_and_distractors_ink_is_the_target():
    scenes = Scenes("train", 20, 40, clutter=0, distractors=0)
    for i in range(20):
        scene = scenes.scene(i)
        assert len(scene.boxes) == 1
        bright = scene.image[0] > 0.5 * 255
        assert bright.any()
        assert not (bright & ~scene.masks[0]).any()


def test_the_target_is_the_first_the_largest_and_the_brightest():
    scenes = Scenes("train", 200, 40, clutter=0, distractors=3, seed=5)
    several = 0
    for i in range(200):
        scene = scenes.scene(i)
        assert scene.label == scenes.labels[i] == i % 10 == scene.box_labels[0]
        heights = scene.boxes[:, 3] - scene.boxes[:, 1]
        peaks = torch.stack([scene.image[0][mask].max() for mask in scene.masks]).float()
        assert (heights[1:] < heights[0]).all()
        assert (peaks[1:] < peaks[0]).all()
        several += len(heights) > 1
    assert several > 150


def test_digits_do_not_overlap_and_the_target_ignores_the_rest():
    many, none = Scenes("train", 100, 48, clutter=6, distractors=4), Scenes("train", 100, 48, clutter=0, distractors=0)
    for i in range(100):
        scene, alone = many.scene(i), none.scene(i)
        assert scene.masks.sum(0).max() == 1
        torch.testing.assert_close(scene.masks[0], alone.masks[0], rtol=0, atol=0)
        assert (scene.image >= alone.image).all()


def test_labels_are_right_by_their_ink():
    # The ink in the target's frame, shrunk back to 8×8, is nearest to a source digit of the label's class.
    ink, classes = digits._read_source_digits()
    scenes = Scenes("test", 100, 64, clutter=0, distractors=0)
    right = 0
    for i in range(100):
        x1, y1, x2, y2 = scenes.scene(i).boxes[0].int().tolist()
        patch = scenes[i][None, :, y1:y2, x1:x2].float() / 255
        small = torch.nn.functional.interpolate(patch, (8, 8), mode="bilinear", antialias=True).numpy().ravel()
        distances = ((ink.reshape(-1, 64) - small) ** 2).sum(1)
        right += classes[distances.argmin()] == scenes.labels[i]
    assert right >= 90


def test_open_data_takes_the_recipe():
    spec = Data(size=33, train_images=25, test_images=12, split_seed=2, options={"clutter": 1, "distractors": 0})
    split = open_data(spec, "label")
    assert (len(split.train), len(split.test), split.size, split.channels) == (25, 12, (33, 33), 1)
    assert split.classes == list("0123456789")
    image, label = split.test[11]
    assert image.shape == (1, 33, 33)
    assert image.dtype == torch.float32
    assert label == 1
    wanted = Scenes("test", 12, 33, clutter=1, distractors=0, seed=2)
    torch.testing.assert_close(split.test.raw_image(11), wanted[11], rtol=0, atol=0)
    assert torch.allclose(image * split.std[0] + split.mean[0], wanted[11] / 255, atol=1e-6)
    pixels = torch.stack([split.train[i][0] for i in range(25)])
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std(correction=0) - 1) < 1e-5


def test_scenes_too_many_for_memory_are_drawn_when_asked_for(monkeypatch):
    spec = Data(size=40, train_images=6, test_images=4)
    kept = open_data(spec, "label")
    monkeypatch.setattr(samples, "MEMORY_LIMIT", 10 * 40 * 40 - 1)
    drawn = open_data(spec, "label")
    assert isinstance(kept.test.images, torch.Tensor)
    assert isinstance(drawn.test.images, Scenes)
    torch.testing.assert_close(drawn.test[1][0], kept.test[1][0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"cluter": 3}}, "Did you mean 'clutter'"),
        ({"options": {"clutter": -1}}, "clutter must be an integer of at least 0, got -1"),
        ({"options": {"distractors": 1.5}}, "distractors must be an integer of at least 0, got 1.5"),
        ({"options": {"clutter": True}}, "clutter must be an integer"),
        ({"size": 15}, "size must be an integer of at least 16, got 15"),
        ({"augment": ("flop",)}, "Did you mean 'flip'"),
    ],
)
def test_wrong_uses_are_named(fields, words):
    with pytest.raises(UserError, match=words):
        open_data(Data(**fields), "label")


def test_an_unknown_part_and_a_scene_beyond_the_last():
    with pytest.raises(UserError, match="'val'"):
        Scenes("val")
    with pytest.raises(IndexError):
        Scenes("train", 5).scene(5)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"saccade-attention\[study\]"):
        digits._read_source_digits.__wrapped__()


def test_the_fingerprint_is_that_of_what_was_asked_for():
    def fingerprint(**fields):
        return open_data(Data(train_images=20, test_images=10, size=16).model_copy(update=fields), "label").fingerprint

    assert fingerprint() == fingerprint()
    others = [{"train_images": 21}, {"test_images": 11}, {"size": 17}, {"split_seed": 1}, {"options": {"clutter": 1}}]
    assert len({fingerprint(**other) for other in [{}, *others]}) == 6


def test_a_scene_need_not_be_square():
    tall, wide = Scenes("train", 30, (56, 30), clutter=3, distractors=2), Scenes("train", 30, (30, 56))
    assert tall.images().shape == (30, 1, 56, 30)
    assert wide.images().shape == (30, 1, 30, 56)
    boxes = torch.cat([tall.scene(i).boxes for i in range(30)])
    assert boxes[:, 2].max() <= 30
    assert 30 < boxes[:, 3].max() <= 56  # the whole height is used
    split = open_data(Data(size=(24, 36), train_images=10, test_images=10), "label")
    assert (split.size, split.train[0][0].shape) == ((24, 36), (1, 24, 36))
    square, other = (open_data(Data(size=size, train_images=5, test_images=5), "label") for size in (24, (24, 24)))
    assert square.fingerprint == other.fingerprint != split.fingerprint


@pytest.mark.parametrize("cache", [2**30, 0])
def test_masks_are_the_ink_of_each_digit(monkeypatch, cache):
    monkeypatch.setattr("saccade.data.samples.MEMORY_LIMIT", cache)
    spec = Data(train_images=30, test_images=20, options={"clutter": 5, "distractors": 2})
    split = open_data(spec, "mask")
    assert split.classes == ["background", *"0123456789"]
    assert split.target == "mask"
    drawn = Scenes("test", 20, 40, clutter=5, distractors=2)
    cluttered = 0
    for i in range(20):
        scene, mask = drawn.scene(i), split.test.target(i)
        assert mask.dtype == torch.uint8
        torch.testing.assert_close(split.test[i][1], mask, rtol=0, atol=0)
        assert set(mask.unique().tolist()) == {0, *(scene.box_labels + 1).tolist()}
        for label, ink in zip(scene.box_labels, scene.masks, strict=True):
            assert (mask[ink] == label + 1).all()
        assert ((mask > 0) == scene.masks.any(0)).all()
        cluttered += bool((scene.image[0][mask == 0] > 128).any())
    assert cluttered > 10  # clutter is bright, and background


def test_objects_are_boxes_labels_and_masks():
    split = open_data(Data(train_images=20, test_images=20), "objects")
    assert split.classes == list("0123456789")
    target, scene = split.test.target(7), Scenes("test", 20, 40).scene(7)
    assert isinstance(target["boxes"], BoundingBoxes)
    assert (target["boxes"].canvas_size, target["labels"].dtype) == ((40, 40), torch.int64)
    torch.testing.assert_close(target["boxes"].as_subclass(torch.Tensor), scene.boxes, rtol=0, atol=0)
    assert target["labels"].tolist() == scene.box_labels.tolist()
    torch.testing.assert_close(target["masks"].as_subclass(torch.Tensor).bool(), scene.masks, rtol=0, atol=0)
    assert open_data(Data(train_images=20, test_images=20), "none").test.target(3) is None
    with pytest.raises(UserError, match="digits gives label or vector or mask or objects or fixations; depth is"):
        open_data(Data(), "depth")


@pytest.mark.parametrize("cache", [samples.MEMORY_LIMIT, 0])
def test_fixations_are_near_the_digits_and_mostly_near_the_target(monkeypatch, cache):
    monkeypatch.setattr("saccade.data.samples.MEMORY_LIMIT", cache)
    spec = Data(size=(40, 56), train_images=40, test_images=40, options={"clutter": 4, "distractors": 2})
    split = open_data(spec, "fixations")
    assert (split.classes, split.target) == ([], "fixations")
    drawn = Scenes("test", 40, (40, 56), clutter=4, distractors=2)
    at_target, at_digits = [], []
    for i in range(40):
        target, masks = split.test.target(i), drawn.scene(i).masks
        assert target["viewers"].tolist() == [viewer for viewer in range(5) for _ in range(6)]
        assert target["points"].canvas_size == (40, 56)
        points = target["points"].as_subclass(torch.Tensor)
        assert ((points >= 0) & (points < torch.tensor([56.0, 40.0]))).all()
        ink = [mask.nonzero().flip(1) + 0.5 for mask in masks]
        distances = torch.stack([torch.cdist(points, pixels).min(1).values for pixels in ink])
        at_target += (distances.argmin(0) == 0).tolist()
        at_digits += distances.min(0).values.tolist()
    assert 0.65 < np.mean(at_target) < 0.85
    assert np.mean(at_digits) < 3  # the error is 2 pixels in x and in y
    again = open_data(spec, "fixations").test.target(7)["points"]
    torch.testing.assert_close(again, split.test.target(7)["points"], rtol=0, atol=0)
    other = open_data(spec.model_copy(update={"split_seed": 1}), "fixations").test.target(7)["points"]
    assert (again - other).abs().max() > 1


def test_fixations_of_a_digit_without_distractors():
    spec = Data(size=16, train_images=12, test_images=12, options={"clutter": 0, "distractors": 0})
    for i in range(12):
        target = open_data(spec, "fixations").train.target(i)
        assert target["points"].shape == (30, 2)


def test_vectors_name_the_target_and_the_distractors():
    options = {"distractors": 3, "clutter": 9}
    spec = Data(train_images=20, test_images=60, options=options)
    split = open_data(spec, "vector")
    assert (split.target, split.classes) == ("vector", list("0123456789"))
    scenes = Scenes("test", 60, 40, 9, 3)
    for i in range(60):
        labels = scenes.scene(i).box_labels
        assert labels[0] == i % 10
        vector = split.test.target(i)
        assert (vector.dtype, vector.nonzero()[:, 0].tolist()) == (torch.float32, sorted(set(labels.tolist())))
    assert len({int(split.test.target(i).sum()) for i in range(60)}) > 2
    alone = open_data(spec.model_copy(update={"options": {"distractors": 0, "clutter": 9}}), "vector")
    assert all(alone.test.target(i).nonzero().tolist() == [[i % 10]] for i in range(60))
