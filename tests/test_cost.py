"""Multiply-adds and memory against numbers worked out by hand, the figures of thop, and a network left as it was."""

import copy
import gc
import math
import time
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import flop_registry

import saccade
from saccade.cost import count_macs, measure, measure_all
from saccade.cost.call import ForwardCall
from saccade.cost.macs import _RULES
from saccade.cost.memory import _LiveStorages
from saccade.cost.thop import thop_counts
from saccade.errors import UserError
from saccade.ops.attention import attention, attention_definition
from saccade.ops.macs import with_macs
from saccade.ops.deform import deform_conv2d, deform_conv2d_definition


class Of(nn.Module):
    """A network out of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def _ones(*shape):
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("network", "size", "macs"),
    [
        # output pixels × output channels × kernel × input channels of a group
        (nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), 5 * 7 * 8 * 9 * 3),
        (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), (4, 7, 9), 4 * 5 * 8 * 9 * 1),
        (nn.Conv2d(6, 9, (1, 3), groups=3, dilation=2), (6, 5, 11), 5 * 7 * 9 * 3 * 2),
        # input pixels × input channels × kernel × output channels
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 5), 3 * 5 * 4 * 4 * 6),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 12 * 5),
        (nn.Linear(7, 5, bias=False), (3, 2, 7), 3 * 2 * 7 * 5),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), (3, 8, 8), 0),
    ],
)
def test_layers(network, size, macs):
    assert count_macs(network, size) == macs


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.mm, [(2, 3), (3, 5)], 2 * 3 * 5),
        (torch.bmm, [(4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.baddbmm, [(4, 2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.addbmm, [(2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.addmm, [(2, 5), (2, 3), (3, 5)], 2 * 3 * 5),
        (torch.mv, [(2, 3), (3,)], 2 * 3),
        (torch.addmv, [(2,), (2, 3), (3,)], 2 * 3),
        (torch.dot, [(7,), (7,)], 7),
        (torch.matmul, [(2, 1, 3, 5), (4, 5, 6)], 2 * 4 * 3 * 5 * 6),
        (lambda q, k: torch.einsum("bcn,bcm->bnm", q, k), [(2, 3, 5), (2, 3, 7)], 2 * 3 * 5 * 7),
    ],
)
def test_products(function, shapes, macs):
    assert count_macs(Of(function), tuple(_ones(*shape) for shape in shapes)) == macs


@pytest.mark.parametrize("width", [16, 8, 3])
def test_attention_counts_both_products_by_whichever_kernel(width):
    # 2 heads, 7 queries, 5 keys of width 16, values of another width
    q, k, v = _ones(1, 2, 7, 16), _ones(1, 2, 5, 16), _ones(1, 2, 5, width)
    assert count_macs(Of(F.scaled_dot_product_attention), (q, k, v)) == 2 * 7 * 5 * (16 + width)


def test_a_fused_transformer_layer_is_not_free():
    # 5 tokens of width 16, 2 heads, 32 hidden: projections 16→48 and 16→16, attention 2·5·5·16, 16→32→16
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    expected = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32
    assert count_macs(layer, (_ones(1, 5, 16),)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("shapes", [((1, 2, 7, 3), (1, 2, 5, 3), (1, 2, 5, 11)), ((4, 7, 3), (4, 5, 3), (4, 5, 9))])
@pytest.mark.parametrize("form", [attention, attention_definition, F.scaled_dot_product_attention])
def test_attention_costs_the_same_in_every_form(form, shapes):
    # heads · queries · keys · (width of keys + width of values), whatever the fast form fills up with zeros
    q, k, v = (_ones(*shape) for shape in shapes)
    expected = q[..., 0, 0].numel() * 7 * 5 * (3 + v.shape[-1])
    assert count_macs(Of(lambda q, k, v: form(q, k, v, scale=0.5)), (q, k, v)) == expected


@pytest.mark.parametrize(
    "kernel",
    [
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "flash_attention_for_cpu",
        "fused_attention_overrideable",
        "attention_math_for_mps",
    ],
)
def test_every_kernel_of_attention_has_a_rule(kernel):
    # 2 · 3 heads, 7 queries, 5 keys of width 16, values of width 16; in operations, two a multiply-add
    rule = {**flop_registry, **_RULES}[getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")]
    q, k, v = _ones(2, 3, 7, 16), _ones(2, 3, 5, 16), _ones(2, 3, 5, 16)
    arguments = (q, k, v) if hasattr(rule, "_get_raw") else (q.shape, k.shape, v.shape)
    assert rule(*arguments) == 2 * 6 * 7 * 5 * 32


def test_self_attention_is_the_sum_of_its_parts():
    # C = 16, c = 2, 5×7 pixels: query and key Cc each, value C², then 35 · (c + C) a pixel
    assert count_macs(saccade.create("self_attention", 16), (16, 5, 7)) == 35 * (2 * 32 + 256 + 35 * 18)


@pytest.mark.parametrize(("mode", "neighbours"), [("bilinear", 8), ("nearest", 0)])
def test_grid_sample_of_a_volume_counts_neighbours(mode, neighbours):
    sample = Of(lambda x, grid: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, (_ones(1, 3, 4, 5, 6), _ones(1, 2, 7, 8, 3))) == 3 * 2 * 7 * 8 * neighbours


@pytest.mark.parametrize(("mode", "neighbours"), [("bilinear", 4), ("nearest", 0), ("bicubic", 16)])
def test_grid_sample_counts_neighbours(mode, neighbours):
    sample = Of(lambda x, grid: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, (_ones(2, 3, 9, 8), _ones(2, 5, 7, 2))) == 2 * 3 * 5 * 7 * neighbours


@pytest.mark.parametrize("operator", [deform_conv2d, deform_conv2d_definition, torchvision.ops.deform_conv2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_costs_the_same_in_every_form(operator, groups):
    # 6→4 channels, kernel 3×5, stride (2, 1), padding (1, 2), a 7×6 map -> 4×6; 2 offset groups, mask.
    # Kernel: 24 pixels · 4 · (6/groups) · 15. Sampling: 24 pixels · 6 channels · 15 taps · 4 neighbours.
    x, weight, bias = _ones(2, 6, 7, 6), _ones(4, 6 // groups, 3, 5), _ones(4)
    offset, mask = _ones(2, 2 * 2 * 15, 4, 6) / 3, _ones(2, 2 * 15, 4, 6)
    network = Of(lambda x, offset: operator(x, offset, weight, bias, stride=(2, 1), padding=(1, 2), mask=mask))
    expected = 2 * (24 * 4 * (6 // groups) * 15 + 24 * 6 * 15 * 4)
    assert count_macs(network, (x, offset)) == expected


def test_das_is_the_sum_of_its_parts():
    # C = 15, c = 3, 5×7 pixels: depthwise 9C, pointwise Cc, offsets 27·9c, kernel 9cC, sampling 4·9c
    each = 9 * 15 + 15 * 3 + 27 * 9 * 3 + 9 * 3 * 15 + 4 * 9 * 3
    assert count_macs(saccade.create("das", 15), (15, 5, 7)) == 35 * each


def test_an_operator_that_states_its_cost_counts_as_stated():
    @with_macs(lambda x: 10)
    def inner(x):
        return x @ x

    @with_macs(lambda x, times: 100 * times)
    def outer(x, times):
        return inner(x) @ x

    x = _ones(4, 4)
    assert count_macs(Of(lambda x: inner(x) + x @ x), (x,)) == 10 + 64
    assert count_macs(Of(lambda x: outer(x, times=3)), (x,)) == 300
    assert torch.equal(outer(x, 1), x @ x @ x)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18_Weights"),
        ("resnet50", "ResNet50_Weights"),
        ("mobilenet_v2", "MobileNet_V2_Weights"),
        ("densenet121", "DenseNet121_Weights"),
        ("convnext_tiny", "ConvNeXt_Tiny_Weights"),
        ("swin_t", "Swin_T_Weights"),
    ],
)
def test_networks_cost_what_torchvision_states(name, weights):
    stated = getattr(torchvision.models, weights).DEFAULT.meta["_ops"]  # 10⁹ multiply-adds, to three digits
    assert count_macs(getattr(torchvision.models, name)(), (3, 224, 224)) / 1e9 == pytest.approx(stated, abs=0.002)


def test_das_in_resnet50():
    host = saccade.plug(timm.create_model("resnet50"), "das", start="paper")
    assert sum(p.numel() for p in host.parameters()) == 36_908_204
    # Convolutions and the classifier of ResNet-50, and DAS after each stage: channels, compressed channels, side.
    stages = [(256, 51, 56), (512, 102, 28), (1024, 204, 14), (2048, 409, 7)]
    das = sum(s * s * (9 * C + C * c + 27 * 9 * c + 9 * c * C + 4 * 9 * c) for C, c, s in stages)
    assert count_macs(host) == 4_089_184_256 + das == 5_825_160_127


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
    boxes = Of(lambda images: sum(image @ image for image in images))
    assert count_macs(boxes, [_ones(2, 2), _ones(2, 2)]) == 2 * 8
    two = Of(lambda x, y: x @ y)
    assert count_macs(two, (_ones(2, 3), _ones(3, 4))) == 24
    named = Of(lambda *, pixels, other: pixels @ other)
    assert count_macs(named, {"pixels": _ones(2, 3), "other": _ones(3, 4)}) == 24


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


def _same(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][key], b[1][key]) for key in a[1]) and torch.equal(a[2], b[2])


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
    assert _same(_state(network), before)
    assert not torch.is_inference_mode_enabled()
    assert all(p.requires_grad and p.grad is None and not p.is_inference() for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert not any(b.is_inference() for b in network.buffers())
    network(torch.rand(2, 3, 6, 5)).sum().backward()
    assert not _same(_state(network), before)  # what a plain forward does


# --------------------------------------------------------------------------------------------------------- memory

BYTES = 4  # of a float32


def _memory(network, input):
    cost = measure(network, input, runs=1)
    return cost.memory, cost.step_memory


def test_memory_of_a_chain_by_hand():
    # 224 + 36 parameters, a 3×16×10 picture. At most live: the first map and its rectified copy.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    own, picture, wide, narrow = 260, 3 * 160, 8 * 160, 4 * 160
    # Step: the rectified map is kept, and the result; its cotangent and the gradients of the last layer (36) come in,
    # then that of the rectified map, which stays while it becomes that of the first map.
    forward = own + picture + 2 * wide
    step = own + picture + wide + 2 * narrow + 36 + 2 * wide
    assert _memory(network, (3, 16, 10)) == (forward * BYTES, step * BYTES)
    network[1] = nn.ReLU(inplace=True)
    assert _memory(network, (3, 16, 10))[0] == (own + picture + wide + narrow) * BYTES


def test_memory_of_views_and_of_what_is_thrown_away():
    def sums(x):
        for _ in range(5):
            y = (x + 1).flatten(1)[:, ::2]  # one new tensor, two views of it
            del y
        return x.mean((1, 2, 3))

    assert _memory(Of(sums), _ones(2, 3, 5, 7)) == ((210 + 210) * BYTES, None)


def test_memory_counts_shared_weights_and_buffers_once():
    shared = nn.Linear(50, 50, bias=False)
    network = nn.Sequential(nn.Flatten(), shared, shared)
    network.register_buffer("table", torch.zeros(1000))
    network.register_buffer("part", network.table[:10])
    assert _memory(network, _ones(1, 2, 5, 5))[0] == (2500 + 1000 + 3 * 50) * BYTES


def test_memory_of_a_step_holds_the_gradients_of_what_trains():
    network = nn.Linear(300, 200, bias=False)
    # weights, input, output, cotangent, gradient
    assert _memory(network, (_ones(1, 300),)) == ((60_000 + 500) * BYTES, (120_000 + 700) * BYTES)
    assert network.weight.grad is None
    network.requires_grad_(False)
    assert _memory(network, (_ones(1, 300),))[1] is None


def test_memory_of_a_step_of_what_cannot_be_trained():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), Of(lambda x: x.argmax(1)))
    assert _memory(network, (3, 4, 4))[1] is None
    spoilt = nn.Sequential(nn.Conv2d(3, 2, 1), Of(lambda x: x.exp().mul_(x.exp().add_(0)) + x.sigmoid().zero_()))
    assert _memory(spoilt, (3, 4, 4))[1] is None


def test_a_step_that_does_not_fit_into_memory_is_not_one_that_cannot_be_trained():
    class Hungry(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient.new_empty(2**58)

    network = nn.Sequential(nn.Conv2d(3, 2, 1), Of(Hungry.apply))
    with pytest.raises(UserError, match="a training step of Sequential on 1×3×5×4 does not fit into memory"):
        measure(network, (3, 5, 4), runs=1)


def test_memory_sees_tensors_inside_structures():
    found = Of(lambda x: {"maps": [x + 1, (x + 2,)], "count": 3})
    assert _memory(found, _ones(1, 1, 5, 7))[0] == 3 * 35 * BYTES


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
def test_memory_of_a_sparse_tensor_is_its_indices_and_values(layout):
    # Of 6×4 elements two are not zero, in two blocks of 3×2; a place takes 8 bytes.
    places, block = {"coo": (2 * 2, ()), "csr": (7 + 2, ()), "csc": (5 + 2, ()), "bsr": (3 + 2, (3, 2)),
                     "bsc": (3 + 2, (3, 2))}[layout]  # fmt: skip
    heads = {"csr": [0, 1, 1, 1, 1, 2, 2], "csc": [0, 0, 1, 1, 2], "bsr": [0, 1, 2], "bsc": [0, 1, 2]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta")
        if layout == "coo":
            where = torch.tensor([[0, 4], [3, 1]])
            held = [torch.sparse_coo_tensor(where, torch.ones(2), (6, 4), check_invariants=True)]
            del where
        else:
            kind, values = getattr(torch, f"sparse_{layout}"), torch.ones(2, *block)
            rest = torch.tensor([1, 0] if layout != "csc" else [4, 0])
            held = [
                torch.sparse_compressed_tensor(
                    torch.tensor(heads[layout]), rest, values, (6, 4), layout=kind, check_invariants=True
                )
            ]
            del rest, values
        live = _LiveStorages([*held, held[0].detach()])  # an alias is no more
    assert live.peak == places * 8 + 2 * math.prod(block) * BYTES
    held.clear()  # the twin: the bytes go when the tensor does
    gc.collect()
    assert live.bytes == 0


def test_memory_of_a_sparse_weight_is_in_that_of_the_forward():
    places = torch.tensor([[0, 4, 5], [3, 1, 2]])
    network = Of(lambda x: x.flatten(1))
    network.register_buffer("dense", torch.zeros(5))
    bare = _memory(network, _ones(1, 1, 5, 7))[0]
    network.register_buffer("table", torch.sparse_coo_tensor(places, torch.ones(3), (600, 400), check_invariants=True))
    assert _memory(network, _ones(1, 1, 5, 7))[0] == bare + 6 * 8 + 3 * BYTES


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no MKL-DNN")
def test_memory_of_an_opaque_tensor_is_that_of_its_elements():
    held = [torch.ones(5, 7).to_mkldnn()]
    live = _LiveStorages(held)
    assert live.peak == 35 * BYTES
    held.clear()
    assert live.bytes == 0


def test_memory_is_what_the_profiler_sees():
    network = timm.create_model("resnet18").eval()
    x = torch.rand(2, 3, 64, 48)
    live = [0]
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        network(x)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live.append(live[-1] + event.nbytes())
    own = sum(t.nbytes for t in (*network.parameters(), *network.buffers(), x))
    memory = measure(network, x, runs=1).memory
    # The profiler also sees what kernels take and give back: copies of weights in another layout, 9.4 MB at most.
    assert memory <= own + max(live) <= memory + 512 * 512 * 9 * BYTES + 1e6
    assert memory - own == 2 * (2 * 64 * 32 * 24) * BYTES  # the first map before and after its norm


# ----------------------------------------------------------------------------------------------------------- thop


def _thop(network, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses distutils, and functions of its own that it calls deprecated
        import thop

        macs, parameters = thop.profile(network, (x,), verbose=False)
    return parameters, macs


def _ours(network, x):
    cost = measure(network, x, runs=1, counter="thop")
    assert cost.counter == "thop"
    return cost.parameters, cost.macs


@pytest.fixture(scope="module")
def resnet50():
    return timm.create_model("resnet50")


@pytest.mark.parametrize("mechanism", ["none", *saccade.list_mechanisms("plug")])
def test_the_counter_thop_is_thop_on_resnet50(mechanism, resnet50):
    host, x = copy.deepcopy(resnet50), torch.rand(1, 3, 64, 64)
    if mechanism != "none":
        saccade.plug(host, mechanism, start="paper", input=(3, 64, 64))
    found = thop_counts(ForwardCall.build(host, x, 1))
    assert found == _thop(host, x)
    if mechanism in ("das", "self_attention"):
        assert found[1] != count_macs(host, x)


def test_the_printed_figures_of_das(resnet50):
    # The paper prints 26.90 M and 4.39 G, without the deformable kernels.
    host = saccade.plug(copy.deepcopy(resnet50), "das", start="paper")
    parameters, macs = thop_counts(ForwardCall.build(host, (3, 224, 224), 1))
    assert parameters == 26_897_326
    assert f"{macs / 1e9:.2f}" == "4.39"


class Odd(nn.Module):
    """What thop counts by rules of its own: shared, uncalled and derived layers, layers called by keyword."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, (3, 1), groups=1)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.layers = nn.ModuleList([nn.PReLU(8), nn.LeakyReLU(), nn.ReLU6(), nn.GELU()])
        self.up = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(3, 2), nn.ZeroPad2d(1))
        self.back = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.shared = nn.Conv2d(6, 6, 1)
        self.again = nn.Sequential(self.shared, nn.InstanceNorm2d(6, affine=True))
        self.unused = nn.Linear(100, 100)
        self.loose = nn.Parameter(torch.zeros(6, 1, 1))
        self.derived = type("Derived", (nn.Conv2d,), {})(6, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.head = nn.Sequential(nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 5), nn.Softmax(1), nn.Dropout())

    def forward(self, x):
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = layer(x)
        x = self.shared(self.again(self.back(self.up(x)))) * self.loose
        return self.head(self.pool(self.derived(input=x)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Odd(), (1, 3, 11, 9)),
        (nn.Conv2d(3, 4, 3), (1, 3, 7, 5)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(4), nn.Upsample(7)), (1, 3, 11)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample((5, 7), mode="bicubic")), (1, 3, 9, 6)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.AvgPool3d(2)), (1, 2, 7, 5, 6)),
    ],
)
def test_the_counter_thop_has_its_rules(network, shape):
    x = torch.rand(shape)
    assert _ours(network, x) == _thop(network.eval(), x)


