"""Hosts are built by name and start from checkpoints; errors are explained."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg

from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import _host, create_host, find_weight_settings
from saccade.recipe import Model


def test_classes_and_channels_come_from_the_data():
    net = create_host(Model(), 7, 1)
    assert net.conv1.weight.shape == (16, 1, 3, 3)
    assert net(torch.randn(2, 1, 20, 20)).shape == (2, 7)
    assert create_host(Model(name="resnet18", options={"drop_path_rate": 0.1}), 4, 3).fc.weight.shape == (4, 512)


def test_the_global_generator_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return create_host(Model(), 3, 1).state_dict()

    one, two, other = weights(1), weights(1), weights(2)
    for k in one:
        torch.testing.assert_close(one[k], two[k], rtol=0, atol=0)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "resnet10_smal"}, "Did you mean 'resnet10_small'"),
        ({"name": "resnet81"}, "Did you mean 'resnet18'"),
        ({"name": "no such thing at all"}, "timm has no network 'no such thing at all'"),
        ({"name": "my_nets.build"}, "To use your own function, write my_nets:build"),
        ({"name": "resnet18.a1_in2k", "pretrained": True}, "Did you mean 'a1_in1k'"),
        ({"options": {"widht": 3}}, "no option 'widht'. Did you mean 'width'"),
        ({"options": {"width": 7}}, "resnet10_small: width must be even and at least 2, got 7"),
        ({"name": "resnet18", "options": {"drop_ratte": 0.1}}, "no option 'drop_ratte'. Did you mean 'drop_rate"),
        ({"name": "convnext_atto", "options": {"depth": 3}}, "ConvNeXt has no option 'depth'. Did you mean 'depths'"),
        ({"name": "resnet18", "options": {"layers": 3}}, r"could not build the network with options \{'layers': 3\}"),
        ({"options": {"num_classes": 3}}, "num_classes follows from the data"),
        ({"pretrained": True, "checkpoint": "x"}, "model.pretrained and model.checkpoint exclude each other"),
        ({"checkpoint": "x", "init_from": "y"}, "model.checkpoint and model.init_from exclude each other"),
        ({"pretrained": True}, "pretrained weights could not be downloaded: No pretrained weights exist"),
    ],
)  # fmt: skip
def test_wrong_uses_are_named(model, words):
    with pytest.raises(UserError, match=words):
        create_host(Model(**model), 3, 1)


def test_a_failed_download_is_a_user_error(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(_host.timm, "create_model", offline)
    with pytest.raises(UserError, match="pretrained weights could not be downloaded: Name or service"):
        create_host(Model(name="resnet18", pretrained=True), 3, 3)


@pytest.fixture
def saved(tmp_path):
    net = create_host(Model(), 5, 1)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", net


def test_a_checkpoint_is_loaded_whole(saved, caplog):
    path, net = saved
    again = create_host(Model(checkpoint=str(path)), 5, 1)
    for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not caplog.records


def test_a_head_of_another_size_is_left_out_with_a_warning(saved, caplog):
    path, net = saved
    with caplog.at_level(logging.WARNING, "saccade"):
        again = create_host(Model(checkpoint=str(path)), 3, 1)
    assert "fc.weight (5, 128) for (3, 128)" in caplog.text
    for key, value in again.state_dict().items():
        assert key.startswith("fc.") or torch.equal(value, net.state_dict()[key]), key
    assert again(torch.randn(1, 1, 16, 16)).shape == (1, 3)


def test_a_checkpoint_without_a_head_leaves_it_random(saved, caplog):
    path, net = saved
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("fc.")}, path)
    with caplog.at_level(logging.WARNING, "saccade"):
        again = create_host(Model(checkpoint=str(path)), 3, 1)
    assert "has no head" in caplog.text
    torch.testing.assert_close(again.layer4[0].conv2.weight, net.layer4[0].conv2.weight, rtol=0, atol=0)


def test_weights_for_colour_images_are_summed_for_grey_ones(tmp_path, caplog):
    colour = perturb(create_host(Model(), 3, 3))
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    with caplog.at_level(logging.WARNING, "saccade"):
        grey = create_host(Model(checkpoint=str(tmp_path / "colour.safetensors")), 3, 1).eval()
    assert "conv1.weight is for three channels; they are summed for grey images" in caplog.text
    images = torch.randn(2, 1, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(images), colour.eval()(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
        coloured = torch.cat([images, images, -images], 1)  # the twin: other channels, another answer
        assert (grey(images) - colour(coloured)).abs().max() > 1e-3


@pytest.mark.parametrize("what", ["missing", "misspelt", "corrupt", "cut", "folder", "foreign", "half", "other stem"])
def test_checkpoints_that_do_not_fit(saved, what):
    path, _ = saved
    weights, named, channels, words = load_file(path), path, 1, None
    match what:
        case "missing":
            named, words = path.parent / "no" / "where.safetensors", "there is no file"
        case "misspelt":
            named, words = path.with_name("weight.safetensors"), "Did you mean 'weights.safetensors'"
        case "corrupt":
            path.write_bytes(b"nonsense" * 9)
            words = "not a readable safetensors file"
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
            words = "not a readable safetensors file"
        case "folder":
            named, words = path.parent, "not a readable safetensors file"
        case "foreign":
            save_file({"blocks.0.weight": torch.ones(3)}, path)
            words = "another network .*missing: conv1.weight.*1 unknown: blocks.0.weight"
        case "half":
            save_file({k: v for k, v in weights.items() if "layer3" not in k}, path)
            words = "missing: layer3.0.conv1.weight"
        case "other stem":
            channels, words = 3, r"1 of another shape: conv1.weight \(16, 1, 3, 3\) for \(16, 3, 3, 3\)"
    with pytest.raises(UserError, match=words):
        create_host(Model(checkpoint=str(named)), 5, channels)


def test_a_checkpoint_of_another_architecture_is_refused(saved):
    """Some networks share all shapes and compute something else."""
    path, net = saved
    save_file(net.state_dict(), path, {"architecture": "resnet18"})
    with pytest.raises(UserError, match=r"its weights are of 'resnet18'; model\.name is 'resnet10_small'"):
        create_host(Model(checkpoint=str(path)), 5, 1)
    for known in ("resnet10_small", "a network of mine"):
        save_file(net.state_dict(), path, {"architecture": known})
        create_host(Model(checkpoint=str(path)), 5, 1)


STATED = {"mean": "0.5,0.25,0.5", "std": "[0.5, 0.5, 0.5]", "input_size": "3,96,64", "pad_type": "same", "format": "pt"}


def test_the_origin_comes_from_the_file_then_from_timm(saved):
    path, net = saved
    save_file(net.state_dict(), path, STATED)
    own = find_weight_settings(Model(checkpoint=str(path)))
    assert own.data == {"mean": (0.5, 0.25, 0.5), "std": [0.5, 0.5, 0.5], "size": [96, 64]}
    assert own.options == {"pad_type": "same"}
    beside = find_weight_settings(Model(name="resnet18", checkpoint=str(path)))
    timms = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg("resnet18").to_dict())
    assert beside.data == {**own.data, "interpolation": timms["interpolation"], "crop_pct": timms["crop_pct"]}
    save_file(net.state_dict(), path)
    assert find_weight_settings(Model(checkpoint=str(path))).data == {}
    assert find_weight_settings(Model(name="resnet18")) is None
    found = find_weight_settings(Model(name="convnext_atto", pretrained=True))
    assert found.data["size"] == 224
    assert found.data["mean"] == timms["mean"]
    assert (
        find_weight_settings(Model(name="fcn", options={"encoder": "convnext_atto"}, pretrained=True)).data
        == found.data
    )


def test_classifier_weights_are_loaded_into_an_encoder(tmp_path, caplog):
    net = create_host(Model(name="resnet18"), 5, 3)
    state = {key: torch.full_like(value, 1.5) for key, value in net.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors", {"architecture": "resnet18"})
    model = Model(name="fcn", options={"encoder": "resnet18"}, checkpoint=str(tmp_path / "weights.safetensors"))
    with caplog.at_level(logging.WARNING, "saccade"):
        dense = create_host(model, 3, 3)
    assert "2 tensors beyond the encoder are left out, such as fc.bias" in caplog.text
    assert [
        value
        for value in dense.encoder.state_dict().values()
        if value.is_floating_point()
        if not bool((value == 1.5).all())
    ] == []
    assert [value for value in dense.score.state_dict().values() if bool((value == 1.5).any())] == []
    other = model.model_copy(update={"options": {"encoder": "resnet34"}})
    with pytest.raises(UserError, match="its weights are of 'resnet18'"):
        create_host(other, 3, 3)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"another network .*missing: layer1\.2\.conv1\.weight"):
        create_host(other, 3, 3)


def with_facts(num_classes, in_chans, pretrained=False):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))
    net(torch.randn(1, in_chans, 8, 8))
    net.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "input_size": (3, 8, 8), "crop_pct": 0.9}
    return net


def test_the_origin_of_a_pretrained_user_function():
    name = f"{with_facts.__module__}:with_facts"
    state = torch.random.get_rng_state()
    found = find_weight_settings(Model(name=name, pretrained=True)).data
    assert (found["mean"], found["size"], found["crop_pct"]) == ((0.5, 0.4, 0.3), 8, 0.9)
    torch.testing.assert_close(torch.random.get_rng_state(), state, rtol=0, atol=0)
    assert find_weight_settings(Model(name=name)) is None
