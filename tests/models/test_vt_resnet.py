"""VT-ResNets: printed sizes, the order of their parts, feature maps, weights of a ResNet."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

import saccade.models  # noqa: F401, registers
from saccade.contract.randomize import randomize
from saccade.errors import UserError
from saccade.models import create_host
from saccade.recipe import Model

EQUATIONS = {"reading": "equations"}
PRINTED = [  # Wu et al., arXiv:2006.03677, Table 2 and the ablations; M parameters and M multiply-adds at 224×224
    ("vt_resnet18", {}, 11.6, 1579),
    ("vt_resnet34", {}, 21.8, 3299),
    ("vt_resnet34", {"tokenizer": "filter"}, 20.7, None),  # 3369 printed; 3269 by the other differences of that table
    ("vt_resnet18", {"tokenizer": "filter"}, 11.1, 1564),
    ("vt_resnet18", {"transformer": "none"}, 8.5, 1528),
    ("vt_resnet34", {"transformer": "none"}, 17.1, 3222),
    ("vt_resnet18", {"transformer": "graph"}, 8.5, 1528),
    ("vt_resnet34", {"transformer": "graph"}, 17.1, 3223),
    ("vt_resnet18", {"tokens": 32}, None, 1711),
    ("vt_resnet34", {"tokens": 32}, None, 3514),
    ("vt_resnet18", {"tokens": 64}, None, 1979),
    ("vt_resnet34", {"tokens": 64}, None, 3951),
    ("vt_resnet18", {"projector": False}, None, 1497),  # 9.3 printed
    ("vt_resnet34", {"projector": False}, 17.3, 3158),
]
READING = [  # not printed: what this code has, so that a change is noticed; the next test counts by hand
    ("vt_resnet18", {}, 11.498, 1582.0),
    ("vt_resnet34", {}, 21.753, 3302.9),
    ("vt_resnet18", {"projector": False}, 8.918, 1493.7),
    ("vt_resnet50", {}, 29.134, 3820.2),
    ("vt_resnet101", {}, 48.126, 7532.4),
    ("vt_resnet18", EQUATIONS, 3.896, 1446.7),
    ("vt_resnet34", EQUATIONS, 9.742, 3087.6),
    ("vt_resnet50", EQUATIONS, 30.556, 4220.8),
    ("vt_resnet101", EQUATIONS, 49.548, 7933.0),
]


def make(name="vt_resnet18", **options):
    torch.manual_seed(0)
    options = {"width": 0.25, "stem_stride": 2, "num_classes": 10} | options
    return randomize(timm.create_model(name, **options)).eval()


def size(name, options):
    """Return millions of parameters and of multiply-adds at 224×224."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = timm.create_model(name, **options).eval()
        net(torch.empty(1, 3, 224, 224))
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2e6


@pytest.mark.parametrize(("name", "options", "parameters", "macs"), PRINTED)
def test_printed_sizes(name, options, parameters, macs):
    found = size(name, options)
    tolerance = (0.018, 0.0035) if options else (0.01, 0.002)
    if parameters is not None:
        assert found[0] == pytest.approx(parameters, rel=tolerance[0])
    if macs is not None:
        assert found[1] == pytest.approx(macs, rel=tolerance[1])


@pytest.mark.parametrize(("name", "options", "parameters", "macs"), READING)
def test_sizes_of_the_readings(name, options, parameters, macs):
    assert size(name, options) == (pytest.approx(parameters, abs=0.0006), pytest.approx(macs, abs=0.06))


