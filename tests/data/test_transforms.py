"""Augmentations depend only on (seed, epoch, index) and transform targets with their images."""

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from saccade.data.digits import Scenes, make_targets
from saccade.data.samples import ImageSet, collate
from saccade.data.sampling import EpochSampler, Key, generator, seeded
from saccade.data.transforms import augment, check_augmentations
from saccade.errors import UserError

POLICIES = {
    "randaugment": (v2.RandAugment, {}),
    "trivialaugment": (v2.TrivialAugmentWide, {}),
    "autoaugment": (v2.AutoAugment, {"policy": v2.AutoAugmentPolicy.IMAGENET}),
    "autoaugment_cifar10": (v2.AutoAugment, {"policy": v2.AutoAugmentPolicy.CIFAR10}),
    "autoaugment_svhn": (v2.AutoAugment, {"policy": v2.AutoAugmentPolicy.SVHN}),
}
ALL = ("flip", "crop", "color", "erase", "resized_crop")
MEAN = (0.5, 0.5, 0.5)


def images(count=41, augment=ALL, size=(19, 23)):
    pictures = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ImageSet(pictures, [i % 3 for i in range(count)], (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), augment)


@pytest.mark.parametrize("name", [*ALL, *POLICIES])
def test_augmentation_is_a_function_of_its_key(name):
    data = images(augment=(name,))
    keys = [(seed, epoch, i) for seed in (0, 1) for epoch in (0, 1) for i in range(8)]
    first = [data[key][0] for key in keys]
    torch.manual_seed(5)
    again = [data[key][0] for key in reversed(keys)][::-1]
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    # Each of the three numbers matters: over eight images the draws differ when one of them does.
    by_run = [torch.stack(first[n : n + 8]) for n in range(0, 32, 8)]
    for n in range(4):
        for m in range(n):
            assert not torch.equal(by_run[n], by_run[m])
    assert len({tuple(torch.rand(2, generator=generator(*key)).tolist()) for key in keys}) == len(keys)


def test_augmentation_changes_neither_global_generator_nor_image():
    data = images(augment=(*ALL, *POLICIES))
    before, state = data.images.clone(), torch.get_rng_state()
    for i in range(20):
        data[3, 1, i]
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.testing.assert_close(data.images, before, rtol=0, atol=0)


def test_an_integer_key_gives_the_image_without_augmentation():
    data = images()
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    assert torch.allclose(data[7][0] * std + mean, data.raw_image(7) / 255, atol=1e-6)
    assert not torch.equal(data[7][0], data[0, 0, 7][0])
    assert data[7][1] == data[0, 0, 7][1] == 1


def test_flip_mirrors_about_half():
    ramp = torch.arange(5.0).expand(3, 4, 5) / 5
    flipped = [augment(ramp, 0, ("flip",), Key(0, 0, i), MEAN)[0] for i in range(400)]
    mirrored = [torch.equal(image, ramp.flip(-1)) for image in flipped]
    assert [
        (one, image) for one, image in zip(mirrored, flipped, strict=True) if not (one or torch.equal(image, ramp))
    ] == []
    assert 160 < sum(mirrored) < 240


