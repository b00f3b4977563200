"""Hosts are rebuilt from known libraries and trusted functions only, and without fetching weights."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models import resnet18

import saccade.models  # noqa: F401 (registers resnet10_small)
from hostile import HOSTS, OPTIONS, trial, watched
from saccade import UserError, load, plug, save
from saccade.contract.randomize import perturb
from saccade.saving import describe, rebuild
from saved_folders import assert_same_outputs, change_config, randomise, refusal

SIZE = (3, 32, 24)


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: "-".join(map(str, host.values()))[:60])
def test_no_host_of_a_file_runs_reaches_out_or_grows(folder, host):
    change_config(folder, host=host)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("name", ["evil_package:Net", "evil_package.inner:Net"])
def test_a_host_from_elsewhere_is_not_even_imported(folder, evil, name):
    change_config(folder, host={"call": name, "options": {}})
    message = refusal(folder)
    assert f"names the host {name!r}" in message
    assert f"would import and run the module {name.partition(':')[0]!r}" in message
    assert "trust=True, or --trust" in message
    assert not evil.exists()
    with pytest.raises(UserError, match="Net has no module"):  # trusted, it is imported and made
        load(folder, trust=[name])
    assert evil.exists()


def test_networks_of_the_libraries_need_no_trust(tmp_path):
    options = {"encoder_weights": None, "decoder_channels": [16, 8], "encoder_depth": 2, "classes": 2}
    network = randomise(plug(smp.Unet("resnet18", **options), "se", where="decoder.blocks.0", input=(3, 32, 32)))
    with watched() as acts:
        config = save(network, tmp_path / "smp", input=(3, 32, 32))
        again = load(tmp_path / "smp")
    assert config["host"]["call"] == "segmentation_models_pytorch.decoders.unet.model:Unet"
    assert [act for act in acts if str(tmp_path) not in act] == []
    assert acts  # the files of the folder
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "host",
    [{"call": "torchvision.models.resnet:resnet18"}, {"call": "timm.models.resnet:resnet10t"},
     {"call": "torchvision.models.mobilenetv2:MobileNetV2"}, {"torchvision": "lraspp_mobilenet_v3_large"}],
    ids=str,
)  # fmt: skip
def test_old_ways_to_name_them_still_do(host):
    with watched() as acts:
        assert isinstance(rebuild(host, trust=False), nn.Module)
    assert acts == []


# Options that fetch, and sizes


@pytest.mark.parametrize("key", [key for key in OPTIONS if key not in ("features_only", "width")])
def test_no_option_of_a_file_fetches_or_grows(folder, key):
    host = describe(folder)["host"]
    change_config(folder, host=host | {"options": host["options"] | {key: OPTIONS[key]}})
    assert key in refusal(folder)


def test_defaults_of_a_library_fetch_nothing(folder):
    encoder = "segmentation_models_pytorch.encoders.timm_universal:TimmUniversalEncoder"
    change_config(folder, host={"call": encoder, "options": {"name": "resnet18"}}, plugs=[], replacements=[])
    outcome = trial("", lambda: load(folder))
    assert (outcome.kind, outcome.acts) == ("refused", ())


def test_hosts_of_torchvision_and_of_functions(tmp_path):
    network = perturb(plug(resnet18(num_classes=5), "eca", input=SIZE)).eval()
    save(network, tmp_path / "tv", host={"torchvision": "resnet18", "options": {"num_classes": 5}})
    assert_same_outputs(network, load(tmp_path / "tv"))
    host = {"call": "torchvision.models.resnet:resnet18", "options": {"num_classes": 5}}
    save(network, tmp_path / "call", host=host)
    assert_same_outputs(network, load(tmp_path / "call"))


def test_rebuilding_fetches_no_weights(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    name = "lraspp_mobilenet_v3_large"
    assert isinstance(rebuild({"torchvision": name}), nn.Module)
    with pytest.raises(UserError, match="no network here"):
        rebuild({"torchvision": name, "options": {"weights_backbone": "DEFAULT"}})
