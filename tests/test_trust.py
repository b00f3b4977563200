"""A folder is data: what it names is looked up in lists, its size is known before it is built, its weights are checked.

Each hostile folder is loaded while Python's audit events are watched: no command, no connection, no written file.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torchvision.models import get_model_builder

from hostile import HOSTS, OPTIONS, SIZE, _sign, mutate, sample, trial, watched
from saccade import UserError, catalog, load, plug, plugs, save
from saccade.cli import compare as compare_verb
from saccade.cli import export as export_verb
from saccade.cli import sites as sites_verb
from saccade.cli import train as train_verb
from saccade.controls import CONTROLS
from saccade.models import create_host
from saccade.recipe import Model
from saccade.saving import describe, rebuild
from saccade.saving.meta_device import Limits, TooLargeError, call_on_meta_device, copy_on_meta_device
from saccade.saving.weights import shapes_of
from saccade.surgery import controls
from saccade.trust import check_mechanism, check_options

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
from torch import nn
class Net(nn.Sequential):
    def __init__(self, **options):
        super().__init__(nn.Conv2d(3, 4, 1), nn.ReLU())
class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels)
    def forward(self, x):
        return x * self.scale(x).sigmoid()
class NoModule:
    def __init__(self, channels):
        raise AssertionError("called")
def make(channels):
    raise AssertionError("called")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A saved network with plugs, a control and a replaced convolution."""
    folder = tmp_path_factory.mktemp("saved") / "net"
    sample(folder)
    load(folder)  # whatever is imported late is imported now
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(source, tmp_path / "net")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A package on the import path that leaves a file behind when it is imported; the file's path."""
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text(EVIL)
    (package / "inner.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield package / "imported"
    for name in [name for name in sys.modules if name.startswith("evil_package")]:
        del sys.modules[name]


def _change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    _sign(folder)


def _refused(folder, **arguments):
    """The message with which ``folder`` is refused; nothing else happens meanwhile."""
    outcome = trial("", lambda: load(folder, **arguments))
    assert (outcome.kind, outcome.acts) == ("refused", ()), outcome
    return outcome.message


def _randomise(network):
    """Draw all weights and statistics, and leave none at its start."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network


def _same(left, right):
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(left.eval()(x), right.eval()(x))


# What a file may name


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: "-".join(map(str, host.values()))[:60])
def test_no_host_of_a_file_runs_reaches_out_or_grows(folder, host):
    _change(folder, host=host)
    assert "config.json" in _refused(folder)


@pytest.mark.parametrize("name", ["evil_package:Net", "evil_package.inner:Net"])
def test_a_host_from_elsewhere_is_not_even_imported(folder, evil, name):
    _change(folder, host={"call": name, "options": {}})
    message = _refused(folder)
    assert f"names the host {name!r}" in message
    assert f"would import and run the module {name.partition(':')[0]!r}" in message
    assert "trust=True, or --trust" in message
    assert not evil.exists()
    with pytest.raises(UserError, match="Net has no module"):  # trusted, it is imported and made
        load(folder, trust=[name])
    assert evil.exists()


@pytest.mark.parametrize("name", ["evil_package:Scale", "evil_package.inner:Scale", "os:system", "pydoc:pipepager"])
def test_a_mechanism_from_elsewhere_is_not_even_imported(folder, evil, name):
    config = describe(folder)
    config["plugs"][0]["mechanism"] = name
    _change(folder, **config)
    assert f"names the mechanism {name!r}" in _refused(folder)
    assert not evil.exists()


def test_a_mechanism_inside_a_control_is_not_imported_either(folder, evil):
    config = describe(folder)
    (row,) = [row for row in config["plugs"] if "Shuffled" in row["mechanism"]]
    row["options"]["mechanism"] = "evil_package:Scale"
    _change(folder, **config)
    assert "evil_package:Scale" in _refused(folder)
    assert not evil.exists()


def test_trust_names_what_may_be_imported(evil, tmp_path):
    host = {"timm": "resnet10_small", "options": {"num_classes": 3, "width": 8}}
    network = _randomise(plug(rebuild(host), "evil_package:Scale", where="layer2", input=SIZE))
    save(network, tmp_path / "net", host=host)
    for trust in (False, [], ["evil_package:Net"], "evil_package"):
        with pytest.raises(UserError, match="evil_package:Scale"):
            load(tmp_path / "net", trust=trust)
    for trust in (True, {"evil_package:Scale"}, "evil_package:Scale"):
        assert _same(network, load(tmp_path / "net", trust=trust))
    plugged = plug(rebuild(host), "evil_package:Scale", where="layer2", input=SIZE)
    assert _same(network, load(tmp_path / "net", host=plugged))  # its plugs are the caller's


@pytest.mark.parametrize(("name", "kind"), [("make", "function"), ("NoModule", "class")])
def test_what_is_trusted_is_called_only_if_it_makes_a_module(folder, evil, name, kind):
    config = describe(folder)
    config["plugs"][0] |= {"mechanism": f"evil_package:{name}", "options": {}}
    _change(folder, **config)
    with pytest.raises(UserError, match=f"is a {kind}, no subclass of torch.nn.Module"):
        load(folder, trust=True)
    with pytest.raises(UserError, match=f"is a {kind}, no subclass of torch.nn.Module"):
        catalog.load(f"evil_package:{name}")


def test_the_controls_are_listed():
    kinds = (controls.ExtraBottleneck, controls.NoiseGate, controls.Shuffled)
    assert {f"{kind.__module__}:{kind.__qualname__}" for kind in kinds} == {c.path for c in CONTROLS.values()}


def test_networks_of_the_libraries_need_no_trust(tmp_path):
    options = {"encoder_weights": None, "decoder_channels": [16, 8], "encoder_depth": 2, "classes": 2}
    network = _randomise(plug(smp.Unet("resnet18", **options), "se", where="decoder.blocks.0", input=(3, 32, 32)))
    with watched() as acts:
        config = save(network, tmp_path / "smp", input=(3, 32, 32))
        again = load(tmp_path / "smp")
    assert config["host"]["call"] == "segmentation_models_pytorch.decoders.unet.model:Unet"
    assert [act for act in acts if str(tmp_path) not in act] == []
    assert acts  # the files of the folder
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), again(x))


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
    _change(folder, host=host | {"options": host["options"] | {key: OPTIONS[key]}})
    assert key in _refused(folder)


@pytest.mark.parametrize("key", ["Pretrained", "PRETRAINED_CFG", "encoder-weights", "CheckpointPath", "x.weights"])
def test_the_spelling_does_not_matter_nor_the_depth(key):
    for options in ({key: "x"}, {"a": {"b": [{key: 1}]}}):
        with pytest.raises(UserError, match="fetches weights or opens a file"):
            check_options(options, "file", 10)
    check_options({key: None, "b": {key: False}, "weight_init": "skip", "init_weights": True}, "file", 10)


@pytest.mark.parametrize("value", [11, -11, 10**30, float("nan"), float("inf"), [[{"a": 11}]]])
def test_numbers_are_bounded(value):
    with pytest.raises(UserError, match="is beyond 10"):
        check_options({"depth": value}, "file", 10)
    check_options({"depth": [10, -10, 0.5]}, "file", 10)


def test_a_recipe_fetches_by_its_own_keys_alone():
    with pytest.raises(UserError, match="pretrained_cfg_overlay fetches weights"):
        create_host(Model(options={"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}), 3, 3)


def test_a_network_that_grows_is_stopped_while_it_is_built():
    limits = Limits({"weight": (4, 4)})
    with pytest.raises(TooLargeError, match=r"more than .* values; model.safetensors holds 16"):
        call_on_meta_device(lambda: nn.Linear(10**6, 10**6), limits, "file")
    with pytest.raises(TooLargeError, match="modules"):
        call_on_meta_device(lambda: nn.Sequential(*(nn.ReLU() for _ in range(10**6))), limits, "file")
    assert next(call_on_meta_device(lambda: nn.Linear(4, 4), limits, "file").parameters()).is_meta


@pytest.mark.parametrize("name", ["regnet_y_400mf", "resnet18"])  # the first reads values of a range
def test_a_drawing_has_the_keys_and_shapes_of_the_network(name):
    made = get_model_builder(name)(weights=None)
    drawing = call_on_meta_device(lambda: get_model_builder(name)(weights=None), Limits(shapes_of(made)), "file")
    assert all(value.is_meta for value in drawing.parameters())
    assert shapes_of(copy_on_meta_device(made)) == shapes_of(drawing) == shapes_of(made)


def test_a_plug_that_grows_is_refused_before_it_is_built(folder):
    config = describe(folder)
    for options in ({"rd_ratio": 5000.0}, {"rd_ratio": 10**9}):
        config["plugs"][0]["options"] = options
        _change(folder, **config)
        message = _refused(folder)
        assert "another network" in message or "is beyond" in message or "more than" in message


# Weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(folder, value):
    _weights(folder, lambda state: state["fc.weight"][0, :2].fill_(value))
    assert "model.safetensors: fc.weight holds 2 values of" in _refused(folder)


@pytest.mark.parametrize(
    ("key", "dtype", "message"),
    [
        ("fc.weight", torch.int64, "fc.weight is of dtype int64; a floating dtype such as float32 is needed"),
        ("fc.weight", torch.complex64, "fc.weight is of dtype complex64; a floating dtype such as float32 is needed"),
        ("fc.weight", torch.float8_e4m3fn, "fc.weight is of dtype float8_e4m3fn; a floating dtype"),
        ("bn1.num_batches_tracked", torch.float32, "is of dtype float32; a integer dtype such as int64 is needed"),
        ("bn1.num_batches_tracked", torch.bool, "is of dtype bool; a integer dtype such as int64 is needed"),
    ],
)
def test_weights_are_of_the_dtype_family(folder, key, dtype, message):
    _weights(folder, lambda state: state.update({key: state[key].to(dtype)}))
    assert message in _refused(folder)


def test_another_dtype_of_the_family_loads(folder):
    _weights(folder, lambda state: state.update({"fc.weight": state["fc.weight"].half()}))
    assert load(folder).fc.weight.dtype == torch.float16


def test_a_mask_may_be_infinite_where_the_network_says_so(tmp_path):
    def make():
        network = nn.Sequential(nn.Conv2d(3, 4, 1))
        network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return network

    save(_randomise_but_mask(make()), tmp_path)
    assert load(tmp_path, host=make()).mask.isinf().tolist() == [False, True]
    _weights(tmp_path, lambda state: state["mask"].fill_(-torch.inf))
    with pytest.raises(UserError, match="mask holds 1 values of 2"):
        load(tmp_path, host=make())


def _randomise_but_mask(network):
    nn.init.uniform_(network[0].weight, 0.1, 1)
    return network


def test_saving_what_cannot_be_loaded_is_said(tmp_path, caplog):
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    nn.init.constant_(network[0].bias, torch.nan)
    save(network, tmp_path)
    assert "0.bias holds values that are infinite or no number; load refuses such weights" in caplog.text


# Wrong types, damage


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "wide"}, "config.json: input = 'wide': input should be a valid list"),
        ({"input": [3, -1, 2]}, "input.1 = -1: input should be greater than or equal to 1"),
        ({"classes": {"a": 1}}, "classes = {'a': 1}: input should be a valid list"),
        ({"facts": []}, "facts = []: input should be a valid dictionary"),
        ({"sha256": 3}, "sha256 = 3: input should be a valid string"),
        ({"host": {"timm": 3}}, "host.timm = 3: input should be a valid string"),
        ({"host": {"timm": "resnet18", "options": []}}, "host.options = []: input should be a valid dictionary"),
        ({"host": {"timm": "a\x1b[31m"}}, "host.timm = 'a\\x1b[31m': a name has at most 500 characters, all printable"),
    ],
)
def test_wrong_types_are_named(folder, change, message):
    _change(folder, **change)
    found = _refused(folder)
    assert message in found
    assert "\n" not in found


def test_nested_too_deep(folder):
    (folder / "config.json").write_text("[" * 200_000)
    assert "nested too deep" in _refused(folder)


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


@pytest.mark.parametrize(("verb", "arguments"), [(sites_verb, []), (export_verb, ["--format", "torch"])])
def test_verbs_take_trust_from_the_command_line_alone(folder, evil, verb, arguments):
    _change(folder, host={"call": "evil_package:Net"}, trust=True)
    done = CliRunner().invoke(verb.command, [str(folder), *arguments])
    assert "would import and run the module 'evil_package'" in str(done.exception)
    assert not evil.exists()
    done = CliRunner().invoke(verb.command, [str(folder), *arguments, "--trust"])
    assert "Net has no module" in str(done.exception)
    assert evil.exists()


def test_a_recipe_names_its_mechanism_from_the_catalogue(evil):
    with pytest.raises(UserError, match=r"recipe.toml names the mechanism 'evil_package:Scale'"):
        check_mechanism("evil_package:Scale", {}, "recipe.toml", trust=False)
    check_mechanism("evil_package:Scale", {}, "recipe.toml", trust=True)
    check_mechanism("se", {}, "recipe.toml", trust=False)
    assert not evil.exists()


# Wrappers


class _Other(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def _small():
    return timm.create_model("resnet10_small", num_classes=3, width=16)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        ModelEmaV3,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(torch.compile(torch.optim.swa_utils.AveragedModel(net), backend="eager")),  # type: ignore[type-var]
    ],
    ids=["DataParallel", "AveragedModel", "ModelEma", "compile", "all"],
)
def test_of_a_wrapper_the_network_inside_is_saved(wrap, tmp_path):
    network = _randomise(plug(_small(), "se", input=SIZE)).eval()
    config = save(wrap(network), tmp_path)
    assert config["host"]["timm"] == "resnet10_small"
    assert load_file(tmp_path / "model.safetensors").keys() == network.state_dict().keys()
    assert [row.site for row in plugs(load(tmp_path))] == [row.site for row in plugs(network)]
    assert _same(network, load(tmp_path))
    assert _same(network, load(tmp_path, host=_small()))


def test_an_unknown_wrapper_is_named(tmp_path):
    network = _Other(_randomise(_small()))
    with pytest.raises(UserError, match=r"begins with 'net\.'.*save\(model\.net, …\)"):
        save(network, tmp_path, host={"timm": "resnet10_small", "options": {"num_classes": 3, "width": 16}})
    save(network, tmp_path)
    with pytest.raises(UserError, match=r"begins with 'net\.'.*save\(model\.net, …\)"):
        load(tmp_path, host=_small())
    assert _same(network, load(tmp_path, host=_Other(_small())))


def test_a_wrapper_in_the_midst_is_named(tmp_path):
    network = _small()
    network.layer2 = torch.compile(network.layer2, backend="eager")
    with pytest.raises(UserError, match="the module 'layer2' is wrapped in OptimizedModule"):
        save(network, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    "mechanism",
    [
        "evil_package.inner:Scale",
        "se:rd_ratio=0.25,evil_package.inner:Scale",
        "evil_package.inner:where=block:Scale",
        "se,eca:where=block,evil_package.inner:Scale:channels=3",
    ],
)
@pytest.mark.parametrize("verb", [compare_verb, train_verb], ids=["compare", "train"])
def test_a_recipe_imports_no_mechanism_however_it_is_written(evil, tmp_path, verb, mechanism):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[attention]\nmechanism = "{mechanism}"\n')
    where = ["--recipe", str(recipe), "--plan"] if verb is compare_verb else [str(recipe)]
    done = CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError), done.output
    assert "evil_package" in str(done.exception)
    assert not evil.exists()


@pytest.mark.parametrize("verb", [compare_verb, train_verb], ids=["compare", "train"])
def test_a_recipe_imports_no_host(evil, tmp_path, verb):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nname = "evil_package.inner:build"\n')
    where = ["--recipe", str(recipe), "--plan"] if verb is compare_verb else [str(recipe)]
    done = CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out")])
    assert "names the host 'evil_package.inner:build', which is not one of Saccade's" in str(done.exception)
    assert not evil.exists()
    CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out"), "--trust"])
    assert evil.exists()


def test_a_misspelt_mechanism_is_no_matter_of_trust():
    with pytest.raises(UserError, match=r"no mechanism is called 'c-bam'. Did you mean 'cbam'") as refused:
        check_mechanism("c-bam", {}, "config.json", trust=False)
    assert "trust" not in str(refused.value)


def test_defaults_of_a_library_fetch_nothing(folder):
    encoder = "segmentation_models_pytorch.encoders.timm_universal:TimmUniversalEncoder"
    _change(folder, host={"call": encoder, "options": {"name": "resnet18"}}, plugs=[], replacements=[])
    outcome = trial("", lambda: load(folder))
    assert (outcome.kind, outcome.acts) == ("refused", ())


@pytest.mark.parametrize("key", ["pretrained_window_sizes", "pretrained_window_size", "bbox_reg_weights"])
def test_numbers_that_sound_like_weights_are_none(key):
    check_options({key: [8, 8, 8, 8]}, "config.json", 1000)
    with pytest.raises(UserError, match="fetches weights"):
        check_options({key.replace("_", "") + "_weights": [8]}, "config.json", 1000)


def test_a_pipe_in_the_place_of_a_file_is_refused(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "is no regular file" in _refused(folder)
