"""Gradients of many results at once: ``torch.vmap`` over the backward, as ``torch.autograd.grad`` documents it."""

import pytest
import torch

from saccade import create, list_mechanisms, spec
from saccade.ops import attention, gating


@pytest.mark.parametrize("large", [False, True], ids=["small", "as if large"])
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap runs what it does not know in turn
@pytest.mark.parametrize("name", list_mechanisms())
def test_gradients_at_once_are_those_one_by_one(name, large, monkeypatch):
    if large:  # forms that small maps do not take
        monkeypatch.setattr(gating, "SMALL_MAP_NUMEL", 0)
        monkeypatch.setattr(attention, "_MAX_SAVED_RATIO", 0)
    torch.manual_seed(0)
    module = create(name, 64, **({"size": (5, 4)} if "size" in spec(name).needs else {})).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    x = torch.randn(2, 64, 5, 4, dtype=torch.float64, requires_grad=True)
    y = module(x)
    leaves = [x, *module.parameters()]

    def gradients(cotangent):
        return torch.autograd.grad(y, leaves, cotangent, retain_graph=True)

    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    at_once = torch.vmap(gradients)(cotangents)
    for found, *wanted in zip(at_once, *map(gradients, cotangents), strict=True):
        torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-10, atol=1e-10)
    assert at_once[0].abs().amax((1, 2, 3, 4)).min() > 1e-6
