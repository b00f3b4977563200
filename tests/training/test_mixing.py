"""Mixup and CutMix: mixed images and labels, and their random state."""

import dataclasses

import pytest
import torch
from torchvision.tv_tensors import Mask

from saccade.data.samples import ImageSet
from saccade.errors import UserError
from saccade.recipe import Training
from saccade.tasks.classify import Classify
from saccade.tasks.segment import Segment
from saccade.training import train
from saccade.training.mixing import Mixing
from tiny_runs import TINY

IMAGES = torch.rand(7, 3, 8, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 4, 2])
KINDS = [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}]


def mixed(epoch=1, step=0, **training):
    return Mixing(Training(**training), 5)(IMAGES.clone(), LABELS, epoch, step)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_a_function_of_seed_epoch_and_step(kind):
    torch.manual_seed(1)
    images, shares = mixed(**kind)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(5)
    again = mixed(**kind)
    torch.testing.assert_close(images, again[0], rtol=0, atol=0)
    torch.testing.assert_close(shares, again[1], rtol=0, atol=0)
    random_state = torch.manual_seed(1).get_state()
    torch.testing.assert_close(random_state, state, rtol=0, atol=0)  # the global generator is untouched
    for other in ({"epoch": 2}, {"step": 1}, {"seed": 1}):
        assert not torch.equal(images, mixed(**kind, **other)[0])


def test_images_are_blended_with_their_neighbours_as_their_labels_are():
    images, shares = mixed(mixup_alpha=1.0)
    part = float(shares[1, 1])
    assert 0 < part < 1
    assert torch.allclose(images, part * IMAGES + (1 - part) * IMAGES.roll(1, 0), atol=1e-6)
    wanted = part * torch.eye(5)[LABELS] + (1 - part) * torch.eye(5)[LABELS.roll(1, 0)]
    assert torch.allclose(shares, wanted, atol=1e-6)


def test_a_rectangle_is_pasted_in_and_its_area_is_the_share():
    images, shares = next(
        found for step in range(20) if 0 < (found := mixed(step=step, cutmix_alpha=1.0))[1][1, 1] < 0.9
    )
    pasted = (images != IMAGES).any(1)
    assert (pasted == pasted[0]).all()
    torch.testing.assert_close(images[1][:, pasted[1]], IMAGES[0][:, pasted[1]], rtol=0, atol=0)
    assert float(shares[1, 0]) == pytest.approx(float(pasted[1].float().mean()))


def test_of_both_a_batch_draws_one():
    blended = [bool((images != IMAGES).all()) for images, _ in (mixed(step=s, **KINDS[2]) for s in range(30))]
    assert 5 < sum(blended) < 25


def test_masks_are_refused(split, tmp_path):
    masks = [Mask(torch.zeros(24, 24, dtype=torch.uint8))] * 4
    images = ImageSet(torch.zeros(4, 3, 24, 24, dtype=torch.uint8), masks, split.mean, split.std)
    dense = dataclasses.replace(split, train=images, test=images, target="mask")
    recipe = TINY.with_overrides({"training.cutmix_alpha": 1.0, "task.name": "segment"})
    with pytest.raises(UserError, match=r"training\.cutmix_alpha mixes images and their labels.*'mask'"):
        train(recipe, tmp_path / "run", device="cpu", opener=lambda *_: dense)
    assert list(tmp_path.iterdir()) == []
    assert Mixing.from_task(Segment(TINY, dense)) is None
    assert Mixing.from_task(Classify(recipe, split)) is not None
