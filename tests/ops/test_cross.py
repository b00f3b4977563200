"""Gates of rows and columns made of their means: value and all gradients against autograd's."""

import pytest
import torch

from saccade import create
from saccade.ops.cross import cross_gated, cross_gated_definition

SHAPES = [(2, 3, 5, 4), (3, 2, 1, 7), (1, 4, 1, 1)]


def _drawn(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


GATES = {
    "both": lambda r, c, w: ((w * r).sigmoid(), (c - w).tanh()),
    "each of the other": lambda r, c, w: (r * c.mean(3, keepdim=True), w * c + r.mean(2, keepdim=True)),
    "rows alone": lambda r, c, w: (w * r, torch.ones_like(c)),
    "neither": lambda r, c, w: (w.expand(r.shape), w.expand(c.shape) + 1),
}


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_value_and_gradients_are_the_definitions(name, shape):
    x, w, grad = _drawn(shape, 0), _drawn((), 1), _drawn(shape, 2).detach()
    y, known = (form(x, lambda r, c: GATES[name](r, c, w)) for form in (cross_gated, cross_gated_definition))
    torch.testing.assert_close(y, known, rtol=1e-14, atol=1e-14)
    found, wanted = (torch.autograd.grad(each, (x, w), grad) for each in (y, known))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    if shape[2] != shape[3]:
        swapped = cross_gated(x.mT, lambda r, c: GATES[name](r, c, w)).mT
        assert name == "neither" or not torch.allclose(swapped, y)


@pytest.mark.parametrize("name", GATES)
def test_second_derivatives(name):
    x, w = _drawn((2, 2, 3, 2), 0), _drawn((), 1)
    assert torch.autograd.gradgradcheck(lambda x, w: cross_gated(x, lambda r, c: GATES[name](r, c, w)), (x, w))


def test_gradients_of_a_part_hand_nothing_to_the_next():
    x, w = _drawn(SHAPES[0], 0), _drawn((), 1)
    grad = _drawn(SHAPES[0], 2).detach()
    y = cross_gated(x, lambda r, c: GATES["both"](r, c, w))
    of_w = torch.autograd.grad(y, w, grad, retain_graph=True)[0]
    of_both = torch.autograd.grad(y, (x, w), grad, retain_graph=True)
    torch.testing.assert_close(of_both[1], of_w)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0], of_both[0])


@pytest.mark.parametrize("learns", [True, False])
def test_somebody_looking_at_the_gate_changes_nothing(learns):
    torch.manual_seed(0)
    coord, x = create("coord", 8), torch.randn(3, 8, 7, 5, requires_grad=learns)
    with torch.set_grad_enabled(learns):
        y = coord(x)
        seen = []
        coord.tap.register_forward_hook(lambda _, __, gate: seen.append(gate))
        torch.testing.assert_close(coord(x), y, rtol=0, atol=0)
    (gate,) = seen
    torch.testing.assert_close(x * gate, y, rtol=0, atol=0)
    if learns:
        leaves = [x, *coord.parameters()]
        found, watched = (torch.autograd.grad(each.square().sum(), leaves) for each in (y, coord(x)))
        torch.testing.assert_close(found, watched, rtol=1e-5, atol=1e-6)


def test_a_hook_may_change_the_gate():
    coord, x = create("coord", 8), torch.randn(1, 8, 3, 4)
    coord.tap.register_forward_hook(lambda _, __, gate: torch.zeros_like(gate))
    assert not coord(x).any()
