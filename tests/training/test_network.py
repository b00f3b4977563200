"""The network of a recipe: host, mechanism and initialisation."""

import pytest
import torch
from torch import nn

import saccade
from saccade.data import open_data
from saccade.recipe import Data, Recipe
from saccade.tasks.multilabel import Multilabel
from saccade.training import derive_seed, train
from saccade.training.gates import probe_images
from saccade.training.network import build, requested_start
from tiny_runs import TINY, Killed, after, assert_weights_equal, listener, network_of, rows


def test_the_host_is_the_same_under_every_mechanism(split):
    plain = network_of(TINY.with_overrides({"attention.mechanism": "none"}), split).state_dict()
    for mechanism in ("se:rd_ratio=0.5", "das:alpha=0.5"):
        state = network_of(TINY.with_overrides({"attention.mechanism": mechanism}), split).state_dict()
        assert len(state) > len(plain)
        assert_weights_equal(state, plain)
    control = network_of(TINY.with_overrides({"attention.control": "extra"}), split).state_dict()
    assert_weights_equal(control, plain)
    other = network_of(TINY.with_overrides({"attention.mechanism": "none", "training.seed": 1}), split).state_dict()
    assert not torch.equal(other["conv1.weight"], plain["conv1.weight"])


def test_a_mechanism_draws_its_own_weights(split):
    one, again, other = (
        saccade.plugs(network_of(TINY.with_overrides({"training.seed": seed}), split))[0].module.state_dict()
        for seed in (0, 0, 1)
    )
    assert_weights_equal(again, one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert len({derive_seed(seed, word) for seed in range(50) for word in ("host", "attention")}) == 100


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_a_neutral_start_scores_as_the_host(tmp_path, start):
    first = []
    for mechanism in ("none", "das:alpha=0.5"):
        recipe = TINY.with_overrides({"attention.mechanism": mechanism, "attention.start": start})
        _, listen = listener(until=after(0))
        with pytest.raises(Killed):
            train(recipe, tmp_path / mechanism[:3], device="cpu", notify=listen)
        first.append(rows(tmp_path / mechanism[:3])[0]["scores"]["NLL"])
    assert (first[0] == first[1]) is (start == "neutral")


def test_start_auto_is_neutral_for_trained_weights(straight, split, tmp_path):
    host = network_of(TINY.with_overrides({"attention.mechanism": "none", "training.seed": 9}), split)
    saccade.save(host, tmp_path / "host", classes=split.classes)
    checkpoint = {"model.checkpoint": str(tmp_path / "host" / "model.safetensors")}
    assert [plug.module.a is None for plug in saccade.plugs(network_of(TINY, split))] == [True] * 4
    network = network_of(TINY.with_overrides(checkpoint), split)
    assert [plug.module.a.item() for plug in saccade.plugs(network)] == [0.0] * 4
    assert [requested_start(TINY.with_overrides(s)) for s in ({}, checkpoint)] == ["paper", "neutral"]
    assert requested_start(Recipe()) is None
    assert_weights_equal(network.state_dict(), host.state_dict())


def test_no_gate_is_dead_on_the_images_that_it_will_get(split):
    """Mechanism with one unit per site, which is dead after every second initialisation."""
    recipe = TINY.with_overrides({"attention.mechanism": "se:rd_ratio=0.25", "model.options": {"width": 4}})
    images = probe_images(split.train)
    for seed in range(3):
        network, shares = network_of(recipe.with_overrides({"training.seed": seed}), split), []
        for row in saccade.plugs(network)[:2]:
            row.module.mechanism.squeeze.register_forward_hook(
                lambda module, args, units, shares=shares: shares.append((units > 0).float().mean(0).max().item())
            )
        network.train()(images)
        assert min(shares) >= 0.75
        plain = network_of(
            recipe.with_overrides({"training.seed": seed, "attention.mechanism": "none"}), split
        ).state_dict()
        own = network_of(recipe.with_overrides({"training.seed": seed}), split).state_dict()
        assert_weights_equal(own, plain)


class WithSigmoid(nn.Sequential):
    """Network that gives probabilities; ``options`` leave the last layer out."""

    def __init__(self, num_classes, in_chans, sigmoid=True):
        last = [nn.Sigmoid()] if sigmoid else []
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes), *last)


def test_a_users_network_with_a_sigmoid_is_refused_by_multilabel():
    name = f"{__name__}:WithSigmoid"
    recipe = Recipe().with_overrides({"model.name": name, "task.name": "multilabel"})
    splits = open_data(Data(train_images=20, test_images=100, size=16), "vector")
    with pytest.raises(saccade.UserError, match="remove the sigmoid"):
        build(Multilabel(recipe, splits))
    build(Multilabel(recipe.with_overrides({"model.options": {"sigmoid": False}}), splits))
