"""Trainers that build their network anew: a stand-in with the life cycle of YOLO's, written for this test.

It builds from a yaml, loads what fits of a checkpoint, keeps an average as a deep copy, pickles that in half precision,
fuses before it predicts, and resumes.
"""

import copy
import importlib
import logging
import pickle
import subprocess
import sys
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import saccade
from saccade import UserError

YAML = {"nc": 3, "width": 8}
WHERE = ["model.7", "model.10"]


class Conv(nn.Module):
    def __init__(self, given, made, side=3, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(given, made, side, stride, side // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(made), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Half(nn.Module):
    def __init__(self, given, made):
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(given, made, 1), Conv(made + made // 2, made, 1), Conv(made // 2, made // 2)

    def forward(self, x):
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([a, b, self.m(b)], 1))


class Concat(nn.Module):
    def forward(self, maps):
        return torch.cat(maps, 1)


class Detect(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 4 + classes, 1) for _ in range(2))

    def forward(self, maps):
        made = [head(part) for head, part in zip(self.heads, maps, strict=True)]
        return made if self.training else (torch.cat([part.flatten(2) for part in made], 2), made)


class YamlNet(nn.Module):
    def __init__(self, cfg, nc=None):
        super().__init__()
        self.yaml = dict(cfg) | ({} if nc is None else {"nc": nc})
        w = self.yaml["width"]
        layers = [
            (-1, Conv(3, w, stride=2)), (-1, Conv(w, 2 * w, stride=2)), (-1, Half(2 * w, 2 * w)),
            (-1, Conv(2 * w, 2 * w, stride=2)), (-1, Half(2 * w, 2 * w)), (-1, nn.Upsample(scale_factor=2)),
            ([-1, 2], Concat()), (-1, Half(4 * w, 2 * w)), (-1, Conv(2 * w, 2 * w, stride=2)), ([-1, 4], Concat()),
            (-1, Half(4 * w, 2 * w)), ([7, 10], Detect(self.yaml["nc"], 2 * w)),
        ]  # fmt: skip
        for i, (f, layer) in enumerate(layers):
            layer.f, layer.i = f, i
        self.model = nn.Sequential(*(layer for _, layer in layers))

    def forward(self, x):
        made = []
        for layer in self.model:
            x = layer(x if layer.f == -1 else [made[j] for j in layer.f])
            made.append(x)
        return x

    def load(self, weights):
        fits = self.state_dict()
        given = weights.float().state_dict()
        self.load_state_dict({k: v for k, v in given.items() if k in fits and v.shape == fits[k].shape}, strict=False)

    def fuse(self):
        for module in self.modules():
            if isinstance(module, Conv) and hasattr(module, "bn"):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                del module.bn
                module.forward = module.forward_fuse
        return self


class Trainer:
    def __init__(self, model, folder, epochs=2, nc=3, resume=False):
        self.model, self.folder, self.epochs, self.nc, self.resume = model, folder, epochs, nc, resume

    def get_model(self, cfg=None, weights=None, verbose=True):
        made = YamlNet(cfg, self.nc)
        if weights:
            made.load(weights)
        return made

    def setup_model(self):
        if isinstance(self.model, dict):
            self.model, found = self.get_model(cfg=self.model, weights=None, verbose=False), None
        else:
            weights, found = load_checkpoint(self.model)
            self.model = self.get_model(weights=weights, cfg=weights.yaml)
        return found

    def train(self):
        found, first = self.setup_model(), 0
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.9)
        average = copy.deepcopy(self.model).eval()
        if self.resume:
            optimizer.load_state_dict(found["optimizer"])
            average.load_state_dict(found["ema"].float().state_dict())
            first = found["epoch"] + 1
        self.begun = {key: value.clone() for key, value in self.model.state_dict().items()}
        for epoch in range(first, self.epochs):
            for _ in range(3):
                loss = sum((part - 1).square().mean() for part in self.model(torch.randn(4, 3, 32, 32)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for key, value in average.state_dict().items():
                    if value.is_floating_point():
                        value.lerp_(self.model.state_dict()[key], 0.9)
            state = {"epoch": epoch, "model": None, "optimizer": optimizer.state_dict()}
            torch.save(state | {"ema": copy.deepcopy(average).half()}, self.folder / "last.pt")
        best = torch.load(self.folder / "last.pt", weights_only=False)
        torch.save({"model": best["ema"].requires_grad_(False)}, self.folder / "best.pt")
        return load_checkpoint(self.folder / "best.pt")[0]


def load_checkpoint(path):
    found = torch.load(path, weights_only=False)
    return (found.get("ema") or found["model"]).float().eval(), found


class YOLO(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.model, self.trainer = YamlNet(cfg), None

    def train(self, trainer=None, **settings):
        raise AssertionError("training began")

    def forward(self, x):
        return self.model(x)


def plugged(mechanism="se", where=WHERE, **options):
    return saccade.plugged_trainer(Trainer, mechanism, where=where, input=(3, 32, 32), **options)


def parents(model):
    return [row.parent for row in saccade.plugs(model)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a plugged training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        model = plugged()(YAML, folder).train()
    assert [row for row in saccade.plugs(model) if not row.module.a.abs() > 1e-4] == []
    return folder


def test_the_bare_trainer_loses_the_plugs_and_the_bridge_keeps_them(trained, tmp_path):
    host = YamlNet(YAML)
    saccade.plug(host, "se", where=WHERE, input=(3, 32, 32))
    assert saccade.plugs(Trainer(host.yaml, tmp_path).train()) == []
    assert saccade.plugs(Trainer(trained / "best.pt", tmp_path).train()) == []
    assert parents(plugged()(host.yaml, tmp_path).train()) == WHERE
    assert parents(plugged()(trained / "best.pt", tmp_path).train()) == WHERE


def test_the_default_is_the_neck():
    trainer = saccade.plugged_trainer(Trainer, "se", input=(3, 32, 32))
    assert parents(trainer(YAML, None).get_model(YAML)) == WHERE


def test_what_is_built_computes_what_the_plain_network_does(tmp_path):
    weights = Trainer(YAML, tmp_path).train()
    trainer = plugged()(YAML, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    plain, made = Trainer(YAML, tmp_path).get_model(YAML, weights), trainer.get_model(YAML, weights)
    assert parents(made) == WHERE
    torch.testing.assert_close(made.eval()(x)[0], plain.eval()(x)[0], rtol=0, atol=0)
    assert not torch.equal(made(x)[0], YamlNet(YAML).eval()(x)[0])


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_checkpoint_with_plugs_loads_whole(trained, tmp_path, name):
    trainer = plugged()(trained / name, tmp_path, epochs=1)
    trainer.train()
    wanted = load_checkpoint(trained / name)[0].state_dict()
    assert trainer.begun.keys() == wanted.keys()
    assert [key for key, value in wanted.items() if not torch.equal(trainer.begun[key], value)] == []


def test_training_is_resumed(trained, tmp_path):
    trainer = plugged()(trained / "last.pt", tmp_path, epochs=3, resume=True)
    model = trainer.train()
    assert torch.load(tmp_path / "last.pt", weights_only=False)["epoch"] == 2
    assert [row for row in saccade.plugs(model) if row.module.a == trainer.begun[f"{row.parent}.saccade.a"]] == []


def test_a_checkpoint_is_not_changed_by_being_loaded(trained):
    weights, _ = load_checkpoint(trained / "best.pt")
    plugged()(YAML, None).get_model(YAML, {"model": weights})
    assert parents(weights) == WHERE


def test_other_classes_leave_the_plugs_whole(trained, tmp_path):
    weights, _ = load_checkpoint(trained / "best.pt")
    made = plugged()(YAML, tmp_path, nc=5).get_model(YAML, weights)
    for mine, theirs in zip(saccade.plugs(made), saccade.plugs(weights), strict=True):
        torch.testing.assert_close(
            list(mine.module.state_dict().values()), list(theirs.module.state_dict().values()), rtol=0, atol=0
        )
    assert made(torch.randn(2, 3, 32, 32))[0].shape[1] == 9


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mechanism": "eca"}, r"at model.10 the checkpoint has se\(start='neutral'\), and eca"),
        ({"rd_ratio": 0.5}, r"has se\(start='neutral'\), and se\(start='neutral', rd_ratio=0.5\)"),
        ({"where": ["model.4", *WHERE]}, "at model.4 the checkpoint has nothing, and se"),
        ({"where": WHERE[:1]}, "at model.10 the checkpoint has se.*, and nothing"),
        ({"start": "paper"}, "and se.start='paper'"),
    ],
)
def test_other_plugs_than_the_checkpoint_has_are_refused(trained, asked, words):
    weights, _ = load_checkpoint(trained / "best.pt")
    with pytest.raises(UserError, match=words):
        plugged(**asked)(YAML, None).get_model(YAML, weights)


def test_replaced_convolutions_and_unseen_weights_are_refused():
    weights = YamlNet(YAML)
    saccade.replace(weights, "dcn2", where="model.2.m.conv", input=(3, 32, 32))
    with pytest.raises(UserError, match="has replaced convolutions"):
        plugged()(YAML, None).get_model(YAML, weights)
    with pytest.raises(UserError, match="to see whether it has plugs; got str"):
        plugged()(YAML, None).get_model(YAML, "best.pt")


def test_two_mechanisms_take_two_calls(tmp_path):
    trainer = saccade.plugged_trainer(plugged("se", ["model.7"]), "eca", where=["model.10"], input=(3, 32, 32))
    trainer(YAML, tmp_path).train()
    again = trainer(tmp_path / "best.pt", tmp_path, epochs=1)
    again.train()
    assert [row.mechanism for row in saccade.plugs(again.model)] == ["se", "eca"]
    assert issubclass(trainer, Trainer)


def test_the_trained_network_fuses_and_exports_with_its_plugs(trained):
    model, _ = load_checkpoint(trained / "best.pt")
    for row in saccade.plugs(model):
        nn.init.constant_(row.module.a, 0.5)
    x = torch.randn(2, 3, 32, 32)
    bare = saccade.unplug(copy.deepcopy(model))
    with torch.no_grad():
        wanted = model(x)[0]
        assert (bare(x)[0] - wanted).abs().max() > 1e-3
        fused = copy.deepcopy(model).fuse()
        assert parents(fused) == WHERE
        for other in (fused, torch.export.export(fused, (x,)).module()):
            torch.testing.assert_close(other(x)[0], wanted, rtol=1e-4, atol=1e-5)


THEIRS = """
import saccade
class Trainer:
    def get_model(self, cfg, weights, verbose): ...
class Mine(saccade.plugged_trainer(Trainer, "cbam")): ...
"""
SPAWNED = """
import pickle, sys
for made in pickle.load(sys.stdin.buffer):
    print(made.__name__, made.__mro__[-2].__name__, made.saccade_plug_arguments[-1].mechanism)
"""


def test_the_class_is_pickled(tmp_path, monkeypatch):
    twice = saccade.plugged_trainer(plugged("se", ["model.7"]), "eca", where="model.10")
    for made in (plugged(), twice):
        again = pickle.loads(pickle.dumps(made))
        assert again.saccade_plug_arguments == made.saccade_plug_arguments
        assert issubclass(again, Trainer)
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("theirs")
    text = pickle.dumps([saccade.plugged_trainer(theirs.Trainer, "se"), theirs.Mine])
    read = subprocess.run([sys.executable, "-c", SPAWNED], input=text, cwd=tmp_path, capture_output=True, check=False)
    assert read.stdout.decode().split("\n")[:2] == ["PluggedTrainer Trainer se", "Mine Trainer cbam"], read.stderr


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: saccade.plugged_trainer(cast(Any, Trainer(YAML, None)), "se"), "class of a trainer, got an object of"),
        (lambda: saccade.plugged_trainer(nn.Module, "se"), "Module has no method get_model"),
        (lambda: saccade.plugged_trainer(Trainer, "cbma"), "cbam"),
        (lambda: saccade.plugged_trainer(Trainer, "se", rd_ration=2), "rd_ratio"),
        (
            lambda: saccade.plugged_trainer(Trainer, "dcn2"),
            "dcn2 replaces convolutions, and plugged_trainer supports plugs only",
        ),
        (lambda: saccade.plugged_trainer(Trainer, "se", start=cast(Any, "warm")), "'neutral' or 'paper', got 'warm'"),
    ],
)
def test_what_it_cannot_do_is_said_at_once(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_plugging_a_network_that_is_rebuilt_warns(caplog):
    caplog.set_level(logging.WARNING, "saccade")
    host = YamlNet(YAML)
    saccade.plug(host, "se", where=WHERE, input=(3, 32, 32))
    assert "YOLO.train() rebuilds YamlNet from its yaml" in caplog.text
    assert "plugged_trainer" in caplog.text
    caplog.clear()
    saccade.replace(YamlNet(YAML), "dcn2", where="model.2.m.conv", input=(3, 32, 32))
    assert "plugged_trainer" in caplog.text
    caplog.clear()
    plugged()(YAML, None).get_model(YAML)
    other = YamlNet(YAML)
    other.yaml = "net.yaml"
    saccade.plug(other, "se", where=WHERE, input=(3, 32, 32))
    assert caplog.text == ""


def test_the_object_whose_train_trains_is_refused():
    host = YOLO(YAML)
    for call in (saccade.sites, lambda h: saccade.plug(h, "se"), lambda h: saccade.replace(h, "dcn2"), saccade.plugs):
        with pytest.raises(
            UserError, match=r"the host is a YOLO, whose train\(\) trains .* the network inside it, .model"
        ):
            call(host)
    with pytest.raises(UserError, match="the model is a YOLO"):
        saccade.measure(host, (3, 32, 32))


@pytest.mark.parametrize("train", [lambda self, mode=True: self, lambda self, flag=True: self, lambda self, *a: self])
def test_a_network_with_a_mode_of_its_own_is_no_trainer(train):
    host = type("Frozen", (nn.Sequential,), {"train": train})(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
    assert saccade.sites(host.eval(), input=(3, 16, 16))
