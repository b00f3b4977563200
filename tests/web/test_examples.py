"""Test images of a page."""

import dataclasses
import shutil

import torch

from saccade.web.examples import find_examples
from saccade.web.networks import open_networks


def test_images_on_which_the_networks_disagree_come_first(study):
    networks = open_networks([study])
    examples, reason = find_examples(networks)
    right = [network.rows["predicted"] == network.rows["label"] for network in networks]
    disputed = set(torch.nonzero(right[0] != right[1])[:, 0].tolist())
    assert reason == ""
    assert 0 < len(disputed) < 40
    assert set(examples.indices[: examples.n_disputed]) == disputed
    assert examples.n_disputed_in_all == len(disputed)
    assert sorted(examples.indices) == list(range(40))
    same, _ = find_examples([networks[0]])
    assert same.n_disputed == 0


def test_pictures_regions_and_truth(study):
    (network, _) = open_networks([study])
    examples, _ = find_examples([network])
    index = examples.indices[0]
    label = examples.truth(index)
    assert examples.picture(index).size == (24, 24)
    assert torch.equal(network.prepared.pixels(examples.tensor(index)), examples.pixels(index))
    ((subject, region),) = examples.regions(index).items()
    assert (subject, region.shape, region.dtype) == (int(label), (24, 24), torch.bool)
    assert 0 < int(region.sum()) < 24 * 24
    assert examples.is_of(network)


def test_networks_without_images(saved, study, tmp_path):
    examples, reason = find_examples(open_networks([saved]))
    assert examples is None
    assert "without a recipe" in reason
    shutil.copytree(study / "none" / "seed0", tmp_path / "run")
    (network,) = open_networks([tmp_path / "run"])
    assert find_examples([network])[1] == ""
    examples, reason = find_examples([dataclasses.replace(network, fingerprint="other")])
    assert (examples, reason) == (None, "The images in digits have changed since the run was made.")
    assert network.fingerprint
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    (tmp_path / "run" / "recipe.toml").write_text(recipe.replace('"digits"', '"/no/such/images"', 1))
    examples, reason = find_examples(open_networks([tmp_path / "run"]))
    assert examples is None
    assert "/no/such/images" in reason
