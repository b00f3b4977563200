"""Controls of heat maps: the centre prior by hand, and random weights that keep nothing trained."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d

import saccade
from saccade.contract.randomize import perturb, randomize
from saccade.explanation.control_maps import centre_prior, random_weights


class Block(nn.Module):
    """Layers whose parameters are reset in every way there is, and one that has none."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.frozen = FrozenBatchNorm2d(8)
        self.parametrised = weight_norm(nn.Conv2d(8, 8, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.picky = Picky()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.parametrised(self.frozen(self.norm(self.conv(x)).relu()))
        tokens = x.flatten(2).mT
        return self.fc(self.picky(self.scale * self.attention(tokens, tokens, tokens)[0]).mean(1))


class Picky(nn.Module):
    """A layer whose reset needs an argument."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 8))

    def reset_parameters(self, gain):
        raise AssertionError(gain)

    def forward(self, x):
        return x @ self.weight


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    net = Block()
    saccade.plug(net, "cbam", where="norm", input=(3, 8, 8), rd_ratio=0.5)
    randomize(net, 2)
    perturb(net, 3)
    net.frozen.weight.uniform_(0.5, 1.5)
    net.frozen.bias.uniform_(0.5, 1.5)
    return net.eval()


def test_nothing_trained_is_left(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    state, net = torch.get_rng_state(), random_weights(trained)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = net.state_dict()
    assert drawn.keys() == before.keys()
    left = [k for k, v in drawn.items() if v.is_floating_point() and bool((v == before[k]).any())]
    assert left == []
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in trained.parameters()]
    for norm in (net.norm, net.frozen):
        values = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        assert [value.unique().tolist() for value in values] == [[1.0], [0.0], [0.0], [1.0]]
    scales = [float(network.scale.detach().square().mean().sqrt()) for network in (net, trained)]
    assert scales[0] == pytest.approx(scales[1], rel=0.8)
    assert saccade.plugs(net)[0].module.a.item() == 0
    assert torch.isfinite(net(torch.rand(2, 3, 8, 8))).all()


def test_the_seed_decides(trained):
    one, same, other = (dict(random_weights(trained, seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    differ = [key for key in one if not torch.equal(one[key], other[key])]
    assert {"conv.weight", "scale", "fc.bias", "picky.weight"} <= set(differ)
    assert any("mechanism" in key for key in differ)


def test_a_plug_starts_as_it_was_built():
    net = perturb(saccade.plug(nn.Sequential(nn.Conv2d(3, 8, 3)), "gated_channel", where="0", input=(3, 8, 8)))
    before, after = (
        {key.rpartition(".")[2]: value for key, value in network.state_dict().items() if "saccade" in key}
        for network in (net, random_weights(net))
    )
    wanted = {"alpha": 1.0, "gamma": 0.0, "beta": 0.0}
    assert {key: value.unique().tolist() for key, value in after.items()} == {k: [v] for k, v in wanted.items()}
    assert not any((before[key] == value).any() for key, value in after.items())


def test_a_function_that_cannot_be_imported_is_drawn_too(trained):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    saccade.plug(net, lambda channels: nn.Conv2d(channels, channels, 1), where="0", input=(3, 8, 8))
    perturb(net)
    drawn = random_weights(net)
    assert all(not torch.equal(a, b) for a, b in zip(net.parameters(), drawn.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in drawn.parameters())


def test_a_parametrisation_in_training_mode_stays_finite():
    net = random_weights(spectral_norm(nn.Linear(4, 4)).train())
    assert torch.isfinite(net(torch.ones(1, 4))).all()


def test_activations_keep_their_scale_through_many_layers():
    torch.manual_seed(0)
    layers = [[nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()] for _ in range(20)]
    net = nn.Sequential(*itertools.chain(*layers)).eval()
    images = torch.randn(4, 16, 12, 12)
    with torch.no_grad():
        assert 0.1 < float(random_weights(net)(images).std()) < 10
        assert float(net(images).std()) < 1e-4  # PyTorch's default


def test_the_centre_prior():
    prior = centre_prior((3, 4))
    # sigma = 3/16 · 4 = 0.75; the nearest pixels are (0, ±0.5) from the centre, a corner (1, 1.5).
    assert (prior.dtype, float(prior.max())) == (torch.float32, 1.0)
    assert float(prior[0, 0]) == pytest.approx(float(torch.tensor(-(1 + 2.25 - 0.25) / (2 * 0.5625)).exp()))
    assert torch.equal(prior, prior.flip(0, 1))
