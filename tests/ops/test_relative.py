"""The bias by relative position: the fast form against the definition, and the definition against numbers."""

import pytest
import torch

import saccade.ops.relative as relative
from saccade import create
from saccade.ops.relative import (
    coordinates,
    pixel_coordinates,
    relative_attention,
    relative_attention_definition,
    relative_bias,
    relative_bias_definition,
    table_runs,
)


def _case(heads=2, batch=3, keys=5, size=(4, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(heads, 2 * size[0] - 1, 2 * size[1] - 1, generator=generator, dtype=dtype, requires_grad=True)
    places = torch.rand(batch, keys, 2, generator=generator, dtype=dtype) * 2 - 1
    return table, places.requires_grad_()


def _differentiated(bias, operands):
    weights = torch.randn(bias.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((bias.double() * weights).sum(), operands)


@pytest.mark.parametrize("size", [(4, 6), (1, 5), (3, 1), (1, 1), (7, 2)])
@pytest.mark.parametrize("rows", [slice(0, None), slice(1, 3)])
def test_equals_its_definition(size, rows):
    table, places = _case(size=size)
    known, found = (
        relative_bias_definition(table, places, size, rows),
        relative_bias(table_runs(table), places, size, rows),
    )
    assert found.shape == known.shape == (3, 2, 5, len(range(size[0])[rows]) * size[1])
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)
    if known.numel():
        for a, b in zip(_differentiated(found, (table, places)), _differentiated(known, (table, places)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_corners_are_inside():
    table, _ = _case()
    places = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]], dtype=torch.float64)
    known = relative_bias_definition(table, places, (4, 6), slice(0, None))
    torch.testing.assert_close(relative_bias(table_runs(table), places, (4, 6), slice(0, None)), known)
    torch.testing.assert_close(
        known[0, 0, 1, 0], table[0, 0, 0], rtol=0, atol=0
    )  # pixel (−1, −1), key (1, 1): the table's first corner


def test_rounding_is_at_most_twice_the_definition_s():
    exact_table, exact_places = _case(heads=4, keys=40, size=(11, 13))
    table, places = exact_table.detach().float().requires_grad_(), exact_places.detach().float().requires_grad_()
    every = slice(0, None)
    exact = relative_bias_definition(table.double(), places.double(), (11, 13), every)
    errors = [
        (bias.double() - exact).abs().mean()
        for bias in (
            relative_bias(table_runs(table), places, (11, 13), every),
            relative_bias_definition(table, places, (11, 13), every),
        )
    ]
    assert errors[0] <= 2 * errors[1]


def test_gradients_of_gradients_are_those_of_the_definition():
    table, places = _case()

    def form(table, places):
        return relative_bias(table_runs(table), places, (4, 6), slice(0, None))

    assert torch.autograd.gradgradcheck(form, (table, places), fast_mode=True)


def _operands(size, heads=2, batch=3, keys=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    table, places = _case(heads, batch, keys, size, dtype)
    shapes = (3, size[0] * size[1]), (3, keys), (4, keys)
    some = [torch.randn(batch, heads, *shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]
    return *some, places, table


@pytest.mark.parametrize("size", [(4, 6), (1, 5), (3, 1), (1, 1), (7, 2)])
@pytest.mark.parametrize(("at_once", "biased"), [(2**20, 2**23), (60, 200), (500, 500), (1, 1)])
def test_attention_equals_its_definition_whatever_its_blocks(monkeypatch, size, at_once, biased):
    monkeypatch.setattr(relative, "_BLOCK_NUMEL", at_once)
    monkeypatch.setattr(relative, "_BIAS_GRAD_NUMEL", biased)
    operands = _operands(size)
    found, known = (f(*operands, size, 0.7) for f in (relative_attention, relative_attention_definition))
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)
    for a, b in zip(_differentiated(found, operands), _differentiated(known, operands), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert (relative_attention(*operands, size, 0.8) - known).abs().max() > 1e-4 or size == (1, 1)


def test_attention_s_gradients_of_gradients_are_the_definition_s():
    operands = _operands((3, 4))
    seconds = []
    for form in (relative_attention, relative_attention_definition):
        first = torch.autograd.grad(form(*operands, (3, 4), 0.7).square().sum(), operands, create_graph=True)
        seconds.append(torch.autograd.grad(sum(t.square().sum() for t in first), operands))
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_attention_s_gradients_of_many_results_at_once_are_the_definition_s():
    operands = _operands((3, 4))
    cotangents = torch.randn(3, *operands[2].shape[:3], 12, dtype=torch.float64)
    results = [form(*operands, (3, 4), 0.7) for form in (relative_attention, relative_attention_definition)]
    found, known = (
        torch.vmap(lambda c, y=y: torch.autograd.grad(y, operands, c, retain_graph=True))(cotangents) for y in results
    )
    torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_s_rounding_is_at_most_twice_the_definition_s(dtype):
    size = (11, 13)
    operands = [t.detach().to(dtype).requires_grad_() for t in _operands(size, keys=40)]
    exact = [t.detach().double().requires_grad_() for t in operands]
    truth = relative_attention_definition(*exact, size, 0.7)
    truth = [truth, *_differentiated(truth, exact)]
    places = operands[3] if dtype == torch.float32 else operands[3].detach().float().requires_grad_()
    operands[3] = places
    errors = []
    for form in (relative_attention, relative_attention_definition):
        y = form(*operands, size, 0.7)
        assert y.dtype == dtype
        found = [y, *_differentiated(y, operands)]
        errors.append([(a.double() - b).norm() / b.norm() for a, b in zip(found, truth, strict=True)])
    assert [(ours, plain) for ours, plain in zip(*errors, strict=True) if not ours <= 2 * plain] == []


def test_a_place_that_is_no_number_makes_no_number_and_no_error():
    table, places = _case(size=(9, 11))
    with torch.no_grad():
        places[1, 2, 0] = torch.nan
    found = relative_bias(table_runs(table), places, (9, 11), slice(0, 9))
    assert found[1, :, 2].isnan().all()
    assert found.isnan().sum() == found[1, :, 2].numel()
    torch.autograd.grad(found.sum(), (table, places))
    module = create("dat", 16, num_heads=2, groups=1, size=(9, 11))
    x = torch.randn(1, 16, 9, 11)
    x[0, 3, 2, 2] = torch.inf
    y = module(x.requires_grad_())
    y.sum().backward()
    assert y.isnan().any()


def test_coordinates_run_corner_on_corner():
    like = torch.zeros((), dtype=torch.float64)
    assert coordinates(3, like).tolist() == [-1, 0, 1]
    assert coordinates(1, like).tolist() == [0]
    assert pixel_coordinates((3, 2), slice(1, 3), like).tolist() == [[0, -1], [0, 1], [1, -1], [1, 1]]


def test_gradients_of_one_key_in_one_image():
    """Its weights are one row, expanded."""
    table, places = _case(batch=1, keys=1)
    known = relative_bias_definition(table, places, (4, 6), slice(0, None))
    found = relative_bias(table_runs(table), places, (4, 6), slice(0, None))
    for a, b in zip(_differentiated(found, (table, places)), _differentiated(known, (table, places)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
