"""Products with gates, poolings and narrow convolutions: the fast forms against their definitions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

from saccade.ops import eager, gating
from saccade.ops.eager import can_use_pieces, pieces
from saccade.ops.gating import (
    gated,
    gated_and_shuffled,
    gated_and_shuffled_definition,
    gated_definition,
    max_and_mean,
    max_and_mean_definition,
    mean_and_variance,
    mean_and_variance_definition,
    narrow_conv,
    narrow_conv2d,
    pooled_mean,
)

SHAPE = (2, 3, 5, 4)
GATES = [(3, 1, 1), (1, 5, 4), (3, 5, 1), (3, 1, 4), (1, 5, 1), (1, 1, 4), (1, 1, 1), (3, 5, 4)]
POOLINGS = [[(2, 3)], [(1,)], [(2,)], [(3,)], [(2,), (3,)], [(2,), (3,), (1,)], [(1,), (2, 3)]]


def _map(shape=SHAPE, seed=0, whole=False):
    """Random values; ``whole`` ones have several maxima along every axis."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x.round() if whole else x).requires_grad_()


@pytest.fixture(params=[7, 32, 1 << 18], ids=["rows", "channels", "at once"])
def piece(request, monkeypatch):
    """Pieces of a few values, of an image or two, of all; and no map is too small for the fast forms."""
    monkeypatch.setattr(eager, "PIECE_NUMEL", request.param)
    monkeypatch.setattr(gating, "SMALL_MAP_NUMEL", 0)


def _both(fast, definition, *operands):
    """Values and gradients of both forms, one after the other."""
    results = []
    for form in (fast, definition):
        found = form(*operands)
        found = found if isinstance(found, tuple) else (found,)
        weights = [_map(y.shape, seed).detach() for seed, y in enumerate(found, 1)]
        results.append((found, torch.autograd.grad(found, operands, weights)))
    return results


def _agree(fast, definition, *operands):
    (values, gradients), (known, true) = _both(fast, definition, *operands)
    assert len(values) == len(known)
    for y, wanted in zip(values, known, strict=True):
        torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    for g, wanted in zip(gradients, true, strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", GATES)
def test_gated_is_its_definition(shape):
    x, gate = _map(), _map((2, *shape), 1)
    _agree(gated, gated_definition, x, gate)
    _agree(gated, gated_definition, gate, x)
    torch.testing.assert_close(gated(x, gate), x * gate, rtol=0, atol=0)
    assert torch.autograd.gradgradcheck(gated, (x, gate))


@pytest.mark.usefixtures("piece")
def test_gated_of_two_that_broadcast():
    rows, columns, channel, place = _map((2, 3, 5, 1)), _map((2, 3, 1, 4), 1), _map((2, 3, 1, 1), 2), _map((2, 1, 5, 4))
    _agree(gated, gated_definition, rows, columns)
    _agree(gated, gated_definition, channel, place)
    _agree(gated, gated_definition, place, channel)
    assert torch.autograd.gradgradcheck(gated, (channel, place))


def test_gated_and_shuffled_is_its_definition():
    x, gate = _map((2, 6, 5, 4)), _map((2, 6, 5, 4), 1)
    _agree(gated_and_shuffled, gated_and_shuffled_definition, x, gate)
    torch.testing.assert_close(gated_and_shuffled(x, gate), (x * gate)[:, [0, 3, 1, 4, 2, 5]], rtol=0, atol=0)
    small = (_map((2, 4, 2, 3)), _map((2, 4, 2, 3), 1))
    assert torch.autograd.gradgradcheck(gated_and_shuffled, small)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("poolings", POOLINGS, ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["one maximum", "ties"])
def test_max_and_mean_is_its_definition(poolings, whole):
    x = _map(whole=whole)
    _agree(lambda t: max_and_mean(t, *poolings), lambda t: max_and_mean_definition(t, *poolings), x)
    for found, known in zip(max_and_mean(x, *poolings), max_and_mean_definition(x, *poolings), strict=True):
        torch.testing.assert_close(found, known, rtol=0, atol=0)
    assert torch.autograd.gradgradcheck(lambda t: max_and_mean(t, *poolings), (_map(),))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 28, 63, 64])
def test_the_maximum_by_halves_is_the_maximum(length):
    for axis, shape in ((2, (2, 3, length, 4)), (3, (2, 3, 4, length))):
        x = _map(shape).detach()
        torch.testing.assert_close(gating._amax(x, (axis,)), x.amax(axis, keepdim=True), rtol=0, atol=0)
        x[1, 2, 0, 0] = torch.nan
        assert gating._amax(x, (axis,)).isnan().sum() == 1


