"""A network goes to disk and comes back the same; what is half, broken or foreign is refused by name."""

import copy
import json
import logging
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.mobilenetv2 import MobileNetV2

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import UserError, load, plug, plugs, save, unplug
from saccade.contract.randomize import perturb
from saccade.saving import describe, rebuild
from saccade.surgery import plug_control

SIZE = (3, 32, 24)


def _small(**options):
    return timm.create_model("resnet10_small", **({"num_classes": 5, "width": 16} | options))


@pytest.fixture
def saved(tmp_path):
    """A folder with a plugged network, and the network."""
    network = perturb(plug(_small(in_chans=1), "cbam", input=(1, 32, 24))).eval()
    save(network, tmp_path / "net", input=(1, 32, 24), classes=["a", "b", "c", "d", "e"], epochs=3, note="x")
    return tmp_path / "net", network


def _equal(left, right, size=SIZE):
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    assert left.state_dict().keys() == right.state_dict().keys()
    return torch.equal(left(x), right(x))


def test_there_and_back(saved):
    folder, network = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    again = load(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in again.modules())
    assert _equal(network, again, (1, 32, 24))
    assert [(r.site, r.parent, r.mechanism, r.position) for r in plugs(again)] == [
        (r.site, r.parent, r.mechanism, r.position) for r in plugs(network)
    ]
    bare = _small(in_chans=1)
    assert list(unplug(again).state_dict()) == list(bare.state_dict())
    with torch.no_grad():  # the twin: another weight, another network
        network.conv1.weight.mul_(1.01)
    assert not _equal(network, load(folder), (1, 32, 24))


def test_the_facts_are_there(saved):
    config = describe(saved[0])
    assert config["host"] == {"timm": "resnet10_small", "options": {"num_classes": 5, "in_chans": 1}}
    assert (config["classes"], config["input"], config["facts"]) == (
        ["a", "b", "c", "d", "e"], [1, 32, 24], {"epochs": 3, "note": "x"},
    )  # fmt: skip
    assert [row["site"]["path"] for row in config["plugs"]] == [f"layer{n}.0.bn2" for n in (1, 2, 3, 4)]


