"""Effective gates: hand-worked numbers, what is read from a plugged network, and that reading changes nothing."""

import pytest
import torch
from torch import nn

import saccade
from saccade.bases import Context, Gate
from saccade.explanation import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show, spatial_map
from saccade.surgery.record import effective_gate


class Ramp(Gate):
    """A gate that grows from left to right, whatever the map: column j of W passes (j + 1) / W."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def gate(self, x):
        width = x.shape[-1]
        columns = torch.arange(1, width + 1) / width
        return columns.expand(len(x), 1, x.shape[-2], width)


class Adds(Context):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def context(self, x):
        return self.weight.expand(len(x), -1, 1, 1)


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 3, stride=2))


def test_effective_by_hand():
    gate = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(effective_gate(gate, None), gate, rtol=0, atol=0)
    assert torch.allclose(effective_gate(gate, torch.tensor([0.4])), torch.tensor([0.6, 0.7, 1.0]))
    torch.testing.assert_close(effective_gate(gate, torch.tensor([0.0])), torch.ones(3), rtol=0, atol=0)
    assert torch.allclose(effective_gate(gate, torch.tensor([-2.0])), torch.tensor([3.0, 2.5, 1.0]))
    assert effective_gate(gate.bfloat16().requires_grad_(), None).dtype == torch.float32
    assert not effective_gate(gate.requires_grad_(), None).requires_grad


def test_a_neutral_start_passes_everything_and_a_moved_one_does_not():
    net = saccade.plug(_net(), Ramp, where=["2"], input=(3, 8, 6))
    images = torch.randn(2, 3, 8, 6)
    (before,) = gate_maps(net, images).values()
    torch.testing.assert_close(before, torch.ones(2, 1, 8, 6), rtol=0, atol=0)
    with torch.no_grad():
        saccade.plugs(net)[0].module.a.fill_(0.5)
    (after,) = gate_maps(net, images).values()
    # 1 + 0.5 (j / 6 - 1) for j = 1 … 6
    assert torch.allclose(after[0, 0, 3], torch.tensor([7, 8, 9, 10, 11, 12]) / 12)


def test_the_paper_s_start_gives_the_gate_itself():
    net = saccade.plug(_net(), Ramp, where=["2"], start="paper", input=(3, 8, 6))
    (gate,) = gate_maps(net, torch.randn(2, 3, 8, 6)).values()
    assert torch.allclose(gate[1, 0, 0], torch.tensor([1, 2, 3, 4, 5, 6]) / 6)


def test_the_effective_gate_is_what_multiplies_the_map():
    net = saccade.plug(_net(), "das", where=["2"], input=(3, 8, 6), alpha=0.5)
    images = torch.randn(3, 3, 8, 6)
    plug = saccade.plugs(net)[0].module
    with torch.no_grad():
        for parameter in plug.parameters():
            parameter.normal_()
    seen = {}
    plug.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0].clone(), y=output.clone()))
    (gate,) = gate_maps(net, images).values()
    assert gate.shape == (3, 7, 8, 6)
    assert torch.allclose(seen["x"] * gate, seen["y"], atol=1e-5)
    assert not torch.allclose(seen["x"], seen["y"], atol=1e-2)


def test_the_network_is_left_as_it_was():
    net = saccade.plug(_net(), "se", where=["2"], input=(3, 8, 6), rd_ratio=0.5).train()
    net[0].eval()
    modes = [module.training for module in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    gate_maps(net, torch.randn(4, 3, 8, 6))
    assert [module.training for module in net.modules()] == modes
    assert any(modes)
    assert not all(modes)
    assert [key for key, value in net.state_dict().items() if not torch.equal(state[key], value)] == []
    net(torch.randn(4, 3, 8, 6))  # the twin: a forward in training mode does move the statistics
    assert not all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_sites_come_in_order_and_what_adds_stays_out():
    net = saccade.plug(_net(), Ramp, where=["0", "2"], input=(3, 8, 6))
    assert list(gate_maps(net, torch.randn(1, 3, 8, 6))) == [row.site for row in saccade.plugs(net)]
    assert len(saccade.plugs(net)) == 2
    assert gate_maps(saccade.plug(_net(), Adds, where=["2"], input=(3, 8, 6)), torch.randn(1, 3, 8, 6)) == {}
    assert gate_maps(_net(), torch.randn(1, 3, 8, 6)) == {}


def test_a_carrier_that_runs_twice_has_two_gates():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    net = saccade.plug(Twice(), Ramp, where=["conv"], input=(3, 8, 6))
    assert list(gate_maps(net, torch.randn(1, 3, 8, 6))) == ["conv (call 1)", "conv (call 2)"]


def test_what_passes_by_hand():
    class Split(Gate):
        """Channel 0 passes whole, the others by a quarter."""

        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels))

        def gate(self, x):
            return torch.tensor([1.0, 0.25, 0.25]).view(1, 3, 1, 1).expand(len(x), 3, 1, 1)

    net = saccade.plug(
        nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 1)), Split, where=["0"], start="paper", input=(3, 1, 3)
    )
    # Three places: as much in channel 0 as in the others together, all in channel 2, nothing at all.
    image = torch.tensor([[[[4.0, 0.0, 0.0]], [[-3.0, 0.0, 0.0]], [[1.0, -5.0, 0.0]]]])
    (passed,) = passed_fractions(net, image).values()
    assert torch.allclose(passed, torch.tensor([[[5 / 8, 1 / 4, 1.0]]]))


def test_what_passes_is_told_of_every_plug_and_leaves_no_hook():
    net = saccade.plug(_net(), Adds, where=["2"], input=(3, 8, 6))
    images = torch.randn(2, 3, 8, 6)
    (before,) = passed_fractions(net, images).values()
    torch.testing.assert_close(before, torch.ones(2, 8, 6), rtol=0, atol=0)
    plug = saccade.plugs(net)[0].module
    hooks = len(plug._forward_hooks)
    with torch.no_grad():
        plug.a.fill_(1.0)
    (after,) = passed_fractions(net, images).values()
    assert (after >= 1).all()
    assert (after > 1).any()
    assert len(plug._forward_hooks) == hooks
    assert passed_fractions(_net(), images) == {}


def test_spatial_and_per_channel_by_hand():
    gate = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.5]]]])  # (1, 2, 1, 2)
    torch.testing.assert_close(spatial_map(gate), torch.tensor([[[0.25, 0.75]]]), rtol=0, atol=0)
    torch.testing.assert_close(channel_means(gate), torch.tensor([[0.5, 0.5]]), rtol=0, atol=0)
    # Two areas onto four: the centres lie at 1/4 and 3/4 of an area beyond the first one's centre.
    assert torch.allclose(spatial_map(gate, (1, 4)), torch.tensor([[[0.25, 0.375, 0.625, 0.75]]]))
    assert spatial_map(gate, (5, 3)).shape == (1, 5, 3)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({}, None),
        ({"a": (1, 4, 1, 1)}, None),
        ({"a": (1, 1, 9, 9), "b": (1, 4, 4, 5), "c": (1, 4, 3, 3)}, "b"),
        ({"a": (1, 1, 9, 9), "b": (1, 4, 1, 1)}, "a"),
    ],
)
def test_the_site_to_show(shapes, expected):
    assert site_to_show({site: torch.rand(shape) for site, shape in shapes.items()}) == expected


def test_of_small_gates_the_most_varied_is_shown():
    flat, varied = torch.full((2, 3, 2, 3), 0.5), torch.rand(2, 1, 3, 3)
    assert site_to_show({"varied": varied, "flat": flat, "channels": torch.rand(2, 9, 1, 1)}) == "varied"
    assert not is_spatial(torch.rand(2, 9, 1, 1))
    assert is_spatial(torch.rand(2, 9, 1, 3))
