"""Optimiser of a recipe, and gradient clipping."""

import pytest
import torch
from torch import nn

from saccade.recipe import Training
from saccade.training.optimizers import build_optimizer, clip_gradients


@pytest.mark.parametrize(
    ("training", "kind", "facts"),
    [
        ({}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"eps": 1e-8, "betas": (0.9, 0.999)}),
        ({"optimizer": "adamw", "eps": 1e-6}, torch.optim.AdamW, {"eps": 1e-6}),
        ({"optimizer": "rmsprop"}, torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-8, "momentum": 0.9}),
        (
            {"optimizer": "rmsprop", "rmsprop_alpha": 0.9, "eps": 0.0316, "momentum": 0.5},
            torch.optim.RMSprop,
            {"alpha": 0.9, "eps": 0.0316, "momentum": 0.5},
        ),
    ],
)
def test_the_optimiser_of_a_recipe(training, kind, facts):
    network = nn.Conv2d(3, 4, 3)
    optimizer = build_optimizer(network, Training(lr=0.03, weight_decay=0.01, **training))
    assert type(optimizer) is kind
    decayed, others = optimizer.param_groups
    for group in (decayed, others):
        assert {key: group[key] for key in facts} == facts
        assert group["lr"] == 0.03
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert {group["lr"] for group in build_optimizer(network, Training(**training), lr=0.2).param_groups} == {0.2}


def gradients(*values):
    parameters = [nn.Parameter(torch.zeros(2)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def test_long_gradients_are_scaled_to_the_norm_and_short_ones_stay():
    parameters = [*gradients([3.0, 0.0], [0.0, 4.0]), nn.Parameter(torch.zeros(2))]
    clip_gradients(parameters, 6.0)
    assert [p.grad.tolist() for p in parameters[:2]] == [[3.0, 0.0], [0.0, 4.0]]
    clip_gradients(parameters, 1.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.0, 0.8], abs=1e-5)
    assert parameters[2].grad is None


def test_gradients_that_are_not_finite_are_left_to_be_found():
    parameters = gradients([3.0, 0.0], [torch.nan, 4.0])
    clip_gradients(parameters, 1.0)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # the twin: PyTorch's spoils all of them
    assert parameters[0].grad.isnan().all()