def test_values_that_are_the_maximum_share_its_gradient():
    x = torch.tensor([[[[5.0, 5.0, 1.0, 5.0]]]], requires_grad=True)
    x = x.repeat(1, 1, 40_000, 1).detach().requires_grad_()  # past the size from which the fast form is taken
    highest, _ = max_and_mean(x, (3,))
    highest.sum().backward()
    torch.testing.assert_close(x.grad[0, 0, 7], torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]))


@pytest.mark.usefixtures("piece")
def test_mean_and_variance_is_its_definition():
    x = _map()
    _agree(mean_and_variance, mean_and_variance_definition, x)
    torch.testing.assert_close(mean_and_variance(x)[1], x.var((2, 3)))
    assert torch.autograd.gradgradcheck(mean_and_variance, (x,))


def test_one_pixel_has_no_variance():
    x = torch.randn(2, 3, 1, 1, requires_grad=True)
    variance = mean_and_variance(x)[1]
    variance.sum().backward()
    torch.testing.assert_close(variance, torch.zeros(2, 3), rtol=0, atol=0)
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=0)


@pytest.mark.parametrize("axes", [(2, 3), (1,), (2,), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pooled_mean_is_the_mean(axes, dtype):
    x = _map().detach().to(dtype).requires_grad_()
    torch.testing.assert_close(pooled_mean(x, axes), x.mean(axes), rtol=0, atol=0)
    torch.testing.assert_close(pooled_mean(x, axes, keepdim=True), x.mean(axes, keepdim=True), rtol=0, atol=0)
    large = torch.full((1, 2, 300, 300), 3.0, dtype=dtype)
    torch.testing.assert_close(pooled_mean(large, (2, 3)), torch.full((1, 2), 3.0, dtype=dtype), rtol=0, atol=0)
    pooled_mean(x.float(), axes).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, pooled_mean(x, axes).numel() / x.numel()))


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("bias", [False, True])
def test_narrow_conv_is_the_layer(side, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 1, side, padding=side // 2, bias=bias).double()
    x = _map()
    parameters = tuple(conv.parameters())
    _agree(lambda x, *_: narrow_conv(conv, x), lambda x, *_: conv(x), x, *parameters)
    torch.testing.assert_close(narrow_conv(conv, x), conv(x), rtol=0, atol=0)
    assert torch.autograd.gradgradcheck(lambda x, *_: narrow_conv(conv, x), (x, *parameters))


class _Adapted(nn.Conv2d):
    """A layer with a branch beside its kernel, as LoRA has."""

    def __init__(self):
        super().__init__(2, 1, 3, padding=1)
        self.branch = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return super().forward(x) + self.branch(x)


def _with_own_forward():
    conv = nn.Conv2d(2, 1, 3, padding=1)
    conv.forward = lambda x: nn.Conv2d.forward(conv, x) * x.sum()
    return conv


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        _Adapted,
        _with_own_forward,
        lambda: nn.utils.weight_norm(nn.Conv2d(2, 1, 3, padding=1)),
        lambda: prune.l1_unstructured(nn.Conv2d(2, 1, 3, padding=1), "weight", 0.5),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 1, 3, padding=1)),
        lambda: nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(2, 1, 3, padding=1),
    ],
    ids=["adapted", "own forward", "weight norm", "pruned", "parametrized", "circular", "bare"],
)
def test_narrow_conv_of_a_layer_that_is_more_than_its_kernel(make):
    torch.manual_seed(0)
    conv = make()
    x = torch.randn(1, 2, 5, 4, requires_grad=True)
    for _ in range(2):  # an old kernel's graph is gone the second time
        found = [torch.autograd.grad(y.sin().sum(), [x, *conv.parameters()]) for y in (narrow_conv(conv, x), conv(x))]
        for gradient, wanted in zip(*found, strict=True):
            torch.testing.assert_close(gradient, wanted)


