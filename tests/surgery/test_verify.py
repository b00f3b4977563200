"""Which plugs training reaches, what overflows, and whether each plug by itself matters."""

import copy
import logging
import random

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from saccade import UserError
from saccade.surgery import parameter_groups, plug, plugs, record, sites, unplug
from saccade.surgery.verify import _MAX_TRAINING_RUNS

SIZE = (3, 20, 14)


class Branching(nn.Module):
    """Calls ``aux`` in the modes that ``when`` names."""

    def __init__(self, when):
        super().__init__()
        self.when = when
        self.a, self.aux = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        x = self.a(x)
        return self.aux(x) if ("train" if self.training else "eval") in self.when else x


def _told(host, caplog, where="*", size=SIZE):
    with caplog.at_level(logging.WARNING, "saccade"):
        plug(host, "se", where=where, input=size)
    return [record.getMessage() for record in caplog.records]


def test_a_site_that_training_never_reaches_is_named(caplog):
    host = Branching("eval").train()
    assert _told(host, caplog) == [
        "Branching runs aux in eval mode only: in training the plug never runs, and never learns"
    ]
    host(torch.randn(2, *SIZE)).sum().backward()
    assert {row.site: row.module.a.grad is None for row in plugs(host)} == {"a": False, "aux": True}


@pytest.mark.parametrize("when", ["eval, train", "train"])
def test_sites_that_training_reaches_are_not(when, caplog):
    host = Branching(when)
    assert _told(host, caplog) == []
    assert [row.site for row in plugs(host)] == ["a", "aux"][: 2 if "eval" in when else 1]


class Skips(Branching):
    """Leaves ``aux`` out of every forward in training but the last that is tried."""

    def forward(self, x):
        self.count = getattr(self, "count", 0) + self.training
        return self.aux(self.a(x)) if not self.training or self.count == _MAX_TRAINING_RUNS else self.a(x)


def test_a_block_that_training_leaves_out_at_times_is_not_named(caplog):
    assert _told(Skips(""), caplog) == []


class Fails(Branching):
    """Does not train without targets."""

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets")
        return self.aux(self.a(x))


class Uncopied(Branching):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")


def _closed():
    """Its forward is a closure, so that a copy of it calls the modules of the original."""
    host = Branching("eval, train")
    a, aux = host.a, host.aux
    host.forward = lambda x: aux(a(x))
    return host


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fails(""),
        lambda: Uncopied("eval"),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16)),
        _closed,
    ],
    ids=["no targets", "no copy", "one value a channel", "closure"],
)
def test_hosts_that_cannot_be_tried_are_not_judged(make, caplog):
    host = make()
    assert _told(host, caplog, where=["a", "aux"] if hasattr(host, "aux") else "0") == []
    assert len(plugs(host)) == (2 if hasattr(host, "aux") else 1)


