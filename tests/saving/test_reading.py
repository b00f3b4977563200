"""A saved network is loaded with the same outputs; a broken, foreign or hostile folder is refused."""

import copy
import random
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import saccade.models  # noqa: F401 (registers resnet10_small)
from hostile import mutate, trial
from saccade import UserError, catalog, load, plug, plugs, save, unplug
from saccade.contract.randomize import perturb
from saccade.saving import describe, rebuild
from saccade.surgery import plug_control
from saved_folders import assert_same_outputs, change_config, outputs, randomise, refusal, small_resnet

SIZE = (3, 32, 24)


def test_there_and_back(saved):
    folder, network = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    again = load(folder)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert {m.training for m in again.modules()} == {False}
    assert_same_outputs(network, again, (1, 32, 24))
    assert [(r.site, r.parent, r.mechanism, r.position) for r in plugs(again)] == [
        (r.site, r.parent, r.mechanism, r.position) for r in plugs(network)
    ]
    bare = small_resnet(in_chans=1)
    assert list(unplug(again).state_dict()) == list(bare.state_dict())
    with torch.no_grad():  # the twin: another weight, another network
        network.conv1.weight.mul_(1.01)
    assert not torch.equal(outputs(network, (1, 32, 24)), outputs(load(folder), (1, 32, 24)))