def test_narrow_conv_calls_the_layer_with_its_hooks():
    conv, called = nn.Conv2d(2, 1, 3, padding=1), []
    conv.register_forward_hook(lambda layer, given, y: called.append(y.requires_grad) or 2 * y)
    conv.register_full_backward_hook(lambda *_: called.append("backward"))
    x = torch.randn(1, 2, 5, 4, requires_grad=True)
    y = narrow_conv(conv, x)
    y.sum().backward()
    assert called == [True, "backward"]
    torch.testing.assert_close(y, 2 * F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_narrow_conv_of_a_frozen_layer_and_of_a_parametrized_one():
    torch.manual_seed(0)
    frozen = nn.Conv2d(2, 1, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 2, 5, 4, requires_grad=True)
    narrow_conv(frozen, x).sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(x.grad, torch.autograd.grad(frozen(x).sum(), x)[0])
    normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 1, 3, padding=1))
    twin = copy.deepcopy(normed)
    torch.testing.assert_close(narrow_conv(normed, x), twin(x), rtol=0, atol=0)  # one power iteration, not two


def test_pieces_cover_a_map_once(monkeypatch):
    x = torch.zeros(5, 6, 7, 3)
    for size in (1, 10, 60, 126, 300, 10_000):
        monkeypatch.setattr(eager, "PIECE_NUMEL", size)
        for whole in ((), (1,), (2,), (1, 2), (2, 3)):
            x.zero_()
            parts = pieces(x, *whole)
            for at in parts:
                x[at] += 1
                assert [axis for axis in whole if x[at].shape[axis] != x.shape[axis]] == []
            torch.testing.assert_close(x, torch.ones_like(x), rtol=0, atol=0)
            if size == 10_000:
                assert len(parts) == 1


def test_what_is_no_plain_map_takes_the_definition():
    x = torch.randn(2, 3, 4, 5)
    assert can_use_pieces(x)
    assert not can_use_pieces(x.contiguous(memory_format=torch.channels_last))
    assert not can_use_pieces(torch.zeros(2, 3, 4, 5, device="meta"))
    seen = []
    torch.func.grad(lambda t: (seen.append(can_use_pieces(t)), gated(t, t.mean((2, 3), keepdim=True)).sum())[1])(x)
    assert seen == [False]


def test_what_is_traced_by_fx_takes_the_definition():
    def function(x):
        return gated(x, pooled_mean(x, keepdim=True)) + narrow_conv2d(x, torch.ones(1, 3, 3, 3), torch.ones(1))

    x = _map().detach().float()
    torch.testing.assert_close(fx.symbolic_trace(function)(x), function(x))


def test_the_gradient_of_a_variance_keeps_its_digits_beside_a_large_mean():
    x = (_map((2, 4, 30, 31)).detach() + 1000).float().requires_grad_()
    exact = x.detach().double().requires_grad_()
    weights = _map((2, 4)).detach()
    (wanted,) = torch.autograd.grad(mean_and_variance_definition(exact)[1], exact, weights)
    for create_graph in (False, True):
        (found,) = torch.autograd.grad(mean_and_variance(x)[1], x, weights.float(), create_graph=create_graph)
        assert (found - wanted).norm() < 1e-6 * wanted.norm()


def test_what_comes_out_may_be_changed_in_place():
    x = _map()
    mean, variance = mean_and_variance(x)
    wanted = (2 * mean + variance.square()).sum()
    y = (mean.mul_(2) + variance.square()).sum()
    torch.testing.assert_close(y, wanted)


def test_func_transforms_and_forward_mode_take_the_definition():
    x, gate = _map(), _map((2, 3, 1, 1), 1).detach()

    def loss(t):
        highest, mean = max_and_mean(gated(t, gate), (2, 3))
        return (highest * mean).sum() + mean_and_variance(t)[1].sum()

    (known,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), known)
    with forward_ad.dual_level():
        assert not can_use_pieces(x)


@pytest.mark.parametrize("shapes", [((16, 40, 40), (16, 1, 1)), ((16, 1, 1), (1, 40, 40)), ((16, 40, 1), (16, 1, 40))])
def test_rounding_is_no_worse_than_the_definitions(shapes):
    x, gate = (_map((2, *shape), seed).detach() for seed, shape in enumerate(shapes))
    grad = _map((2, 16, 40, 40), 2).detach()

    def gradients(form, dtype):
        operands = [t.to(dtype).requires_grad_() for t in (x, gate)]
        return torch.autograd.grad(form(*operands), operands, grad.to(dtype))

    truth = gradients(gated_definition, torch.float64)
    for fast, plain, true in zip(
        gradients(gated, torch.float32), gradients(gated_definition, torch.float32), truth, strict=True
    ):
        assert (fast - true).abs().max() <= 2 * (plain - true).abs().max() + torch.finfo(torch.float32).eps
