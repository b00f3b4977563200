"""A mechanism whose ReLUs are off on its map is drawn again, from its own initialisation; nothing else changes."""

import copy

import pytest
import timm
import torch
from torch import nn

import saccade
from saccade import plug, plugs, replace, unplug
from saccade.contract.randomize import randomize
from saccade.surgery import plug_control, redraw

SIZE = (3, 12, 10)
STARTS = pytest.mark.parametrize("start", ["neutral", "paper"])


def _two(norm=nn.Identity):
    """A host of two sites, whose maps of 4 channels are positive."""
    return randomize(nn.Sequential(nn.Conv2d(3, 4, 3), norm(), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Softplus()))


class Drawn(nn.Module):
    """y = x · ReLU(x + b), with b so low that nothing passes in the first ``dead`` draws at a site."""

    dead, draws, drawn = 3, 0, None

    def __init__(self, channels):
        super().__init__()
        type(self).draws += 1
        self.weight = nn.Parameter(torch.randn(channels, 1, 1))
        self.bias = nn.Parameter(torch.full((channels, 1, 1), 1e4 if self.draws > self.dead else -1e4))

    def forward(self, x):
        return x * (x + self.bias).relu()


@pytest.fixture
def drawn():
    """drawn(dead) -> a mechanism that counts its draws from 0."""
    return lambda dead, base=Drawn: type("Drawn", (base,), {"dead": dead, "draws": 0})


@STARTS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_draw_that_is_on_is_kept(drawn, start, training, dtype):
    for dead in (0, 3):
        mechanism, host = drawn(dead), _two().to(dtype).train(training)
        plug(host, mechanism, where="2", start=start, input=SIZE)
        assert mechanism.draws == dead + 1
        (row,) = plugs(host)
        assert row.module.mechanism.bias[0].item() > 0
        assert {p.dtype for p in row.module.parameters()} == {dtype}
        assert {module.training for module in host.modules()} == {training}
        assert host(torch.randn(2, *SIZE, dtype=dtype)).isfinite().all()


def test_draws_end(drawn):
    mechanism = drawn(10**9)
    plug(_two(), mechanism, where="2", input=SIZE)
    assert mechanism.draws == 1 + redraw._MAX_REDRAWS


def _squeeze_excite(network):
    return [row.module.mechanism.state_dict() for row in plugs(network)]


def _units(network, images):
    """What each bottleneck hands to its ReLU."""
    outputs = []
    for row in plugs(network):
        row.module.mechanism.squeeze.register_forward_hook(lambda module, args, units: outputs.append(units))
    network(images)
    return outputs


def _resnet():
    torch.manual_seed(1)
    return randomize(timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(16, 32, 32, 64), num_classes=5))


@STARTS
def test_only_what_is_off_is_drawn_again_and_the_same_at_every_try(monkeypatch, start):
    host = _resnet().train()
    before = copy.deepcopy(host.state_dict())

    def plugged(seed):
        torch.manual_seed(seed)
        network = plug(copy.deepcopy(host), "se", start=start, input=torch.randn(8, 3, 32, 32))
        follows = torch.rand(())  # drawn by whoever goes on
        return network, _squeeze_excite(network), follows

    kept, changed = 0, 0
    for seed in range(3):
        network, found, follows = plugged(seed)
        torch.testing.assert_close({key: network.state_dict()[key] for key in before}, before, rtol=0, atol=0)
        torch.testing.assert_close(plugged(seed)[1], found, rtol=0, atol=0)
        with monkeypatch.context() as patch:
            patch.setattr(redraw, "_MAX_REDRAWS", 0)
            _, first, after = plugged(seed)
        torch.testing.assert_close(follows, after, rtol=0, atol=0)
        same = [
            torch.equal(one["squeeze.weight"], two["squeeze.weight"]) for one, two in zip(found, first, strict=True)
        ]
        kept, changed = kept + sum(same), changed + len(same) - sum(same)
        # One initialisation: U(-1/sqrt(C), 1/sqrt(C)) of each layer's own inputs.
        for site in found:
            assert site["squeeze.weight"].abs().max() <= site["squeeze.weight"].shape[1] ** -0.5
            assert site["excite.weight"].abs().max() <= 1.0
        images = torch.randn(8, 3, 32, 32)
        outputs = _units(network, images)
        assert [units for units in outputs if not bool((units > 0).any())] == []
    assert kept > 0
    assert changed > 0


def test_redraws_of_one_plug_do_not_change_another(drawn):
    found = []
    for dead in (1, 4):
        first, second = drawn(dead), drawn(1)
        torch.manual_seed(0)

        def either(channels, first=first, second=second):
            return (first if channels == 4 else second)(channels)

        host = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 6, 3), nn.Softplus()))
        plug(host, either, where=["1", "3"], start="neutral", input=SIZE)
        assert (first.draws, second.draws) == (dead + 1, 2)
        found.append([row.module.mechanism.weight for row in plugs(host)])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)
    assert not torch.equal(found[0][0], found[1][0])


