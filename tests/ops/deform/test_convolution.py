"""Deformable convolution: the definition by hand and against torchvision, the fast form against the definition."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d as torchvision_form

from oracles import EACH_SET, HERE, disagreement, names, read
from saccade.ops.deform import convolution, deform_conv2d, deform_conv2d_definition
from saccade.ops.deform.geometry import Geometry
from saccade.ops.deform.inner_axis import InnerAxis
from saccade.ops.deform.sample_bags import SampleBags, regular_grid

FORMS = pytest.mark.parametrize("form", [deform_conv2d, deform_conv2d_definition], ids=["fast", "definition"])

# batch, channels, size, outputs, kernel, stride, padding, dilation, groups, offset groups, spread of the offsets
CONFIGS = {
    "plain": (2, 5, (7, 9), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
    "wide": (1, 131, (5, 4), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
    "no padding": (2, 3, (6, 8), 4, (3, 3), (1, 1), (0, 0), (1, 1), 1, 1, 1.5),
    "stride": (2, 4, (9, 8), 5, (3, 3), (2, 3), (1, 1), (1, 1), 1, 1, 1.5),
    "dilation": (2, 4, (9, 8), 5, (3, 3), (1, 1), (2, 3), (2, 3), 1, 1, 1.5),
    "groups": (2, 6, (5, 7), 9, (3, 3), (1, 1), (1, 1), (1, 1), 3, 1, 1.5),
    "depthwise": (2, 4, (5, 7), 8, (3, 3), (1, 1), (1, 1), (1, 1), 4, 1, 1.5),
    "offset groups": (2, 6, (5, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 3, 1.5),
    "both groups": (2, 12, (5, 7), 6, (3, 3), (1, 1), (1, 1), (1, 1), 3, 2, 1.5),
    "1x1": (3, 4, (5, 7), 3, (1, 1), (1, 1), (0, 0), (1, 1), 1, 2, 1.5),
    "2x5": (2, 4, (6, 11), 6, (2, 5), (1, 2), (0, 3), (2, 1), 2, 2, 1.5),
    "far out": (2, 4, (5, 7), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 30.0),
    "more outputs": (1, 15, (3, 2), 24, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
    "more outputs, even": (1, 16, (3, 2), 24, (3, 3), (1, 1), (1, 1), (1, 1), 1, 2, 1.5),
    "wide groups": (1, 30, (3, 2), 24, (3, 3), (1, 1), (1, 1), (1, 1), 2, 3, 1.5),
    "1x1 map": (2, 6, (1, 1), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 2, 0.7),
    "one row": (2, 3, (1, 6), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 0.7),
}


def operands(config, dtype=torch.float64, mask=True, bias=True, whole=False, draws=0):
    """Random operands, on a grid that float32 holds exactly, and a cotangent."""
    batch, channels, size, outputs, kernel, stride, padding, dilation, groups, offset_groups, spread = config
    random = torch.Generator().manual_seed(hash((batch, channels, size)) % 1000 + draws)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    taps = math.prod(kernel)

    def draw(*shape, scale=1.0):
        value = torch.randn(shape, generator=random, dtype=torch.float64) * scale
        return (value * 2**14).round().div(2**14).to(dtype)

    offset = draw(batch, 2 * offset_groups * taps, *out, scale=spread)
    tensors = {
        "input": draw(batch, channels, *size),
        "offset": offset.round() if whole else offset,
        "weight": draw(outputs, channels // groups, *kernel),
        "bias": draw(outputs) if bias else None,
        "mask": draw(batch, offset_groups * taps, *out) if mask else None,
    }
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return tensors, options, draw(batch, outputs, *out)


def run(form, tensors, options, cotangent):
    """Result and all gradients, by name."""
    leaves = {name: t if t is None else t.detach().clone().requires_grad_() for name, t in tensors.items()}
    y = form(**leaves, **options)
    y.backward(cotangent.to(y.dtype))
    return {"y": y.detach()} | {f"d {name}": t.grad for name, t in leaves.items() if t is not None}


def assert_same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---------------------------------------------------------------------------------------------------- by hand

MAP = torch.arange(1.0, 10.0).view(1, 1, 3, 3).double()  # 1 2 3 / 4 5 6 / 7 8 9


def one_tap(form, dy, dx, mask=None):
    """A 1×1 kernel of weight 1: the map sampled at every pixel plus (dy, dx), and the gradients of dy, dx, mask."""
    offset = torch.tensor([dy, dx]).double().view(1, 2, 1, 1).repeat(1, 1, 3, 3).requires_grad_()
    mask = torch.full((1, 1, 3, 3), 1.0 if mask is None else mask).double().requires_grad_()
    x = MAP.clone().requires_grad_()
    y = form(x, offset, torch.ones(1, 1, 1, 1).double(), mask=mask)
    y.sum().backward()
    return (
        y[0, 0].tolist(),
        offset.grad[0, 0].tolist(),
        offset.grad[0, 1].tolist(),
        mask.grad[0, 0].tolist(),
        x.grad[0, 0],
    )


@FORMS
def test_half_a_pixel_down_by_hand(form):
    y, d_y, d_x, d_mask, d_input = one_tap(form, 0.5, 0.0)
    assert y == [[2.5, 3.5, 4.5], [5.5, 6.5, 7.5], [3.5, 4.0, 4.5]]  # the last row is half outside
    assert d_y == [[3, 3, 3], [3, 3, 3], [-7, -8, -9]]  # lower minus upper pixel
    # To the right, as the offset is whole: half the difference of two rows each, outside counts as 0.
    assert d_x == [[1, 1, -4.5], [1, 1, -7.5], [0.5, 0.5, -4.5]]
    assert d_mask == y
    assert d_input.tolist() == [[0.5] * 3, [1] * 3, [1] * 3]


@FORMS
def test_up_and_left_by_hand(form):
    # The upper left pixel sees one quarter of itself, the centre the mean of 1, 2, 4, 5.
    y, d_y, d_x, _, d_input = one_tap(form, -0.5, -0.5)
    assert y == [[0.25, 0.75, 1.25], [1.25, 3, 4], [2.75, 6, 7]]
    assert d_y[0] == [0.5, 1.5, 2.5]
    assert d_y[1] == [1.5, 3, 3]
    assert [row[0] for row in d_x] == [0.5, 2.5, 5.5]
    assert d_input.tolist() == [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 0.25]]


@FORMS
def test_a_quarter_and_three_quarters_by_hand(form):
    # At the upper left pixel: 1·(3/4)(1/4) + 2·(3/4)(3/4) + 4·(1/4)(1/4) + 5·(1/4)(3/4) = 2.5, halved by the mask.
    y, d_y, d_x, d_mask, _ = one_tap(form, 0.25, 0.75, mask=0.5)
    assert (y[0][0], d_y[0][0], d_x[0][0], d_mask[0][0]) == (1.25, 1.5, 0.5, 2.5)


@FORMS
def test_whole_offsets_by_hand(form):
    y, d_y, d_x, _, _ = one_tap(form, 1.0, -1.0)
    assert y == [[0, 4, 5], [0, 7, 8], [0, 0, 0]]
    assert d_y == [[0, 3, 3], [0, -7, -8], [0, 0, 0]]
    assert d_x == [[4, 1, 1], [7, 1, 1], [0, 0, 0]]  # at −1 the derivative to the right enters the map


@FORMS
@pytest.mark.parametrize("far", [3.0, -3.0, 1e9, -1e30, math.inf, -math.inf])
def test_far_outside_is_zero_and_flat(form, far):
    y, d_y, d_x, d_mask, d_input = one_tap(form, far, far)
    assert y == d_y == d_x == d_mask == d_input.tolist() == [[0.0] * 3] * 3


@FORMS
def test_order_of_taps_and_channels(form):
    # Tap t of nine looks (t, t + 1) pixels on from its own place; weight 10**t tells the taps apart.
    x = torch.zeros(1, 1, 21, 21).double()
    centre, expected = 10, 0
    offset = torch.zeros(1, 18, 21, 21).double()
    for t in range(9):
        offset[0, 2 * t], offset[0, 2 * t + 1] = t, t + 1
        y, xx = centre + t // 3 - 1 + t, centre + t % 3 - 1 + t + 1
        x[0, 0, y, xx] = t + 1
        expected += (t + 1) * 10**t
    weight = (10.0 ** torch.arange(9)).double().view(1, 1, 3, 3)
    assert form(x, offset, weight, padding=1)[0, 0, centre, centre].item() == expected
    swapped = offset.view(1, 9, 2, 21, 21).flip(2).reshape(offset.shape)
    assert form(x, swapped, weight, padding=1)[0, 0, centre, centre].item() != expected


@FORMS
@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items()])
def test_without_offsets_it_is_a_convolution(form, name):
    tensors, options, _ = operands(CONFIGS[name], mask=False)
    groups = tensors["input"].shape[1] // tensors["weight"].shape[1]
    tensors["offset"].zero_()
    y = F.conv2d(tensors["input"], tensors["weight"], tensors["bias"], **options, groups=groups)
    torch.testing.assert_close(form(**tensors, **options), y, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------- referee's referee, fast against referee


@pytest.mark.parametrize("whole", [False, True], ids=["", "whole"])
@pytest.mark.parametrize("name", CONFIGS)
def test_definition_equals_torchvision(name, whole):
    tensors, options, cotangent = operands(CONFIGS[name], whole=whole)
    expected = run(torchvision_form, tensors, options, cotangent)
    assert_same(run(deform_conv2d_definition, tensors, options, cotangent), expected)


@pytest.mark.parametrize(
    ("mask", "bias", "whole"),
    [(True, True, False), (True, True, True), (False, True, False), (True, False, False), (False, False, False)],
    ids=["full", "whole", "no mask", "no bias", "neither"],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_fast_form_equals_definition(name, mask, bias, whole):
    tensors, options, cotangent = operands(CONFIGS[name], mask=mask, bias=bias, whole=whole)
    expected = run(deform_conv2d_definition, tensors, options, cotangent)
    assert_same(run(deform_conv2d, tensors, options, cotangent), expected)


@pytest.mark.parametrize("name", ["plain", "both groups", "2x5"])
def test_mutants_differ(name):
    tensors, options, cotangent = operands(CONFIGS[name])
    expected = run(deform_conv2d_definition, tensors, options, cotangent)
    offset, mask = tensors["offset"], tensors["mask"]
    pairs = offset.unflatten(1, (-1, 2))
    mutants = {
        "dx before dy": {"offset": pairs.flip(2).flatten(1, 2)},
        "all dy, then all dx": {"offset": pairs.transpose(1, 2).flatten(1, 2)},
        "taps reversed": {"offset": pairs.flip(1).flatten(1, 2)},
        "a sigmoid inside": {"mask": mask.sigmoid()},
        "nearest pixel": {"offset": offset.round()},
    }
    for name, change in mutants.items():
        y = deform_conv2d(**(tensors | change), **options)
        assert (y - expected["y"]).abs().max() > 0.1, name


@FORMS
@pytest.mark.parametrize("name", ["plain", "2x5", "1x1 map"])
def test_gradients_are_true(form, name):
    tensors, options, _ = operands(CONFIGS[name])
    # Bilinear sampling has a kink at whole numbers: keep away from them.
    whole, fraction = tensors["offset"].floor(), tensors["offset"] % 1
    tensors["offset"] = whole + 0.1 + 0.8 * fraction
    leaves = [t.requires_grad_() for t in tensors.values()]
    names = list(tensors)
    assert torch.autograd.gradcheck(
        lambda *values: form(**dict(zip(names, values, strict=True)), **options), leaves, fast_mode=True
    )


@FORMS
@pytest.mark.parametrize("mask", [True, False])
def test_second_derivatives_are_true(form, mask):
    config = (1, 2, (3, 3), 2, (1, 1), (1, 1), (0, 0), (1, 1), 1, 1, 0.3)
    tensors, options, _ = operands(config, mask=mask, bias=mask)
    tensors = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    names, leaves = list(tensors), list(tensors.values())
    assert torch.autograd.gradgradcheck(
        lambda *values: form(**dict(zip(names, values, strict=True)), **options), leaves, fast_mode=True
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_with_a_graph_behind_them_are_those_without(dtype, autocast):
    tensors, options, cotangent = operands(CONFIGS["groups"], dtype)
    leaves = [t.requires_grad_() for t in tensors.values()]
    y = deform_conv2d(**tensors, **options)
    known = torch.autograd.grad(y, leaves, cotangent, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # which begins after the forward
        found = torch.autograd.grad(y, leaves, cotangent, create_graph=True)
    for one, other in zip(found, known, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() < 4 * torch.finfo(dtype).eps * other.norm()


def test_a_gradient_penalty_whose_cotangent_takes_no_gradient():
    found = {}
    for form in (deform_conv2d, deform_conv2d_definition):
        tensors, options, _ = operands(CONFIGS["both groups"])
        leaves = [t.requires_grad_() for t in tensors.values()]
        slopes = torch.autograd.grad(form(**tensors, **options).sum(), leaves, create_graph=True)
        found[form] = torch.autograd.grad(sum(s.square().sum() for s in slopes), leaves, allow_unused=True)
    bias = list(tensors).index("bias")
    for i, (one, other) in enumerate(zip(*found.values(), strict=True)):
        if i != bias:  # linear in it
            assert other.norm() > 1
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    "config",
    [
        (2, 51, (28, 27), 64, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
        (2, 130, (9, 6), 96, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
        (1, 130, (7, 6), 96, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 1.5),
        (2, 24, (9, 11), 18, (3, 3), (1, 1), (1, 1), (1, 1), 3, 2, 1.5),
    ],
    ids=["large", "small", "more outputs", "groups"],
)
def test_float32_errs_at_most_twice_as_much_as_the_definition(config):
    # Over several draws: the largest error of one alone is a matter of the processor's order of summation.
    errors = {}
    for draws in range(6):
        tensors, options, cotangent = operands(config, draws=draws)
        exact = run(deform_conv2d_definition, tensors, options, cotangent)
        tensors = {name: t.float() for name, t in tensors.items()}
        for form in (deform_conv2d, deform_conv2d_definition):
            for name, found in run(form, tensors, options, cotangent).items():
                errors.setdefault(name, {}).setdefault(form, []).append(found.double() - exact[name])
    for name, found in errors.items():
        ours, plain = (torch.stack(found[form]) for form in (deform_conv2d, deform_conv2d_definition))
        for size in (torch.linalg.vector_norm, lambda e: e.abs().max()):
            assert size(ours) <= 2 * size(plain) + 1e-12, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "both groups", "wide"])
@FORMS
def test_half_precision_stays_close(form, name, dtype):
    tensors, options, cotangent = operands(CONFIGS[name], dtype)
    exact = run(deform_conv2d_definition, {n: t.double() for n, t in tensors.items()}, options, cotangent.double())
    found = run(form, tensors, options, cotangent)
    for name, truth in exact.items():
        assert found[name].dtype == dtype
        error = (found[name].double() - truth).norm() / truth.norm()
        assert 0 < error < 3 * torch.finfo(dtype).eps, f"{name}: {error}"


def test_positions_keep_their_digits_in_bfloat16():
    # 200 + 1/2 has no bfloat16: a position rounded to it would hit the pixel 200 or 201.
    x = torch.arange(256.0, dtype=torch.bfloat16).view(1, 1, 1, 256) % 2
    offset = torch.zeros(1, 2, 1, 256, dtype=torch.bfloat16)
    offset[:, 1] = 0.5
    for form in (deform_conv2d, deform_conv2d_definition):
        y = form(x, offset, torch.ones(1, 1, 1, 1, dtype=torch.bfloat16))
        assert y[..., :-1].unique().tolist() == [0.5]


@FORMS
def test_many_slices_of_bfloat16_keep_the_sum(form, monkeypatch):
    # 512 equal images add 1 each to the gradient of the weight; a bfloat16 sum would stop at 256.
    monkeypatch.setitem(convolution._SLICE_PIXELS, "cpu", 1)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    x, offset = torch.ones(512, 1, 1, 1, dtype=torch.bfloat16), torch.zeros(512, 2, 1, 1, dtype=torch.bfloat16)
    form(x, offset, weight).sum().backward()
    assert weight.grad.item() == 512


@FORMS
def test_autocast_mixes_dtypes_as_a_convolution_does(form):
    tensors, options, cotangent = operands(CONFIGS["plain"], torch.float32)
    exact = run(form, tensors, options, cotangent)
    tensors["offset"] = tensors["offset"].bfloat16()
    exact_of_these = run(form, tensors | {"offset": tensors["offset"].float()}, options, cotangent)
    with torch.autocast("cpu", torch.bfloat16):
        leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
        y = form(**leaves, **options)
        conv = F.conv2d(tensors["input"], tensors["weight"])
    y.backward(cotangent.bfloat16())
    assert y.dtype == conv.dtype == torch.bfloat16
    for name, leaf in leaves.items():
        assert leaf.grad.dtype == tensors[name].dtype
        truth = exact_of_these[f"d {name}"]
        assert (leaf.grad - truth).norm() < 0.02 * truth.norm(), name
    assert (y - exact["y"]).norm() < 0.05 * exact["y"].norm()
    # Float64 is left alone, as everywhere under autocast.
    tensors, options, cotangent = operands(CONFIGS["plain"])
    plain = form(**tensors, **options)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(form(**tensors, **options), plain, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------- layouts, parts, oddities


@pytest.mark.parametrize("name", ["plain", "both groups", "1x1 map"])
def test_memory_layouts(name):
    tensors, options, cotangent = operands(CONFIGS[name])
    expected = run(deform_conv2d, tensors, options, cotangent)

    def strided(t):  # every other element of something larger
        return None if t is None else torch.stack((t, t + 1), -1)[..., 0]

    def last(t):
        return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t

    for change in (strided, last):
        changed = {n: change(t) for n, t in tensors.items()}
        assert changed["input"].stride() != tensors["input"].stride() or name == "1x1 map"
        leaves = {n: t.requires_grad_() for n, t in changed.items()}
        y = deform_conv2d(**leaves, **options)
        grads = torch.autograd.grad(y, list(leaves.values()), change(cotangent))
        assert_same({"y": y.detach()} | {f"d {n}": g for n, g in zip(leaves, grads, strict=True)}, expected, 1e-12)

    wide = tensors["input"].shape[2:] != (1, 1)
    y = deform_conv2d(**(tensors | {"input": last(tensors["input"])}), **options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous() != wide
    assert deform_conv2d(**tensors, **options).is_contiguous()


@pytest.mark.parametrize("rows", [1, 130, 10**6], ids=["an image each", "two images", "all"])
@pytest.mark.parametrize("name", ["plain", "both groups", "2x5"])
def test_slices_of_the_batch_do_not_show(name, rows, monkeypatch):
    config = (5, *CONFIGS[name][1:])
    tensors, options, cotangent = operands(config)
    expected = run(deform_conv2d_definition, tensors, options, cotangent)
    monkeypatch.setitem(convolution._SLICE_PIXELS, "cpu", rows)
    assert_same(run(deform_conv2d, tensors, options, cotangent), expected)


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_each_gradient_alone(name):
    tensors, options, cotangent = operands(CONFIGS["plain"])
    expected = run(deform_conv2d, tensors, options, cotangent)[f"d {name}"]
    leaf = tensors[name] = tensors[name].requires_grad_()
    deform_conv2d(**tensors, **options).backward(cotangent)
    torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=0)


def test_gradient_of_a_sum():  # its cotangent is one number expanded
    tensors, options, cotangent = operands(CONFIGS["plain"])
    expected = run(deform_conv2d, tensors, options, torch.ones_like(cotangent))
    leaves = {n: t.requires_grad_() for n, t in tensors.items()}
    deform_conv2d(**leaves, **options).sum().backward()
    assert_same({f"d {n}": t.grad for n, t in leaves.items()}, {n: g for n, g in expected.items() if n != "y"})


@FORMS
def test_empty_batch(form):
    tensors, options, cotangent = operands((0, *CONFIGS["plain"][1:]))
    found = run(form, tensors, options, cotangent)
    assert found["y"].shape == cotangent.shape
    assert found["d weight"].unique().tolist() == [0]
    assert found["d weight"].shape == tensors["weight"].shape


@FORMS
def test_what_is_outside_is_not_touched_by_infinities_inside(form):
    tensors, options, _ = operands(CONFIGS["plain"], mask=False)
    tensors["input"][0, :, 0, 0] = math.inf
    tensors["offset"].fill_(-20)
    torch.testing.assert_close(
        form(**tensors, **options), tensors["bias"].view(1, -1, 1, 1).expand(2, -1, 7, 9), rtol=0, atol=0
    )


@FORMS
def test_nan_stays_where_it_is(form):
    tensors, options, _ = operands(CONFIGS["1x1"])
    clean = form(**tensors, **options)
    tensors["offset"][1, 0, 2, 3] = math.nan
    y = form(**tensors, **options)
    hit = torch.zeros_like(y, dtype=torch.bool)
    hit[1, :, 2, 3] = True
    torch.testing.assert_close(y.isnan(), hit, rtol=0, atol=0)
    torch.testing.assert_close(y[~hit], clean[~hit], rtol=0, atol=0)


def test_operands_are_left_alone():
    tensors, options, cotangent = operands(CONFIGS["plain"])
    before = {n: t.clone() for n, t in tensors.items()}
    run(deform_conv2d, tensors, options, cotangent)
    torch.testing.assert_close(tensors, before, rtol=0, atol=0)


def test_gradient_of_the_map_does_not_depend_on_threads():
    tensors, options, _ = operands((2, 8, (40, 40), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 9.0), torch.float32)
    g = Geometry.from_operands(**tensors, **options)
    bags = SampleBags.from_offsets(tensors["offset"], tensors["mask"], regular_grid(g, tensors["offset"]), g)
    grad = torch.randn(bags.corners.shape[0], 8, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(bags.row_gradient(grad, 2 * 40 * 40 + 1))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


def test_layouts_of_the_table():
    """The table above holds every layout of the product, or the tests of equality would prove less than they say."""
    seen = set()
    for config in CONFIGS.values():
        tensors, options, _ = operands(config)
        g = Geometry.from_operands(**tensors, **options)
        layout = InnerAxis.for_operands(tensors["input"], tensors["weight"].shape[0], g)
        used = tensors["input"].shape[1] // g.groups * g.taps
        seen.add((layout.in_kernel_order, g.groups > 1, g.offset_groups > 1, layout.length > used))
    assert {
        (True, False, False, True),
        (True, False, True, False),
        (True, True, True, True),
        (True, True, True, False),
        (True, True, False, False),
        (False, False, False, True),
        (False, False, True, True),
    } <= seen


# ---------------------------------------------------------------------------------------------------------- oracles

CASES = [name for name in names(HERE) if name.startswith("deform_conv2d_")]


def test_ten_cases_are_read():
    assert len(CASES) == 10


def geometry(meta):
    """The arguments of a case, which its file gives in words."""
    if meta["mechanism"] == "deform_conv2d_integer":
        return {"padding": (1, 1)}
    words = dict(part.split("=") for part in meta["args"].replace(", ", ",").split(" "))
    return {key: tuple(json.loads(f"[{words[key][1:-1]}]")) for key in ("stride", "padding", "dilation")}


def operands_of(oracle):
    """The tensors of a case, by the operator's argument; None where it has none."""
    keys = {"input": "x", "weight": "param:weight", "bias": "param:bias"}
    keys |= {argument: f"input:{argument}" for argument in ("offset", "mask")}
    return {argument: oracle.arrays.get(key) for argument, key in keys.items()}


