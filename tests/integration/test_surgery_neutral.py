"""A host with a mechanism, before it has learnt, is the host: every host, every mechanism, every condition."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import timm
import torch
from torch import nn

import saccade
from saccade.bases import blend
from saccade.contract.randomize import randomize
from saccade.surgery import parameter_groups, plug, plugs, unplug

SIZE = (3, 64, 48)


def flat(output):
    return [output] if isinstance(output, torch.Tensor) else [t for part in output for t in flat(part)]


@pytest.fixture
def differing(computed):
    """differing(host, plugged, x) -> names of what two networks compute differently."""

    def of(host, plugged, x, context=nullcontext, key=None):
        left, right = computed(host, x, context, key), computed(plugged, x, context)
        assert left.keys() == right.keys()
        return [key for key in left if not torch.equal(left[key], right[key])]

    return of


def _autocast():
    return torch.autocast("cpu", torch.bfloat16)


def _set(plugged, a, noise):
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in plugs(plugged):
            if row.module.a is not None:  # else the mechanism starts as the identity, and the noise ends that
                row.module.a.fill_(a)
            for parameter in row.module.mechanism.parameters():
                parameter.add_(noise * torch.randn(parameter.shape, generator=draw))
    return plugged


@pytest.mark.parametrize("context", [nullcontext, _autocast], ids=["float32", "bf16 autocast"])
def test_outputs_gradients_and_buffers_are_the_hosts(pair, differing, context):
    assert differing(pair.host, pair.plugged, pair.x, context, pair.name) == []


def test_channels_last_too(pair, differing):
    host, plugged = (copy.deepcopy(m).to(memory_format=torch.channels_last) for m in (pair.host, pair.plugged))
    assert differing(host, plugged, pair.x.to(memory_format=torch.channels_last)) == []


def test_the_twin_with_a_of_one_differs(pair):
    changed = _set(copy.deepcopy(pair.plugged), 1.0, 0.1)
    for mode in (False, True):
        left, right = (flat(copy.deepcopy(m).train(mode)(pair.x)) for m in (pair.host, changed))
        assert not torch.equal(left[-1], right[-1])


@pytest.mark.parametrize(("name", "finite"), [("simam", True), ("bam", False)])
def test_large_maps_in_half_precision_stay_wherever_the_mechanism_is_finite(name, finite):
    """SimAM squares in float32; BAM's gate, above 1, takes the largest values beyond the largest number."""
    f = (torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(0)) * 2e4).clamp(-6e4, 6e4).half()
    changed = saccade.create(name, 16).half()(f)
    kept = (changed - f).isfinite()
    assert bool(kept.all()) == finite
    started = blend(f, changed, torch.zeros(1).half())
    torch.testing.assert_close(started[kept], f[kept], rtol=0, atol=0)
    assert started[~kept].isnan().all()


def test_keys_stay_and_states_load_strictly(pair, make):
    state, full = pair.host.state_dict(), pair.plugged.state_dict()
    assert [key for key in full if "saccade" not in key] == list(state)
    other, target = make(pair.name, seed=9), _set(copy.deepcopy(pair.plugged), 0.5, 0.1)
    mechanisms = {key: value.clone() for key, value in target.state_dict().items() if "saccade" in key}
    target.load_state_dict(other.state_dict(), strict=True)
    assert [key for key, value in mechanisms.items() if not torch.equal(value, target.state_dict()[key])] == []
    target.load_state_dict(full, strict=True)
    assert [key for key, value in target.state_dict().items() if not torch.equal(value, full[key])] == []
    target.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(flat(target.eval()(pair.x))[-1], flat(other.eval()(pair.x))[-1], rtol=0, atol=0)


def test_some_keys_missing_is_an_error_that_names_them(pair):
    full = pair.plugged.state_dict()
    lost = [key for key in full if "saccade" in key and "num_batches" not in key][-1]
    with pytest.raises(RuntimeError, match=lost):
        copy.deepcopy(pair.plugged).load_state_dict({k: v for k, v in full.items() if k != lost}, strict=True)


