import torch

from saccade.explanation.random_maps import pixel_ranks, random_maps, smooth_noise


def _maps():
    maps = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(1))
    return torch.where(maps < 0.6, 0.0, maps)


def test_a_random_map_has_the_values_of_the_map_elsewhere():
    maps = _maps()
    drawn = random_maps(maps, seed=4)
    assert torch.equal(drawn.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    assert (drawn != maps).float().mean() > 0.3
    order = smooth_noise(3, (12, 10), 4).flatten(1).argsort(1)
    assert (drawn.flatten(1).gather(1, order).diff(dim=1) >= 0).all()


def test_noise_is_smooth_and_belongs_to_the_image():
    noise = smooth_noise(2, (40, 30), 7)
    neighbours = (noise[:, 1:] - noise[:, :-1]).square().mean()
    assert neighbours < 0.1 * noise.var()
    assert torch.equal(noise[1], smooth_noise(1, (40, 30), 8)[0])
    assert not torch.equal(noise[0], noise[1])


def test_ranks_by_hand_and_ties_by_noise():
    maps = torch.tensor([[[0.1, 0.9, 0.0], [0.5, 0.0, 0.0]]])
    ranks = pixel_ranks(maps, seed=2)
    assert ranks[0].flatten()[[1, 3, 0]].tolist() == [0, 1, 2]
    zeros = torch.tensor([2, 4, 5])
    noise = smooth_noise(1, (2, 3), 2).flatten()[zeros]
    assert ranks.flatten()[zeros[noise.argsort(descending=True)]].tolist() == [3, 4, 5]
    assert pixel_ranks(torch.zeros(1, 2, 3), seed=2).flatten().tolist() != list(range(6))
