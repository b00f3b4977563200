"""Attention: the definition by hand and against PyTorch's, the fast form against the definition, and its memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.ops import attention as module
from saccade.ops.attention import attention, attention_definition

FORMS = pytest.mark.parametrize("form", [attention, attention_definition], ids=["fast", "definition"])

# leading dimensions, queries, keys, width of queries and keys, of values, scale
CONFIGS: dict[str, tuple[tuple[int, ...], int, int, int, int, float]] = {
    "narrow queries": ((2,), 167, 167, 3, 11, 1.0),
    "equal widths": ((2,), 127, 107, 7, 7, 7**-0.5),
    "narrow values": ((3,), 149, 157, 13, 5, 13**-0.5),
    "heads": ((2, 3), 137, 113, 4, 5, 0.5),
    "large logits": ((1,), 193, 179, 8, 9, 5.0),
    "negative scale": ((1,), 43, 41, 2, 3, -1.5),
    "no scale": ((1,), 43, 41, 2, 3, 0.0),
    "one value": ((1,), 37, 31, 1, 1, 2.0),
    "few queries": ((2,), 17, 811, 1, 2, 1.0),
    "few keys": ((2,), 811, 17, 1, 2, 1.0),
}
# The matrix has no more than four times as many numbers as operands and result: it is kept.
SMALL: dict[str, tuple[tuple[int, ...], int, int, int, int, float]] = {
    "one pixel": ((2,), 1, 1, 3, 5, 1.0),
    "wide": ((2,), 9, 8, 16, 64, 0.25),
    "one key": ((2,), 7, 1, 4, 4, 0.5),
    "heads that are wide": ((2, 3), 13, 14, 5, 4, 0.5),
}
ALL = CONFIGS | SMALL


def operands(config, dtype=torch.float64):
    """Random operands, on a grid that float32 holds exactly, the scale, and a cotangent."""
    lead, rows, columns, narrow, wide, scale = config
    random = torch.Generator().manual_seed(rows)

    def draw(*shape):
        return (torch.randn(*lead, *shape, generator=random, dtype=torch.float64) * 2**12).round().div(2**12).to(dtype)

    return (draw(rows, narrow), draw(columns, narrow), draw(columns, wide)), scale, draw(rows, wide)


def run(form, tensors, scale, cotangent):
    """Result and all gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = form(*leaves, scale)
    return dict(zip("yqkv", (y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(y.dtype))), strict=True))


