"""Scoring on validation images never uses the test split."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.tv_tensors import Mask

from saccade import UserError
from saccade.data import open_data
from saccade.data.samples import ImageSet, Splits
from saccade.data.sampling import Key
from saccade.data.validation import score_on_val
from saccade.recipe import Data


def split(labels, groups=None, val=None, target="label", augment=("flip",)):
    """Training images of value 1, 2, …; test images are of value 0."""

    def images(targets, first, augment=(), groups=None):
        count = len(targets)
        shades = torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 4, 6)
        return ImageSet(shades, targets, (0.5,), (0.25,), augment, groups)

    return Splits(
        train=images(labels, 1, augment, groups), test=images([labels[0]] * 3, 0), val=val and images(val, 200),
        target=target, classes=["a", "b"], channels=1, size=(4, 6), mean=(0.5,), std=(0.25,), description="made",
        fingerprint="f", cautions=["1 test image is trained on"],
    )  # fmt: skip


def shades(images):
    return [int(images.raw_image(i)[0, 0, 0]) for i in range(len(images))]


def test_the_validation_set_is_stratified():
    labels = [0] * 50 + [1] * 20
    found = score_on_val(split(labels), Data(score_on="val"))
    assert Counter(found.test.targets) == {0: 10, 1: 4}
    assert Counter(found.train.targets) == {0: 40, 1: 16}
    assert sorted(shades(found.train) + shades(found.test)) == list(range(1, 71)), "each image once, none of the test"
    for part in (found.train, found.test):
        assert [labels[shade - 1] for shade in shades(part)] == list(part.targets), "an image keeps its target"
    assert "trained on 56 of the training images and scored on the other 14" in found.description
    assert found.cautions == [], "they speak of the test part"
    assert found.val is None


def test_the_validation_set_depends_on_split_seed():
    whole = split([0, 1] * 20)
    draws = [score_on_val(whole, Data(split_seed=seed)) for seed in (0, 0, 1)]
    assert shades(draws[0].test) == shades(draws[1].test) != shades(draws[2].test)
    assert draws[0].fingerprint == draws[1].fingerprint != draws[2].fingerprint
    assert score_on_val(whole, Data(val_part=0.3)).fingerprint != draws[0].fingerprint != whole.fingerprint
    assert len(score_on_val(whole, Data(val_part=0.5)).test) == 20


def test_images_to_train_on_are_augmented_and_those_to_score_are_not():
    found = score_on_val(split([0, 1] * 20), Data())
    assert (found.train.augmentations, found.test.augmentations) == (("flip",), ())
    picture, _ = found.test[Key(0, 0, 3)]
    torch.testing.assert_close(picture, found.test[3][0], rtol=0, atol=0)
    batch = found.train.__getitems__([Key(0, 0, 1), Key(0, 0, 2)])
    assert len(batch) == 2


def test_groups_are_held_back_whole():
    labels, groups = [0, 0, 1, 1] * 10, [f"patient {i // 4}" for i in range(40)]
    found = score_on_val(split(labels, groups), Data())
    sides = [set(part.groups) for part in (found.train, found.test)]
    assert not sides[0] & sides[1]
    assert len(sides[0]) == 8
    assert len(sides[1]) == 2
    for part in (found.train, found.test):
        assert part.groups == [groups[shade - 1] for shade in shades(part)]
    alone = score_on_val(split(labels), Data())
    assert {groups[i - 1] for i in shades(alone.train)} & {groups[i - 1] for i in shades(alone.test)}, "the twin"


def test_a_class_keeps_an_image_to_train_on():
    found = score_on_val(split([0, 1, 1, 2, 2, 2]), Data(val_part=0.5))
    assert Counter(found.train.targets) == {0: 1, 1: 1, 2: 2}
    assert Counter(found.test.targets) == {1: 1, 2: 1}
    large = ["p"] * 9 + ["q"]
    assert score_on_val(split([0] * 10, large), Data()).test.groups == ["q"]


@pytest.mark.parametrize(("labels", "groups"), [([0, 1], None), ([0] * 5, ["p"] * 5), ([0, 0, 1, 1], list("ppqq"))])
def test_nothing_to_hold_back(labels, groups):
    with pytest.raises(UserError, match=rf"val_part = 0\.2: none of the {len(labels)} training images"):
        score_on_val(split(labels, groups), Data())


def test_masks_are_held_back_without_labels():
    masks = [Mask(torch.full((4, 6), n, dtype=torch.uint8)) for n in range(10)]
    found = score_on_val(split(masks, target="mask"), Data())
    assert (len(found.train), len(found.test)) == (8, 2)
    assert [int(mask[0, 0]) + 1 for mask in found.test.targets] == shades(found.test)


def test_the_validation_split_of_the_source_is_used():
    whole = split([0, 1] * 5, val=[0, 1, 1])
    found = score_on_val(whole, Data())
    assert shades(found.test) == [200, 201, 202]
    assert found.train is whole.train
    assert "scored on its 3 validation images" in found.description
    changed = split([0, 1] * 5, val=[0, 1, 0])
    assert score_on_val(changed, Data()).fingerprint != found.fingerprint, "val is in it"
    assert replace(changed, val=None).fingerprint == whole.fingerprint


def test_a_recipe_selects_it_with_score_on():
    few = {"train_images": 50, "test_images": 20}
    plain, tuned = (open_data(Data(**few, score_on=part), "label") for part in ("test", "val"))
    assert (len(plain.train), len(plain.test)) == (50, 20)
    assert (len(tuned.train), len(tuned.test)) == (40, 10)
    assert (tuned.mean, tuned.std) == (plain.mean, plain.std)
    torch.testing.assert_close(
        tuned.test.raw_image(0), plain.train.raw_image(tuned.test.images.indices[0]), rtol=0, atol=0
    )
    assert Counter(tuned.test.targets) == dict.fromkeys(range(10), 1)


def test_an_image_keeps_its_regions():
    spec = Data(train_images=20, test_images=20, size=24, score_on="val")
    for images in (open_data(spec, "label").test, open_data(spec, "label").train):
        for i in range(len(images)):
            ((label, region),) = images.regions_of(i).items()
            assert label == images.target(i)
            assert (images.raw_image(i)[0][region] > 0).all(), "its pixels have ink"


def test_masks_of_digits():
    tuned = open_data(Data(train_images=20, test_images=20, score_on="val"), "mask")
    assert (len(tuned.train), len(tuned.test)) == (16, 4)
    assert tuned.test.target(1).shape == (40, 40)


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "test", "val"), ("",)])
def test_class_folders(tmp_path, parts):
    for part in parts:
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(10):
                shade = 20 * n + 100 * (name == "bee") // 10
                Image.new("RGB", (20, 20), (shade, 50, 50)).save(tmp_path / part / name / f"{part}{n}.png")
    whole, tuned = (open_data(Data(source=str(tmp_path), score_on=part), "label") for part in ("test", "val"))
    kept = [10, 10] if "val" in parts else [8, 8] if parts[0] else [6, 6]
    assert [tuned.train.targets[i] for i in range(len(tuned.train))] == [0] * kept[0] + [1] * kept[1]
    assert len(tuned.test) == {"val": 20, "test": 4, "": 4}[parts[-1]]
    assert tuned.fingerprint != whole.fingerprint
    if parts[0]:
        assert len(whole.train) == 20
