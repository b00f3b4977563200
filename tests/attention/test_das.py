"""The designs of DAS and its norms, each against PyTorch's own functions in the order the docstring gives them."""

from math import erf, exp, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torchvision.ops import deform_conv2d

from by_hand import equals, gates, image, with_values
from saccade import UserError, catalog, create
from saccade.bases import Gate
from saccade.contract import PROMISES, examine

C, ALPHA = 10, 0.3  # c = 3


def _drawn(**options):
    torch.manual_seed(3)
    das = create("das", C, alpha=ALPHA, **options).double().eval()
    with torch.no_grad():
        for p in das.parameters():
            p.normal_(0, 0.5)
        for name, buffer in das.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2)
    return das, torch.randn(2, C, 5, 7, dtype=torch.float64)


def _compressed(das, x, norm):
    z = F.conv2d(F.conv2d(x, das.depthwise.weight, padding=1, groups=C), das.pointwise.weight)
    match norm:
        case "instance":
            z = F.instance_norm(z)
        case "layer":
            z = F.layer_norm(z.movedim(1, 3), z.shape[1:2]).movedim(3, 1)
        case "batch":
            z = F.batch_norm(z, das.batch_norm.running_mean, das.batch_norm.running_var)
    return F.gelu(z + das.shift[:, None, None])


def _normed(das, d, norm):
    if norm == "none":
        return d
    weight, bias = das.norm.weight, das.norm.bias
    match norm:
        case "layer":
            return F.layer_norm(d.movedim(1, 3), (C,), weight, bias).movedim(3, 1)
        case "batch":
            return F.batch_norm(d, das.norm.running_mean, das.norm.running_var, weight, bias)
        case "instance":
            return F.instance_norm(d, weight=weight, bias=bias)
    raise AssertionError(norm)


def _elsewhere(x, offset):
    """x at p + Δ by PyTorch's grid_sample, in the grid's own units."""
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    place = torch.stack([(2 * (columns + offset[:, 1]) + 1) / w - 1, (2 * (rows + offset[:, 0]) + 1) / h - 1], -1)
    return F.grid_sample(x, place, align_corners=False)


def _looked(das, z, design):
    match design:
        case "b":
            return F.conv2d(torch.cat([z, _elsewhere(z, das.offset(z))], 1), das.fuse.weight, das.fuse.bias)
        case "c" | "d" | "g" | "h":
            offset, mask = das.offset(z).split([18, 9], 1)
            return deform_conv2d(z, offset, das.deform.weight, das.deform.bias, padding=1, mask=torch.sigmoid(mask))
        case "e":
            return z
        case "f":
            d = F.conv2d(z, das.spread.weight, padding=1, groups=3)
            return F.conv2d(d, das.widen.weight, das.widen.bias)
    raise AssertionError(design)


@pytest.mark.parametrize("design", ["b", "c", "d", "e", "f"])
def test_each_design_is_what_the_table_says(design):
    das, x = _drawn(design=design)
    z = x if design == "d" else _compressed(das, x, "instance")
    a = _normed(das, _looked(das, z, design), "layer").sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_design_g_is_the_deformable_convolution_alone():
    das, x = _drawn(design="g")
    assert not isinstance(das, Gate)
    equals(das(x), _looked(das, x, "g").tolist(), within=1e-10)


def test_design_h_is_the_argument_of_the_gate_of_c():
    das, x = _drawn(design="h")
    assert not isinstance(das, Gate)
    d = _looked(das, _compressed(das, x, "instance"), "h")
    equals(das(x), _normed(das, d, "layer").tolist(), within=1e-10)
    gated = create("das", C, alpha=ALPHA).double()
    gated.load_state_dict(das.state_dict())
    equals(gated(x), (x * das(x).sigmoid()).tolist(), within=1e-10)


def test_design_a_fuses_the_map_with_itself_sampled_elsewhere():
    das, x = _drawn(design="a")
    assert not isinstance(das, Gate)
    both = torch.cat([x, _elsewhere(x, das.offset(x))], 1)
    equals(das(x), F.conv2d(both, das.fuse.weight, das.fuse.bias).tolist(), within=1e-10)


def test_design_a_number_by_number():
    # Offsets (0, 1/2) everywhere: half way to the pixel on the right, half of the last beyond the edge. With the kernel
    # (1 | 2) and bias 3, y = x + 2·(mean of x and its right neighbour) + 3.
    das = with_values(create("das", 1, design="a"), offset__bias=[0, 0.5], fuse__weight=[1, 2], fuse__bias=[3])
    equals(das(image([[2, 4, 8]])), [[[[2 + 6 + 3, 4 + 12 + 3, 8 + 8 + 3]]]])


