"""A map times a gate that is made of it: the fork's gradient against autograd's."""

import threading

import pytest
import torch

from saccade.bases import Gate
from saccade.ops.self_gating import gated_by, gated_by_definition

SHAPES = [(2, 3, 5, 4), (3, 2, 7, 3), (1, 4, 1, 1)]


def _map(shape=SHAPES[0], seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


GATES = {
    "channel": lambda x, w: (w * x.mean((2, 3), keepdim=True)).sigmoid(),
    "place": lambda x, w: (w * x.square().mean(1, keepdim=True)).tanh(),
    "rows": lambda x, w: (w * x.mean(3, keepdim=True)).exp(),
    "image": lambda x, w: w * x.sum((1, 2, 3), keepdim=True),
    "whole": lambda x, w: (w * x).sigmoid(),
    "of x twice": lambda x, w: (w * x).sigmoid() * x.mean((2, 3), keepdim=True),
    "constant": lambda x, w: w.expand(x.shape[0], 1, 1, 1),
    "channels_last": lambda x, w: (w * x).contiguous(memory_format=torch.channels_last),
    "one for all images": lambda x, w: w.view(1, 1, 1, 1) + 0 * x.mean(),
}


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_value_and_gradients_are_the_definitions(name, shape):
    x, w = _map(shape), _map((), 1)
    grad = _map(shape, 2).detach()
    y, known = (form(x, lambda t: GATES[name](t, w)) for form in (gated_by, gated_by_definition))
    torch.testing.assert_close(y, known, rtol=0, atol=0)
    for found, wanted in zip(
        torch.autograd.grad(y, (x, w), grad), torch.autograd.grad(known, (x, w), grad), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GATES)
def test_second_derivatives(name):
    x, w = _map((2, 2, 3, 2)), _map((), 1)
    assert torch.autograd.gradgradcheck(lambda x, w: gated_by(x, lambda t: GATES[name](t, w)), (x, w))


def test_gradients_of_a_part():
    """What one pass hands over and nobody takes is not taken by the next."""
    x, w = _map(), _map((), 1)
    y, known = (form(x, lambda t: GATES["channel"](t, w)) for form in (gated_by, gated_by_definition))
    for wanted in (w, x, w, x):
        (found,) = torch.autograd.grad(y.sum(), wanted, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(known.sum(), wanted, retain_graph=True)[0])
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(known.sum(), x, retain_graph=True)[0])


def test_a_gate_that_looks_at_nothing_else_and_one_that_was_cut_off():
    x = _map()
    for cut in (lambda t: t.sigmoid().detach(), lambda t: t.mean((2, 3), keepdim=True).detach()):
        (found,) = torch.autograd.grad(gated_by(x, cut).sum(), x)
        torch.testing.assert_close(found, cut(x).expand_as(x))
    seen = []
    gated_by(x, lambda t: (seen.append(t.sigmoid()), seen[0])[1])
    (found,) = torch.autograd.grad(seen[0].sum(), x)  # of the gate alone
    torch.testing.assert_close(found, (x.sigmoid() * (1 - x.sigmoid())).detach())


def test_two_threads_walk_one_graph():
    x, w = _map((4, 8, 16, 16)), _map((), 1)
    y = gated_by(x, lambda t: GATES["channel"](t, w))
    (known,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    found = []

    def walk():
        for _ in range(20):
            found.append(torch.autograd.grad(y.sum(), x, retain_graph=True)[0])

    threads = [threading.Thread(target=walk) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    torch.testing.assert_close(found, [known] * 40, rtol=0, atol=0)


def test_an_expanded_gradient_is_left_alone():
    x = _map()
    grad = torch.ones((), dtype=torch.float64).expand_as(x)
    y = gated_by(x, lambda t: t.mean((2, 3), keepdim=True))
    before = grad.clone()
    y.backward(grad)
    torch.testing.assert_close(grad, before, rtol=0, atol=0)


def test_functorch_takes_the_definition():
    x, w = _map().detach(), _map((), 1).detach()
    found = torch.func.grad(lambda t: gated_by(t, lambda u: GATES["channel"](u, w)).sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(GATES["channel"](leaf, w).mul(leaf).sum(), leaf)[0])


def test_a_gate_that_a_hook_changes():
    class Half(Gate):
        def gate(self, x):
            return x.mean((2, 3), keepdim=True)

    module, x = Half(), _map()
    module.tap.register_forward_hook(lambda _, __, gate: 0 * gate.detach() + 0.5)
    y = module(x)
    torch.testing.assert_close(y, 0.5 * x, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full_like(x, 0.5))


def test_rounding_is_no_worse_than_the_definitions():
    x, grad = _map((2, 16, 40, 40)).detach(), _map((2, 16, 40, 40), 1).detach()
    w = torch.tensor(2.0, dtype=torch.float64)

    def gradient(form, dtype):
        leaf = x.to(dtype).requires_grad_()
        y = form(leaf, lambda t: GATES["channel"](t, w.to(dtype)))
        return torch.autograd.grad(y, leaf, grad.to(dtype))[0]

    true = gradient(gated_by_definition, torch.float64)
    fast, plain = (gradient(form, torch.float32) for form in (gated_by, gated_by_definition))
    assert (fast - true).abs().max() <= 2 * (plain - true).abs().max()
