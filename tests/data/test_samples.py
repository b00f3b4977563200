"""Samples and batches of image sets."""

import torch
from torchvision.tv_tensors import Mask

from saccade.data.samples import ImageSet, collate
from saccade.data.sampling import Key


class Untouchable:
    """Images that must not be decoded."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise AssertionError(f"picture {i} is decoded")


def pictures(count=5, size=(6, 7)):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_target_is_read_without_its_image():
    images = ImageSet(Untouchable(), [4, 5, 6], (0.5,) * 3, (0.2,) * 3)
    assert [images.target(i) for i in range(len(images))] == [4, 5, 6]
    try:
        images[0]
    except AssertionError:
        return
    raise AssertionError("the twin: a sample decodes its picture")


def test_a_batch_equals_its_samples():
    """DataLoader asks for all samples of a batch at once; that is the same to the last bit."""
    images = ImageSet(pictures(), list(range(5)), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), ("flip", "crop", "color", "erase"))
    for keys in ([0, 3, 4], [Key(1, 2, i) for i in range(5)], [Key(0, 0, 1), 1]):
        one_by_one = [images[key] for key in keys]
        for (image, target), (other, label) in zip(one_by_one, images.__getitems__(keys), strict=True):
            torch.testing.assert_close(image, other, rtol=0, atol=0)
            assert target == label
    assert not torch.equal(images[Key(0, 0, 1)][0], images[1][0])


def test_pixels_are_normalised():
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    images = ImageSet(pictures(), [0] * 5, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    torch.testing.assert_close(images[3][0], (pictures()[3].float() / 255 - mean) / std, rtol=0, atol=0)


def test_augmentation_does_not_write_to_images_and_masks():
    kept, masks = pictures(), [Mask(torch.full((6, 7), 3, dtype=torch.uint8)) for _ in range(5)]
    images = ImageSet(kept, masks, (0.5,) * 3, (0.2,) * 3, ("flip", "crop", "color", "erase"))
    batch, _ = collate(images.__getitems__([Key(0, 0, i) for i in range(5)]))
    batch.zero_()
    torch.testing.assert_close(kept, pictures(), rtol=0, atol=0)
    assert [mask for mask in masks if not (mask == 3).all()] == []


def test_collate():
    image = torch.zeros(3, 4, 5)
    images, labels = collate([(image, 3), (image, 1)])
    assert images.shape == (2, 3, 4, 5)
    assert (labels.tolist(), labels.dtype) == ([3, 1], torch.int64)
    _, masks = collate([(image, Mask(torch.full((4, 5), n, dtype=torch.uint8))) for n in (2, 255)])
    assert (masks.shape, masks.dtype) == ((2, 4, 5), torch.int64)
    assert type(masks) is torch.Tensor
    assert masks.unique().tolist() == [2, 255]
    _, ragged = collate([(image, Mask(torch.zeros(n, 5, dtype=torch.uint8))) for n in (4, 3)])
    assert [target.shape for target in ragged] == [(4, 5), (3, 5)]
    objects = [{"labels": torch.tensor([1])}, {"labels": torch.tensor([])}]
    assert collate([(image, target) for target in objects])[1] == objects
    assert collate([(image, None)])[1] == [None]
