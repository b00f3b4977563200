"""Sites that read the stage before theirs: what they read, in which call, and that nothing is left of it."""

import copy
import gc
import json
import pickle
import threading
import weakref

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from saccade import UserError, load, save
from saccade.attention import emca
from saccade.stage_outputs import PreviousStage, StageOutputs
from saccade.surgery import one_call, plug, plug_control, plugs, record, sites, unplug

SIZE = (3, 64, 48)


def _x(seed=2, batch=2):
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(seed))


def _stirred(host):
    """The host with the parameters of its plugs, ``a`` among them, at random."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in plugs(host):
            for parameter in row.module.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.2)
    return host


def _outputs(host):
    return [outputs for module in host.modules() for outputs in module.__dict__.get("_saccade_relays", ())]


def _empty(host):
    return all(outputs._open_call is None for outputs in _outputs(host))


@pytest.fixture
def host(make):
    """A ResNet with two blocks in its first stage, plugged after each, not fresh, in eval mode."""
    return _stirred(plug(make("torchvision resnet"), "emca", where="residual", input=SIZE)).eval()


def _expected(host, x):
    """The gates by hand: each site's map, gated with the vectors of the stage before, which were squeezed before."""
    told, gates = {}, {}
    for row in plugs(host):

        def by_hand(module, args, output, row=row):
            z = args[0].mean((2, 3))
            before = [told[path] for path in row.module.reads]
            gates[row.site] = row.module.mechanism.gate(args[0], before).detach()
            told[row.parent] = z

        row.module.register_forward_hook(by_hand)
    twin = copy.deepcopy(host)
    with torch.no_grad():
        host(x)
    for row in plugs(host):
        row.module._forward_hooks.clear()
    return gates, twin


def test_each_site_reads_the_sites_of_the_stage_before(host):
    rows = plugs(host)
    assert [(row.site, row.module.reads) for row in rows] == [
        ("layer1.0.bn2", ()),
        ("layer1.1.bn2", ()),
        ("layer2.0.bn2", ("layer1.0.bn2", "layer1.1.bn2")),
        ("layer3.0.bn2", ("layer2.0.bn2",)),
        ("layer4.0.bn2", ("layer3.0.bn2",)),
    ]
    assert [row.module.options for row in rows] == [{"previous": n} for n in (0, 0, 2, 1, 1)]
    # ECA's kernels 3, 3, 5, 5, 5; S + 1 numbers take in, two put out; and ``a``.
    assert [row.parameters for row in rows] == [4, 4, 10 + 3 + 2 + 1, 10 + 2 + 2 + 1, 10 + 2 + 2 + 1]
    x = _x()
    wanted, _ = _expected(host, x)
    with record(host) as maps:
        host(x)
    assert [site for site, gate in wanted.items() if not torch.equal(maps[site], gate)] == []
    assert _empty(host)
    changed = copy.deepcopy(host)
    with torch.no_grad():  # the twin: another weight of what comes in, another gate
        changed.layer3[0].bn2.saccade.mechanism.take_in.weight.mul_(-1)
    assert not torch.equal(changed(x), host(x))


def test_the_vectors_carry_gradients(host):
    x = _x()
    outputs = _outputs(host)[0]
    kept = {}
    host.layer3[0].register_forward_hook(lambda m, a, out: kept.update(outputs.vectors()))
    y = host(x)
    assert sorted(kept) == ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2", "layer3.0.bn2"]
    found = torch.autograd.grad(y.sum(), [kept["layer1.0.bn2"], kept["layer2.0.bn2"]])
    assert min(gradient.abs().max() for gradient in found) > 0


