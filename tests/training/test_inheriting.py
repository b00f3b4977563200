"""Runs that start from a finished run: host, equal plugs and statistics are loaded."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from saccade import tasks
from saccade.errors import UserError
from saccade.training import train
from tiny_runs import TINY, assert_weights_equal, network_of, opened, rows

PLAIN = {"attention.mechanism": "none"}


@pytest.fixture(scope="module")
def first(tmp_path_factory, straight):
    """Folders of two finished runs, with plugs and without."""
    plain = tmp_path_factory.mktemp("plain") / "run"
    train(TINY.with_overrides(PLAIN), plain, device="cpu")
    return {"plugged": straight[0], "plain": plain}


def started_from(folder, **settings):
    values = {"model.init_from": str(folder), "training.epochs": 1}
    asked = TINY.with_overrides(values | {key.replace("__", "."): value for key, value in settings.items()})
    return tasks.resolve(asked, "label")


def weights(network):
    return network.state_dict()


def test_the_same_network_goes_on_where_it_ended(first, split, tmp_path, caplog):
    recipe = started_from(first["plugged"])
    assert recipe.attention.start == "paper"
    network = network_of(recipe, split)
    saved = load_file(first["plugged"] / "model.safetensors")
    assert_weights_equal(saved, weights(network))
    assert not caplog.records
    train(TINY.with_overrides({"model.init_from": str(first["plugged"])}), tmp_path / "on", device="cpu")
    before, after = rows(first["plugged"])[-1], rows(tmp_path / "on")[0]
    assert after["scores"] == before["scores"]
    assert after["scores"] != rows(first["plugged"])[0]["scores"]


def test_it_sees_images_as_that_run_did(first):
    recipe = started_from(first["plain"], data__size=None, model__options={})
    facts = json.loads((first["plain"] / "config.json").read_text())["facts"]
    assert list(recipe.data.mean) == facts["mean"]
    assert list(recipe.data.std) == facts["std"]
    assert recipe.data.size == 24
    assert recipe.model.options == TINY.model.options


@pytest.mark.parametrize(
    ("folder", "mechanism", "said"),
    [
        ("plugged", "none", "weights of se at"),
        ("plugged", "se:rd_ratio=0.25", "weights of se at"),
        ("plugged", "eca", "weights of se at"),
        ("plain", "se:rd_ratio=0.5", ""),
    ],
)
def test_other_plugs_are_left_out_and_said_so(first, split, folder, mechanism, said, caplog):
    with caplog.at_level(logging.WARNING, "saccade"):
        recipe = started_from(first[folder], attention__mechanism=mechanism)
        network = network_of(recipe, split)
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)
    saved = load_file(first[folder] / "model.safetensors")
    for key, value in weights(network).items():
        if ".saccade." not in key:
            torch.testing.assert_close(saved[key], value, rtol=0, atol=0)
    if mechanism != "none":
        assert recipe.attention.start == "auto"
        factors = {name: p for name, p in network.named_parameters() if name.endswith("saccade.a")}
        assert [name for name, p in factors.items() if p.any()] == []


def test_a_head_of_another_size_is_left_out(first, split, caplog):
    from saccade.models import create_host

    recipe = started_from(first["plain"], **PLAIN)
    with caplog.at_level(logging.WARNING, "saccade"):
        network = create_host(recipe.model, 4, 1)
    assert "the head is of another size" in caplog.text
    assert network.fc.weight.shape[0] == 4
    saved = load_file(first["plain"] / "model.safetensors")
    torch.testing.assert_close(network.layer4[0].conv2.weight, saved["layer4.0.conv2.weight"], rtol=0, atol=0)


def test_convolutions_that_were_replaced(tmp_path, caplog):
    recipe = TINY.with_overrides(
        {"attention.mechanism": "dcn1", "attention.where": "conv3x3[-1:]", "training.epochs": 1}
    )
    train(recipe, tmp_path / "run", device="cpu")
    split = opened(recipe)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    again = started_from(tmp_path / "run", attention__mechanism="dcn1", attention__where="conv3x3[-1:]")
    network = network_of(again, split)
    assert_weights_equal(saved, weights(network))
    plain = network_of(started_from(tmp_path / "run", **PLAIN), split)
    assert_weights_equal(saved, weights(plain))
    assert "the weights of dcn1 at 1 site are not loaded" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model__name": "resnet18", "model__options": {}}, "holds the network 'resnet10_small'; model.name is"),
        ({"model__options": {"width": 8}}, "another network"),
    ],
)
def test_another_network_is_refused(first, split, settings, words):
    with pytest.raises(UserError, match=words):
        network_of(started_from(first["plain"], **settings), split)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plugs": [{}]}, "plugs.0.site is missing"),
        ({"replacements": [{}]}, "replacements.0.convolution is missing"),
        ({"host": {"timm": 5}}, "host.timm = 5"),
        ({"host": {"timm": "resnet10_small", "options": 5}}, "host.options = 5"),
    ],
)
def test_a_damaged_run_is_named(first, tmp_path, change, words):
    folder = tmp_path / "first"
    shutil.copytree(first["plugged"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=f"config.json is damaged: {words}"):
        train(TINY.with_overrides({"model.init_from": str(folder)}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_plugs_that_an_encoder_cannot_take_over_start_as_on_any_trained_host(first, tmp_path, caplog):
    asked = TINY.with_overrides({"model.init_from": str(first["plugged"]), "task.name": "segment"})
    assert tasks.resolve(asked, "mask").attention.start == "auto"
    assert tasks.resolve(asked, "label").attention.start == "paper"
    dense = {"task.name": "segment", "training.epochs": 1}
    train(TINY.with_overrides(dense), tmp_path / "dense", device="cpu")
    again = TINY.with_overrides({**dense, "model.init_from": str(tmp_path / "dense")})
    assert tasks.resolve(again, "mask").attention.start == "paper"
    assert not caplog.messages
    train(again, tmp_path / "again", device="cpu")
    assert rows(tmp_path / "again")[0]["scores"] == rows(tmp_path / "dense")[-1]["scores"]
    assert not caplog.messages
