"""Gates as they pass, and parameters as an optimiser wants them."""

import copy

import pytest
import torch
from torch import nn

from saccade.surgery import parameter_groups, plug, plugs, record

SIZE = (3, 64, 48)


def test_gates_by_site(make):
    host = plug(make("torchvision resnet"), "se", start="paper", where="stage", input=SIZE).eval()
    x, entered = torch.randn(2, *SIZE), {}
    for row in plugs(host):
        row.module.register_forward_pre_hook(lambda m, args: entered.__setitem__(m.site.path, args[0]))
    own = dict(host._forward_pre_hooks)
    with record(host) as maps:
        assert maps == {}
        host(x)
        assert list(maps) == ["layer1", "layer2", "layer3", "layer4"]
    for row in plugs(host):
        assert not maps[row.site].requires_grad
        assert maps[row.site].shape == (2, row.channels, 1, 1)
        torch.testing.assert_close(maps[row.site], row.module.mechanism.gate(entered[row.site]), rtol=0, atol=0)
        assert len(row.module.mechanism.tap._forward_hooks) == 0
    before = {site: m.clone() for site, m in maps.items()}
    host(x * 2)  # nobody listens any more
    assert [site for site in maps if not torch.equal(before[site], maps[site])] == []
    assert dict(host._forward_pre_hooks) == own


def test_the_latest_forward_counts(make):
    host = plug(make("torchvision resnet"), "se", where="stage", input=SIZE).eval()
    with record(host) as maps:
        host(torch.randn(3, *SIZE))
        host(torch.randn(2, *SIZE))
    assert {m.shape[0] for m in maps.values()} == {2}


def test_hooks_go_also_when_the_block_fails(make):
    host = plug(make("torchvision resnet"), "se", where="stage", input=SIZE)
    own = [dict(m._forward_pre_hooks) for m in host.modules()]
    with pytest.raises(KeyError), record(host):
        raise KeyError
    assert [dict(m._forward_pre_hooks) for m in host.modules()] == own
    assert [row for row in plugs(host) if row.module.mechanism.tap._forward_hooks] == []


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.once = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.once(self.conv(self.conv(self.stem(x))))


class Silent(nn.Module):
    """A mechanism that shows nothing."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x * 2


def test_a_list_where_the_parent_runs_several_times():
    host = plug(Twice(), "eca", where=["conv", "once"], input=SIZE)
    plug(host, Silent, where="stem", input=SIZE)
    with record(nn.ModuleDict({"net": host})) as wrapped:
        host(torch.randn(2, *SIZE))
    assert sorted(wrapped) == ["net.conv", "net.once"]
    assert [m.shape for m in wrapped["net.conv"]] == [(2, 8, 1, 1)] * 2
    assert wrapped["net.once"].shape == (2, 8, 1, 1)


def test_a_checkpointed_forward_is_seen_once(make):
    host = plug(make("timm resnet"), "se", input=SIZE)
    host.set_grad_checkpointing()
    with record(host) as maps:
        host.train()(torch.randn(2, *SIZE)).sum().backward()
    assert len(maps) == 4
    assert [m for m in maps.values() if not isinstance(m, torch.Tensor)] == []


def test_groups(make):
    host = plug(make("timm convnext"), "cbam", input=SIZE)
    host.stem.requires_grad_(False)
    groups = {group["name"]: group for group in parameter_groups(host, 0.1, attention_lr=0.4, weight_decay=0.05)}
    assert {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "host": (0.1, 0.05),
        "host, no decay": (0.1, 0.0),
        "attention": (0.4, 0.05),
        "attention, no decay": (0.4, 0.0),
    }
    where = {id(p): name for name, group in groups.items() for p in group["params"]}
    assert sum(len(group["params"]) for group in groups.values()) == len(where)
    assert len(where) == sum(p.requires_grad for p in host.parameters())
    for name, parameter in host.named_parameters():
        if parameter.requires_grad:
            wanted = "attention" if "saccade" in name else "host"
            plain = parameter.ndim == 1 or name.endswith("bias")
            assert where[id(parameter)] == wanted + (", no decay" if plain else ""), name
    assert [row for row in plugs(host) if where[id(row.module.a)] != "attention, no decay"] == []
    torch.optim.SGD(parameter_groups(host, 0.1))


def test_a_shared_module_is_counted_once():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    host = nn.Sequential(shared, nn.ReLU(), shared)
    plug(host, "eca", where="0", input=SIZE)
    groups = parameter_groups(host, 0.1)
    assert sum(len(group["params"]) for group in groups) == 4
    assert {group["lr"] for group in groups} == {0.1}
    bare = parameter_groups(copy.deepcopy(nn.Sequential(shared)), 0.1)
    assert {group["name"] for group in bare} >= {"attention"}


def test_a_bare_host_has_no_group_of_attention(make):
    assert {group["name"] for group in parameter_groups(make("timm resnet"), 0.1)} == {"host", "host, no decay"}


class Tapped(nn.Module):
    """A layer of an architecture with a tap, which a user may also plug."""

    def __init__(self):
        super().__init__()
        self.conv, self.tap = nn.Conv2d(8, 8, 3, padding=1), nn.Identity()

    def forward(self, x):
        return x * self.tap(self.conv(x).sigmoid())


def test_taps_of_the_network_itself_have_their_own_path():
    host = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(Tapped()), Tapped())
    x = torch.randn(2, *SIZE)
    with record(host) as maps:
        host(x)
    assert list(maps) == ["1.0", "2"]
    torch.testing.assert_close(maps["1.0"], host[1][0].conv(host[0](x)).sigmoid())
    plug(host, "eca", where=["0", "2"], input=SIZE)
    with record(host) as maps:
        host(x)
    assert {path: m.shape[2:] == (1, 1) for path, m in maps.items()} == {
        "0": True, "2": True, "1.0": False, "2.tap": False,
    }  # fmt: skip


def test_a_mechanism_inside_a_plug_is_not_recorded_twice():
    class Outer(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.inner = Tapped()

        def forward(self, x):
            return self.inner(x)

    host = plug(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), Outer, where="0", input=SIZE)
    with record(host) as maps:
        host(torch.randn(2, *SIZE))
    assert maps == {}
    bare = nn.Sequential(nn.Conv2d(3, 8, 3), Outer(8))
    with record(bare) as maps:
        bare(torch.randn(2, *SIZE))
    assert list(maps) == ["1.inner"]
