"""Criss-cross attention: the definition by hand, the fast form against it, precision, layouts, graphs, mistakes."""

import math

import pytest
import torch
from torch import nn

from saccade.ops.criss_cross import criss_cross, criss_cross_definition

FORMS = pytest.mark.parametrize("form", [criss_cross, criss_cross_definition], ids=["fast", "definition"])
# batch, width of queries and keys, of values, height, width
CONFIGS = [(2, 3, 5, 7, 4), (1, 2, 2, 5, 11), (3, 1, 4, 6, 6), (2, 2, 3, 1, 5), (2, 2, 3, 5, 1), (1, 3, 2, 1, 1)]


def operands(config, dtype=torch.float64, factor=1.0):
    """Random operands and a cotangent, on a grid that float32 holds exactly."""
    batch, narrow, wide, *size = config
    random = torch.Generator().manual_seed(sum(config))

    def draw(channels):
        drawn = torch.randn(batch, channels, *size, generator=random, dtype=torch.float64)
        return (drawn * 2**12).round().div(2**12).to(dtype)

    return (draw(narrow) * factor, draw(narrow), draw(wide)), draw(wide)


def run(form, tensors, cotangent):
    """Result and all gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = form(*leaves)
    return dict(zip("yqkv", (y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(y.dtype))), strict=True))


@FORMS
def test_a_cross_by_hand(form):
    # q = 1 at (0, 0), else 0. Its cross: itself, k = 0; (0, 1), k = ln 2; (1, 0), k = 0: weights (1, 2, 1)/4.
    # The others hear the mean of their three. Were a pixel counted twice, there would be five parts at (0, 0).
    q, k, v = (
        torch.tensor([[rows]], dtype=torch.float64) for rows in ([[1, 0], [0, 0]], [[0, math.log(2)], [0, 9]],
                                                                 [[8, 4], [16, 1]])
    )  # fmt: skip
    expected = torch.tensor([[[[8, 13 / 3], [25 / 3, 7]]]], dtype=torch.float64)
    torch.testing.assert_close(form(q, k, v), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("config", CONFIGS)
def test_fast_form_equals_definition(config):
    tensors, cotangent = operands(config)
    found, known = (run(form, tensors, cotangent) for form in (criss_cross, criss_cross_definition))
    torch.testing.assert_close(found, known, rtol=0, atol=1e-12)


def test_mutants_differ():
    (q, k, v), _ = operands(CONFIGS[0])
    known = criss_cross_definition(q, k, v)
    for mutant in ((k, q, v), (2 * q, k, v), (q, k, v.flip(2)), (q.mT, k.mT, v.mT)):
        y = criss_cross(*mutant)
        assert y.shape != known.shape or (y - known).abs().max() > 1e-3
    turned = criss_cross(q.mT, k.mT, v.mT).mT
    torch.testing.assert_close(turned, known, rtol=0, atol=1e-12)


@FORMS
def test_gradients_and_second_derivatives_are_true(form):
    tensors, _ = operands((1, 2, 2, 3, 2))
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(form, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(form, leaves, fast_mode=True)


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("config", [(2, 8, 16, 21, 17), (1, 4, 4, 40, 31)])
def test_float32_errs_at_most_twice_as_much_as_the_definition(config, factor):
    tensors, cotangent = operands(config, factor=factor)
    exact = run(criss_cross_definition, tensors, cotangent)
    tensors = [t.float() for t in tensors]
    ours, plain = (run(form, tensors, cotangent) for form in (criss_cross, criss_cross_definition))
    for name, truth in exact.items():
        assert (ours[name] - truth).norm() <= 2 * (plain[name] - truth).norm(), name


@FORMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(form, dtype):
    tensors, cotangent = operands(CONFIGS[0], dtype)
    exact = run(criss_cross_definition, [t.double() for t in tensors], cotangent.double())
    for name, found in run(form, tensors, cotangent).items():
        assert found.dtype == dtype
        assert (found.double() - exact[name]).norm() < 6 * torch.finfo(dtype).eps * exact[name].norm(), name


@FORMS
def test_autocast_mixes_dtypes_as_a_product_does(form):
    (q, k, v), _ = operands(CONFIGS[0], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = form(q, k.bfloat16(), v)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), form(q, k, v), rtol=0, atol=0.1)


def test_layouts_do_not_show():
    tensors, cotangent = operands(CONFIGS[0])
    known = run(criss_cross, tensors, cotangent)
    for change in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t], 4)[..., 0],
    ):
        leaves = [change(t).requires_grad_() for t in tensors]
        y = criss_cross(*leaves)
        found = (y, *torch.autograd.grad(y, leaves, change(cotangent)))
        for a, b in zip(found, known.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_func_transforms_take_the_definition():
    x = torch.randn(3, 2, 2, 4, 5, dtype=torch.float64)
    found, wanted = (
        torch.vmap(torch.func.grad(lambda t, form=form: form(t, t, t).sin().sum()))(x)
        for form in (criss_cross, criss_cross_definition)
    )
    torch.testing.assert_close(found, wanted)


def test_what_comes_out_may_be_changed_in_place():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    found, wanted = (torch.autograd.grad(change(criss_cross(x, x, x)).sum(), x) for change in (torch.relu_, torch.relu))
    torch.testing.assert_close(found, wanted)


def test_compiles_and_exports_for_any_size():
    class Cross(nn.Module):
        def forward(self, x):
            return criss_cross(x[:, :2], x[:, 2:4], x)

    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    compiled = torch.compile(Cross(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), Cross()(x), rtol=0, atol=1e-12)
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(Cross(), (x,), dynamic_shapes=(axes,)).module()
    for size in ((1, 5, 1, 1), (3, 5, 7, 2)):
        x = torch.randn(size, dtype=torch.float64)
        torch.testing.assert_close(exported(x), Cross()(x), rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 4), (2, 3, 4), (2, 3, 4)), r"4 dimensions, got query \(2, 3, 4\)"),
        (((1, 2, 3, 4), (1, 3, 3, 4), (1, 2, 3, 4)), "query and key must have the same shape"),
        (((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4, 3)), r"one value for each pixel, .* value \(1, 2, 4, 3\)"),
    ],
)
def test_operands_that_do_not_belong_together(form, shapes, message):
    with pytest.raises(ValueError, match=message):
        form(*(torch.zeros(shape) for shape in shapes))


@FORMS
def test_mixed_dtypes_are_refused_outside_autocast(form):
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"one dtype, got torch\.float32, torch\.float64 and torch\.float32"):
        form(x, x.double(), x)


def test_both_forms_state_one_cost():
    tensors, _ = operands(CONFIGS[0])
    assert criss_cross.macs is criss_cross_definition.macs
    assert criss_cross.macs(*tensors) == 2 * 7 * 4 * (7 + 4) * (3 + 5)
