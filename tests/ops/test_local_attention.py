"""Local attention: the definition by hand, the fast form against the definition, its memory and its derivatives."""

import math

import pytest
import torch
from largest import Largest

from saccade.ops import local_attention as module
from saccade.ops.local_attention import local_attention, local_attention_definition

FORMS = pytest.mark.parametrize("form", [local_attention, local_attention_definition], ids=["fast", "definition"])

# batch, heads, width of queries and keys, of values, height, width, window
CONFIGS = {
    "7x7": (2, 2, 3, 3, 13, 11, (7, 7)),
    "wider values": (1, 3, 2, 5, 9, 17, (3, 3)),
    "one channel": (2, 1, 1, 1, 8, 16, (5, 5)),
    "window not square": (1, 2, 3, 2, 6, 19, (3, 7)),
    "smaller than the window": (2, 2, 2, 2, 2, 3, (7, 7)),
    "one pixel": (3, 1, 2, 2, 1, 1, (5, 3)),
    "no window": (1, 2, 2, 3, 5, 4, (1, 1)),
    "window larger than a tile": (1, 1, 2, 2, 23, 25, (11, 19)),
}
NAMES = ("query", "key", "value", "row_bias", "column_bias")


def operands(config, dtype=torch.float64):
    """Random operands, on a grid that float32 holds exactly, and a cotangent."""
    batch, heads, narrow, wide, *size, (kh, kw) = config
    random = torch.Generator().manual_seed(size[1])

    def draw(channels):
        numbers = torch.randn(batch, heads, channels, *size, generator=random, dtype=torch.float64)
        return (numbers * 2**12).round().div(2**12).to(dtype)

    return [draw(channels) for channels in (narrow, narrow, wide, kh, kw)], draw(wide)


