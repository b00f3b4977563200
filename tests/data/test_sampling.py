"""The order of an epoch is a function of the seed and the epoch."""

import pytest
import torch

from saccade.data.sampling import EpochSampler
from saccade.errors import UserError


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),  # one image left over joins the batch before
        (8, 4, [4, 4]),
        (5, 8, [5]),
        (1, 8, [1]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
    ],
)
def test_batches(count, batch, sizes):
    sampler = EpochSampler(count, seed=3, batch_size=batch)
    batches = list(sampler)
    assert [len(keys) for keys in batches] == sizes
    assert len(sampler) == len(sizes)
    assert sorted(key.image for keys in batches for key in keys) == list(range(count))
    assert {key[:2] for keys in batches for key in keys} == {(3, 0)}


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(41, seed, 8)
        sampler.set_epoch(epoch)
        return [key[2] for keys in sampler for key in keys]

    torch.manual_seed(1)
    assert order(3, 5) == order(3, 5)
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 5)}) == 4


def test_no_images_and_no_batch_are_refused():
    with pytest.raises(UserError, match="got 0 images"):
        EpochSampler(0, 0, 4)
    with pytest.raises(UserError, match="batch_size 0"):
        EpochSampler(4, 0, 0)
