"""Every mechanism under ``torch.func``, differentiated twice, and under the tools that act on its layers."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from saccade import create, list_mechanisms, spec

SIZE = (5, 4)
READERS = ("cc", "das", "emattn", "polarized", "stn", "vt")
"""Mechanisms that fold a layer's weight into another product as long as nothing acts on the layer's call."""
pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # vmap loops over some operators


def _drawn(name, seed=0):
    torch.manual_seed(seed)
    options = {"groups": 8} if name == "emattn" else {"size": SIZE} if "size" in spec(name).needs else {}
    module = create(name, 32, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def _maps(channels_last=False):
    x = torch.randn(2, 32, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", sorted(set(list_mechanisms()) - {"simam"}))  # which has nothing to stack
def test_a_stacked_ensemble_is_each_of_its_members(name, channels_last):
    members, x = [_drawn(name, seed) for seed in range(2)], _maps(channels_last)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")
    found = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([member(x) for member in members]), rtol=1e-9, atol=1e-9)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", list_mechanisms())
def test_gradients_per_sample_are_those_of_each_image_alone(name, channels_last):
    module, x = _drawn(name), _maps(channels_last)
    weights = torch.randn_like(x)
    parameters = {key: p.detach() for key, p in module.named_parameters()}

    def loss(parameters, image, weight):
        return (functional_call(module, parameters, (image[None],))[0] * weight).sum()

    found = vmap(grad(loss, argnums=(0, 1)), (None, 0, 0))(parameters, x, weights)
    for n, image in enumerate(x):
        # Contiguous: torch's own backward of an eval batch norm is wrong for strides (C, 1, W·C, C) of one image.
        alone = image.clone(memory_format=torch.contiguous_format).requires_grad_()
        leaves = dict(module.named_parameters())
        wanted = torch.autograd.grad(loss(leaves, alone, weights[n]), [alone, *leaves.values()])
        for key, value in zip(["input", *leaves], wanted, strict=True):
            got = (found[1] if key == "input" else found[0][key])[n]
            torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", list_mechanisms())
def test_gradients_of_gradients_are_true(name):
    module = _drawn(name)
    # The step is small because a kink inside it (a ReLU, a maximum, a pixel's edge) would be an error of the test.
    x = _maps()[:1].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, *_: module(x), (x, *module.parameters()), fast_mode=True, eps=1e-7, atol=1e-4, rtol=1e-3
    )


def _layers(module):
    return [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def _pruned(module):
    for layer in _layers(module):
        prune.random_unstructured(layer, "weight", 0.5)


def _normed(norm):
    def apply(module):
        for layer in _layers(module):
            norm(layer)

    return apply


class Adapter(nn.Module):
    """A LoRA layer as peft writes it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, outputs = layer, layer.weight.shape[0]
        if isinstance(layer, nn.Linear):
            self.down, self.up = nn.Linear(layer.in_features, 2, False), nn.Linear(2, outputs, False)
        else:
            geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            self.down = nn.Conv2d(layer.in_channels, 2, *geometry, bias=False)
            self.up = nn.Conv2d(2, outputs, 1, bias=False)
        self.double()

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def _adapted(module):
    for part in list(module.modules()):
        for key, child in list(part.named_children()):
            if isinstance(child, nn.Conv2d | nn.Linear):
                setattr(part, key, Adapter(child))


TOOLS = {
    "prune": _pruned,
    "spectral_norm": _normed(spectral_norm),
    "weight_norm": _normed(weight_norm),
    "parametrized spectral_norm": _normed(parametrizations.spectral_norm),
    "adapters": _adapted,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", READERS)
def test_what_acts_on_every_layer_takes_part_and_learns(name, tool):
    module, x = _drawn(name).train(), _maps()
    before = module(x)
    TOOLS[tool](module)
    for _ in range(2):  # a weight that is worked out once is of a graph that is gone
        y = module(x)
        y.square().mean().backward()
    silent = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert tool == "weight_norm" or (y - before).abs().max() > 1e-6


@pytest.mark.parametrize("design", "cd")
def test_a_change_of_the_deformable_kernel_by_an_adapter_can_be_merged(design):
    torch.manual_seed(0)
    module = create("das", 32, design=design).double()
    nn.init.normal_(module.offset.weight, std=0.3)
    layer, x = module.deform, _maps()
    module.deform = Adapter(layer)
    with torch.no_grad():
        adapted = module(x)
        layer.weight += torch.einsum("orij,rcyx->ocyx", module.deform.up.weight, module.deform.down.weight)
        module.deform = layer
        torch.testing.assert_close(module(x), adapted, rtol=1e-9, atol=1e-9)


def test_numbers_of_a_bare_layer_are_those_of_a_called_one():
    for name in READERS:
        module, x = _drawn(name), _maps().requires_grad_()
        called = copy.deepcopy(module)
        for layer in _layers(called):
            layer.register_forward_pre_hook(lambda *_: None)
        for found, known in zip(*(_step(each, x) for each in (called, module)), strict=True):
            torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)


def _step(module, x):
    y = module(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]


@pytest.mark.filterwarnings("ignore")  # torch announces another package for it
def test_dynamic_quantisation_of_linear_layers_changes_little():
    for name in ("polarized", "vt", "stn"):
        module, x = _drawn(name).float(), _maps().float()
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
        far = (quantised(x) - module(x)).abs().max() / module(x).abs().max()
        assert 0 < far < 0.3, name