def test_crop_shifts_by_up_to_an_eighth():
    place = torch.arange(16.0 * 24).view(1, 16, 24)
    seen = set()
    for i in range(600):
        middle = augment(place, 0, ("crop",), Key(0, 0, i), MEAN[:1])[0][0, 8, 12].item()
        seen.add((int(middle) // 24 - 8, int(middle) % 24 - 12))
    assert seen == {(y, x) for y in range(-2, 3) for x in range(-3, 4)}


def test_crop_reflects_the_border():
    place = torch.arange(16.0 * 24).view(1, 16, 24)
    padded = tv.pad(place, [3, 2], padding_mode="reflect")
    for i in range(30):
        image = augment(place, 0, ("crop",), Key(0, 0, i), MEAN[:1])[0]
        top, left = divmod(int(image[0, 8, 12]), 24)
        torch.testing.assert_close(image, tv.crop(padded, top - 8 + 2, left - 12 + 3, 16, 24), rtol=0, atol=0)


def rectangle_of(moved, still):
    """Return (top, left, height, width) of the pixels of ``still``, all different, that ``moved`` shows."""
    seen = torch.isin(still, moved)
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    assert seen.sum() == len(rows) * len(columns), "every pixel of the rectangle is shown"
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


def test_resized_crop_equals_torchvision():
    """A mask whose pixels all differ shows which rectangle was enlarged."""
    mask = torch.arange(15 * 16, dtype=torch.uint8).view(15, 16)
    image = torch.rand(3, 15, 16, generator=torch.Generator().manual_seed(0))
    shares, ratios, places, shifted = [], [], [], 0
    for i in range(400):
        found, moved = augment(image, tv_tensors.Mask(mask), ("resized_crop",), Key(0, 0, i), MEAN)
        assert isinstance(moved, tv_tensors.Mask)
        top, left, height, width = rectangle_of(moved.as_subclass(torch.Tensor), mask)
        torch.testing.assert_close(found, tv.resized_crop(image, top, left, height, width, [15, 16]), rtol=0, atol=0)
        ramp = torch.arange(15.0)[:, None].expand(15, 16)  # the mask shows the row nearest to the image's
        row = tv.resized_crop(ramp[None], top, left, height, width, [15, 16])[0]
        assert (row - (moved // 16).as_subclass(torch.Tensor)).abs().max() <= 0.5
        theirs = tv.resized_crop(tv_tensors.Mask(mask), top, left, height, width, [15, 16])
        shifted += not torch.equal(theirs, moved)
        shares.append(height * width / 240)
        ratios.append(width / height)
        if height <= 9:
            places.append(top / (15 - height))
    assert shifted > 200  # torchvision's nearest pixel is another
    assert 0.08 - 8 / 240 < min(shares) < 0.15
    assert 0.9 < max(shares) <= 1
    assert 0.6 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.6
    assert len(places) > 80
    assert (min(places), max(places)) == (0, 1)
    assert 0.4 < sum(places) / len(places) < 0.6
    torch.manual_seed(0)
    draw = v2.RandomResizedCrop(15)
    theirs = torch.tensor(
        [params["height"] * params["width"] / 240 for params in (draw.make_params([image]) for _ in shares)]
    )
    spread = (theirs.var() / 200).sqrt()  # of the difference between two means of 400
    assert abs(theirs.mean() - sum(shares) / 400) < 4 * spread


def test_resized_crop_of_a_long_image_takes_its_centre():
    """No rectangle fits that is so much shorter than the image; torchvision then takes the centre."""
    column = torch.arange(240.0).view(1, 1, 240) / 240
    centres = 0
    for i in range(50):
        found = augment(column, 0, ("resized_crop",), Key(0, 0, i), MEAN[:1])[0]
        centres += torch.equal(found, tv.resized_crop(column, 0, 119, 1, 1, [1, 240]))
    assert centres == 50
    tall = torch.arange(240.0).view(1, 240, 1) / 240
    found = augment(tall, 0, ("resized_crop",), Key(0, 0, 0), MEAN[:1])[0]
    torch.testing.assert_close(found, tv.resized_crop(tall, 119, 0, 1, 1, [240, 1]), rtol=0, atol=0)


def test_resized_crop_moves_points_and_boxes_with_their_pixels():
    mask = torch.arange(15 * 16, dtype=torch.uint8).view(15, 16)
    centres = torch.stack([torch.arange(240) % 16 + 0.5, torch.arange(240) // 16 + 0.5], 1)
    target = {"points": tv_tensors.KeyPoints(centres, canvas_size=(15, 16)), "viewers": torch.arange(240)}
    boxes = torch.tensor([[3.0, 4, 9, 13]])
    part = torch.zeros(1, 15, 16, dtype=torch.uint8)
    part[0, 4:13, 3:9] = 1
    seen = 0
    for i in range(60):
        key = Key(0, 0, i)
        image = torch.zeros(1, 15, 16)
        moved = augment(image, tv_tensors.Mask(mask), ("resized_crop",), key, MEAN[:1])[1].as_subclass(torch.Tensor)
        points = augment(image, target, ("resized_crop",), key, MEAN[:1])[1]
        assert set(points["viewers"].tolist()) == set(moved.flatten().tolist())
        for point, pixel in zip(points["points"].as_subclass(torch.Tensor), points["viewers"], strict=True):
            shown = (moved == pixel).nonzero().flip(1) + 0.5
            assert (shown.mean(0) - point).abs().max() <= 0.5  # the middle of the enlarged pixel
        found = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(15, 16)),
            "labels": torch.tensor([5]),
            "masks": tv_tensors.Mask(part),
        }
        objects_moved = augment(image, found, ("resized_crop",), key, MEAN[:1])[1]
        for (x1, y1, x2, y2), shape in zip(objects_moved["boxes"].tolist(), objects_moved["masks"], strict=True):
            rows, columns = shape.bool().any(1).nonzero()[:, 0], shape.bool().any(0).nonzero()[:, 0]
            pixels = columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1
            assert max(abs(a - b) for a, b in zip((x1, y1, x2, y2), pixels, strict=True)) <= 0.5
            seen += 1
    assert seen > 40


def test_color_equals_torchvision():
    image = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(2))
    for i in range(30):
        b, c, s = (0.6 + 0.8 * torch.rand(3, generator=generator(4, 5, i))).tolist()
        wanted = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(image, b), c), s)
        assert torch.allclose(augment(image, 0, ("color",), Key(4, 5, i), MEAN)[0], wanted, atol=2e-4)
        grey = image[:1]
        wanted = tv.adjust_contrast(tv.adjust_brightness(grey, b), c)
        assert torch.allclose(augment(grey, 0, ("color",), Key(4, 5, i), MEAN[:1])[0], wanted, atol=2e-4)


def test_erase_fills_one_rectangle_with_the_mean():
    image = torch.ones(3, 31, 37)
    sizes = []
    for i in range(300):
        hole = augment(image, 0, ("erase",), Key(0, 0, i), MEAN)[0][0] != 1
        if hole.any():
            rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
            h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert hole.sum() == h * w
            assert 0.4 < h / w < 2.5
            sizes.append(int(h * w) / (31 * 37))
    assert 110 < len(sizes) < 190
    assert 0.01 < min(sizes) < 0.04
    assert 0.17 < max(sizes) < 0.22


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_equals_torchvision_with_the_mean_as_fill(name, channels):
    image, mean = torch.rand(channels, 20, 24), (0.25, 0.5, 0.75)[:channels]
    kind, options = POLICIES[name]
    changed = 0
    for i in range(20):
        key = Key(0, 0, i)
        chance = float(torch.rand(1, generator=generator(*key)))
        with seeded(int(chance * 2**24)):
            wanted = kind(**options, fill=list(mean))(image)
        found, label = augment(image, 7, (name,), key, mean)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        assert (label, found.dtype) == (7, torch.float32)
        assert found.min() >= 0
        assert found.max() <= 1
        changed += not torch.equal(found, image)
    assert changed >= 8


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 2)])
def test_tiny_images_keep_their_shape(size):
    image = torch.rand(3, *size)
    for i in range(20):
        assert augment(image, 0, (*ALL, *POLICIES), Key(0, 0, i), MEAN)[0].shape == image.shape