def test_parameters_by_hand():
    resnet = timm.create_model("resnet18")
    stages = sum(p.numel() for name, p in resnet.named_parameters() if not name.startswith(("layer4", "fc")))
    equations = stages + (8 * 256 + 6 * 256**2) + (256**2 + 6 * 256**2) + 257 * 1000
    token, half = 1024, 512
    transformer = 2 * token * half // 4 + token**2 // 4 + token**2
    tokenizers = 8 * 256 + 256**2 // 8 + (256 + 49) * token  # filters; values; output
    tokenizers += token * 512 + 2 * 512**2 // 8 + (512 + 49 + token) * token  # queries; keys, values; output
    projectors = 256**2 // 8 + token * (256 + 512) + 256 * 512  # queries; keys, values; lateral
    projectors += 512**2 // 8 + 2 * token * 512
    published = stages + 2 * transformer + tokenizers + projectors + 2 * 9 * 8 + 1025 * 1000
    for reading, expected in (("equations", equations), ("published_size", published)):
        net = timm.create_model("vt_resnet18", reading=reading, tokens=8)
        assert sum(p.numel() for p in net.parameters()) == expected
    assert equations != published


@pytest.mark.parametrize("options", [{}, {"tokenizer": "clustering", "transformer": "graph"}, EQUATIONS])
def test_modules_pass_map_and_tokens_on(options):
    net, x = make("vt_resnet34", **options), torch.randn(2, 3, 33, 47)
    y = net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))))
    tokens = None
    for module in net.vt:
        tokens = module.transformer(module.tokenizer(y, tokens))
        y = module.projector(y, tokens)
    torch.testing.assert_close(net.forward_features(x), tokens)
    torch.testing.assert_close(net(x), net.fc(tokens.mean(2)))
    torch.testing.assert_close(net.forward_head(tokens, pre_logits=True), tokens.mean(2))
    assert tokens.shape == (2, net.num_features, 16)
    assert not torch.equal(net(x), net(x.flip(3)))


def test_the_first_module_has_filters_and_the_others_are_recurrent():
    kinds = [type(module.tokenizer).__name__ for module in make("vt_resnet34").vt]
    assert kinds == ["FilterTokenizer", "RecurrentTokenizer", "RecurrentTokenizer"]
    assert [type(module.tokenizer).__name__ for module in make(tokenizer="pooling").vt] == ["PoolingTokenizer"] * 2


def test_only_the_last_projector_does_not_reach_the_classifier():
    x = torch.randn(2, 3, 32, 32)
    for options, unused in (({}, "vt.1.projector"), ({"last_projector": False}, None)):
        net = make(**options).train()
        net(x).square().sum().backward()
        without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert without == {name for name, _ in net.named_parameters() if unused and name.startswith(unused)}
    full, reduced = make(), make(last_projector=False)
    reduced.load_state_dict(full.state_dict(), strict=False)
    torch.testing.assert_close(full(x), reduced(x), rtol=0, atol=0)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("projector", [True, False])
def test_feature_info_matches_the_feature_maps(stride, projector):
    options = {"width": 0.25, "stem_stride": stride, "projector": projector}
    net = timm.create_model("vt_resnet18", features_only=True, **options)
    maps = net(torch.randn(2, 3, 64, 96))
    assert net.feature_info.channels() == [m.shape[1] for m in maps] == [16, 16, 32, 64, *[128] * projector]
    assert net.feature_info.reduction() == [64 // m.shape[2] for m in maps] == [96 // m.shape[3] for m in maps]
    assert net.feature_info.reduction()[-1] == 4 * stride


def test_feature_maps_equal_those_of_the_network():
    net, x = make(), torch.randn(2, 3, 33, 47)
    tokens, maps = net.forward_intermediates(x)
    torch.testing.assert_close(net.forward_head(tokens), net(x), rtol=0, atol=0)
    torch.testing.assert_close(net.layer3(maps[2]), maps[3], rtol=0, atol=0)
    seen = []
    net.get_submodule(net.feature_info[4]["module"]).register_forward_hook(lambda *args: seen.append(args[2]))
    net(x)
    assert torch.equal(seen[0], maps[4])
    assert net.prune_intermediate_layers([1, 3]) == [1, 3]
    torch.testing.assert_close(net.forward_intermediates(x, [1, 3], intermediates_only=True), [maps[1], maps[3]])
    assert not any(name.startswith(("vt", "fc")) for name, _ in net.named_parameters())


def test_weights_of_a_resnet_fill_stem_and_stages(tmp_path, caplog):
    resnet = randomize(timm.create_model("resnet18", num_classes=7))
    save_file(resnet.state_dict(), tmp_path / "resnet18.safetensors")
    with caplog.at_level(logging.WARNING):
        net = create_host(Model(name="vt_resnet18", checkpoint=str(tmp_path / "resnet18.safetensors")), 10, 3).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(net.forward_intermediates(x)[1][3], resnet.eval().forward_intermediates(x)[1][3])
    other = timm.create_model("vt_resnet18").eval()
    assert not torch.allclose(net.forward_intermediates(x)[1][3], other.forward_intermediates(x)[1][3])
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.convert_weights(state).items())