def test_every_plug_runs_once_per_call_of_its_parent(pair):
    ran, called = {}, {}
    plugged = copy.deepcopy(pair.plugged)
    for row in plugs(plugged):
        ran[row.parent] = called[row.parent] = 0

        def count(counts, path):
            return lambda *_: counts.__setitem__(path, counts[path] + 1)

        row.module.register_forward_hook(count(ran, row.parent))
        plugged.get_submodule(row.parent).register_forward_hook(count(called, row.parent))
    plugged(pair.x)
    assert ran == called
    assert set(ran.values()) == {1}


def _skeleton(host):
    return [
        (name, type(m), set(m.__dict__), list(m._modules), dict(m._forward_hooks), dict(m._forward_pre_hooks),
         len(m._load_state_dict_pre_hooks), len(m._load_state_dict_post_hooks))
        for name, m in host.named_modules()
    ]  # fmt: skip


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_unplug_leaves_nothing(pair, copied):
    changed = _set(copy.deepcopy(pair.plugged), 1.0, 0.1).eval()
    plugged = copied(changed)
    assert len(plugs(plugged)) == len(plugs(pair.plugged)) > 0
    torch.testing.assert_close(flat(plugged(pair.x))[-1], flat(changed(pair.x))[-1], rtol=0, atol=0)
    assert _skeleton(plugged) != _skeleton(pair.host)
    assert unplug(plugged) is plugged
    assert _skeleton(plugged) == _skeleton(pair.host)
    assert list(plugged.state_dict()) == list(pair.host.state_dict())
    assert plugs(plugged) == []
    torch.testing.assert_close(flat(plugged.eval()(pair.x))[-1], flat(pair.host.eval()(pair.x))[-1], rtol=0, atol=0)


def _photographs(draw):
    """Noise (4, 3, 64, 48) whose brightness and contrast differ as those of photographs do."""
    contrast, brightness = torch.rand(4, 3, 1, 1, generator=draw), torch.randn(4, 3, 1, 1, generator=draw)
    return 2 * contrast * torch.randn(4, *SIZE, generator=draw) + brightness


@pytest.fixture(scope="module")
def trained(make):
    """trained(name) -> the host with the running statistics of what it is shown, as a pretrained one has them."""
    kept = {}

    def of(name):
        if name not in kept:
            host, draw = make(name).train(), torch.Generator().manual_seed(8)
            with torch.no_grad():
                for _ in range(10):
                    host(_photographs(draw))
            kept[name] = host
        return copy.deepcopy(kept[name])

    return of


def _unmoved(network, optimiser, attention_lr=1e-2):
    """The parameters of plugs that five steps leave as they were."""
    before = {name: p.detach().clone() for name, p in network.named_parameters() if "saccade" in name}
    steps, draw = (
        optimiser(parameter_groups(network, lr=1e-2, attention_lr=attention_lr)),
        torch.Generator().manual_seed(0),
    )
    network.train()
    for _ in range(5):
        logits = network(_photographs(draw))[:, :5]
        steps.zero_grad()
        nn.functional.cross_entropy(logits, torch.randint(5, (4,), generator=draw)).backward()
        steps.step()
    after = dict(network.named_parameters())
    return [name for name, value in before.items() if torch.equal(value, after[name])]


def test_five_steps_change_every_parameter_of_every_plug(pair, trained):
    torch.manual_seed(3)
    assert _unmoved(plug(trained(pair.name), pair.mechanism, input=SIZE, **pair.options), torch.optim.AdamW) == []


