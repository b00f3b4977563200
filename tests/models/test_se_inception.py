"""SE-BN-Inception, registered with timm."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import saccade.models  # noqa: F401 (registers)
from saccade.contract.randomize import perturb, randomize
from saccade.errors import UserError


def make(**options):
    torch.manual_seed(0)
    options = {"width": 0.25, "stem_stride": 1, **options}
    return perturb(randomize(timm.create_model("se_bn_inception", **options))).eval()


def test_size():
    # Counts of the authors' prototxt file.
    with torch.device("meta"):
        net, counter = timm.create_model("se_bn_inception").eval(), FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in net.parameters()) == 11_931_622
    assert counter.get_total_flops() / 2e9 == pytest.approx(2.033, abs=5e-4)
    assert net.inception_3a.se.fc1.weight.shape == (16, 256, 1, 1)
    assert net.inception_3b.se.fc1.weight.shape == (20, 320, 1, 1)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_feature_maps_of_an_odd_size(stem_stride):
    net = make(features_only=True, stem_stride=stem_stride)
    maps = net(torch.randn(1, 3, 97, 65))
    reductions = net.feature_info.reduction()
    assert reductions == [min(stem_stride, 2), *(stem_stride * 2**k for k in range(4))]
    expected = [(c, -(-97 // r), -(-65 // r)) for c, r in zip(net.feature_info.channels(), reductions, strict=True)]
    assert [m.shape[1:] for m in maps] == expected


def test_max_pool_is_caffes_at_even_sizes():
    pool, x = make().pool2, torch.rand(2, 3, 8, 12)
    assert torch.equal(pool(x), torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True))
    assert pool(x[..., :7, :1]).shape == (2, 3, 4, 1)


def test_gates_are_where_se_stages_says():
    x, full, plain = torch.randn(2, 3, 32, 32), make(), make(se_stages=())
    assert [n for n, m in make(se_stages=(3, 5)).named_modules() if n.endswith("se.tap")] == [
        f"inception_{name}.se.tap" for name in ("3a", "3b", "3c", "5a", "5b")
    ]
    plain.load_state_dict(full.state_dict(), strict=False)
    assert not torch.allclose(plain(x), full(x))
    for name, module in full.named_modules():
        if name.endswith(".se"):
            module.fc2.weight.data.zero_()
            module.fc2.bias.data.fill_(40.0)  # the sigmoid of 40 is 1
    torch.testing.assert_close(plain(x), full(x))


def test_one_pixel_and_layer_groups():
    net = make(num_classes=3, in_chans=1)
    assert net(torch.randn(1, 1, 1, 1)).shape == (1, 3)
    for coarse in (True, False):
        groups = timm.models.group_parameters(net, net.group_matcher(coarse))
        assert sum(map(len, groups.values())) == len(list(net.parameters()))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stem_stride": 3}, "got 3"), ({"width": -1}, "got -1"), ({"se_stages": (1, 3)}, "got 1"),
     ({"squeeze": "mean"}, "got 'mean'"), ({"reduction": 0}, "got 0")],
)  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("se_bn_inception", **options)
