"""Attention whose logits have terms of the key's row and column on a map: by hand, the fast form, what must differ."""

import math

import pytest
import torch
from torch import nn

from saccade.ops.attention import attention, attention_definition

FORMS = pytest.mark.parametrize("form", [attention, attention_definition], ids=["fast", "definition"])

# leading dimensions, queries, H, W, width of queries and keys, of values, scale
CONFIGS: dict[str, tuple[tuple[int, ...], int, int, int, int, int, float]] = {
    "one map": ((1,), 143, 11, 13, 3, 2, 0.6),
    "heads": ((2, 3), 133, 19, 7, 4, 4, 0.5),
    "few queries": ((2,), 31, 12, 18, 1, 2, -1.5),
    "no scale": ((1,), 77, 7, 11, 1, 1, 0.0),
    "one row": ((2,), 97, 1, 97, 2, 3, 1.0),
    "one column": ((2,), 97, 97, 1, 2, 3, 1.0),
    "kept": ((2, 2), 35, 5, 7, 6, 9, 0.4),
    "one pixel": ((2,), 1, 1, 1, 3, 5, 1.0),
    "nothing": ((0,), 12, 3, 4, 2, 2, 1.0),
}


def operands(config, dtype=torch.float64, factor=1.0):
    """Random query, key, value, down and across, on a grid that float32 holds exactly, the scale, and a cotangent."""
    lead, rows, height, width, narrow, wide, scale = config
    random = torch.Generator().manual_seed(rows)

    def draw(*shape):
        return (torch.randn(*lead, *shape, generator=random, dtype=torch.float64) * 2**12).round().div(2**12).to(dtype)

    pixels = height * width
    tensors = [draw(rows, narrow), draw(pixels, narrow), draw(pixels, wide), draw(rows, height), draw(rows, width)]
    tensors[3:] = [t * factor for t in tensors[3:]]
    return tensors, scale, draw(rows, wide)


def call(form, tensors, scale):
    return form(*tensors[:3], scale, *tensors[3:])


def run(form, tensors, scale, cotangent):
    """Result and all gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = call(form, leaves, scale)
    names = ("y", "query", "key", "value", "down", "across")
    return dict(zip(names, (y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(y.dtype))), strict=True))


@FORMS
def test_terms_by_hand(form):
    # Keys of no content on a 2×2 map. The first query: ln 3 for the lower row, weights 1, 1, 3, 3 of 8 on the values.
    # The second: ln 2 for the right column and ln 3 for the lower row, 1, 2, 3, 6 of 12. The scale is not on them.
    q, k, v = torch.ones(1, 2, 1), torch.zeros(1, 4, 1), torch.tensor([[[8.0], [16.0], [24.0], [32.0]]])
    down = torch.tensor([[[0, math.log(3)], [0, math.log(3)]]])
    across = torch.tensor([[[0, 0], [0, math.log(2)]]])
    expected = torch.tensor([[[24.0], [(8 + 32 + 72 + 192) / 12]]])
    torch.testing.assert_close(form(q, k, v, 7.0, down, across), expected)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("name", CONFIGS)
def test_fast_form_equals_definition(name):
    tensors, scale, cotangent = operands(CONFIGS[name])
    found, expected = (run(form, tensors, scale, cotangent) for form in (attention, attention_definition))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert {"y": cotangent.shape, "down": tensors[3].shape, "across": tensors[4].shape}.items() <= {
        key: t.shape for key, t in found.items()
    }.items()


def test_mutants_differ():
    (q, k, v, down, across), scale, _ = operands(((1,), 30, 6, 6, 3, 2, 0.7))
    expected = attention_definition(q, k, v, scale, down, across)
    torch.testing.assert_close(attention(q, k, v, scale, down, across), expected, rtol=0, atol=1e-12)
    mutants = {
        "axes swapped": attention(q, k, v, scale, across, down),
        "rows shifted by one": attention(q, k, v, scale, down.roll(1, -1), across),
        "columns shifted by one": attention(q, k, v, scale, down, across.roll(1, -1)),
        "the term of another query": attention(q, k, v, scale, down.roll(1, -2), across),
        "terms that are scaled": attention(q, k, v, scale, down * scale, across * scale),
        "no terms": attention(q, k, v, scale),
    }
    for name, y in mutants.items():
        assert (y - expected).abs().max() > 1e-3, name
    constant = attention(q, k, v, scale, down + 3, across - torch.arange(30.0)[:, None])  # the same for all keys
    torch.testing.assert_close(constant, expected, rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize("name", ["one map", "kept"])
def test_gradients_are_true(form, name):
    tensors, scale, _ = operands(CONFIGS[name])
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: call(form, t, scale), leaves, fast_mode=True)


@FORMS
def test_second_derivatives_are_true(form):
    tensors, scale, _ = operands(((2,), 9, 3, 5, 1, 1, 1.0))
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradgradcheck(lambda *t: call(form, t, scale), leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["one map", "kept"])
def test_function_transforms(name):
    tensors, scale, cotangent = operands(CONFIGS[name])

    def result(form):
        return lambda *operands: call(form, operands, scale)

    def slope(form):
        return torch.func.grad(lambda *t: (call(form, t, scale) * cotangent).sum(), argnums=(0, 1, 2, 3, 4))

    for axes in ((None, None, None, 1, None), (1, None, None, None, 0)):
        given = [t if a is None else torch.stack([t, 2 * t, t - 1], a) for t, a in zip(tensors, axes, strict=True)]
        for function in (result, slope):
            found, known = (torch.vmap(function(form), axes)(*given) for form in (attention, attention_definition))
            torch.testing.assert_close(found, known, rtol=0, atol=1e-11)


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("name", ["one map", "heads", "kept"])
def test_float32_errs_at_most_twice_as_much_as_the_definition(name, factor):
    tensors, scale, cotangent = operands(CONFIGS[name], factor=factor)
    tensors = [t.float().double() for t in tensors]
    exact = run(attention_definition, tensors, scale, cotangent)
    tensors = [t.float() for t in tensors]
    ours, plain = (run(form, tensors, scale, cotangent) for form in (attention, attention_definition))
    for name, truth in exact.items():
        assert (ours[name] - truth).norm() <= 2 * (plain[name] - truth).norm(), name


@FORMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(form, dtype):
    tensors, scale, cotangent = operands(CONFIGS["heads"], dtype)
    exact = run(attention_definition, [t.double() for t in tensors], scale, cotangent.double())
    found = run(form, tensors, scale, cotangent)
    for name, truth in exact.items():
        assert found[name].dtype == dtype
        error = (found[name].double() - truth).norm() / truth.norm()
        assert 0 < error < 6 * torch.finfo(dtype).eps, f"{name}: {error}"


def test_autocast_casts_the_terms_too():
    tensors, scale, _ = operands(CONFIGS["heads"], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = call(attention, [*tensors[:3], tensors[3].bfloat16(), tensors[4]], scale)
    assert y.dtype == torch.bfloat16
    exact = call(attention_definition, tensors, scale)
    assert 0 < (y - exact).norm() < 0.03 * exact.norm()


class Terms(nn.Module):
    """Attention with terms of maps of 4×3."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v, down, across):
        return attention(q, k, v, self.scale, down, across)