def test_the_order_of_the_names_is_the_order_of_the_operations():
    image = torch.rand(3, 16, 16)
    one = [augment(image, 0, ("crop", "erase"), Key(0, 0, i), MEAN)[0] for i in range(20)]
    two = [augment(image, 0, ("erase", "crop"), Key(0, 0, i), MEAN)[0] for i in range(20)]
    assert not all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers():
    data = images(augment=(*ALL, "randaugment"))

    def epochs(workers):
        sampler = EpochSampler(data, 3, 8)
        loader = DataLoader(
            data, batch_sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            yield from loader

    alone, helped = list(epochs(0)), list(epochs(2))
    assert len(alone) == len(helped) == 10  # 41 images: four batches of 8 and one of 9, twice
    for (x, y), (u, v) in zip(alone, helped, strict=True):
        torch.testing.assert_close(x, u, rtol=0, atol=0)
        torch.testing.assert_close(y, v, rtol=0, atol=0)
    assert not torch.equal(alone[0][0], alone[5][0])


@pytest.mark.parametrize("names", [("flip",), ("crop",), ("crop", "flip", "color", "erase")])
def test_a_mask_moves_with_its_image(names):
    """The mask is the image's own first channel, so that the two agree as long as they move together."""
    mask = torch.randint(0, 200, (17, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = mask.expand(3, 17, 24).float()
    moving = [name for name in names if name in ("flip", "crop")]
    changed = 0
    for i in range(40):
        key = Key(0, 0, i)
        _, moved = augment(image / 255, tv_tensors.Mask(mask), names, key, MEAN)
        assert isinstance(moved, tv_tensors.Mask)
        assert moved.dtype == torch.uint8
        if names == tuple(moving):
            shown, _ = augment(image, 0, names, key, MEAN)
            torch.testing.assert_close(shown[0], moved.as_subclass(torch.Tensor).float(), rtol=0, atol=0)
        changed += not torch.equal(moved, mask)
    assert changed > 10
    still, same = augment(image / 255, tv_tensors.Mask(mask), ("color", "erase"), Key(0, 0, 0), MEAN)  # the twin
    torch.testing.assert_close(same, mask, rtol=0, atol=0)
    assert not torch.equal(still, image / 255)


def test_random_numbers_do_not_depend_on_the_target():
    image, mask = torch.rand(3, 16, 16), tv_tensors.Mask(torch.zeros(16, 16, dtype=torch.uint8))
    for i in range(20):
        alone, beside = (augment(image, target, ALL, Key(1, 2, i), MEAN)[0] for target in (7, mask))
        torch.testing.assert_close(alone, beside, rtol=0, atol=0)


def test_objects_move_with_their_image():
    scenes = Scenes("train", 60, 40, clutter=0, distractors=2)
    drawn = make_targets(scenes, "objects", fits_in_memory=False)
    for i in range(60):
        image, target = scenes[i].float() / 255, drawn[i]
        moved, objects = augment(image, target, ("flip", "crop"), Key(0, 0, i), MEAN[:1])
        assert isinstance(objects["boxes"], tv_tensors.BoundingBoxes)
        assert len(objects["boxes"]) == len(objects["labels"]) == len(objects["masks"])
        for (x1, y1, x2, y2), mask in zip(objects["boxes"].int().tolist(), objects["masks"].bool(), strict=True):
            assert 0 <= x1 < x2 <= 40
            assert 0 <= y1 < y2 <= 40
            assert mask.sum() == mask[y1:y2, x1:x2].sum()
            assert (moved[0][mask] > 0).all()
        still = augment(image, target, ("color", "erase"), Key(0, 0, i), MEAN[:1])[1]  # the twin
        for name in target:
            torch.testing.assert_close(still[name], target[name], rtol=0, atol=0)


def test_boxes_are_mirrored():
    ramp, target = torch.rand(3, 20, 30), objects([[2, 3, 7, 9], [20, 0, 30, 20]], (20, 30))
    flipped = [augment(ramp, target, ("flip",), Key(0, 0, i), MEAN) for i in range(20)]
    for image, moved in flipped:
        wanted = (
            [[23, 3, 28, 9], [0, 0, 10, 20]] if torch.equal(image, ramp.flip(-1)) else [[2, 3, 7, 9], [20, 0, 30, 20]]
        )
        assert moved["boxes"].tolist() == wanted
    assert 0 < sum(torch.equal(image, ramp) for image, _ in flipped) < 20


def test_objects_outside_are_dropped_and_others_clipped():
    seen = set()
    for i in range(60):
        image, moved = augment(
            torch.zeros(3, 32, 32), objects([[0, 0, 2, 2], [10, 10, 32, 30]]), ("crop",), Key(0, 0, i), MEAN
        )
        assert moved["labels"].tolist() in ([0, 1], [1])
        assert moved["boxes"][-1, 2] <= 32
        assert len(moved["masks"]) == len(moved["labels"])
        assert moved["masks"].shape[1:] == image.shape[1:]
        assert set(image.unique().tolist()) <= {0.0, 0.5}  # the mean comes in, not a reflection without its box
        seen.add(len(moved["labels"]))
    assert seen == {1, 2}


def objects(boxes, size=(32, 32)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    return {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor(boxes, dtype=torch.float32), format="XYXY", canvas_size=size),
        "labels": torch.arange(len(boxes)),
        "masks": tv_tensors.Mask(masks),
    }


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'flip'"):
        check_augmentations(("crop", "flop"))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_refused_for_masks_and_boxes(name):
    for target in ("mask", "objects"):
        with pytest.raises(
            UserError,
            match=rf"{name} transforms the image but not a target of the kind {target}.*flip, crop, color, erase",
        ):
            check_augmentations(("flip", name), target)
        check_augmentations(ALL, target)
    check_augmentations((name,), "label")
