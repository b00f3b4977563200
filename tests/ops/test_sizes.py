"""Sizes of at least one, as numbers and in graphs."""

import torch

from saccade import create
from saccade.ops.sizes import at_least_one


def test_numbers_and_tensors():
    assert [at_least_one(n) for n in (0, 1, 5)] == [1, 1, 5]
    assert at_least_one(torch.tensor([0, 1, 5])).tolist() == [1, 1, 5]


def test_fx_traces_through_it():
    module = create("simam", 8).eval()
    graph = torch.fx.symbolic_trace(module)
    for size in ((7, 5), (1, 1)):
        x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(graph(x), module(x), rtol=0, atol=0)