class Calls(TorchDispatchMode):
    """Counts blocks of weights that are formed and remembers the largest tensor that any operator returned."""

    def __init__(self):
        super().__init__()
        self.blocks, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.blocks += func is torch.ops.aten.softmax.int_out
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def blocks(name):
    """Blocks of weights that one forward and backward forms."""
    lead, rows, columns, *_ = ALL[name]
    step = max(1, min(rows, module._BLOCK_NUMEL // columns))
    several = max(1, module._BLOCK_NUMEL // (step * columns))
    return (1 if name in SMALL else 2) * math.ceil(math.prod(lead) / several) * math.ceil(rows / step)


# ------------------------------------------------------------------------------------------------- by hand, referee


@FORMS
def test_two_queries_by_hand(form):
    # Logits (2 ln 3, 0) and (0, 0), halved: weights (3/4, 1/4) and (1/2, 1/2).
    q, k, v, expected = (
        torch.tensor([rows], dtype=torch.float64)
        for rows in ([[1], [0]], [[2 * math.log(3)], [0]], [[8, 0], [16, 4]], [[10, 1], [12, 2]])
    )
    torch.testing.assert_close(form(q, k, v, 0.5), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_definition_equals_pytorch(name):
    tensors, scale, cotangent = operands(ALL[name])

    def pytorch(q, k, v, scale):
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)

    if scale > 0:  # PyTorch takes the root of it
        torch.testing.assert_close(
            run(attention_definition, tensors, scale, cotangent),
            run(pytorch, tensors, scale, cotangent),
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("name", ALL)
def test_fast_form_equals_definition(name):
    tensors, scale, cotangent = operands(ALL[name])
    expected = run(attention_definition, tensors, scale, cotangent)
    with Calls() as calls:
        found = run(attention, tensors, scale, cotangent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert calls.blocks == blocks(name)


def test_mutants_differ():
    (q, k, v), scale, _ = operands(CONFIGS["narrow queries"])
    expected = attention_definition(q, k, v, scale)
    mutants = {
        "queries as keys": attention(k, q, v, scale),
        "another scale": attention(q, k, v, 3**-0.5),
        "softmax over the queries": (q @ k.mT * scale).softmax(-2) @ v,
        "keys of zeros that count": attention(q, F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), scale),
    }
    for name, y in mutants.items():
        assert (y - expected).abs().max() > 1e-3, name


@FORMS
@pytest.mark.parametrize("name", ["narrow queries", "heads", "narrow values", "wide"])
def test_gradients_are_true(form, name):
    (q, k, v), scale, _ = operands(ALL[name])
    leaves = [t.requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *t: form(*t, scale), leaves, fast_mode=True)


@FORMS
def test_second_derivatives_are_true(form):
    (q, k, v), scale, _ = operands(((2,), 13, 11, 1, 2, 1.0))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradgradcheck(lambda *t: form(*t, scale), leaves, fast_mode=True)


def test_a_gradient_penalty_whose_cotangent_takes_no_gradient():
    """As of R1: the critic's sum is differentiated, and the gradient's length is a loss; operands share the map."""
    found = {}
    for form in (attention, attention_definition):
        x = operands(CONFIGS["narrow queries"])[0][2].requires_grad_()
        y = form(x[..., :3], x[..., 2:5], x, 0.7).sum()
        (slope,) = torch.autograd.grad(y, x, create_graph=True)
        found[form] = torch.autograd.grad(slope.square().sum(), x)[0]
    assert found[attention_definition].norm() > 1
    torch.testing.assert_close(found[attention], found[attention_definition], rtol=0, atol=1e-10)


def test_autocast_that_begins_after_the_forward_leaves_gradients_as_they_are():
    tensors, scale, cotangent = operands(CONFIGS["heads"], torch.float32)
    leaves = [t.requires_grad_() for t in tensors]
    y = attention(*leaves, scale)
    known = torch.autograd.grad(y, leaves, cotangent, create_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y, leaves, cotangent, create_graph=True)
    torch.testing.assert_close(found, known, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["narrow queries", "heads", "heads that are wide"])
def test_function_transforms(name):
    (q, k, v), scale, cotangent = operands(ALL[name])

    def many(t):
        return torch.stack([t, 2 * t, t - 1], dim=1)

    def call(form):
        return lambda q, k, v: form(q, k, v, scale)

    def slope(form):
        return torch.func.grad(lambda *t: (form(*t, scale) * cotangent).sum(), argnums=(0, 1, 2))

    for function in (call, slope):
        for axes in ((1, None, None), (1, 1, None), (None, 1, 1)):
            given = [t if axis is None else many(t) for t, axis in zip((q, k, v), axes, strict=True)]
            found, known = (torch.vmap(function(form), axes)(*given) for form in (attention, attention_definition))
            torch.testing.assert_close(found, known, rtol=0, atol=1e-11)


@FORMS
@pytest.mark.parametrize("name", ["heads", "wide"])
def test_tensors_without_data_have_shapes(form, name):
    tensors, scale, cotangent = operands(ALL[name], torch.float32)
    y = form(*(t.to("meta") for t in tensors), scale)
    assert (y.shape, y.dtype, y.device.type) == (cotangent.shape, cotangent.dtype, "meta")


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("name", ["narrow queries", "equal widths", "narrow values", "heads"])
def test_float32_errs_at_most_twice_as_much_as_the_definition(name, factor):
    lead, rows, columns, narrow, wide, _ = CONFIGS[name]
    tensors, scale, cotangent = operands((lead, 3 * rows, 3 * columns, narrow, wide, factor))
    exact = run(attention_definition, tensors, scale, cotangent)
    tensors = [t.float() for t in tensors]
    ours, plain = (run(form, tensors, scale, cotangent) for form in (attention, attention_definition))
    for name, truth in exact.items():
        assert (ours[name] - truth).norm() <= 2 * (plain[name] - truth).norm(), name


def test_the_kernel_of_pytorch_errs_more():
    # Why it is not used: where logits are large, the logarithm of a row's sum that it keeps costs gradients digits.
    (q, k, v), scale, cotangent = operands(((1, 1), 301, 317, 24, 24, 10.0))

    def kernel(q, k, v, scale):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    exact = run(attention_definition, (q, k, v), scale, cotangent)
    single = [t.float() for t in (q, k, v)]
    error = {form: (run(form, single, scale, cotangent)["v"] - exact["v"]).norm() for form in (kernel, attention)}
    assert error[kernel] > 4 * error[attention]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["narrow queries", "heads", "wide"])
@FORMS
def test_half_precision_stays_close(form, name, dtype):
    tensors, scale, cotangent = operands(ALL[name], dtype)
    exact = run(attention_definition, [t.double() for t in tensors], scale, cotangent.double())
    found = run(form, tensors, scale, cotangent)
    for name, truth in exact.items():
        assert found[name].dtype == dtype
        error = (found[name].double() - truth).norm() / truth.norm()
        assert 0 < error < 4 * torch.finfo(dtype).eps, f"{name}: {error}"


@FORMS
def test_autocast_mixes_dtypes_as_a_product_does(form):
    (q, k, v), scale, cotangent = operands(CONFIGS["narrow queries"], torch.float32)
    exact = run(form, (q, k.bfloat16().float(), v), scale, cotangent)
    leaves = [t.detach().clone().requires_grad_() for t in (q, k.bfloat16(), v)]
    with torch.autocast("cpu", torch.bfloat16):
        y = form(*leaves, scale)
        assert y.dtype == (q @ k.mT).dtype == torch.bfloat16
    y.backward(cotangent.bfloat16())
    for leaf, name in zip(leaves, "qkv", strict=True):
        assert leaf.grad.dtype == leaf.dtype
        assert (leaf.grad - exact[name]).norm() < 0.03 * exact[name].norm()
    q, k, v = (t.double() for t in (q, k, v))
    with torch.autocast("cpu", torch.bfloat16):  # float64 is left alone, as everywhere under autocast
        torch.testing.assert_close(form(q, k, v, scale), form(q, k, v, scale).double(), rtol=0, atol=0)
        assert form(q, k, v, scale).dtype == torch.float64


# ------------------------------------------------------------------------------------------------- memory, layouts


def test_no_tensor_grows_with_the_product_of_queries_and_keys(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_NUMEL", 5000)
    tensors, scale, cotangent = operands(((1,), 1500, 1400, 2, 4, 1.0), torch.float32)
    largest = {}
    for form in (attention, attention_definition):
        with Calls() as calls:
            run(form, tensors, scale, cotangent)
        largest[form] = calls.largest
    assert largest[attention_definition] == 1500 * 1400 * 4
    assert largest[attention] <= 1500 * 4 * 4  # the values, or the buffer


def test_the_buffer_is_a_few_megabytes():
    assert module._BLOCK_NUMEL * 4 <= 4 * 2**20
    assert module._SAVED_BLOCK_NUMEL * 4 <= 32 * 2**20


@pytest.mark.parametrize("name", ["narrow queries", "heads", "narrow values", "one pixel"])
def test_layouts_do_not_show(name):
    tensors, scale, cotangent = operands(ALL[name])
    expected = run(attention, tensors, scale, cotangent)
    with Calls() as calls:
        columns = [t.mT.contiguous().mT for t in tensors]  # as the pixels of a map (B, C, H, W) come
        leaves = [t.requires_grad_() for t in columns]
        y = attention(*leaves, scale)
        grads = torch.autograd.grad(y, leaves, cotangent.mT.contiguous().mT)
    assert calls.blocks == blocks(name)
    for found, value in zip((y, *grads), expected.values(), strict=True):
        assert found.mT.is_contiguous()
        torch.testing.assert_close(found, value, rtol=0, atol=1e-12)


def test_gradient_of_a_sum_and_each_gradient_alone():  # a cotangent that is one number expanded
    tensors, scale, cotangent = operands(CONFIGS["heads"])
    expected = run(attention, tensors, scale, torch.ones_like(cotangent))
    for i, name in enumerate("qkv"):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(tensors)]
        attention(*leaves, scale).sum().backward()
        assert [leaf.grad is None for leaf in leaves] == [i != j for j in range(3)]
        torch.testing.assert_close(leaves[i].grad, expected[name], rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize("config", [((0,), 40, 40, 2, 3, 1.0), ((2,), 0, 40, 2, 3, 1.0)])
def test_nothing_comes_of_nothing(form, config):
    tensors, scale, cotangent = operands(config)
    found = run(form, tensors, scale, cotangent)
    assert found["y"].shape == cotangent.shape
    assert [found[name].shape for name in "qkv"] == [t.shape for t in tensors]
    assert [name for name in "kv" if found[name].any()] == []


# ------------------------------------------------------------------------------------------------ compiled, exported


class Pixels(nn.Module):
    """Self-attention over the pixels of a map."""

    def forward(self, x):
        rows = x.flatten(2).mT
        return attention(rows[..., :3], rows[..., 3:6], rows, 0.7).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("size", [(9, 7), (2, 1), (1, 1)])
def test_compiles_as_one_graph(size):
    x = torch.randn(2, 10, *size, dtype=torch.float64).requires_grad_()
    compiled = torch.compile(Pixels(), fullgraph=True, backend="aot_eager")
    (grad,) = torch.autograd.grad(Pixels()(x).square().sum(), x)
    y = compiled(x)
    torch.testing.assert_close(y, Pixels()(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], grad, rtol=0, atol=1e-12)


def test_compiled_its_memory_is_linear_too():
    x = torch.randn(1, 10, 40, 30)
    compiled = torch.compile(Pixels(), fullgraph=True, backend="aot_eager")
    compiled(x)
    with torch.profiler.profile() as profile:
        compiled(x)
    called = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in called
    assert not any("softmax" in name for name in called)


def test_exports_with_any_size():
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    exported = torch.export.export(Pixels(), (torch.randn(2, 10, 5, 7),), dynamic_shapes=(sizes,)).module()
    for shape in ((2, 10, 5, 7), (3, 10, 13, 11), (1, 10, 2, 1)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), Pixels()(x), rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- mistakes


@FORMS
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (3, 4), (3, 4)), r"3 or 4 dimensions, got query \(3, 4\)"),
        (((1, 3, 4), (1, 1, 3, 4), (1, 3, 4)), "3 or 4 dimensions"),
        (((2, 3, 4), (1, 3, 4), (2, 3, 4)), "same leading dimensions"),
        (((2, 3, 4), (2, 3, 5), (2, 3, 4)), "query and key must have the same last dimension"),
        (((2, 3, 4), (2, 6, 4), (2, 5, 4)), r"one value for each key, .* value \(2, 5, 4\)"),
    ],
)
def test_operands_that_do_not_belong_together(form, shapes, message):
    with pytest.raises(ValueError, match=message):
        form(*(torch.zeros(shape) for shape in shapes), 1.0)


@FORMS
def test_mixed_dtypes_are_refused_outside_autocast(form):
    x = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"one dtype, got torch\.float32, torch\.float64 and torch\.float32"):
        form(x, x.double(), x, 1.0)


def test_both_forms_state_one_cost():
    assert module.attention.macs is module.attention_definition.macs
    (q, k, v), scale, _ = operands(CONFIGS["heads"])
    assert attention.macs(q, k, v, scale=scale) == 2 * 3 * 137 * 113 * (4 + 5)