@STARTS
def test_each_plug_receives_what_those_redrawn_before_it_make(start):
    made = []

    class Sign(nn.Module):
        """At the first site nothing passes at first; at the second the first draw passes what is negative alone."""

        def __init__(self, channels):
            super().__init__()
            first = channels not in made
            made.append(channels)
            self.scale = nn.Parameter(torch.tensor(-1.0 if first else 1.0))

        def forward(self, x):
            return (x * self.scale).relu()

    host = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 6, 3, bias=False))
    nn.init.constant_(host[2].weight, 0.1)  # so that its map is positive, or zero behind a first draw
    plug(host, Sign, where=["1", "2"], start=start, input=SIZE)
    assert made == [4, 6, 4, 6]


class Normed(Drawn):
    """With a norm in front of the ReLU: in training half of its units are on, whatever the map is."""

    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x * self.norm(x + self.bias).relu()


@STARTS
def test_a_norm_inside_works_as_in_training_and_keeps_its_statistics(drawn, start):
    """Its running statistics, 0 and 1, would leave the ReLU off for good."""
    mechanism, host = drawn(10**9, Normed), _two(lambda: nn.BatchNorm2d(4))
    statistics = {name: buffer.clone() for name, buffer in host.named_buffers()}
    plug(host, mechanism, where="2", start=start, input=torch.randn(4, *SIZE))
    assert mechanism.draws == 1
    norm = plugs(host)[0].module.mechanism.norm
    assert (norm.running_mean.abs().sum(), norm.num_batches_tracked) == (0, 0)
    assert [
        name for name, buffer in statistics.items() if not torch.equal(buffer, dict(host.named_buffers())[name])
    ] == []
    plug(unplug(host), twin := drawn(2), where="2", start=start, input=torch.randn(4, *SIZE))
    assert twin.draws == 3


def test_a_norm_of_the_host_works_as_in_training():
    """Fresh statistics, 0 and 1, would let a map far below zero through, which training never shows."""
    host = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.constant_(host[0].bias, -1e3)
    mechanism = type("Shifted", (Drawn,), {"forward": lambda self, x: x * (x + 1).relu()})
    plug(host, mechanism, where="1", start="paper", input=torch.randn(4, *SIZE))
    assert mechanism.draws == 1
    plug(unplug(host), mechanism, where="0", start="paper", input=torch.randn(4, *SIZE))  # no norm, and always off
    assert mechanism.draws == 2 + redraw._MAX_REDRAWS


def test_a_host_that_does_not_train_on_the_input_is_judged_in_eval_mode(drawn):
    mechanism, host = drawn(2), _two()
    host.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)))  # raises for one picture
    plug(host.train(), mechanism, where="2", start="paper", input=SIZE)
    assert mechanism.draws == 3
    assert [module for module in host.modules() if not module.training] == []


class Pooled(Drawn):
    """With a norm of one value a channel where there is one image: PyTorch raises there in training."""

    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x * (self.norm(x.mean((2, 3), keepdim=True)) + self.bias).relu()


@STARTS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", [["2"], ["2", "4"]])
def test_a_mechanism_that_does_not_train_on_the_input_is_judged_in_eval_mode(drawn, start, training, where):
    mechanism, host = drawn(2), _two().train(training)
    pooled = drawn(2, Pooled)
    plug(host, pooled, where=where, start=start, input=SIZE)
    assert [row for row in plugs(host) if not row.module.mechanism.bias[0].item() > 0] == []
    assert pooled.draws == 2 + len(where)  # the first two of all are off
    assert {module.training for module in host.modules()} == {training}
    plug(unplug(host), mechanism, where=where, start=start, input=SIZE)
    assert mechanism.draws == pooled.draws


class Counting(Drawn):
    """With a norm whose output the ReLU does not see."""

    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(x) * (x + self.bias).relu()


@STARTS
@pytest.mark.parametrize("training", [True, False])
def test_what_is_redrawn_in_eval_mode_keeps_its_statistics(drawn, start, training):
    class Supervised(nn.Sequential):
        def forward(self, x):
            if self.training:
                raise ValueError("targets are missing")
            return super().forward(x)

    host, statistics = Supervised(*_two()).train(training), {}
    for dead in (0, 2):
        mechanism = drawn(dead, Counting)
        plug(unplug(host), mechanism, where="2", start=start, input=torch.randn(4, *SIZE))
        assert mechanism.draws == dead + 1
        statistics[dead] = [buffer.tolist() for buffer in plugs(host)[0].module.mechanism.buffers()]
        assert {module.training for module in host.modules()} == {training}
    assert statistics[0] == statistics[2] == [[0.0] * 4, [1.0] * 4, 0]


