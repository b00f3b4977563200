"""Strip means, covariances and resampled maps: by hand, against their definitions, and any number of times."""

import pytest
import torch
from torch import nn

from saccade.ops.covariance import covariance, covariance_definition
from saccade.ops.resample import bilinear, bilinear_definition, window_means, window_means_definition
from saccade.ops.strip import strip_means, strip_means_definition

SIZES = [(7, 5), (1, 1), (1, 6), (8, 8), (12, 3), (33, 17)]


def draw(*shape, seed=0):
    """Numbers on a grid that float32 holds exactly."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * 2**12).round() / 2**12


def joined(x):
    return torch.cat([t.flatten(1) for t in strip_means(x)], 1)


def joined_definition(x):
    return torch.cat([t.flatten(1) for t in strip_means_definition(x)], 1)


PAIRS = {
    "strips": (joined, joined_definition, (2, 3, 7, 5)),
    "covariance": (covariance, covariance_definition, (2, 4, 11)),
    "windows": (lambda x: window_means(x, (3, 4)), lambda x: window_means_definition(x, (3, 4)), (2, 3, 7, 5)),
    "bilinear": (lambda x: bilinear(x, (9, 4)), lambda x: bilinear_definition(x, (9, 4)), (2, 3, 7, 5)),
}
EACH = pytest.mark.parametrize("pair", PAIRS)


def run(form, x):
    leaf = x.detach().clone().requires_grad_()
    y = form(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, draw(*y.shape, seed=1).to(y.dtype))[0]


def test_by_hand():
    x = torch.tensor([[[[1.0, 3.0], [5.0, 11.0]]]])
    rows, columns = strip_means(x)
    assert rows.tolist() == [[[[2], [8]]]]
    assert columns.tolist() == [[[[3, 7]]]]
    # channels (0, 2, 4) and (1, 1, 4) of means 2 and 2: (4 + 0 + 4)/3, (2 + 0 + 4)/3, (1 + 1 + 4)/3
    assert covariance(torch.tensor([[[0.0, 2, 4], [1, 1, 4]]])).tolist() == [[[pytest.approx(8 / 3), 2], [2, 2]]]
    line = torch.tensor([[[[0.0, 4.0, 8.0]]]])
    assert window_means(line, (1, 2)).tolist() == [[[[2, 6]]]]  # windows of two pixels that share the middle
    assert bilinear(line, (1, 5)).tolist() == [[[[0, 2, 4, 6, 8]]]]


@EACH
def test_fast_form_equals_definition(pair):
    form, definition, shape = PAIRS[pair]
    torch.testing.assert_close(run(form, draw(*shape)), run(definition, draw(*shape)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", [(20, 20), (1, 1), (8, 3), (33, 17)])
def test_resampling_from_any_size_to_any(old, new):
    x = draw(2, 3, *old)
    torch.testing.assert_close(window_means(x, new), window_means_definition(x, new), rtol=0, atol=1e-12)
    torch.testing.assert_close(bilinear(x, new), bilinear_definition(x, new), rtol=0, atol=1e-12)


@EACH
def test_gradients_and_second_derivatives_are_true(pair):
    form, _, shape = PAIRS[pair]
    x = draw(*shape).requires_grad_()
    assert torch.autograd.gradcheck(form, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda t: form(t.square()), x, fast_mode=True)


@EACH
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_float32_errs_at_most_twice_as_much_as_the_definition(pair, shift):
    form, definition, shape = PAIRS[pair]
    x = draw(*shape[:2], *(4 * side for side in shape[2:])) + shift
    for ours, plain, exact in zip(run(form, x.float()), run(definition, x.float()), run(definition, x), strict=True):
        noise = torch.finfo(torch.float32).eps * exact.norm()
        assert (ours - exact).norm() <= 2 * (plain - exact).norm() + noise


@EACH
def test_func_transforms_take_the_definition(pair):
    form, definition, shape = PAIRS[pair]
    x = draw(3, *shape)
    each = torch.vmap(torch.func.grad(lambda t: form(t).sin().sum()))(x)
    torch.testing.assert_close(each, torch.stack([run_of_sines(definition, t) for t in x]), rtol=0, atol=1e-12)


def run_of_sines(form, x):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(form(leaf).sin().sum(), leaf)[0]


@pytest.mark.parametrize("pair", ["windows", "bilinear"])
def test_under_autocast_places_are_not_rounded(pair):
    form, definition, shape = PAIRS[pair]
    x = draw(*shape).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, wanted = form(x), definition(x)
        half = form(x.bfloat16())
    assert (y.dtype, half.dtype) == (wanted.dtype, torch.bfloat16)
    torch.testing.assert_close(y, wanted)


def test_without_centring_a_large_mean_costs_the_digits():
    x = draw(1, 3, 50) + 1000
    raw = x.float() @ x.float().mT / 50 - x.float().mean(2, keepdim=True) @ x.float().mean(2, keepdim=True).mT
    exact = covariance_definition(x)
    assert (raw - exact).norm() > 100 * (covariance(x.float()) - exact).norm()


def test_strips_of_a_map_with_its_channels_last_have_a_gradient_like_it():
    x = draw(2, 3, 7, 5).contiguous(memory_format=torch.channels_last)
    y, grad = run(joined, x)
    torch.testing.assert_close((y, grad), run(joined_definition, x), rtol=0, atol=1e-12)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", [joined, lambda x: covariance(x.flatten(2)), PAIRS["windows"][0], PAIRS["bilinear"][0],
                                  lambda x: bilinear(window_means(x, (3, 3)), (x.shape[2], x.shape[3]))])  # fmt: skip
def test_exports_for_any_size(form):
    class Form(nn.Module):
        def forward(self, x):
            return form(x)

    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(Form(), (draw(2, 3, 7, 5),), dynamic_shapes=(axes,)).module()
    for size in ((1, 1), (4, 9)):
        x = draw(3, 3, *size)
        torch.testing.assert_close(exported(x), form(x), rtol=0, atol=1e-12)


def test_mistakes():
    with pytest.raises(ValueError, match=r"4 dimensions, .* got shape \(2, 3\)"):
        strip_means(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"3 dimensions, .* got shape \(2, 3, 4, 5\)"):
        covariance(torch.zeros(2, 3, 4, 5))


def test_both_forms_of_covariance_state_one_cost():
    assert covariance.macs is covariance_definition.macs
    assert covariance.macs(torch.zeros(2, 4, 11)) == 2 * 4 * 4 * 11