@EACH_SET
@FORMS
@pytest.mark.parametrize("name", CASES)
def test_oracle(folder, form, name):
    oracle = read(folder, name)
    results = run(form, operands_of(oracle), geometry(oracle.meta), oracle.arrays["cotangent"])
    theirs = {"y": "y", "d input": "grad_x", "d weight": "grad:weight", "d bias": "grad:bias"}
    theirs |= {f"d {ours}": f"grad_input:{ours}" for ours in ("offset", "mask")}
    found = {theirs[name]: value for name, value in results.items()}
    assert found.keys() == oracle.results.keys()
    assert max(disagreement(oracle, found).values()) <= 1


@FORMS
@pytest.mark.parametrize("name", CASES)
def test_rows_and_columns_of_the_offsets_swapped_do_not_agree(form, name):
    oracle = read(HERE, name)
    tensors = operands_of(oracle)
    tensors["offset"] = tensors["offset"].flip(1)
    swapped = run(form, tensors, geometry(oracle.meta), oracle.arrays["cotangent"])
    assert disagreement(oracle, swapped)["y"] > 1e6


@EACH_SET
@FORMS
def test_oracle_of_the_dcn_v2_pack(folder, form):
    oracle = read(folder, "dcn_v2_pack")
    x, cotangent = oracle.arrays["x"].requires_grad_(), oracle.arrays["cotangent"]
    given = {name: value.requires_grad_() for name, value in oracle.of("param").items()}
    made = F.conv2d(x, given["conv_offset_mask.weight"], given["conv_offset_mask.bias"], padding=1)
    offset, mask = made.split([18, 9], 1)
    y = form(x, offset, given["weight"], given["bias"], padding=1, mask=mask.sigmoid())
    y.backward(cotangent)
    found = {"y": y, "grad_x": x.grad} | {f"grad:{name}": value.grad for name, value in given.items()}
    assert max(disagreement(oracle, found).values()) <= 1
