"""SKNet-50 and -101, registered with timm."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import saccade.models  # noqa: F401 (registers)
from saccade.attention.selective_kernel import SelectiveKernel
from saccade.contract.randomize import perturb, randomize
from saccade.errors import UserError
from saccade.models.sknet import checkpoint_filter_fn


def make(**options):
    torch.manual_seed(0)
    options = {"width": 0.25, "stem_stride": 2, "layers": (1, 1, 1, 1), **options}
    return perturb(randomize(timm.create_model("sknet50", **options))).eval()


# The authors' README prints 27.5 M and 4.47 G, 48.9 M and 8.46 G. Their file of SKNet-101 has 16 bottleneck channels
# in the 4 kernels of stage 2, which leaves out 4·(3·256·16 + 2·16) weights: 48.687 M.
@pytest.mark.parametrize(("name", "parameters", "macs"), [("sknet50", 27.480, 4.463), ("sknet101", 48.736, 8.449)])
def test_sizes(name, parameters, macs):
    with torch.device("meta"):
        net, counter = timm.create_model(name).eval(), FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(parameters, abs=5e-4)
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, abs=5e-4)
    if name == "sknet101":
        assert pytest.approx(48.687, abs=5e-4) == 48.736 - 4 * (3 * 256 * 16 + 2 * 16) / 1e6


def test_timms_weights_give_timms_output():
    torch.manual_seed(0)
    layers, x = (1, 2, 1, 1), torch.randn(2, 3, 65, 81)
    theirs = perturb(randomize(timm.create_model("skresnext50_32x4d", layers=layers))).eval()
    ours = timm.create_model("sknet50", layers=layers).eval()
    state = checkpoint_filter_fn(theirs.state_dict(), ours)
    assert checkpoint_filter_fn(state, ours).keys() == state.keys() == ours.state_dict().keys()
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() <= 2e-6 * expected.abs().max()
        ours.layer4[0].conv2.near[1].bias += 0.1
        assert (ours(x) - expected).abs().max() > 1e-5 * expected.abs().max()


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_feature_maps(stem_stride):
    net = make(features_only=True, stem_stride=stem_stride)
    maps = net(torch.randn(1, 3, 64, 96))
    reductions = net.feature_info.reduction()
    assert reductions == [min(stem_stride, 2), *(stem_stride * 2**k for k in range(4))]
    expected = [(c, 64 // r, 96 // r) for c, r in zip(net.feature_info.channels(), reductions, strict=True)]
    assert [m.shape[1:] for m in maps] == expected


def test_kernels_start_alike():
    net = timm.create_model("sknet50", width=0.25, stem_stride=2, layers=(1, 1, 1, 1))
    kernels = [module for module in net.modules() if isinstance(module, SelectiveKernel)]
    assert len(kernels) == 4
    for kernel in kernels:
        assert kernel.select.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not torch.equal(kernel.near[0].weight, kernel.far[0].weight)


def test_options():
    net = make(num_classes=3, in_chans=1, reduction=4, drop_path_rate=0.2)
    assert net(torch.randn(1, 1, 1, 1)).shape == (1, 3)
    assert net.layer4[0].conv2.squeeze[0].out_channels == 64
    assert make(output_stride=8).feature_info[-1]["reduction"] == 4
    for zero in (True, False):
        fresh = timm.create_model("sknet50", width=0.25, layers=(1, 1, 1, 1), zero_init_last=zero)
        assert bool((fresh.layer1[0].bn3.weight == 0).all()) is zero


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stem_stride": 3}, "got 3"), ({"width": 0}, "got 0"), ({"reduction": 0}, "got 0"),
     ({"layers": (1, 1)}, r"got \[1, 1\]")],
)  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("sknet50", **options)