def test_design_e_number_by_number():
    # The depthwise kernels are their middle tap, the pointwise layer the identity; values 1003 and 997 are +1 and −1
    # after the instance norm, and GELU(±1) = (0.8413, −0.1587). Without a second norm A = σ of that.
    middle = [0, 0, 0, 0, 1, 0, 0, 0, 0]
    das = with_values(
        create("das", 2, design="e", gate_norm="none"), depthwise__weight=middle * 2, pointwise__weight=[1, 0, 0, 1]
    )
    x = image([[1003, 997]], [[997, 1003]])
    high, low = 1 / (1 + exp(-0.8413447)), 1 / (1 + exp(0.1586553))
    equals(gates(das(x), x), [[high, low], [low, high]], within=1e-6)


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "none"])
@pytest.mark.parametrize("gate_norm", ["layer", "batch", "instance", "none"])
def test_each_norm_is_pytorchs(norm, gate_norm):
    das, x = _drawn(norm=norm, gate_norm=gate_norm)
    a = _normed(das, _looked(das, _compressed(das, x, norm), "c"), gate_norm).sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_batch_norms_follow_the_batch_in_training():
    das, x = _drawn(norm="batch", gate_norm="batch")
    still = das(x)
    das.train()
    assert (das(x) - still).abs().max() > 1e-3
    assert (das.batch_norm.running_mean - das.batch_norm.running_mean[0]).abs().max() > 1e-3
    torch.manual_seed(0)
    one = das(torch.rand(1, C, 1, 1, dtype=torch.float64))
    assert one.isfinite().all()


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # C = 10, c = 3: front 90 + 30 + 3 = 123, 27 offset channels 27·28 = 756, deformable kernel 270 + 10, norm 20
        ({}, 123 + 756 + 280 + 20),
        ({"design": "a"}, 2 * 91 + 200 + 10),
        ({"design": "b"}, 123 + 2 * 28 + 60 + 10 + 20),
        ({"design": "d"}, 27 * 91 + 900 + 10 + 20),
        ({"design": "e"}, 90 + 100 + 10 + 20),
        ({"design": "f"}, 123 + 27 + 30 + 10 + 20),
        ({"design": "g"}, 27 * 91 + 900 + 10),
        ({"design": "h"}, 123 + 756 + 280 + 20),
        ({"gate_norm": "batch"}, 123 + 756 + 270 + 20),
        ({"gate_norm": "none"}, 123 + 756 + 280),
        ({"norm": "batch"}, 123 + 756 + 280 + 20),
    ],
)
def test_sizes_by_hand(options, parameters):
    das, _ = _drawn(**options)
    assert sum(p.numel() for p in das.parameters()) == parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "i"}, "design must be one of a, b, c, d, e, f, g, h, got 'i'"),
        ({"norm": "group"}, "must be among instance, batch, layer, none, got 'group'"),
        ({"design": "f", "alpha": 0.05}, r"das: channels \* alpha must be at least 1, got 10 \* 0\.05"),
        ({"norm": "layer", "alpha": 0.1}, "das: norm='layer' needs at least 2 compressed channels, got 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        create("das", 10, **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"design": design} for design in "bdef"),
        *({"norm": norm} for norm in ("batch", "layer", "none")),
        *({"gate_norm": norm} for norm in ("batch", "instance", "none")),
    ],
    ids=str,
)
def test_every_form_keeps_every_promise(options):
    slow = set() if "design" in options and options["design"] in "bf" else {"compiles_whole", "exports_for_any_size"}
    tried = [promise for promise in PROMISES if promise.__name__ not in slow]
    records = list(examine(catalog.load("das"), catalog.spec("das"), options=options, promises=tried))
    assert len(records) == len(tried)
    assert [r for r in records if r.status != "passed"] == []


@pytest.mark.parametrize("design", "agh")
def test_a_design_without_a_gate_keeps_every_promise_and_states_no_gate(design):
    slow = {"compiles_whole", "exports_for_any_size"} if design in "gh" else set()
    tried = [promise for promise in PROMISES if promise.__name__ not in slow]
    records = examine(catalog.load("das"), catalog.spec("das"), options={"design": design}, promises=tried)
    unlike = {r.promise: r.reason for r in records if r.status != "passed"}
    assert unlike == {"keeps_its_gate_in_range": "SPEC states no gate"}


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_the_norm_takes_maps_whose_variance_float16_cannot_hold(norm):
    torch.manual_seed(0)
    das, x = create("das", 20, alpha=0.5, norm=norm).eval(), (3000 * torch.randn(1, 20, 6, 7)).half()
    with torch.no_grad():
        found, known = das.half()(x).double() / x.double(), das.double()(x.double()) / x.double()
    assert (found - known).abs().max() < 5e-3 < (known - 0.5).abs().max()