class Restless(nn.Module):
    """In training it changes its parameters, its buffers and itself, draws from three generators, and warns."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.idle, self.steps = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), 0
        self.register_buffer("bank", torch.zeros(2))

    def forward(self, x):
        if not self.training:
            return self.idle(self.norm(self.a(x)))
        self.steps += 1
        self.bank += random.random() + torch.rand(())
        self.numpy.random.random()
        with torch.no_grad():
            self.a.weight.mul_(0.5)
        return self.norm(checkpoint(nn.Identity(), self.a(x), use_reentrant=True))  # warns without gradients


def test_training_is_tried_on_a_copy(caplog):
    numpy = pytest.importorskip("numpy")
    Restless.numpy = numpy
    host = Restless().train()
    host.norm.eval()
    before = {key: (id(value), value.clone()) for key, value in host.state_dict(keep_vars=True).items()}
    drawn = random.getstate(), numpy.random.get_state()[1].copy(), torch.get_rng_state()
    (told,) = _told(host, caplog, where=["norm", "idle"])  # it was tried, to the end
    assert "runs idle in eval mode only" in told
    for key, value in host.state_dict(keep_vars=True).items():
        if "saccade" not in key:
            assert id(value) == before[key][0]
            torch.testing.assert_close(value, before[key][1], rtol=0, atol=0)
    assert host.steps == 0
    assert (host.training, host.norm.training) == (True, False)
    assert random.getstate() == drawn[0]
    assert (numpy.random.get_state()[1] == drawn[1]).all()
    torch.testing.assert_close(torch.get_rng_state(), drawn[2], rtol=0, atol=0)
    host(torch.randn(2, *SIZE))  # the twin that must differ
    assert host.steps == 1
    assert random.getstate() != drawn[0]
    assert not torch.equal(host.a.weight, before["a.weight"][1])


@pytest.mark.parametrize("mechanism", ["gc", "self_attention"])
def test_an_overflow_is_not_laid_at_the_door_of_the_spec(mechanism):
    host = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False))
    with torch.no_grad():
        host[0].weight.mul_(1e22)
    with pytest.raises(UserError, match=rf"^{mechanism} at 0 overflows: for a map up to \d.*e\+2\d in torch.float32"):
        plug(host, mechanism, where="0", input=SIZE)
    with torch.no_grad():
        host[0].weight.mul_(1e22)
    with pytest.raises(UserError, match=f"the map at 0 is not finite, with or without {mechanism}"):
        plug(host, mechanism, where="0", input=SIZE)
    with torch.no_grad():
        host[0].weight.normal_()
    assert len(plugs(plug(host, mechanism, where="0", input=SIZE))) == 1


def test_a_host_without_values_is_refused_by_name():
    with torch.device("meta"):
        host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    with pytest.raises(UserError, match=r"the parameter '0.weight' is on the meta device .* after to_empty"):
        plug(host, "se", where="0", input=SIZE)
    assert not any("saccade" in key for key in host.state_dict())
    host.to_empty(device="cpu")
    host[1].register_buffer("table", torch.zeros(2, device="meta"))
    with pytest.raises(UserError, match=r"the buffer '1.table' is on the meta device"):
        sites(host, SIZE)
    host[1].table = None
    assert [site.path for site in sites(host, SIZE)] == ["0", "1"]


def test_a_module_that_was_compiled_in_place_is_refused_by_name():
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    host[0].compile(backend="eager")
    with pytest.raises(UserError, match=r"the module '0' is compiled .*plug the network first"):
        plug(host, "se", where="1", input=SIZE)
    host = nn.Sequential(nn.Conv2d(3, 16, 3))
    plug(host, "se", where="0", input=SIZE)
    host.compile(backend="eager")  # afterwards is the right order
    assert len(plugs(host)) == 1
    with pytest.raises(UserError, match="Sequential is compiled"):
        sites(host, SIZE)


@pytest.mark.parametrize(
    "asked",
    [
        lambda thing: plug(thing, "se"), sites, plugs, unplug, lambda thing: record(thing).__enter__(),
        lambda thing: parameter_groups(thing, 0.1),
    ],
    ids=["plug", "sites", "plugs", "unplug", "record", "parameter_groups"],
)  # fmt: skip
@pytest.mark.parametrize(("thing", "name"), [(None, "NoneType"), (nn.ReLU, "type"), ("resnet18", "str")])
def test_what_is_no_module_is_refused(asked, thing, name):
    with pytest.raises(UserError, match=rf"the (host|model) must be a torch.nn.Module, got {name}"):
        asked(thing)


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.c = self.b

    def forward(self, x):
        return self.c(x)


@pytest.mark.parametrize("where", ["b", "c", ["b", "c"], "c.1", "c.?", "?"])
def test_another_name_of_a_site_is_the_site(where):
    host = plug(Aliased(), "se", where=where, input=SIZE)
    assert [row.parent for row in plugs(host)] == (["b.0", "b.1"] if where == "c.?" else ["b.1"])
    with pytest.raises(UserError, match="'d' is neither a position nor a site"):
        plug(Aliased(), "se", where="d", input=SIZE)


@pytest.mark.parametrize("mechanism", ["se", "cbam", "das"])
@pytest.mark.parametrize("name", ["torchvision resnet", "timm mobilenetv2", "timm densenet", "timm convnext"])
def test_each_plug_by_itself_changes_the_output(make, name, mechanism):
    host = make(name).eval()
    x = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = host(x)
        rows = plugs(plug(host, mechanism, input=(3, 64, 48)))
        for row in rows:
            row.module.a.fill_(1.0)
            moved = (host(x) - plain).abs().max() / plain.abs().max()
            assert moved > 1e-4, (row.site, moved)  # rounding alone stays below 1e-5
            row.module.a.fill_(0.0)
    assert len(rows) > 2
    torch.testing.assert_close(copy.deepcopy(host)(x), plain, rtol=0, atol=0)
