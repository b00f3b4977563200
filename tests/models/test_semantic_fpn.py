"""Semantic FPN: its cost, the head by hand, any size, encoders, weights, saving and errors."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from pyramid_networks import OPTIONS, SIZE, macs, make, pictures
from safetensors.torch import save_file

import saccade
import saccade.models  # registers
from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import create_host, encoder_of, head_paths, host_as_saved, is_dense
from saccade.models._semantic_head import SemanticHead
from saccade.recipe import Model

NAMES = ("semantic_fpn", "vt_fpn")
EACH_NAME = pytest.mark.parametrize("name", NAMES)


def test_the_cost_is_the_printed_one():
    """VT, arXiv:2006.03677, tables 9 and 10: 55.1 and 12.8 G for the pyramid on ResNet-50."""
    pyramid, head = macs("semantic_fpn", 800, 1216, num_classes=54)
    pixels = 200 * 304 / 4 ** torch.arange(4.0)
    laterals = float((256 * pixels * torch.tensor([256, 512, 1024, 2048])).sum())
    assert pyramid == pytest.approx(55.1, abs=0.01)
    assert pyramid == pytest.approx((laterals + 9 * 256**2 * float(pixels.sum())) / 1e9)
    # The whole network takes 159 G with ResNet-50 of 3.86 G at 224×224 (SENet, table 2), by whose side detectron2's
    # default of 54 classes leaves the head this much:
    assert head == pytest.approx(159 - 55.1 - 3.86 * 800 * 1216 / 224**2, abs=0.5)
    assert macs("semantic_fpn", 473, 473)[0] == pytest.approx(12.89, abs=0.01)
    assert macs("semantic_fpn", 473, 473, width=0.5)[0] < 4.5


@pytest.mark.parametrize("size", [(16, 24), (13, 22), (1, 1)])
def test_the_head_by_hand(size):
    """One, one, two and three convolutions; maps of odd sizes are resized to the next finer one."""
    head = perturb(SemanticHead(6, [4, 8, 16, 32], 8, 3)).eval()
    sizes = [tuple(math.ceil(side / 2**k) for side in size) for k in range(4)]
    maps = [torch.randn(2, 6, *sizes[k], generator=torch.Generator().manual_seed(k)) for k in range(4)]
    total = 0
    for k, convolutions in enumerate([1, 1, 2, 3]):
        x = maps[k]
        assert len(head.levels[k]) == convolutions
        for n in range(convolutions):
            conv, norm, _ = head.levels[k][n]
            x = F.conv2d(x, conv.weight, padding=1)
            group = x.unflatten(1, (2, 4))
            variance, mean = torch.var_mean(group, (2, 3, 4), correction=0, keepdim=True)
            x = ((group - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
            if k:
                x = F.interpolate(x, size=sizes[k - n - 1], mode="bilinear")
        total = total + x
    expected = torch.einsum("oc,bchw->bohw", head.classifier.weight[:, :, 0, 0], total)
    torch.testing.assert_close(head(maps), expected + head.classifier.bias[:, None, None], rtol=1e-4, atol=1e-4)


def test_a_missing_stride_is_two_doublings():
    head = SemanticHead(6, [4, 16], 8, 3)
    assert ([len(level) for level in head.levels], head.doublings) == ([1, 2], [0, 2])
    with pytest.raises(UserError, match="a power of two times the first, got 4, 12"):
        SemanticHead(6, [4, 12], 8, 3)


def test_the_pyramid_is_from_coarse_to_fine():
    """Each map reads the coarser ones and none of the finer."""
    net = make("semantic_fpn")
    maps = net.encoder(pictures())
    levels = net.pyramid(maps)
    assert [level.shape[1:] for level in levels] == [(32, 33, 46), (32, 17, 23), (32, 9, 12), (32, 5, 6)]
    for changed in range(4):
        other = net.pyramid([x + (n == changed) for n, x in enumerate(maps)])
        assert [torch.equal(x, y) for x, y in zip(levels, other, strict=True)] == [n > changed for n in range(4)]


@EACH_NAME
@pytest.mark.parametrize(("batch", "channels", "size"), [(2, 3, SIZE), (1, 1, (1, 1)), (3, 1, (7, 40))])
def test_logits_have_the_size_of_the_image(name, batch, channels, size):
    net, x = make(name, channels=channels), pictures(batch, channels, size)
    y = net(x)
    assert y.shape == (batch, 5, *size)
    torch.testing.assert_close(net(x[-1:]), y[-1:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(x + 1), y, atol=1e-2)


@EACH_NAME
def test_it_is_exported_for_any_size(name):
    net, x = make(name), pictures()
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(net, (x,), dynamic_shapes=(dynamic,)).module()
    other = pictures(3, size=(50, 61))
    torch.testing.assert_close(program(other), net(other), rtol=1e-5, atol=1e-5)


@EACH_NAME
def test_a_plugged_network_is_saved_and_rebuilds_itself(name, tmp_path):
    net, x = make(name), pictures()
    before = net(x)
    saccade.plug(net, "se", where="encoder.layer2", input=(3, *SIZE), rd_ratio=0.5)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    perturb(net)
    saccade.save(net, tmp_path, host=host_as_saved(Model(name=name, options=OPTIONS), 5, 3), input=(3, *SIZE))
    again = saccade.load(tmp_path, trust=False).eval()
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    assert not torch.equal(again(x), before)


@EACH_NAME
def test_the_encoder_takes_weights_of_a_classifier(name, tmp_path):
    classifier = perturb(timm.create_model("resnet10_small", width=4)).eval()
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path, {"architecture": "resnet10_small"})
    model = Model(name=name, options=OPTIONS, checkpoint=str(path))
    found, fresh = (create_host(m, 5, 3).eval() for m in (model, model.model_copy(update={"checkpoint": None})))
    x = pictures()
    _, maps = classifier.forward_intermediates(x)
    torch.testing.assert_close(found.encoder(x)[-1], maps[-1], rtol=0, atol=0)
    assert not torch.allclose(fresh.encoder(x)[-1], maps[-1], atol=1e-2)
    assert head_paths(found) == {"pyramid", "head"}


@EACH_NAME
def test_it_is_a_dense_network_of_resnet50(name):
    assert is_dense(name)
    assert encoder_of(Model(name=name)) == "resnet50"
    net = timm.create_model(name, encoder="mobilenetv2_100", width=0.1, strides=[8, 32])
    assert [conv.in_channels for conv in net.pyramid.modules() if getattr(conv, "kernel_size", 0) == (1, 1)][:2] == [
        32, 320,
    ]  # fmt: skip
    assert (net.pyramid.channels, net.head.classifier.in_channels, net.num_classes) == (32, 12, 21)
    assert net.pretrained_cfg["input_size"] == (3, 224, 224)


@EACH_NAME
def test_every_parameter_learns(name):
    net = make(name).train()
    F.cross_entropy(net(pictures()), torch.ones(2, *SIZE, dtype=torch.long)).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@EACH_NAME
def test_dropped_channels_change_the_logits_in_training_only(name):
    net, plain, x = make(name, drop_rate=0.5), make(name), pictures()
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)
    net.head.train()
    assert not torch.allclose(net(x), plain(x), atol=1e-2)


@EACH_NAME
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widthh": 2}, "{name} has no option 'widthh'. Did you mean 'width'?"),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"encoder": "resnet81"}, "timm has no network 'resnet81'"),
        ({"strides": [3, 8]}, "strides = [3, 8]: the feature maps of resnet10_small have the strides 1, 2, 4, 8"),
        ({"encoder_options": {"widthh": 3}}, "timm could not build the encoder resnet10_small"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(UserError) as caught:
        make(name, **options)
    assert words.format(name=name) in str(caught.value)


def test_an_encoder_with_channels_last():
    options = {"embed_dim": 24, "depths": (1,) * 4, "num_heads": (1,) * 4, "img_size": 64, "window_size": 2}
    net = timm.create_model(
        "semantic_fpn", num_classes=3, width=0.25, encoder="swin_tiny_patch4_window7_224", encoder_options=options
    )
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 3, 64, 64)