@pytest.mark.parametrize(("mechanism", "calls"), [(nn.ReLU, 5), (nn.Softplus, 1)])
def test_other_views_of_one_image_are_tried_where_there_is_a_relu(mechanism, calls):
    made, called = mechanism(), []
    made.register_forward_hook(lambda *_: called.append(1))
    redraw._active_fraction(made, torch.rand(1, 4, 8, 8))
    assert len(called) == calls


@pytest.mark.parametrize(
    ("on", "kept", "draws"),
    [
        ([8], 1, 1),
        ([1, 7], 2, 2),
        ([4, 6], 2, 2),
        ([1, 2, 5, 3], 1, 1 + redraw._MAX_REDRAWS),  # the best of many would be no draw of the initialisation
        ([0, 0, 2, 5], 3, 1 + redraw._MAX_REDRAWS),
    ],
)
def test_a_unit_must_be_on_for_most_images_or_the_first_that_is_on_at_all_is_kept(on, kept, draws):
    """``on``: of 8 images those that the first draws let through; what comes after lets one through."""
    made = []

    class Counted(nn.Module):
        def __init__(self, channels):
            super().__init__()
            made.append(self)
            self.number, self.off = len(made), 8 - dict(enumerate(on, 1)).get(len(made), 1)
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            z = x.mean((1, 2, 3), keepdim=True)
            least = z.min() - 1 if self.off == 0 else z.kthvalue(min(self.off, len(z)), 0, keepdim=True).values
            return x * self.weight * (z - least).relu()

    host = plug(_two(), Counted, where="2", start="paper", input=torch.randn(8, *SIZE))
    assert plugs(host)[0].module.mechanism.number == kept
    assert len(made) == draws


@pytest.mark.parametrize(("layers", "draws"), [(1, 1), (2, 1 + redraw._MAX_REDRAWS)])
def test_the_units_behind_a_layer_that_runs_twice_are_one_relu(layers, draws):
    made = []

    class Twice(nn.Module):
        """One call lets each image through, the other none: two layers have a dead one, one layer learns."""

        def __init__(self, channels):
            super().__init__()
            made.append(self)
            self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(layers))
            self.relu = nn.ReLU()

        def forward(self, x):
            for layer in self.layers:
                nn.init.zeros_(layer.weight)
            nn.init.constant_(self.layers[0].bias, 1.0)
            nn.init.constant_(self.layers[-1].bias, -1.0 if layers == 2 else 1.0)
            on = self.relu(self.layers[0](x))
            off = self.relu(-1.0 * self.layers[-1](x) if layers == 1 else self.layers[-1](x))
            return x + on + off

    plug(_two(), Twice, where="2", input=torch.randn(8, *SIZE))
    assert len(made) == draws


@pytest.mark.parametrize("bias", [False, True])
def test_maps_of_zeros_tell_only_of_a_bias(monkeypatch, bias):
    """A norm whose weight starts at zero, as the last one of a block often does, makes such maps."""
    draws, judged = [], redraw._active_fraction
    monkeypatch.setattr(redraw, "_active_fraction", lambda *of: draws.append(judged(*of)) or draws[-1])
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    nn.init.zeros_(host[1].weight)
    for seed in range(6):
        torch.manual_seed(seed)
        plug(copy.deepcopy(host), "se", where="1", start="paper", input=torch.randn(4, *SIZE), bias=bias)
    assert (len(draws) > 6) == bias
    assert draws.count(1.0) == 6


@pytest.mark.parametrize("mechanism", ["eca", "das", "simam", "coord"])
def test_what_has_no_relu_is_drawn_once(mechanism):
    host = randomize(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Softplus()))
    torch.manual_seed(4)
    plug(host, mechanism, where="1", start="paper", input=SIZE)
    torch.manual_seed(4)
    assert [
        key
        for key, value in saccade.create(mechanism, 16).state_dict().items()
        if not torch.equal(value, plugs(host)[0].module.mechanism.state_dict()[key])
    ] == []


def test_replaced_convolutions_are_drawn_once(drawn):
    class Replaces(Drawn):
        def __init__(self, channels, out_channels, kernel_size, stride, padding, dilation, groups, bias):
            super().__init__(channels)

        def forward(self, x):
            return (x + self.bias).relu()

    mechanism = drawn(10**9, Replaces)
    replace(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), mechanism, where="0", start="paper", input=(4, 8, 8))
    assert mechanism.draws == 1


@STARTS
def test_a_control_is_redrawn_as_its_mechanism_is(start):
    for seed in range(4):
        found = []
        for control in (False, True):
            torch.manual_seed(seed)
            host = randomize(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Softplus()))
            images = torch.randn(8, *SIZE)
            torch.manual_seed(seed)
            if control:
                plug_control(host, "shuffled", "se", where="2", start=start, input=images)
            else:
                plug(host, "se", where="2", start=start, input=images)
            found.append(list(plugs(host)[0].module.mechanism.state_dict().values()))
        torch.testing.assert_close(*found, rtol=0, atol=0)
