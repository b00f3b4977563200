"""The gate of SimAM, forward and backward in pieces, against its definition."""

import pytest
import torch

from saccade.ops import eager
from saccade.ops.energy import energy_gate, energy_gate_definition

SHAPES = [(2, 3, 5, 4), (3, 2, 7, 3), (2, 3, 1, 1), (1, 1, 1, 2)]


def _map(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


@pytest.fixture(params=[7, 32, 1 << 18], ids=["maps", "some maps", "at once"])
def piece(request, monkeypatch):
    """Pieces of one map, of some, of all."""
    monkeypatch.setattr(eager, "PIECE_NUMEL", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("e_lambda", [1e-4, 0.1, 3.0])
def test_value_and_gradient_are_the_definitions(shape, e_lambda):
    x, grad = _map(shape), _map(shape, 1).detach()
    gate, known = energy_gate(x, e_lambda), energy_gate_definition(x, e_lambda)
    torch.testing.assert_close(gate, known, rtol=1e-13, atol=1e-13)
    (found,), (wanted,) = (torch.autograd.grad(g, x, grad) for g in (gate, known))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_by_hand():
    x = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64, requires_grad=True)  # mean 2, v = 2, d = 1
    gate = energy_gate(x, 0.5)
    known = torch.full_like(x, 1 / 10 + 1 / 2).sigmoid()
    torch.testing.assert_close(gate, known)
    # with a = x_2 - x_1 both exponents are a²/4 / 4(a²/2 + 1/2) + 1/2, whose derivative at a = 2 is 1/50
    (found,) = torch.autograd.grad(gate[..., 1].sum(), x)
    slope = float((known * (1 - known))[0, 0, 0, 0]) / 50
    torch.testing.assert_close(found, torch.tensor([[[[-slope, slope]]]], dtype=torch.float64))


def test_second_derivatives():
    assert torch.autograd.gradgradcheck(lambda x: energy_gate(x, 0.1), (_map((2, 2, 3, 2)),))


def test_constant_and_large_maps():
    x = torch.full((1, 2, 3, 3), 5.0, requires_grad=True)
    gate = energy_gate(x, 1e-4)
    torch.testing.assert_close(gate, torch.full_like(x, 0.5).sigmoid(), rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(gate.sum(), x)[0], torch.zeros_like(x), rtol=0, atol=0)
    large = (1e12 * _map((2, 3, 9, 9), dtype=torch.float32)).detach().requires_grad_()
    (found,) = torch.autograd.grad(energy_gate(large, 1e-4).sum(), large)
    assert found.isfinite().all()


def test_functorch_takes_the_definition():
    x = _map(SHAPES[0])
    found = torch.func.grad(lambda t: energy_gate(t, 0.1).square().sum())(x.detach())
    torch.testing.assert_close(found, torch.autograd.grad(energy_gate(x, 0.1).square().sum(), x)[0])


def test_rounding_is_no_worse_than_the_definitions():
    x, grad = (_map((2, 16, 40, 40), seed).detach() for seed in (0, 1))

    def both(form, dtype):
        leaf = (x + 3).to(dtype).requires_grad_()
        gate = form(leaf, 1e-4)
        return gate.detach(), torch.autograd.grad(gate, leaf, grad.to(dtype))[0]

    truth = both(energy_gate_definition, torch.float64)
    fast, plain = (both(form, torch.float32) for form in (energy_gate, energy_gate_definition))
    for found, known, true in zip(fast, plain, truth, strict=True):
        assert (found - true).abs().max() <= 2 * (known - true).abs().max()
