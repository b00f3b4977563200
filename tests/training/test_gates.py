"""Statistics of gates and contexts; plugs that are constant over images."""

import pytest
import torch
from torch import nn

import saccade
from saccade.training.gates import constant_plugs, plug_statistics


def test_gates_are_summed_up_by_hand():
    class Third(saccade.bases.Gate):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def gate(self, x):
            return torch.tensor([0.25, 0.75]).view(1, 2, 1, 1) + self.weight

    class Twice(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return 2 * x

    images = torch.randn(3, 2, 6, 5)
    host = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())
    assert plug_statistics(host, images) == {}
    saccade.plug(host, Third, where=["0"], start="neutral", input=(2, 6, 5))
    (row,) = saccade.plugs(host)
    (found,) = plug_statistics(host, images).values()
    assert found == {"kind": "gate", "mean": 1.0, "std": 0.0, "a": 0.0}
    row.module.a.data.fill_(0.5)  # gates 1 + (0.25 - 1) / 2 and 1 + (0.75 - 1) / 2
    (found,) = plug_statistics(host, images).values()
    assert (found["mean"], found["std"], found["a"]) == (pytest.approx(0.75), pytest.approx(0.125), 0.5)
    saccade.unplug(host)
    saccade.plug(host, Twice, where=["0"], start="neutral", input=(2, 6, 5))
    saccade.plugs(host)[0].module.a.data.fill_(0.25)  # y = f + (2f - f) / 4
    (found,) = plug_statistics(host, images).values()
    assert (found["kind"], found["mean"], found["std"]) == ("change", pytest.approx(0.25), pytest.approx(0, abs=1e-6))
    assert host.training


def test_the_factor_of_the_mechanism_itself_is_recorded():
    host = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    images = torch.randn(3, 3, 6, 5)
    saccade.plug(host, "self_attention", where=["1"], input=(3, 6, 5))
    saccade.replace(host, "self_attention_conv", where=["2"], input=(3, 6, 5))
    plugged, replaced = saccade.plugs(host)[0].module.mechanism, saccade.replacements(host)[0].module
    at_rest = {"kind": "context", "mean": 0.0, "std": 0.0, "a": None, "gamma": 0.0}
    assert plug_statistics(host, images) == {"1": at_rest, "2": at_rest}
    plugged.gamma.data.fill_(0.5)
    replaced.gamma.data.fill_(-0.25)
    found = plug_statistics(host, images)
    with saccade.record(host) as maps, torch.no_grad():
        host.eval()(images)
    assert [found[site]["gamma"] for site in "12"] == [0.5, -0.25]
    assert [found[site]["mean"] for site in "12"] == pytest.approx([maps[site].abs().mean().item() for site in "12"])
    saccade.unplug(host)
    saccade.plug(host, "se", where=["1"], input=(3, 6, 5))
    assert "gamma" not in plug_statistics(host, images)["1"]


class Lit(saccade.bases.Context):
    """Mechanism that adds the mean brightness of each image, times a parameter."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def context(self, x):
        return self.weight * x.mean((1, 2, 3), keepdim=True)


def test_a_gate_that_is_the_same_for_every_image_is_found():
    draw = torch.Generator().manual_seed(3)
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    batches = [torch.randn(4, 3, 8, 8, generator=draw) for _ in range(3)]
    assert constant_plugs(host, batches) == {}
    saccade.plug(host, "se", where="1", start="paper", input=batches[0])
    saccade.plug(host, Lit, where="3", start="paper", input=batches[0])
    assert constant_plugs(host, batches) == {"3": "context"}
    one, other = (row.module.mechanism for row in saccade.plugs(host))
    other.weight.data.fill_(1.0)
    read = iter(batches)
    assert constant_plugs(host, read) == {}
    assert len(list(read)) == 2  # the first batch was enough
    one.squeeze.bias.data.fill_(-1e4)  # off for every image: the gates still differ between channels
    assert constant_plugs(host, batches) == {"1": "gate"}
    assert plug_statistics(host, batches[0])["1"]["std"] > 0
    # One image of the last batch is enough to differ, where all others are alike.
    other.weight.data.zero_()
    one.squeeze.bias.data.fill_(-10.0)
    one.squeeze.weight.data.fill_(1.0)
    batches[2][3] += 1e4
    assert constant_plugs(host, batches[:2]) == {"1": "gate", "3": "context"}
    assert constant_plugs(host, batches) == {"3": "context"}
    assert constant_plugs(host, [batches[0][:1]]) == {}
    assert constant_plugs(host, [batches[0][:1], batches[0][1:2]]) == {"1": "gate", "3": "context"}
    assert host.training


def test_what_is_constant_by_design_is_no_fault():
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    saccade.surgery.plug_control(host, "noise", "se", where="1", start="paper", input=(3, 8, 8))
    assert constant_plugs(host, [torch.randn(4, 3, 8, 8)]) == {}
