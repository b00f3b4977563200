"""``extra``, ``noise``, ``shuffled``: what each computes, how it starts, what it keeps, whom it refuses."""

import copy

import pytest
import timm
import torch
from torch import nn

import saccade.models
from saccade import UserError, load, save
from saccade.attention.global_context import GlobalContext
from saccade.attention.squeeze_excite import SqueezeExcite
from saccade.contract.randomize import randomize
from saccade.controls import CONTROLS
from saccade.surgery import parameter_groups, plug, plug_control, plugs, record
from saccade.surgery.controls import NoiseGate, Shuffled

SIZE = (3, 32, 24)


@pytest.fixture
def host():
    return randomize(timm.create_model("resnet10_small", num_classes=5)).eval()


def _images(count, seed=1):
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))


def _drawn(plugged, seed=0):
    """``plugged(host)`` under a random state of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return plugged()


def _trained(network):
    """The network after its plugs, ``a`` among them, were moved."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in plugs(network):
            for parameter in row.module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return network


def test_noise_multiplies_each_channel_by_a_constant():
    x = torch.randn(3, 5, 4, 7)
    gate = NoiseGate(5)
    with torch.no_grad():
        gate.noise.copy_(torch.tensor([0.5, 0.25, 1.0, 0.0, 0.125]).view(5, 1, 1))
    expected = torch.stack([x[:, 0] / 2, x[:, 1] / 4, x[:, 2], x[:, 3] * 0, x[:, 4] / 8], 1)
    torch.testing.assert_close(gate(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(gate.train()(x[:1]), expected[:1], rtol=0, atol=0)
    assert gate.gate(x).shape == (3, 5, 1, 1)
    assert list(gate.parameters()) == []
    assert list(gate.state_dict()) == ["noise"]


def test_noise_is_uniform():
    drawn = _drawn(lambda: NoiseGate(20_000)).noise.flatten()
    assert (drawn.min() >= 0) & (drawn.max() < 1)
    # Mean and variance of U(0, 1), within five standard errors.
    assert abs(drawn.mean() - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 5 * (1 / 180 / 20_000) ** 0.5


def test_a_shuffled_gate_is_that_of_the_next_image():
    torch.manual_seed(0)
    se, x = SqueezeExcite(16), torch.randn(3, 16, 5, 4)
    shuffled = Shuffled(16, copy.deepcopy(se))
    expected = torch.stack([x[i] * se.gate(x)[(i + 1) % 3] for i in range(3)])
    for mode in (True, False):  # in training and in evaluation
        torch.testing.assert_close(shuffled.train(mode)(x), expected, rtol=0, atol=0)
    assert not torch.allclose(shuffled(x), se(x), atol=1e-4)
    torch.testing.assert_close(shuffled(x[:1]), se(x[:1]), rtol=0, atol=0)  # alone in its batch, an image sees itself


def test_a_shuffled_context_is_that_of_the_next_image():
    torch.manual_seed(0)
    gc, x = GlobalContext(16), torch.randn(3, 16, 5, 4)
    with torch.no_grad():
        for parameter in gc.parameters():
            parameter.normal_()
    expected = torch.stack([x[i] + gc.context(x)[(i + 1) % 3] for i in range(3)])
    torch.testing.assert_close(Shuffled(16, copy.deepcopy(gc))(x), expected, rtol=0, atol=0)
    assert not torch.allclose(expected, gc(x), atol=1e-4)


def test_what_is_recorded_is_what_was_applied(host):
    x = _images(3)
    plain = _drawn(lambda: plug(copy.deepcopy(host), "se", start="paper", input=SIZE))
    shuffled = _drawn(lambda: plug_control(copy.deepcopy(host), "shuffled", "se", start="paper", input=SIZE))
    first = plugs(plain)[0].site
    with torch.no_grad(), record(plain) as own, record(shuffled) as lent:
        plain(x)
        shuffled(x)
    torch.testing.assert_close(lent[first], own[first].roll(-1, 0), rtol=0, atol=0)


def test_shuffled_starts_with_the_weights_the_mechanism_would_have(host):
    """Under one seed the control differs from its mechanism in nothing but what it looks at."""
    real = _drawn(lambda: plug(copy.deepcopy(host), "se", start="paper", input=SIZE))
    shuffled = _drawn(lambda: plug_control(copy.deepcopy(host), "shuffled", "se", start="paper", input=SIZE))
    for one, other in zip(plugs(real), plugs(shuffled), strict=True):
        ours, theirs = one.module.mechanism.state_dict(), other.module.mechanism.mechanism.state_dict()
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
        assert (one.site, one.parent, one.parameters) == (other.site, other.parent, other.parameters)
    x = _images(1)
    torch.testing.assert_close(real(x), shuffled(x), rtol=0, atol=0)
    assert not torch.equal(real(_images(2)), shuffled(_images(2)))


@pytest.mark.parametrize("control", ["noise", "shuffled"])
def test_the_start_is_that_of_the_mechanism(host, control):
    x = _images(4)
    plain = host(x)
    neutral = plug_control(copy.deepcopy(host), control, "se", input=SIZE)
    torch.testing.assert_close(neutral(x), plain, rtol=0, atol=0)
    assert [row.module.a.item() for row in plugs(neutral)] == [0.0] * 4
    paper = plug_control(copy.deepcopy(host), control, "se", start="paper", input=SIZE)
    assert [row.module.a for row in plugs(paper)] == [None] * 4
    assert not torch.allclose(paper(x), plain, atol=1e-3)
    with torch.no_grad():
        for row in plugs(neutral):
            row.module.a.fill_(1.0)
    assert not torch.allclose(neutral(x), plain, atol=1e-3)


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_controls_of_what_is_neutral_by_itself_are_neutral(host, start):
    """``gc`` adds nothing at its own start; random numbers would, so that they get an ``a``."""
    x = _images(4)
    plain = host(x)
    for control, has_a in (("extra", False), ("noise", True), ("shuffled", False)):
        plugged = plug_control(copy.deepcopy(host), control, "gc", start=start, input=SIZE)
        torch.testing.assert_close(plugged(x), plain, rtol=0, atol=0)
        assert {row.module.a is not None for row in plugs(plugged)} == {has_a}
        assert not torch.equal(_trained(plugged)(x), plain)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("mechanism", ["se", "cbam", "das", "gc"])
def test_every_control_sits_where_its_mechanism_would_and_leaves_no_trace(host, control, mechanism):
    keys = list(host.state_dict())
    real = plugs(plug(copy.deepcopy(host), mechanism, input=SIZE))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    rows = plugs(plug_control(host, control, mechanism, input=SIZE))
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert [(r.site, r.parent, r.position) for r in rows] == [(r.site, r.parent, r.position) for r in real]
    assert [key for key in host.state_dict() if ".saccade." not in key] == keys
    saccade.unplug(host)
    assert list(host.state_dict()) == keys


@pytest.mark.parametrize("control", ["noise", "shuffled"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_training_changes_what_can_learn_and_nothing_else(host, control, start):
    plug_control(host, control, "se", rd_ratio=0.5, start=start, input=SIZE).train()
    optimiser = torch.optim.SGD(parameter_groups(host, 0.05), lr=0.05)
    before = {key: value.clone() for key, value in host.state_dict().items() if ".saccade." in key}
    images, labels = _images(6), torch.tensor([0, 1, 2, 3, 4, 0])
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(host(images), labels).backward()
        optimiser.step()
    after = host.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved == {key for key in before if not key.endswith("noise")}
    assert bool(moved) == (control == "shuffled" or start == "neutral")


@pytest.mark.parametrize(("control", "mechanism"), [("noise", "das"), ("shuffled", "se"), ("shuffled", "gc")])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_saved_and_loaded(tmp_path, host, control, mechanism, start):
    network = plug_control(host, control, mechanism, where="stage[:2]", start=start, input=SIZE)
    _trained(network)
    save(network, tmp_path, input=SIZE)
    again, x = load(tmp_path), _images(3)
    torch.testing.assert_close(network(x), again(x), rtol=0, atol=0)
    for one, other in zip(plugs(network), plugs(again), strict=True):
        assert (one.mechanism, one.module.options) == (other.mechanism, other.module.options)
    # Not because any numbers would do.
    key = next(key for key in again.state_dict() if ".saccade." in key and not key.endswith(".a"))
    with torch.no_grad():
        dict(again.state_dict(keep_vars=True))[key].add_(1.0)
    assert not torch.equal(network(x), again(x))


def test_options_of_the_mechanism_by_stage_are_kept(host):
    rows = plugs(plug_control(host, "shuffled", "eca", kernel_size=[3, 5, 5, 7], input=SIZE))
    assert [row.module.mechanism.mechanism.conv.kernel_size[0] for row in rows] == [3, 5, 5, 7]
    assert rows[3].module.options == {"mechanism": "eca", "options": {"kernel_size": 7}}
    assert rows[3].mechanism == "saccade.surgery.controls.shuffled:Shuffled"


def test_a_dead_mechanism_is_drawn_again_as_its_control():
    """A single ReLU is off half the time, and could then learn nothing."""
    kept = []
    for seed in range(12):
        network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        _drawn(lambda n=network: plug_control(n, "shuffled", "se", where="0", rd_ratio=1 / 16, input=SIZE), seed)
        (row,) = plugs(network)
        assert isinstance(row.module.mechanism, Shuffled)
        first = _drawn(lambda: SqueezeExcite(16, 1 / 16), seed)
        kept.append(torch.equal(row.module.mechanism.mechanism.squeeze.weight, first.squeeze.weight))
    assert 0 < sum(kept) < 12


class Flipped(nn.Module):
    """A mechanism that is neither gate nor context."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x.flip(1)


def test_shuffled_needs_something_to_lend(host):
    with pytest.raises(UserError, match=r"'shuffled' needs a Gate or a Context.*Flipped is a Flipped, which is neit"):
        plug_control(host, "shuffled", Flipped, where="stage", input=SIZE)
    with pytest.raises(UserError, match=r"'shuffled' needs a Gate or a Context.*sa is a ShuffleAttention"):
        plug_control(host, "shuffled", "sa", groups=2, input=SIZE)
    assert plugs(host) == []
    assert len(plugs(plug_control(host, "noise", Flipped, where="stage", input=SIZE))) == 4
    with pytest.raises(ValueError, match="Flipped is neither a Gate nor a Context"):
        Shuffled(16, Flipped(16))
    with pytest.raises(ValueError, match="ShuffleAttention is neither a Gate nor a Context"):
        Shuffled(16, "sa", {"groups": 2})


def test_shuffled_has_the_keys_of_its_mechanism_and_shows_what_it_applies():
    torch.manual_seed(1)  # a bottleneck of one unit that is not off
    shuffled = Shuffled(16, "se", {"bias": False, "rd_ratio": 0.5})
    assert list(shuffled.state_dict()) == ["mechanism.squeeze.weight", "mechanism.excite.weight"]
    shown, x = [], torch.randn(3, 16, 5, 4)
    shuffled.tap.register_forward_hook(lambda module, args, gate: shown.append(gate))
    torch.testing.assert_close(shuffled(x), x * shown[0], rtol=0, atol=0)
    torch.testing.assert_close(shown[0], shuffled.mechanism.gate(x).roll(-1, 0), rtol=0, atol=0)
    assert not torch.equal(shown[0], shuffled.mechanism.gate(x))


def test_wrong_words(host):
    with pytest.raises(
        UserError, match=r"no control is called 'noize'. Did you mean 'noise'\? There are: extra, noise,"
    ):
        plug_control(host, "noize", "se", input=SIZE)
    with pytest.raises(UserError, match="start must be 'neutral' or 'paper', got 'zero'"):
        plug_control(host, "noise", "se", start="zero", input=SIZE)
    with pytest.raises(UserError, match="no mechanism is called 'see'"):
        plug_control(host, "noise", "see", input=SIZE)
    assert plugs(host) == []
