"""The position ``neck``, one network a row; the stages of hosts that answer with maps, or change their input."""

import logging
from itertools import pairwise

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torchvision.models import detection, segmentation
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from saccade import UserError
from saccade.contract.randomize import randomize
from saccade.graph.positions import POSITIONS, select, sites_at
from saccade.specs import Spec
from saccade.surgery import plug, plugs, sites
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)
SPEC = Spec(title="Somebody's", kind="gate", evidence="reading")
SMALL = {"min_size": 64, "max_size": 96, "num_classes": 3}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")


def _drawn(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(make(), 1)


def _at(host, where, size=SIZE):
    return [site.path for site in select(inspect_unplugged(host, size), where, SPEC).sites]


def _pyramid(extra=None):
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    returned, more = ([2, 3, 4], {"extra_blocks": extra}) if extra else ([1, 2, 3, 4], {})
    return detection.backbone_utils._resnet_fpn_extractor(resnet, 3, returned_layers=returned, **more)


def _rcnn():
    anchors = detection.anchor_utils.AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    few = {"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 10}
    head = detection.faster_rcnn.TwoMLPHead(256 * 7**2, 16)
    predictor = detection.faster_rcnn.FastRCNNPredictor(16, 3)
    return detection.FasterRCNN(
        _pyramid(), rpn_anchor_generator=anchors, box_head=head, box_predictor=predictor, **few,
        **SMALL | {"num_classes": None},
    )  # fmt: skip


def _rt_detr():
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 40], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    widths = dict.fromkeys(["encoder_hidden_dim", "d_model", "encoder_ffn_dim", "decoder_ffn_dim"], 32)
    heads = dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 2)
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[24, 32, 40], decoder_in_channels=[32] * 3, decoder_layers=1,
        num_queries=10, num_labels=3, num_denoising=0, **widths, **heads,
    )  # fmt: skip
    return transformers.RTDetrForObjectDetection(config)


def _segformer():
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1] * 4, decoder_hidden_size=16
    )
    return transformers.SegformerForSemanticSegmentation(config)


def _smp(make):
    return lambda: make("resnet18", encoder_weights=None, classes=3)


def _levels(*numbers):
    return [f"backbone.fpn.layer_blocks.{n}" for n in numbers]