def test_the_counter_thop_does_not_guess():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 4)

        def forward(self, x):
            return self.cell(x)[0]

    with pytest.raises(UserError, match="rules for LSTM that saccade does not have"):
        measure(Last(), (_ones(3, 1, 4),), counter="thop")
    with pytest.raises(UserError, match=r"no counter is called 'top'; there are true and thop\. Did you mean 'thop'"):
        measure(Last(), (_ones(3, 1, 4),), counter="top")


def test_latency_is_a_spread_in_milliseconds():
    def doze(x):
        time.sleep(0.004)
        return x

    cost = measure(Of(doze), (1, 2, 2), seconds=0.05)
    spread = cost.latency_ms
    assert 4 <= spread.low <= spread.median <= spread.high
    assert spread.runs >= 10
    assert (cost.batch, cost.threads, cost.device) == (1, torch.get_num_threads(), "cpu")
    assert measure(Of(doze), (1, 2, 2), batch=3, runs=2).latency_ms.runs == 2


def test_one_run_is_its_own_spread():
    spread = measure(Of(lambda x: x), (1, 2, 2), runs=1).latency_ms
    assert spread.low == spread.median == spread.high


def test_networks_that_are_compared_take_turns():
    order = []

    def named(name):
        return Of(lambda x: order.append(name))

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