@pytest.mark.parametrize("scale", [0.7, -0.7, 0.0])
def test_compiled_and_exported_it_is_the_same(scale):
    tensors, _, cotangent = operands(((2, 2), 5, 4, 3, 6, 7, 1.0))
    known = run(attention_definition, tensors, scale, cotangent)
    compiled = torch.compile(Terms(scale), fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = compiled(*leaves)
    for found, expected in zip((y, *torch.autograd.grad(y, leaves, cotangent)), known.values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    exported = torch.export.export(Terms(scale), tuple(tensors)).module()
    torch.testing.assert_close(exported(*tensors), known["y"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("down", "across", "message"),
    [
        ((2, 5, 3), None, "give both row_bias and column_bias, got only row_bias"),
        (None, (2, 5, 4), "got only column_bias"),
        ((2, 6, 3), (2, 5, 4), r"one row per query, got \(2, 6, 3\) and \(2, 5, 4\)"),
        ((1, 5, 3), (2, 5, 4), "one row per query"),
        ((2, 5, 3), (2, 5, 5), r"need H·W keys, got \(2, 5, 3\) and \(2, 5, 5\)"),
    ],
)
@FORMS
def test_terms_that_do_not_belong_are_refused(form, down, across, message):
    q, k = torch.zeros(2, 5, 2), torch.zeros(2, 12, 2)
    with pytest.raises(ValueError, match=message):
        form(q, k, k, 1.0, *(None if shape is None else torch.zeros(shape) for shape in (down, across)))


@FORMS
def test_terms_of_another_dtype_are_refused_outside_autocast(form):
    tensors, scale, _ = operands(CONFIGS["kept"], torch.float32)
    with pytest.raises(ValueError, match=r"one dtype, got .* and torch\.float64"):
        call(form, [*tensors[:4], tensors[4].double()], scale)


def test_terms_cost_no_products():
    (q, k, v, down, across), scale, _ = operands(CONFIGS["heads"])
    assert attention.macs(q, k, v, scale, down, column_bias=across) == 2 * 3 * 133 * 133 * (4 + 4)