@pytest.mark.parametrize("mechanism", ["se", "eca", "cbam", "das"])
def test_five_steps_of_sgd_do_too(trained, mechanism):
    network = plug(trained("timm resnet"), mechanism, input=SIZE)
    frozen = copy.deepcopy(network)
    plugs(frozen)[0].module.requires_grad_(False)
    assert _unmoved(network, torch.optim.SGD, 3.0) == []
    assert _unmoved(frozen, torch.optim.SGD, 3.0) != []


@pytest.mark.parametrize("mechanism", ["cbam", "das"])
@pytest.mark.parametrize("name", ["timm resnet", "timm mobilenetv2", "timm densenet", "timm convnext"])
def test_gradient_checkpointing(make, differing, name, mechanism):
    host = make(name)
    host.set_grad_checkpointing()
    plugged = plug(copy.deepcopy(host), mechanism, input=SIZE)
    assert len(plugs(plugged)) == len(plugs(plug(make(name), mechanism, input=SIZE)))
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(2))
    assert differing(host, plugged, x) == []
    plain = plug(make(name), mechanism, input=SIZE)
    changed = _set(plugged, 0.5, 0.1)
    _set(plain, 0.5, 0.1).load_state_dict(changed.state_dict())
    grads = []
    for network in (plain, changed):
        for module in network.modules():  # running statistics move twice where the forward runs twice
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        network(x).square().mean().backward()
        grads.append({n: p.grad for n, p in network.named_parameters() if "saccade" in n})
    assert [n for n in grads[0] if not torch.allclose(grads[0][n], grads[1][n], 1e-3, 1e-6)] == []


@pytest.mark.parametrize("mechanism", ["se", "das"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"layers": (1, 1, 1, 1), "channels": (32, 48, 64, 64)}),
        ("mobilenetv2_100", {"depth_multiplier": 0.3}),
        ("densenet121", {"growth_rate": 16, "block_config": (2, 2, 2, 2)}),
        ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (32, 32, 48, 64)}),
    ],
)
def test_features_only(differing, name, options, mechanism):
    host = randomize(timm.create_model(name, features_only=True, **options))
    plugged = plug(copy.deepcopy(host), mechanism, input=SIZE)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(2))
    assert differing(host, plugged, x) == []
    left, right = host.eval()(x), _set(plugged, 1.0, 0.1).eval()(x)
    assert not torch.equal(left[-1], right[-1])


@pytest.mark.parametrize("mechanism", ["se", "eca", "cbam", "das"])
@pytest.mark.parametrize("name", ["torchvision resnet", "timm densenet", "timm convnext"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maps_of_one_pixel(make, name, mechanism, memory_format):
    host = make(name).to(memory_format=memory_format)
    plugged = plug(copy.deepcopy(host), mechanism, where="stage", input=(3, 32, 32))
    assert plugs(plugged)[-1].size == ((1, 1) if "densenet" not in name else (2, 2))
    for batch in (2, 1):
        x = torch.randn(batch, 3, 32, 32).to(memory_format=memory_format)
        left, right = host.eval()(x), plugged.eval()(x)
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("mechanism", ["se", "eca", "cbam", "das"])
def test_hosts_in_half_and_double(make, mechanism):
    for dtype in (torch.bfloat16, torch.float64):
        host = make("torchvision resnet").to(dtype)
        plugged = plug(copy.deepcopy(host), mechanism, input=SIZE)
        assert {p.dtype for p in plugged.parameters()} == {dtype}
        x = torch.randn(2, *SIZE, dtype=dtype)
        torch.testing.assert_close(host.eval()(x), plugged.eval()(x), rtol=0, atol=0)


def test_compiles_in_one_graph(make):
    plugged = _set(plug(make("timm densenet"), "se", where="stage", input=SIZE), 0.5, 0.1).eval()
    assert {row.module.site.entering for row in plugs(plugged)} == {True, False}
    x = torch.randn(2, *SIZE)
    torch._dynamo.reset()
    compiled = torch.compile(plugged, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plugged(x), rtol=1e-4, atol=1e-4)