def _randomised(module):
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
    return module.double().eval()


def _compressed_by_hand(das, x):
    """z of equation 1, step by step."""
    z = F.conv2d(F.conv2d(x, das.depthwise.weight, padding=1, groups=x.shape[1]), das.pointwise.weight)
    return F.gelu(F.instance_norm(z) + das.shift[:, None, None])


def test_das_starts_on_the_regular_grid_at_half_strength():
    # The offset convolution starts at zero: no offsets, every modulation σ(0) = 1/2. So d is half a plain convolution
    # plus its bias, A = σ(LN(d)).
    torch.manual_seed(0)
    das = create("das", 10).double().eval()
    x = torch.randn(2, 10, 5, 7, dtype=torch.float64)
    d = F.conv2d(_compressed_by_hand(das, x), das.deform.weight, padding=1) / 2 + das.deform.bias[:, None, None]
    a = F.layer_norm(d.movedim(1, 3), (10,)).movedim(3, 1).sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_das_without_a_kernel_halves():
    # d = 0, LN(0) = 0, A = 1/2
    das = with_values(create("das", 5), norm__weight=[1] * 5)
    equals(das(image([[2, 4]], [[6, 8]], [[1, 3]], [[5, 7]], [[-2, 0]])),
        [[[[1, 2]], [[3, 4]], [[0.5, 1.5]], [[2.5, 3.5]], [[-1, 0]]]])  # fmt: skip


def test_das_number_by_number():
    # C = 5, c = ⌊0.2·5⌋ = 1. The depthwise kernels are their middle tap, the pointwise layer takes channel 0, whose two
    # values 1003 and 997 the instance norm makes +1 and −1 (variance 9 against ε = 1e-5: off by 6e-7).
    # z = GELU(±1) = (Φ(1), −Φ(−1)) = (0.8413, −0.1587). The deformable kernel is its middle tap with weights
    # (2, −2, 0, 0, 0): times the modulation 1/2, d = (z, −z, 0, 0, 0). Over the channels: mean 0, variance 2z²/5, so
    # LN(d) = (±√2.5, ∓√2.5, 0, 0, 0), + where z > 0. A = σ of that.
    middle = [0, 0, 0, 0, 1, 0, 0, 0, 0]
    das = with_values(create("das", 5), depthwise__weight=middle * 5, pointwise__weight=[1, 0, 0, 0, 0],
                deform__weight=[[w * tap for tap in middle] for w in (2, -2, 0, 0, 0)],
                norm__weight=[1] * 5)  # fmt: skip
    x = image([[1003, 997]], [[1, 1]], [[1, 1]], [[1, 1]], [[1, 1]])
    phi = (1 + erf(1 / sqrt(2))) / 2
    assert phi == pytest.approx(0.8413447)

    def gate(z):
        return 1 / (1 + exp(-z / sqrt(2 * z * z / 5 + 1e-5)))

    high, low = gate(phi), gate(phi - 1)
    assert high == pytest.approx(1 / (1 + exp(-sqrt(2.5))), abs=1e-5)
    assert low == pytest.approx(1 - high, abs=2e-4)  # ε of the layer norm against a small z
    equals(gates(das(x), x), [[high, low], [1 - high, 1 - low], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], within=1e-6)


def test_das_offsets_are_pixels_down_then_right():
    # Offset biases of (dy, dx) = (0, 1) for each tap, modulation σ(40) = 1: every tap looks one pixel to the right,
    # zeros outside. That is a plain convolution of z padded by (0, 2) in place of (1, 1) in that direction.
    torch.manual_seed(1)
    das = _randomised(create("das", 10))
    x = torch.randn(1, 10, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        das.offset.weight.zero_()
        das.offset.bias.copy_(tensor([0.0, 1.0] * 9 + [40.0] * 9))
    z = F.pad(_compressed_by_hand(das, x), (0, 2, 1, 1))
    d = F.conv2d(z, das.deform.weight, das.deform.bias)
    a = F.layer_norm(d.movedim(1, 3), (10,), das.norm.weight, das.norm.bias).movedim(3, 1).sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_das_on_one_pixel_knows_only_its_shift():
    # A 1×1 map is its own mean: the instance norm gives 0, z = GELU(b) for any x, and the gate does not depend on x.
    torch.manual_seed(2)
    das = _randomised(create("das", 10))
    x = torch.rand(1, 10, 1, 1, dtype=torch.float64) + 1
    equals(gates(das(x), x), gates(das(3 * x), 3 * x).tolist())
    with torch.no_grad():
        before = gates(das(x), x)
        das.shift.add_(1)
    assert (gates(das(x), x) - before).abs().max() > 1e-3