def run(form, tensors, cotangent):
    """Result and all gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = form(*leaves)
    grads = torch.autograd.grad(y, leaves, cotangent.to(y.dtype))
    return dict(zip(("y", *NAMES), (y.detach(), *grads), strict=True))


def planes(*values):
    """Rows of numbers as (1, 1, n, 1, width)."""
    return torch.tensor(values, dtype=torch.float64)[None, None, :, None]


# ------------------------------------------------------------------------------------------------- by hand, referee


@FORMS
def test_two_pixels_by_hand(form):
    # A 1×3 window. Left pixel: logits of (outside, itself, right) = (0, ln 2, ln 3) + κ(0, 0, 0), weights (1, 2, 3)/6;
    # right pixel: (left, itself, outside) = (0, 0, 0) + κ(0, ln 2, 0), weights (1, 2, 1)/4. Values 6 and 12.
    y = form(
        planes([1, 0]), planes([math.log(2), math.log(3)]), planes([6, 12]), planes([0, 0]),
        planes([0, 0], [0, math.log(2)], [0, 0]),
    )  # fmt: skip
    torch.testing.assert_close(y, planes([8, 7.5]), rtol=0, atol=1e-14)


@FORMS
def test_what_lies_outside_takes_part_by_hand(form):
    # One pixel in a 3×3 window, all logits zero: eight parts of nine are outside. A row that is all but impossible
    # leaves six: 9/6. The weight of the pixel's own row alone, ln 4 more: (4·3 + 6) parts, 4 of them its own.
    zero, far, more = [0.0], [-800.0], [math.log(4)]
    for rows, expected in (([zero] * 3, 1), ([far, zero, zero], 1.5), ([zero, more, zero], 2)):
        y = form(planes(zero), planes([5]), planes([9]), planes(*rows), planes(zero, zero, zero))
        torch.testing.assert_close(y, planes([expected]), rtol=0, atol=1e-13)


@FORMS
def test_rows_and_columns_point_where_they_say(form):
    # Only the upper right neighbour counts: rows (0, −∞, −∞), columns (−∞, −∞, 0), written −900.
    value = torch.arange(12, dtype=torch.float64).view(1, 1, 1, 3, 4)
    up, right = torch.tensor([0, -900, -900.0]), torch.tensor([-900, -900, 0.0])
    rows, columns = (t.double().view(1, 1, 3, 1, 1).expand(1, 1, 3, 3, 4) for t in (up, right))
    y = form(value * 0, value, value, rows, columns)
    assert y[0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]


@pytest.mark.parametrize("name", CONFIGS)
def test_definition_equals_loops(name):
    (query, key, value, rows, columns), _ = operands(CONFIGS[name])
    height, width, (kh, kw) = CONFIGS[name][4:]
    y = local_attention_definition(query, key, value, rows, columns)
    for p_y, p_x in {(0, 0), (height - 1, 0), (height // 2, width // 2), (height - 1, width - 1)}:
        total, mean = 0, 0
        for a in range(kh):
            for b in range(kw):
                logit = rows[..., a, p_y, p_x] + columns[..., b, p_y, p_x]
                at = p_y + a - kh // 2, p_x + b - kw // 2
                inside = 0 <= at[0] < height and 0 <= at[1] < width
                if inside:
                    logit = logit + (query[..., p_y, p_x] * key[..., at[0], at[1]]).sum(-1)
                total = total + logit.exp()
                if inside:
                    mean = mean + logit.exp()[..., None] * value[..., at[0], at[1]]
        torch.testing.assert_close(y[..., p_y, p_x], mean / total[..., None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("slices", [1, 1 << 19])
@pytest.mark.parametrize("name", CONFIGS)
def test_fast_form_equals_definition(name, slices, monkeypatch):
    monkeypatch.setitem(module._SLICE_LOGITS, "cpu", slices)
    tensors, cotangent = operands(CONFIGS[name])
    found, expected = (run(form, tensors, cotangent) for form in (local_attention, local_attention_definition))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", ["channels last", "batch expanded", "every second column"])
def test_operands_in_any_layout(layout):
    tensors, cotangent = operands(CONFIGS["7x7"])
    change = {
        "channels last": lambda t: t.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2),
        "batch expanded": lambda t: t[:1].expand(2, -1, -1, -1, -1),
        "every second column": lambda t: torch.stack((t, t + 1), -1).flatten(-2)[..., ::2],
    }[layout]
    given = [change(t) for t in tensors]
    assert not all(t.is_contiguous() for t in given)
    plain = [t.contiguous() for t in given]
    for form in (local_attention, local_attention_definition):
        torch.testing.assert_close(form(*given), form(*plain), rtol=0, atol=1e-13)
    y = local_attention(*(t.requires_grad_() for t in given))
    assert torch.isfinite(torch.autograd.grad(y, given[0], change(cotangent))[0]).all()


def test_mutants_differ():
    (q, k, v, rows, columns), _ = operands(CONFIGS["7x7"])
    expected = local_attention_definition(q, k, v, rows, columns)
    mutants = {
        "queries as keys": local_attention(k, q, v, rows, columns),
        "rows as columns": local_attention(q, k, v, columns, rows),
        "rows upside down": local_attention(q, k, v, rows.flip(2), columns),
        "no rows": local_attention(q, k, v, rows * 0, columns),
        "no columns": local_attention(q, k, v, rows, columns * 0),
        "a smaller window": local_attention(q, k, v, rows[:, :, 1:-1], columns[:, :, 1:-1]),
        "scaled": local_attention(q * 3**-0.5, k, v, rows, columns),
    }
    for name, y in mutants.items():
        assert (y - expected).abs().max() > 1e-3, name


@FORMS
@pytest.mark.parametrize("name", ["7x7", "wider values", "one pixel", "window not square"])
def test_gradients_are_true(form, name):
    leaves = [t[:1].clone().requires_grad_() for t in operands(CONFIGS[name])[0]]
    assert torch.autograd.gradcheck(form, leaves, fast_mode=True)


def test_second_derivatives_are_true():
    leaves = [t.requires_grad_() for t in operands((1, 2, 2, 2, 3, 4, (3, 3)))[0]]
    assert torch.autograd.gradgradcheck(local_attention, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["7x7", "wider values", "window larger than a tile"])
@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_float32_errs_at_most_twice_as_much_as_the_definition(name, factor):
    tensors, cotangent = operands(CONFIGS[name])
    tensors[0] = tensors[0] * factor
    exact = run(local_attention_definition, tensors, cotangent)
    tensors = [t.float() for t in tensors]
    found, known = (
        {key: (value.double() - exact[key]).norm() for key, value in run(form, tensors, cotangent).items()}
        for form in (local_attention, local_attention_definition)
    )
    for key, error in found.items():
        assert error <= 2 * known[key] + torch.finfo(torch.float32).eps * exact[key].norm(), key


def test_large_logits_stay_finite():
    tensors, cotangent = operands(CONFIGS["7x7"], torch.float32)
    tensors[0] = tensors[0] * 1e4
    found = run(local_attention, tensors, cotangent)
    assert [name for name, value in found.items() if not value.isfinite().all()] == []


@FORMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(form, dtype):
    tensors, cotangent = operands(CONFIGS["7x7"], dtype)
    found = run(form, tensors, cotangent)
    exact = run(local_attention_definition, [t.float() for t in tensors], cotangent)
    for key, value in found.items():
        assert value.dtype == dtype
        torch.testing.assert_close(value, exact[key].to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@FORMS
def test_autocast_takes_any_dtype_and_gives_its_own(form):
    tensors, _ = operands(CONFIGS["7x7"], torch.float32)
    tensors[0] = tensors[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = form(*tensors)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, form(*(t.float() for t in tensors)).bfloat16(), rtol=0, atol=0)


def test_no_window_is_copied_for_each_pixel():
    tensors, cotangent = operands((1, 4, 8, 8, 48, 48, (7, 7)), torch.float32)
    sizes = {}
    for form in (local_attention, local_attention_definition):
        with Largest() as largest:
            run(form, tensors, cotangent)
        sizes[form] = largest.bytes
    assert sizes[local_attention_definition] >= 4 * 49 * 4 * 8 * 48 * 48
    assert sizes[local_attention] <= sizes[local_attention_definition] / 10


def test_compiled_and_exported_it_is_the_definition():
    tensors, cotangent = operands(CONFIGS["7x7"])
    expected = run(local_attention, tensors, cotangent)
    compiled = torch.compile(local_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, tensors, cotangent), expected, rtol=0, atol=1e-12)
    torch.compiler.reset()


@FORMS
def test_tensors_without_data_have_shapes(form):
    tensors, cotangent = operands(CONFIGS["wider values"], torch.float32)
    y = form(*(t.to("meta") for t in tensors))
    assert (y.shape, y.dtype, y.device.type) == (cotangent.shape, cotangent.dtype, "meta")


def test_an_empty_batch_stays_empty():
    tensors, _ = operands(CONFIGS["7x7"])
    leaves = [t[:0].requires_grad_() for t in tensors]
    y = local_attention(*leaves)
    y.sum().backward()
    assert y.shape == (0, 2, 3, 13, 11)
    assert [leaf.grad.shape for leaf in leaves] == [leaf.shape for leaf in leaves]


def test_multiply_adds_are_those_of_the_window():
    # 2 images, 2 heads, 13·11 pixels, 49 places, 3 channels in each product.
    tensors, _ = operands(CONFIGS["7x7"])
    assert local_attention.macs(*tensors) == 2 * 2 * 13 * 11 * 49 * (3 + 3)
    assert local_attention_definition.macs(*tensors) == local_attention.macs(*tensors)


@FORMS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (1, 4, 3, 3)}, "5 dimensions"),
        ({"value": (1, 1, 2, 3, 4)}, "same batch, heads, height and width"),
        ({"key": (1, 1, 3, 3, 3)}, "query and key must have the same number of channels"),
        ({"row_bias": (1, 1, 4, 3, 3)}, r"odd kh and kw, .*, got .* row_bias \(1, 1, 4, 3, 3\)"),
    ],
)
def test_operands_that_do_not_belong_together_are_refused(form, change, message):
    shapes = dict.fromkeys(NAMES[:3], (1, 1, 2, 3, 3)) | dict.fromkeys(NAMES[3:], (1, 1, 3, 3, 3)) | change
    with pytest.raises(ValueError, match=message):
        form(**{name: torch.zeros(shape) for name, shape in shapes.items()})


@FORMS
def test_mixed_dtypes_are_refused_outside_autocast(form):
    tensors, _ = operands(CONFIGS["7x7"], torch.float32)
    with pytest.raises(ValueError, match="one dtype, got query float64, key float32"):
        form(tensors[0].double(), *tensors[1:])


def test_func_transforms_take_the_definition():
    x = torch.randn(3, 2, 1, 3, 4, 5, dtype=torch.float64)
    found, wanted = (
        torch.vmap(torch.func.grad(lambda t, form=form: form(t, t, t, t, t).sin().sum()))(x)
        for form in (local_attention, local_attention_definition)
    )
    torch.testing.assert_close(found, wanted)