def test_the_same_network_gives_the_same_bytes(saved, tmp_path):
    folder, network = saved
    save(network, tmp_path / "again", input=(1, 32, 24), classes=list("abcde"), epochs=3, note="x")
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("mechanism", ["se", "eca", "das"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_every_mechanism(tmp_path, mechanism, start):
    network = perturb(plug(_small(), mechanism, start=start, input=SIZE)).eval()
    save(network, tmp_path)
    assert _equal(network, load(tmp_path))


def test_sites_are_not_searched_again(tmp_path):
    network = plug(_small(), "eca", where=["layer1.0.conv1", "layer3"], kernel_size=[3, 7], input=SIZE)
    plug(network, "se", where="layer2", rd_ratio=0.5, input=SIZE)
    plug_control(network, "extra", "se", where="layer4", input=SIZE)
    save(perturb(network).eval(), tmp_path)
    again = load(tmp_path)
    assert _equal(network, again)
    assert [(r.site, r.mechanism, r.module.options) for r in plugs(again)] == [
        ("layer1.0.conv1", "eca", {"kernel_size": 3}),
        ("layer2", "se", {"rd_ratio": 0.5}),
        ("layer3", "eca", {"kernel_size": 7}),
        ("layer4", "saccade.surgery.controls.extra:ExtraBottleneck", {"width": 9}),
    ]


def test_a_plug_before_a_module_comes_back(tmp_path):
    options = {"growth_rate": 8, "block_config": (2, 2), "num_classes": 5}
    network = perturb(plug(timm.create_model("densenet121", **options), "se", where="stage", input=SIZE)).eval()
    save(network, tmp_path, host={"timm": "densenet121", "options": options})
    assert [row.module.site.entering for row in plugs(load(tmp_path))] == [True, False]
    assert _equal(network, load(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_come_back(tmp_path, dtype):
    network = perturb(plug(_small(), "se", input=SIZE)).eval().to(dtype)
    save(network, tmp_path)
    again = load(tmp_path)
    assert {p.dtype for p in again.parameters()} == {dtype}
    x = torch.randn(2, *SIZE, dtype=dtype)
    assert torch.equal(network(x), again(x))


def test_shared_weights_come_back(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    network[2].weight = network[0].weight
    save(perturb(network).eval(), tmp_path)
    other = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    other[2].weight = other[0].weight
    assert _equal(network, load(tmp_path, host=other))


def test_hosts_of_torchvision_and_of_functions(tmp_path):
    network = perturb(plug(resnet18(num_classes=5), "eca", input=SIZE)).eval()
    save(network, tmp_path / "tv", host={"torchvision": "resnet18", "options": {"num_classes": 5}})
    assert _equal(network, load(tmp_path / "tv"))
    host = {"call": "torchvision.models.resnet:resnet18", "options": {"num_classes": 5}}
    save(network, tmp_path / "call", host=host)
    assert _equal(network, load(tmp_path / "call"))


def test_a_class_without_arguments_is_found_by_itself(tmp_path):
    network = perturb(plug(MobileNetV2(), "se", where="features.18", input=SIZE)).eval()
    config = save(network, tmp_path, input=SIZE)
    assert config["host"] == {"call": "torchvision.models.mobilenetv2:MobileNetV2", "options": {}}
    assert _equal(network, load(tmp_path))


def test_a_guess_that_computes_something_else_is_no_guess(tmp_path, caplog):
    network = perturb(_small()).eval()
    network.act1 = nn.GELU()  # same keys, same shapes
    with caplog.at_level(logging.WARNING, "saccade"):
        assert save(network, tmp_path)["host"] is None
    assert "will need the host" in caplog.text
    with pytest.raises(UserError, match=r"does not say how its host is built; give it: saccade.load\(.*host=…"):
        load(tmp_path)
    host = _small()
    host.act1 = nn.GELU()
    assert _equal(network, load(tmp_path, host=host))


def test_a_host_that_cannot_be_rebuilt_is_given(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))

    network = perturb(plug(make(), "cbam", where="2", input=SIZE)).eval()
    assert save(network, tmp_path)["host"] is None
    host = make()
    assert load(tmp_path, host=host) is host
    assert _equal(network, host)
    plugged = plug(make(), "cbam", where="2", input=SIZE)
    assert _equal(network, load(tmp_path, host=plugged))


def test_a_mechanism_without_a_name_is_said(tmp_path, caplog):
    class Local(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x):
            return x * self.scale

    network = perturb(plug(_small(), Local, input=SIZE)).eval()
    with caplog.at_level(logging.WARNING, "saccade"):
        save(network, tmp_path, host={"timm": "resnet10_small", "options": {"num_classes": 5}})
    assert "load will need a host that carries its plugs already" in caplog.text
    with pytest.raises(UserError, match="Local"):
        load(tmp_path)
    assert _equal(network, load(tmp_path, host=plug(_small(), Local, input=SIZE)))


def _skeleton(host):
    return [(name, set(m.__dict__), list(m._modules), dict(m._forward_hooks)) for name, m in host.named_modules()]


@pytest.mark.parametrize("bad", ["width", "architecture", "plugged otherwise"])
def test_a_wrong_host_is_refused_and_stays_as_it_was(saved, bad):
    folder, _ = saved
    match bad:
        case "width":
            host, message = _small(in_chans=1, width=8), r"of another shape bn1.bias \(16,\) for \(8,\)"
        case "architecture":
            host, message = nn.Sequential(nn.Conv2d(1, 4, 3)), "Sequential has no module 'layer1.0.bn2'"
        case _:
            host = plug(_small(in_chans=1), "se", input=(1, 32, 24))
            message = "another network than ResNetSmall: the network has no layer1.0.bn2.saccade"
    before = _skeleton(host), copy.deepcopy(host.state_dict())
    with pytest.raises(UserError, match=message):
        load(folder, host=host)
    assert _skeleton(host) == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in host.state_dict().items())


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def _reshape(path):
    save_file({key: value for key, value in load_file(path).items() if key != "fc.bias"}, path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config.json is missing \(the weights are there"),
        (lambda f: (f / "model.safetensors").unlink(), "half a checkpoint: model.safetensors is missing"),
        (lambda f: _truncate(f / "model.safetensors"), r"model.safetensors is damaged or not the file"),
        (lambda f: _reshape(f / "model.safetensors"), r"its SHA-256 differs"),
        (lambda f: (f / "config.json").write_text('{"format": 1, '), r"config.json cannot be read"),
        (lambda f: (f / "config.json").write_text('{"hidden_size": 3}'), "was not written by saccade"),
        (lambda f: (f / "config.json").write_text("[]"), "was not written by saccade"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), r"config.json cannot be read"),
    ],
)  # fmt: skip
def test_half_and_broken_folders(saved, harm, message):
    folder, _ = saved
    harm(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9; this version reads format 1"),
        (
            {"host": {"timm": "resnt10_small"}},
            "config.json: timm has no network 'resnt10_small'. Did you mean 'resnet10_small'",
        ),
        (
            {"host": {"call": "nowhere:Net"}},
            "would import and run the module 'nowhere'. If you trust the file, say trust=True",
        ),
        ({"host": {"call": "builtins:dict"}}, "names the host 'builtins:dict', which is not one of Saccade's"),
        ({"host": {"name": "x"}}, "host = .*one of the keys timm, torchvision, call"),
        ({"plugs": [{"mechanism": "se"}]}, "config.json: plugs.0.options is missing; plugs.0.neutral is missing"),
        ({"plugs": None}, "config.json: plugs = None: input should be a valid list"),
        ({"replacements": 3}, "config.json: replacements = 3: input should be a valid list"),
        ({"plugs": []}, r"another network than ResNetSmall: the network has no layer1.0.bn2.saccade"),
    ],
)
def test_configurations_that_are_wrong(saved, change, message):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_mechanism_that_is_not_there_is_named(saved):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"cbam"', '"cbma"'))
    with pytest.raises(UserError, match="no mechanism is called 'cbma'"):
        load(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no saved network: config.json is missing$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"host": {"timm": "resnet10_small", "options": {"num_classes": 6}}}, "another network: of another shape fc"),
        ({"host": {"timm": "resnet10_small", "options": {"width": "wide"}}}, "cannot be built"),
        ({"loss": torch.zeros(2)}, "a fact to be saved is no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_writes_nothing(tmp_path, facts, message):
    with pytest.raises(UserError, match=message):
        save(_small(), tmp_path / "net", **facts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file where a folder would be")
def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot write the network to"):
        save(_small(), tmp_path / "file" / "net")
    assert (tmp_path / "file").read_text() == "here"


def test_a_network_that_lost_a_plug_is_not_saved(tmp_path):
    network = plug(_small(), "se", input=SIZE)
    network.layer2[0].bn2.__class__ = nn.BatchNorm2d
    with pytest.raises(UserError, match=r"at layer2.0.bn2, the plug is lost"):
        save(network, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_files(saved, monkeypatch):
    folder, network = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("saccade.saving.writing.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save(network, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rebuilding_fetches_no_weights(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    name = "lraspp_mobilenet_v3_large"
    assert isinstance(rebuild({"torchvision": name}), nn.Module)
    with pytest.raises(UserError, match="no network here"):
        rebuild({"torchvision": name, "options": {"weights_backbone": "DEFAULT"}})