@pytest.mark.parametrize(
    ("where", "counts"),
    [
        ("paper", {"layer1.1.bn2": 0, "layer2.0.bn2": 1, "layer3.0.bn2": 1, "layer4.0.bn2": 1}),
        (["layer1", "layer3.*.bn2", "layer4"], {"layer1": 0, "layer3.0.bn2": 1, "layer4": 1}),  # no site in a stage
        ("residual[last]", {"layer1.1.bn2": 0, "layer2.0.bn2": 1, "layer3.0.bn2": 1, "layer4.0.bn2": 1}),
        ("layer3", {"layer3": 0}),
    ],
)
def test_how_many_are_read(make, where, counts):
    host = plug(make("torchvision resnet"), "emca", where=where, input=SIZE)
    assert {row.site: row.module.options["previous"] for row in plugs(host)} == counts
    assert {row.site: len(row.module.reads) for row in plugs(host)} == counts


def test_a_number_that_is_given_takes_the_last(make):
    host = plug(make("torchvision resnet"), "emca", where="residual", previous=[0, 1, 1, 0], input=SIZE)
    assert [row.module.reads for row in plugs(host)] == [(), (), ("layer1.1.bn2",), ("layer2.0.bn2",), ()]
    assert [row.module.mechanism.previous.count for row in plugs(host)] == [0, 0, 1, 1, 0]
    assert host(_x()).shape == (2, 5)
    with pytest.raises(UserError, match=r"at layer2.0.bn2: previous=3, but the previous stage has 2 sites"):
        plug(make("torchvision resnet"), "emca", where="residual", previous=[0, 3, 0, 0], input=SIZE)
    with pytest.raises(UserError, match="previous"):
        plug(make("torchvision resnet"), "emca", where="residual", previous=-1, input=SIZE)


@pytest.mark.parametrize("name", ["torchvision mobilenet_v2", "timm convnext", "timm densenet", "user's Sequential"])
def test_other_hosts(make, name):
    x = torch.randn(2, *SIZE)
    host = make(name).eval()
    bare = host(x)
    plugged = plug(host, "emca", where="stage", input=SIZE)
    assert [len(row.module.reads) for row in plugs(plugged)] == [0] + [1] * (len(plugs(plugged)) - 1)
    torch.testing.assert_close(plugged(x), bare, rtol=0, atol=0)
    assert not torch.equal(_stirred(plugged)(x), bare)


def test_copies_and_pickles_have_outputs_of_their_own(host):
    x = _x()
    wanted = host(x)
    for other in (copy.deepcopy(host), pickle.loads(pickle.dumps(host))):
        (outputs,) = _outputs(other)
        assert outputs is not _outputs(host)[0]
        assert {row.module.outputs for row in plugs(other)} == {outputs}
        assert {place.outputs for row in plugs(other) for place in row.module.stage_readers} == {outputs}
        torch.testing.assert_close(other(x), wanted, rtol=0, atol=0)
    host.layer2[0].register_forward_hook(lambda m, a, out: copies.append(copy.deepcopy(_outputs(host)[0])))
    copies = []
    host(x)  # a copy made within a call does not hold its vectors
    assert copies[0].vectors() == {}


def test_eval_and_train_differ_as_the_host_does(host):
    x = _x()
    torch.testing.assert_close(host(x), host(x), rtol=0, atol=0)
    host.train()(x).sum().backward()
    assert _empty(host)
    assert [row for row in plugs(host) for p in row.module.parameters() if p.grad is None] == []


def test_graphs(host):
    x = _x()
    wanted = host(x)
    torch._dynamo.reset()
    compiled = torch.compile(host, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), wanted)
    torch.testing.assert_close(compiled(_x(3)), host(_x(3)))
    torch._dynamo.reset()
    part = copy.deepcopy(host)
    part.layer2.compile(fullgraph=True, backend="eager")  # what it reads comes from outside of the graph
    with torch.no_grad():
        torch.testing.assert_close(part(x), wanted)
        torch.testing.assert_close(part(_x(3)), host(_x(3)))
    assert _empty(part)
    torch._dynamo.reset()
    program = torch.export.export(host, (x,)).module()
    torch.testing.assert_close(program(_x(3)), host(_x(3)))
    assert _empty(host)


def test_nothing_is_kept(host):
    vectors = []

    def noted(module, args, output):
        vectors.append(weakref.ref(args[0]))

    for row in plugs(host):
        row.module.mechanism.previous.register_forward_hook(noted)
    with torch.no_grad():
        host(_x())
    gc.collect()
    assert len(vectors) == 5
    assert [ref() for ref in vectors] == [None] * 5