@pytest.mark.parametrize("mechanism", ["se", "eca", "das"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_every_mechanism(tmp_path, mechanism, start):
    network = perturb(plug(small_resnet(), mechanism, start=start, input=SIZE)).eval()
    save(network, tmp_path)
    assert_same_outputs(network, load(tmp_path))


def test_sites_are_not_searched_again(tmp_path):
    network = plug(small_resnet(), "eca", where=["layer1.0.conv1", "layer3"], kernel_size=[3, 7], input=SIZE)
    plug(network, "se", where="layer2", rd_ratio=0.5, input=SIZE)
    plug_control(network, "extra", "se", where="layer4", input=SIZE)
    save(perturb(network).eval(), tmp_path)
    again = load(tmp_path)
    assert_same_outputs(network, again)
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
    assert_same_outputs(network, load(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_come_back(tmp_path, dtype):
    network = perturb(plug(small_resnet(), "se", input=SIZE)).eval().to(dtype)
    save(network, tmp_path)
    again = load(tmp_path)
    assert {p.dtype for p in again.parameters()} == {dtype}
    x = torch.randn(2, *SIZE, dtype=dtype)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_shared_weights_come_back(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    network[2].weight = network[0].weight
    save(perturb(network).eval(), tmp_path)
    other = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    other[2].weight = other[0].weight
    assert_same_outputs(network, load(tmp_path, host=other))


def test_a_host_that_cannot_be_rebuilt_is_given(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))

    network = perturb(plug(make(), "cbam", where="2", input=SIZE)).eval()
    assert save(network, tmp_path)["host"] is None
    host = make()
    assert load(tmp_path, host=host) is host
    assert_same_outputs(network, host)
    plugged = plug(make(), "cbam", where="2", input=SIZE)
    assert_same_outputs(network, load(tmp_path, host=plugged))


def _skeleton(host):
    return [(name, set(m.__dict__), list(m._modules), dict(m._forward_hooks)) for name, m in host.named_modules()]


@pytest.mark.parametrize("bad", ["width", "architecture", "plugged otherwise"])
def test_a_wrong_host_is_refused_and_stays_as_it_was(saved, bad):
    folder, _ = saved
    match bad:
        case "width":
            host, message = (
                small_resnet(in_chans=1, width=8),
                r"different shapes: bn1.bias is \(16,\) in the file and \(8,\) in the network",
            )
        case "architecture":
            host, message = nn.Sequential(nn.Conv2d(1, 4, 3)), "Sequential has no module 'layer1.0.bn2'"
        case _:
            host = plug(small_resnet(in_chans=1), "se", input=(1, 32, 24))
            message = "another network than ResNetSmall: the network has no layer1.0.bn2.saccade"
    before = _skeleton(host), copy.deepcopy(host.state_dict())
    with pytest.raises(UserError, match=message):
        load(folder, host=host)
    assert _skeleton(host) == before[0]
    torch.testing.assert_close(host.state_dict(), before[1], rtol=0, atol=0)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def _reshape(path):
    save_file({key: value for key, value in load_file(path).items() if key != "fc.bias"}, path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config.json is missing \(the weights are there"),
        (lambda f: (f / "model.safetensors").unlink(), "is incomplete: model.safetensors is missing"),
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


def test_a_mechanism_that_is_not_there_is_named(saved):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"cbam"', '"cbma"'))
    with pytest.raises(UserError, match="no mechanism is called 'cbma'"):
        load(folder)


@pytest.mark.parametrize("name", ["evil_package:Scale", "evil_package.inner:Scale", "os:system", "pydoc:pipepager"])
def test_a_mechanism_from_elsewhere_is_not_even_imported(folder, evil, name):
    config = describe(folder)
    config["plugs"][0]["mechanism"] = name
    change_config(folder, **config)
    assert f"names the mechanism {name!r}" in refusal(folder)
    assert not evil.exists()


def test_a_mechanism_inside_a_control_is_not_imported_either(folder, evil):
    config = describe(folder)
    (row,) = [row for row in config["plugs"] if "Shuffled" in row["mechanism"]]
    row["options"]["mechanism"] = "evil_package:Scale"
    change_config(folder, **config)
    assert "evil_package:Scale" in refusal(folder)
    assert not evil.exists()


def test_trust_names_what_may_be_imported(evil, tmp_path):
    host = {"timm": "resnet10_small", "options": {"num_classes": 3, "width": 8}}
    network = randomise(plug(rebuild(host), "evil_package:Scale", where="layer2", input=SIZE))
    save(network, tmp_path / "net", host=host)
    for trust in (False, [], ["evil_package:Net"], "evil_package"):
        with pytest.raises(UserError, match="evil_package:Scale"):
            load(tmp_path / "net", trust=trust)
    for trust in (True, {"evil_package:Scale"}, "evil_package:Scale"):
        assert_same_outputs(network, load(tmp_path / "net", trust=trust))
    plugged = plug(rebuild(host), "evil_package:Scale", where="layer2", input=SIZE)
    assert_same_outputs(network, load(tmp_path / "net", host=plugged))  # its plugs are the caller's


@pytest.mark.parametrize(("name", "kind"), [("make", "function"), ("NoModule", "class")])
def test_what_is_trusted_is_called_only_if_it_makes_a_module(folder, evil, name, kind):
    config = describe(folder)
    config["plugs"][0] |= {"mechanism": f"evil_package:{name}", "options": {}}
    change_config(folder, **config)
    with pytest.raises(UserError, match=f"is a {kind}, not a subclass of torch.nn.Module"):
        load(folder, trust=True)
    with pytest.raises(UserError, match=f"is a {kind}, not a subclass of torch.nn.Module"):
        catalog.load(f"evil_package:{name}")


def test_a_plug_that_grows_is_refused_before_it_is_built(folder):
    config = describe(folder)
    for options in ({"rd_ratio": 5000.0}, {"rd_ratio": 10**9}):
        config["plugs"][0]["options"] = options
        change_config(folder, **config)
        message = refusal(folder)
        assert "another network" in message or "is beyond" in message or "more than" in message


# Weights


def test_three_hundred_mutations_are_refused_or_harmless(source, tmp_path):
    """A tenth of the three hundred of tests/fuzz/hostile.py, each with another seed."""
    kinds = set()
    for number in range(30):
        what = mutate(source, tmp_path / "net", random.Random(f"test/{number}"))
        outcome = trial(what, lambda: load(tmp_path / "net"))
        assert not outcome.bad, outcome
        kinds.add(outcome.kind)
        shutil.rmtree(tmp_path / "net")
    assert "refused" in kinds
    assert trial("", lambda: load(source)).kind == "loaded"


@pytest.mark.parametrize("act", [lambda: __import__("os").system("true"), lambda: 1 / 0, lambda: Path("x").touch()])
def test_the_trial_sees_what_it_is_there_for(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trial("", act).bad
    assert not trial("", lambda: None).bad


# The command line