EXTRA = ["backbone.fpn.extra_blocks.p6", "backbone.fpn.extra_blocks.p7"]
ROWS = {
    # P6 is a pooling of P5, and no map of its own.
    "Faster R-CNN": (_rcnn, SIZE, _levels(3, 2, 1, 0)),
    "RetinaNet": (lambda: detection.RetinaNet(_pyramid(LastLevelP6P7(256, 256)), **SMALL), SIZE,
                  [*_levels(2, 1, 0), *EXTRA]),
    "FCOS": (lambda: detection.FCOS(_pyramid(LastLevelP6P7(256, 256)), **SMALL), SIZE, [*_levels(2, 1, 0), *EXTRA]),
    # The first of the six is scaled by a function behind the module named.
    "SSD300": (lambda: detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3), None,
               ["backbone.features", *(f"backbone.extra.{n}" for n in range(5))]),
    "RT-DETR": (_rt_detr, (3, 96, 64), [f"model.decoder_input_proj.{n}" for n in range(3)]),
    "Segformer": (_segformer, SIZE, [f"segformer.stages.{n}" for n in range(4)]),
    "smp U-Net": (_smp(smp.Unet), (3, 64, 96), ["decoder"]),
    "smp FPN": (_smp(smp.FPN), (3, 64, 96), ["decoder"]),
    "smp DeepLabV3+": (_smp(smp.DeepLabV3Plus), (3, 64, 96), ["decoder"]),
    # An auxiliary head is a head.
    "torchvision LR-ASPP": (lambda: segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None), SIZE,
                            ["backbone.4", "backbone.16"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_neck_is_what_the_heads_read(name):
    make, size, wanted = ROWS[name]
    host = _drawn(make)
    assert _at(host, "neck", size) == wanted
    assert _at(host, "neck[-1]", size) == wanted[-1:]


class SplitFiles(nn.Sequential):
    """A convolution, its norm and its activation; ``f`` says what it reads, as in the trainers' yaml files."""

    def __init__(self, given, width, stride=1, f=-1):
        super().__init__(nn.Conv2d(given, width, 3, stride, 1), nn.BatchNorm2d(width), nn.SiLU(inplace=True))
        self.f = f


class Joined(nn.Module):
    """Maps of several parts, the first resized to the size of the second, beside each other."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, maps):
        """Map [(B, C, h, w), (B, D, H, W)] to (B, C + D, H, W)."""
        return torch.cat([F.interpolate(maps[0], maps[1].shape[2:]), maps[1]], 1)


class Detect(nn.Module):
    """Boxes and classes of each level, all in one tensor; it hands on the maps that it reads."""

    def __init__(self, widths, f):
        super().__init__()
        self.f = f
        self.boxes = nn.ModuleList(nn.Sequential(SplitFiles(w, 16), nn.Conv2d(16, 16, 1)) for w in widths)
        self.classes = nn.ModuleList(nn.Sequential(SplitFiles(w, 16), nn.Conv2d(16, 3, 1)) for w in widths)

    def forward(self, maps):
        """Map a list of (B, C, H, W) to (B, 19, N), and the maps."""
        x = [torch.cat((b(m), c(m)), 1) for b, c, m in zip(self.boxes, self.classes, maps, strict=True)]
        return torch.cat([level.flatten(2) for level in x], 2), {"maps": maps}


class Yolo(nn.Module):
    """A detector that runs its parts one by one, and saves what later ones read."""

    def __init__(self, levels=3):
        super().__init__()
        parts = [
            SplitFiles(3, 8, 4), SplitFiles(8, 12, 2), SplitFiles(12, 16, 2), SplitFiles(16, 24, 2),
            Joined([-1, 2]), SplitFiles(24 + 16, 16),
            Joined([-1, 1]), SplitFiles(16 + 12, 12),
            SplitFiles(12, 16, 2), Joined([-1, 5]), SplitFiles(32, 16),
            SplitFiles(16, 24, 2), Joined([-1, 3]), SplitFiles(48, 24),
        ]  # fmt: skip
        read = [7, 10, 13]
        if levels == 4:
            parts += [Joined([7, 0]), SplitFiles(12 + 8, 8)]
            read = [15, *read]
        widths = {7: 12, 10: 16, 13: 24, 15: 8}
        self.model = nn.Sequential(*parts, Detect([widths[n] for n in read], read))
        self.read = read

    def forward(self, x):
        """Map (B, 3, H, W) to what the last part makes."""
        saved = []
        for part in self.model:
            if part.f != -1:
                x = [x if j == -1 else saved[j] for j in part.f]
            x = part(x)
            saved.append(x)
        return x


@pytest.mark.parametrize("levels", [3, 4])
def test_the_neck_of_a_detector_that_saves_its_maps(levels):
    host = _drawn(lambda: Yolo(levels))
    assert _at(host, "neck") == sorted((f"model.{n}" for n in host.read), key=lambda path: int(path[6:]))
    assert not any(
        site.path.startswith(f"model.{len(host.model) - 1}")
        for site in sites_at(inspect_unplugged(host, SIZE), "stage")
    )


def test_every_reader_of_a_map_of_the_neck_sees_the_plug():
    host, x = _drawn(Yolo), torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(1))
    maps = {}
    for n in (8, 14):  # the way down, and the head
        host.model[n].register_forward_pre_hook(lambda _, given, n=n: maps.update({n: given[0]}))
    with torch.no_grad():
        before, _ = host.eval()(x)
        old = maps[8].clone()
        plug(host, "se", where="neck", input=SIZE, rd_ratio=0.25)
        torch.testing.assert_close(host(x)[0], before, rtol=0, atol=0)
        for row in plugs(host):
            row.module.a.fill_(1)
        after, _ = host(x)
    assert not torch.equal(after, before)
    assert not torch.equal(maps[8], old)
    torch.testing.assert_close(maps[8], maps[14][0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision resnet", "torchvision densenet", "torchvision convnext", "torchvision vgg",
        "torchvision mobilenet_v2", "timm convnext", "user's Sequential",
    ],
)  # fmt: skip
def test_a_classifier_has_no_neck(make, name):
    with pytest.raises(UserError, match=r"no site at 'neck'.*one vector per image.*where='stage\[-1\]'"):
        _at(make(name), "neck")


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenetv2_100"])
def test_a_backbone_has_no_neck(name):
    host = _drawn(lambda: timm.create_model(name, features_only=True))
    with pytest.raises(UserError, match=r"no site at 'neck'.*no head reads its maps.*where='stage'"):
        _at(host, "neck")


def test_an_unknown_position_names_the_neck(make):
    assert "neck" in POSITIONS
    with pytest.raises(
        UserError, match=r"Did you mean 'neck'.*The positions: paper, stage, decoder, skip, neck, block"
    ):
        _at(make("timm resnet"), "nekc")


def _gan():
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


class Last(nn.Module):
    """A convolution and what by-passes it, at the end of MONAI's U-Net."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.residual = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1)), nn.Identity()

    def forward(self, x):
        """Map (B, C, H, W) to the same."""
        return self.conv(x) + self.residual(x)


class Beside(nn.Module):
    """A module's map beside what entered it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """Map (B, C, H, W) to (B, C + D, H, W)."""
        return torch.cat([x, self.inner(x)], 1)


def _monai():
    up = nn.Sequential(nn.ConvTranspose2d(48, 2, 3, 2, 1, 1), nn.InstanceNorm2d(2), nn.PReLU(), Last(2))
    return nn.Sequential(SplitFiles(3, 16, 2), Beside(nn.Sequential(SplitFiles(16, 32), Last(32))), up)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (_gan, SIZE),
        (_monai, SIZE),
        (ROWS["SSD300"][0], None),
        (lambda: nn.Sequential(*SplitFiles(3, 16), *SplitFiles(16, 16, 2), nn.Conv2d(16, 12, 1)), SIZE),
    ],
    ids=["discriminator", "MONAI's U-Net", "SSD300", "a convolution"],
)
def test_no_stage_is_the_answer(make, size):
    stages = sites_at(inspect_unplugged(_drawn(make), size), "stage")
    assert stages
    assert min(site.channels for site in stages) >= 16
    assert not [site.path for site in stages if site.path.startswith("head")]


class Cropping(nn.Module):
    """A U-Net without padding, which crops what it hands across; or a classifier that changes the picture's size."""

    def __init__(self):
        super().__init__()
        widths = [8, 16, 24, 32]
        self.down = nn.ModuleList(self._pair(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(self._pair(2 * a, a) for a in widths[:-1])
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _pair(given, width):
        return nn.Sequential(nn.Conv2d(given, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU())

    def forward(self, x):
        """Map (B, 3, H, W) to (B, 2, H - 88, W - 88)."""
        saved = []
        for n, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if n else x)
            saved.append(x)
        for grow, up, old in zip(self.grow[::-1], self.up[::-1], saved[-2::-1], strict=True):
            x = grow(x)
            top, left = ((a - b) // 2 for a, b in zip(old.shape[2:], x.shape[2:], strict=True))
            x = up(torch.cat([old[:, :, top : top + x.shape[2], left : left + x.shape[3]], x], 1))
        return self.out(x)


class Changing(nn.Module):
    """A ResNet on pictures that its own forward resizes or pads."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), change

    def forward(self, x):
        """Map (B, 3, H, W) to (B, 5)."""
        return self.net(self.change(x))


def test_a_host_without_padding_keeps_its_stages():
    host = _drawn(Cropping)
    found = {site.path: site.size for site in sites_at(inspect_unplugged(host, (3, 252, 220)), "stage")}
    assert found == {"down.0.3": (248, 216), "down.1.3": (120, 104), "down.2.3": (56, 48), "down.3.3": (24, 20)}
    assert _at(host, "neck", (3, 252, 220)) == ["up.0"]


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (lambda x: F.interpolate(x, (64, 64)), (3, 96, 40)),
        (lambda x: F.pad(x, (0, -x.shape[3] % 128, 0, -x.shape[2] % 128)), (3, 130, 40)),
    ],
    ids=["resizes", "pads"],
)
def test_a_host_that_changes_its_input_keeps_its_stages(change, size):
    assert _at(_drawn(lambda: Changing(change)), "stage", size) == [f"net.layer{n}" for n in (1, 2, 3, 4)]


def test_a_detector_keeps_its_stages_whatever_its_transform_makes_of_the_picture():
    host = _drawn(ROWS["FCOS"][0])
    assert _at(host, "stage", (3, 224, 192)) == [f"backbone.body.layer{n}" for n in (1, 2, 3, 4)]


def test_the_widened_maps_that_timm_declares_are_stages():
    host = _drawn(lambda: timm.create_model("mobilenetv2_100", features_only=True, feature_location="expansion"))
    x = torch.randn(1, *SIZE)
    stages = sites_at(inspect_unplugged(host, SIZE), "stage")
    assert [(site.path, site.channels) for site in stages] == [
        ("blocks.1.1.bn2", 144), ("blocks.2.2.bn2", 192), ("blocks.4.2.bn2", 576), ("blocks.6.0.bn2", 960),
    ]  # fmt: skip
    with torch.no_grad():
        maps = host.eval()(x)[1:]
    assert [tuple(m.shape[1:]) for m in maps] == [(site.channels, *site.size) for site in stages]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("conv", "size", "found"),
    [
        (nn.Conv1d, (1, 3, 64), r"1-D network.*not supported.*\(B, C, L\), of rank 3"),
        (nn.Conv3d, (1, 3, 8, 16, 12), r"3-D network.*not supported.*\(B, C, D, H, W\), of rank 5"),
    ],
)
def test_networks_of_one_and_three_dimensions_are_refused(conv, size, found, given):
    host = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3))
    x = torch.randn(size) if given else None
    with pytest.raises(UserError, match=found):
        plug(host, "se", where="stage", input=x)
    with pytest.raises(UserError, match=found):
        sites(host, x)
    beside = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(2), nn.Conv1d(8, 8, 3))
    assert [site.path for site in sites(beside, SIZE)] == ["0", "1"]
