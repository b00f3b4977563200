"""Measured costs, their arguments, and a network left unchanged."""

import time

import pytest
import timm
import torch
from function_network import FunctionNetwork, ones
from torch import nn

from saccade.cost import count_macs, measure, measure_all
from saccade.errors import UserError


def test_macs_are_those_of_one_picture_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 3 * 4, 2))
    one = count_macs(network, (3, 5, 6))
    assert one == 3 * 4 * 8 * 27 + 96 * 2
    assert measure(network, (3, 5, 6), batch=7, runs=1).macs == one
    assert measure(network, torch.rand(7, 3, 5, 6), runs=1).macs == one


def test_parameters_count_once_and_frozen_ones_do_not_train():
    shared = nn.Conv2d(4, 4, 1)
    network = nn.Sequential(shared, shared, nn.Conv2d(4, 2, 3))
    network[2].bias.requires_grad_(False)
    cost = measure(network, (4, 5, 5), runs=1)
    assert cost.parameters == 20 + 74
    assert cost.trainable == 20 + 72


class Recorder(nn.Module):
    """Keeps the shapes and dtypes it is called with."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.seen = []

    def forward(self, x):
        self.seen.append((tuple(x.shape), x.dtype))
        return self.layers(x)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Recorder(nn.Conv2d(3, 2, 1)), (3, 224, 224)),
        (Recorder(nn.Conv2d(5, 2, 1)), (5, 224, 224)),
        (Recorder(nn.ReLU()), (3, 224, 224)),
    ],
)
def test_the_default_picture_has_the_channels_of_the_first_convolution(network, shape):
    measure(network, batch=2, runs=1)
    assert {seen for seen, _ in network.seen} == {(1, *shape), (2, *shape)}


def test_the_default_picture_is_the_one_a_timm_network_states():
    network = timm.create_model("efficientnet_b1", in_chans=1)
    shapes = []
    network.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    count_macs(network)
    assert shapes == [(1, 1, *network.default_cfg["input_size"][1:])]
    assert shapes != [(1, 1, 224, 224)]


def test_the_picture_has_the_dtype_of_the_weights():
    network = Recorder(nn.Conv2d(3, 2, 1).to(torch.bfloat16))
    count_macs(network, (3, 4, 4))
    assert network.seen == [((1, 3, 4, 4), torch.bfloat16)]


def test_other_arguments_are_passed_as_they_are():
    boxes = FunctionNetwork(lambda images: sum(image @ image for image in images))
    assert count_macs(boxes, [ones(2, 2), ones(2, 2)]) == 2 * 8
    two = FunctionNetwork(lambda x, y: x @ y)
    assert count_macs(two, (ones(2, 3), ones(3, 4))) == 24
    named = FunctionNetwork(lambda *, pixels, other: pixels @ other)
    assert count_macs(named, {"pixels": ones(2, 3), "other": ones(3, 4)}) == 24


class Forgetful(nn.Module):
    """Batch norm, dropout, buffers that move in eval, a child whose mode differs from its parent's, a cache."""

    grid = None

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = self.seen + len(x)
        if self.grid is None:
            self.grid = torch.rand(())
        return self.frozen(self.body(x)) * self.grid


def _state(network):
    modes = [module.training for module in network.modules()]
    return modes, {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()


def _changes(network, state):
    """Return the names of what differs between the state of ``network`` and ``state``."""
    (modes, values, generator), (old_modes, old_values, old_generator) = _state(network), state
    changes = [name for name, value in values.items() if not torch.equal(value, old_values[name])]
    changes += ["modes"] * (modes != old_modes)
    return changes + ["generator"] * (not torch.equal(generator, old_generator))


@pytest.mark.parametrize("counter", ["true", "thop"])
@pytest.mark.parametrize("size", [(3, 6, 5), (4, 6, 5)], ids=["measured", "refused"])
def test_a_network_is_left_as_it_was(size, counter):
    network = Forgetful().train()
    network.frozen.eval()
    before = _state(network)
    try:
        measure(network, size, runs=3, counter=counter)
    except UserError:
        assert size[0] == 4
    assert _changes(network, before) == []
    assert not torch.is_inference_mode_enabled()
    assert [
        name for name, p in network.named_parameters() if not p.requires_grad or p.grad is not None or p.is_inference()
    ] == []
    assert [module for module in network.modules() if module._forward_hooks] == []
    assert [name for name, buffer in network.named_buffers() if buffer.is_inference()] == []
    network(torch.rand(2, 3, 6, 5)).sum().backward()
    assert _changes(network, before) != []  # a plain forward pass changes it


def test_latency_is_a_spread_in_milliseconds():
    def doze(x):
        time.sleep(0.004)
        return x

    cost = measure(FunctionNetwork(doze), (1, 2, 2), seconds=0.05)
    spread = cost.latency_ms
    assert 4 <= spread.low <= spread.median <= spread.high
    assert spread.runs >= 10
    assert (cost.batch, cost.threads, cost.device) == (1, torch.get_num_threads(), "cpu")
    assert measure(FunctionNetwork(doze), (1, 2, 2), batch=3, runs=2).latency_ms.runs == 2


def test_one_run_is_its_own_spread():
    spread = measure(FunctionNetwork(lambda x: x), (1, 2, 2), runs=1).latency_ms
    assert spread.low == spread.median == spread.high


def test_networks_that_are_compared_take_turns():
    order = []

    def named(name):
        return FunctionNetwork(lambda x: order.append(name))

    costs = measure_all([named("a"), named("b")], (1, 2, 2), runs=3)
    assert len(costs) == 2
    assert "".join(order).endswith("ababab")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": (3, 8)}, r"three positive integers \(C, H, W\), got \(3, 8\)"),
        ({"input": (3, 0, 8)}, r"got \(3, 0, 8\)"),
        ({"input": (3, 8, 8), "batch": 0}, "batch must be at least 1, got 0"),
        ({"input": (3, 8, 8), "runs": 0}, "runs must be at least 1, got 0"),
        ({"input": (2, 8, 8)}, r"Conv2d does not run on the input 1×2×8×8: RuntimeError.*input=: a size \(C, H, W\)"),
    ],
)
def test_wrong_uses_say_what_is_needed(arguments, message):
    with pytest.raises(UserError, match=message):
        measure(nn.Conv2d(3, 4, 3), **arguments)


def test_what_is_no_network_is_refused():
    with pytest.raises(UserError, match=r"the model must be a torch.nn.Module, got NoneType"):
        measure(None, (3, 5, 6), runs=1)