def test_options():
    assert make(num_classes=0)(torch.randn(2, 3, 8, 8)).shape == (2, 256)
    assert make(num_classes=0, global_pool="")(torch.randn(2, 3, 8, 8)).shape == (2, 256, 16)
    assert make("vt_resnet50", tokens=9)(torch.randn(1, 3, 17, 19)).shape == (1, 10)
    narrow = make(width=0.01, in_chans=1)
    assert (narrow.conv1.out_channels, narrow.num_features) == (8, 64)
    assert narrow(torch.randn(1, 1, 1, 1)).shape == (1, 10)
    net, x = make(), torch.randn(2, 3, 32, 32)
    net.reset_classifier(3)
    assert net(x).shape == (2, 3)
    dropped = make(drop_rate=0.5, drop_path_rate=0.5).train()
    assert not torch.equal(dropped(x), dropped(x))
    assert dropped.layer3[-1].drop_path.drop_prob == 0.5
    before = net(x)
    net.set_grad_checkpointing()
    torch.testing.assert_close(net(x), before)
    net(x).sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "recurrentt"}, "got 'recurrentt'. Did you mean 'recurrent'"),
        ({"transformer": "vit"}, "got 'vit'"),
        ({"reading": "paper"}, "got 'paper'"),
        ({"stem_stride": 3}, "1, 2 or 4, got 3"),
        ({"width": 0}, "above 0, got 0"),
        ({"modules": 0}, "at least 1, got 0"),
        ({"layers": (1, 1)}, r"three stages, got \[1, 1\]"),
        ({"global_pool": "max"}, "got 'max'"),
        ({"global_pool": ""}, "num_classes=10; use 0"),
        ({"tokenizer": "pooling", "tokens": 12}, "got 12; use 9"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        make(**options)


def test_it_compiles_and_exports():
    net, x = make(), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    more = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(more), net(more))


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_last(zero):
    net = timm.create_model("vt_resnet18", width=0.25, zero_init_last=zero)
    assert bool((net.layer1[0].bn2.weight == 0).all()) is zero


def test_a_new_classifier_keeps_the_dtype():
    net = timm.create_model("vt_resnet18", width=0.25, stem_stride=2).double()
    net.reset_classifier(3)
    assert net(torch.randn(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 3)


@pytest.mark.parametrize("coarse", [True, False])
def test_layer_groups_are_in_order(coarse):
    net = timm.create_model("vt_resnet18", width=0.25)
    groups = timm.models.group_parameters(net, net.group_matcher(coarse), reverse=True)
    order = [
        groups[f"{name}.weight"] for name in ("conv1", "layer1.0.conv1", "layer3.1.conv2", "vt.0.tokenizer.filters")
    ]
    assert order == sorted(set(order))
    assert set(groups) == {name for name, _ in net.named_parameters()}


def test_intermediates_stop_early():
    net, x = timm.create_model("vt_resnet18", width=0.25).eval(), torch.randn(1, 3, 64, 64)
    last, maps = net.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(last, maps[0])
    assert torch.equal(net.forward_intermediates(x, indices=[1])[1][0], last)
    net.prune_intermediate_layers([1])
    assert torch.equal(net(x), last.flatten(2))