def test_an_exception_closes_the_call(host):
    x = _x()
    wanted = host(x)
    handle = host.layer3.register_forward_pre_hook(lambda m, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        host(x)
    assert _empty(host)
    handle.remove()
    torch.testing.assert_close(host(x), wanted, rtol=0, atol=0)


def test_an_interrupt_leaves_nothing_for_the_next_call(host):
    """Torch calls no hook of the host after Ctrl-C, and the vectors hold the graph of the interrupted call."""
    x, kept = _x(), []
    wanted = host(x)

    def interrupted(module, args):
        kept.append(weakref.ref(next(iter(_outputs(host)[0].vectors().values()))))
        raise KeyboardInterrupt

    handle = host.layer3.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        host(x)
    handle.remove()
    assert not _empty(host)
    torch.testing.assert_close(host(x), wanted, rtol=0, atol=0)
    assert _empty(host)
    gc.collect()
    assert kept[0]() is None


def test_a_part_by_itself_is_told_apart_from_the_whole(host):
    with pytest.raises(
        UserError, match=r"at layer2.0.bn2 reads vectors of layer1.0.bn2, layer1.1.bn2 .* no such pass is runn"
    ):
        host.layer2(torch.randn(2, 64, 8, 6))
    host.layer1(torch.randn(2, 64, 8, 6))  # reads nothing
    assert _empty(host)


def test_a_site_that_did_not_run_is_named(make):
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.side, self.skips = nn.Conv2d(3, 8, 3, 2, 1), False

        def forward(self, x):
            return self.two(self.side(x) if self.skips else self.one(x))

    host = plug(Skips(), "emca", where=["one", "two"], input=SIZE)
    host(_x())
    host.skips = True
    with pytest.raises(UserError, match="at two reads vectors of one, which did not run in this forward pass"):
        host(_x())
    assert _empty(host)


def test_calls_side_by_side_do_not_mix(host):
    """Replicas of one host in threads, as DataParallel runs them: each reads its own pictures."""
    pictures = [_x(seed) for seed in range(4)]
    wanted = [host(x) for x in pictures]
    gate, found = threading.Barrier(4), {}

    def together(module, args, output):
        gate.wait(30)  # all have squeezed, none has read

    host.layer1.register_forward_hook(together)

    def work(n):
        replica = host._replicate_for_data_parallel() if n % 2 else host
        with torch.no_grad():
            found[n] = replica(pictures[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [n for n in range(4) if not torch.equal(found[n], wanted[n])] == []
    assert _empty(host)


class Wrapper(nn.Module):
    """Runs its net on the picture, and again on the picture upside down, within."""

    def __init__(self, net):
        super().__init__()
        self.conv, self.norm, self.net = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), net

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.net(x) + self.net(x.flip(2))


def test_hosts_inside_hosts(host):
    net, x = copy.deepcopy(host), _x()
    outer = Wrapper(host).eval()
    y = outer.norm(outer.conv(x))
    wanted = net(y) + net(y.flip(2))
    torch.testing.assert_close(outer(x), wanted, rtol=0, atol=0)
    plug(outer, "emca", where=["norm", "net.layer2.0.relu"], start="paper", input=SIZE)
    assert len(_outputs(outer)) == 2
    reads = {row.parent: row.module.reads for row in plugs(outer)}
    assert reads["net.layer2.0.relu"] in [("norm",), ()]
    assert not torch.equal(outer(x), wanted)
    assert _empty(outer)


def test_a_call_inside_a_call_ends_the_outer_one(host):
    """The inner call is right; the outer one reads no vector of another picture, but says what is wrong."""
    x, other = _x(), _x(7)
    wanted, seen = host(other), []

    def again(module, args, output):
        if not seen:
            seen.append(None)
            seen.append(host(other))

    handle = host.layer1.register_forward_hook(again)
    with pytest.raises(UserError, match=r"at layer2\.0\.bn2 reads .* the host called itself"):
        host(x)
    handle.remove()
    torch.testing.assert_close(seen[1], wanted, rtol=0, atol=0)
    assert not torch.equal(host(x), wanted)
    assert _empty(host)


def test_a_call_inside_a_block_leaves_the_vectors_of_the_block(host):
    x = _x()
    wanted = host(x)
    with one_call(host):
        y = host.maxpool(host.relu(host.bn1(host.conv1(x))))
        y = host.layer1(y)
        host(_x(7))
        y = host.layer4(host.layer3(host.layer2(y)))
    torch.testing.assert_close(host.fc(host.avgpool(y).flatten(1)), wanted, rtol=0, atol=0)
    assert _empty(host)


def test_a_parent_that_runs_several_times_is_read_as_it_ran_last():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.loop, self.down = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 2)

        def forward(self, x):
            return self.down(self.loop(self.loop(self.stem(x))))

    host = _stirred(plug(Loop(), "emca", where=["loop", "down"], start="paper", input=SIZE))
    x = _x()
    one, two = host.loop.saccade.mechanism, host.down.saccade.mechanism
    assert (one.previous.count, two.previous.count) == (0, 1)
    bare = copy.deepcopy(host)
    unplug(bare)
    first = bare.loop(bare.stem(x))
    first = first * one.gate(first)
    second = bare.loop(first)
    wanted = bare.down(second * one.gate(second))
    torch.testing.assert_close(host(x), wanted * two.gate(wanted, [second.mean((2, 3))]))
    assert not torch.allclose(host(x), wanted * two.gate(wanted, [first.mean((2, 3))]), atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_whole_host_may_be_checkpointed(host, reentrant):
    x = _x().requires_grad_()
    (wanted,) = torch.autograd.grad(host(x).square().sum(), x)
    found = checkpoint(host, x, use_reentrant=reentrant).square().sum()
    found.backward()
    torch.testing.assert_close(x.grad, wanted)
    assert _empty(host)


def test_checkpointing_of_its_parts_is_told():
    host = timm.create_model("resnet18", layers=(2, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=3)
    plug(host, "emca", input=SIZE)
    host.set_grad_checkpointing()
    y = host.train()(_x())
    with pytest.raises(UserError, match="as gradient checkpointing does in the backward pass"):
        y.sum().backward()
    assert _empty(host)
    host.set_grad_checkpointing(False)
    host(_x()).sum().backward()


def test_unplug_leaves_nothing(make):
    host, bare = make("torchvision resnet"), make("torchvision resnet")
    before = sites(host, SIZE)

    def skeleton(network):
        return [
            (name, set(m.__dict__), list(m._modules), list(m._forward_hooks), list(m._forward_pre_hooks),
             list(m._forward_hooks_always_called), list(m._load_state_dict_pre_hooks))
            for name, m in network.named_modules()
        ]  # fmt: skip

    plug(host, "emca", input=SIZE)
    plug(host, "emca", where="stage", input=SIZE)
    assert len(_outputs(host)) == 2
    assert sites(host, SIZE) == before
    assert skeleton(host) != skeleton(bare)
    assert skeleton(unplug(host)) == skeleton(bare)
    with pytest.raises(UserError, match="has emca already"):  # a refusal rolls back its own outputs alone
        plug(plug(host, "emca", input=SIZE), "emca", where=["layer1", "layer2.0.bn2"], input=SIZE)
    assert len(_outputs(host)) == 1
    assert host(_x()).shape == (2, 5)


def test_two_plugs_do_not_read_each_other_also_when_loaded(make, tmp_path):
    host = make("torchvision resnet")
    plug(host, "emca", where=["layer1.0.bn2", "layer2.0.bn2"], input=SIZE)
    plug(host, "emca", where=["layer1.1.bn2", "layer3.0.bn2", "layer4"], start="paper", input=SIZE)
    host = _stirred(host).eval()
    reads = {row.parent: row.module.reads for row in plugs(host)}
    assert reads == {
        "layer1.0.bn2": (), "layer1.1.bn2": (), "layer2.0.bn2": ("layer1.0.bn2",), "layer3.0.bn2": ("layer1.1.bn2",),
        "layer4.0": ("layer3.0.bn2",),
    }  # fmt: skip
    save(host, tmp_path, input=SIZE)
    again = load(tmp_path, host=make("torchvision resnet"))
    assert {row.parent: row.module.reads for row in plugs(again)} == reads
    torch.testing.assert_close(again(_x()), host(_x()), rtol=0, atol=0)
    with torch.no_grad():  # the twin
        again.layer3[0].bn2.saccade.mechanism.take_in.weight.mul_(-1)
    assert not torch.equal(again(_x()), host(_x()))


def test_a_wrapper_is_saved_and_loaded(make, tmp_path):
    network = Wrapper(plug(make("torchvision resnet"), "emca", input=SIZE)).eval()
    _stirred(network)
    save(network, tmp_path, input=SIZE)
    rows = json.loads((tmp_path / "config.json").read_text())["plugs"]
    assert [row["reads"] for row in rows] == [[], ["net.layer1.1.bn2"], ["net.layer2.0.bn2"], ["net.layer3.0.bn2"]]
    again = load(tmp_path, host=Wrapper(make("torchvision resnet")))
    torch.testing.assert_close(again(_x()), network(_x()), rtol=0, atol=0)
    assert _empty(again)


@pytest.mark.parametrize("control", ["extra", "noise", "shuffled"])
def test_controls(make, control):
    host = make("torchvision resnet").eval()
    x, bare = _x(), host(_x())
    plug_control(host, control, "emca", input=SIZE)
    assert [row.parent for row in plugs(host)] == ["layer1.1.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]
    torch.testing.assert_close(host(x), bare, rtol=0, atol=0)
    assert not torch.equal(_stirred(host)(x), bare)
    assert len(_outputs(host)) == (control == "shuffled")
    assert [len(row.module.reads) for row in plugs(host)] == ([0, 1, 1, 1] if control == "shuffled" else [0] * 4)


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_what_could_not_learn_is_drawn_again_in_a_call_like_the_hosts(make, monkeypatch, start):
    """Maps behind a ReLU have positive means: with two negative weights nothing would ever be taken in."""
    drawn, init = [], emca.EfficientMultiScaleChannelAttention.__init__

    def built(self, channels, **options):
        init(self, channels, **options)
        if self.previous.count:
            drawn.append(self)
            with torch.no_grad():
                self.take_in.weight.fill_(-0.1 if len(drawn) <= 6 else 0.1)

    monkeypatch.setattr(emca.EfficientMultiScaleChannelAttention, "__init__", built)
    host = plug(make("torchvision resnet"), "emca", where="stage", start=start, input=SIZE)
    rows = plugs(host)
    assert len(drawn) > 6
    assert [row for row in rows[1:] if not bool((row.module.mechanism.take_in.weight > 0).all())] == []
    assert [row for row in rows if row.module.mechanism.previous.outputs is not _outputs(host)[0]] == []
    optimiser = torch.optim.Adam(host.parameters(), lr=0.01)
    before = [p.detach().clone() for row in rows for p in row.module.parameters()]
    for _ in range(3):
        host.train()(_x()).square().mean().backward()
        optimiser.step()
    assert not any(map(torch.equal, before, [p for row in rows for p in row.module.parameters()]))


def test_stage_outputs_by_themselves():
    outputs, place, z = StageOutputs(), PreviousStage(0), torch.zeros(1, 2)
    assert place(z) == []
    place.connect(outputs, "here", ())
    assert place(z) == []
    assert outputs.vectors() == {}
    with outputs.call():
        outputs.write("there", z)
        assert place(z) == []
        assert list(outputs.vectors()) == ["there", "here"]
        assert outputs.read("here", ("there",)) == [z]
    outputs.close()  # nothing is running any more
    assert outputs.vectors() == {}
    with pytest.raises(ValueError, match="previous must be at least 0, got -1"):
        PreviousStage(-1)
