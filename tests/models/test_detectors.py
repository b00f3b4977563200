"""Detector hosts: equality with torchvision's networks, sizes, plugs, saved folders, initial weights and errors."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import saccade
import saccade.models  # registers
from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import DEFAULT_DETECTOR, create_host, encoder_of, find_weight_settings, is_detector
from saccade.recipe import Model

NAMES = ("faster_rcnn", "retinanet", "fcos")
ENCODER = {"encoder": "resnet10_small", "encoder_options": {"width": 8, "stem_stride": 2}}
OPTIONS = {
    "faster_rcnn": {
        **ENCODER, "strides": [4, 8], "fpn_channels": 16, "box_head": 24, "anchor_scale": 4.0, "box_score_thresh": 0.0,
        "rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 16,
        "box_detections_per_img": 10,
    },
    "retinanet": {
        **ENCODER, "strides": [4, 8], "fpn_channels": 64, "score_thresh": 0.0, "topk_candidates": 20,
        "detections_per_img": 10,
    },
    "fcos": {
        **ENCODER, "strides": [4, 8], "fpn_channels": 64, "head_convs": 1, "score_thresh": 0.0, "topk_candidates": 20,
        "detections_per_img": 10,
    },
}  # fmt: skip
SIZE = (3, 45, 62)


def make(name, **options):
    torch.manual_seed(0)
    return perturb(timm.create_model(name, **OPTIONS[name] | {"num_classes": 4} | options)).eval()


def pictures(batch=2, size=SIZE):
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))


def targets():
    return [
        {"boxes": torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 9.0, 28.0, 20.0]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def assert_equal_predictions(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def differ(found, expected):
    return any(
        one[key].shape != other[key].shape or not torch.equal(one[key], other[key])
        for one, other in zip(found, expected, strict=True)
        for key in one
    )


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_torchvision_without_resizing_and_normalisation(name):
    net = make(name)
    x = pictures(size=(3, 45, 61))
    other = copy.deepcopy(net)
    # Torchvision scales the shorter side to min_size, here by the factor 1.
    other.transform = GeneralizedRCNNTransform(45, 100, [0.0] * 3, [1.0] * 3, size_divisible=8)
    assert_equal_predictions(net(x), other(x))
    other.transform = GeneralizedRCNNTransform(45, 100, [0.5] * 3, [1.0] * 3, size_divisible=8)
    assert differ(net(x), other(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(3, 17, 20), (3, 64, 40)])
def test_boxes_lie_in_images_of_any_size(name, size):
    net = make(name)
    found = net(pictures(2, size))
    assert_equal_predictions(net(list(pictures(2, size))), found)
    for image in found:
        assert 0 < len(image["boxes"]) <= 10
        assert image["boxes"].min() >= 0
        assert (image["boxes"].amax(0) <= torch.tensor([size[2], size[1], size[2], size[1]])).all()
        assert image["labels"].dtype == torch.int64
        assert 0 <= image["labels"].min() <= image["labels"].max() <= 3
    assert [*found[0]["boxes"].shape] != [*net(pictures(2, size) + 1)[0]["boxes"].shape] or differ(
        net(pictures(2, size) + 1), found
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    net = make(name).train()
    torch.manual_seed(0)
    losses = net(pictures(), targets())
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    encoder = [p.grad.abs().sum() for p in net.backbone.encoder.parameters()]
    assert min(encoder) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_pyramid_reads_what_a_plug_at_a_stage_returns(name):
    net = make(name)
    before = net(pictures())
    saccade.plug(net, "se", where="stage", input=SIZE, rd_ratio=0.5)
    assert_equal_predictions(net(pictures()), before)
    plugs = {row.site: row.module for row in saccade.plugs(net)}
    assert list(plugs) == ["backbone.encoder.layer1", "backbone.encoder.layer2", "backbone.encoder.layer3"]
    perturb(net, by=0.3)
    returned, read = {}, {}
    for site, plug in plugs.items():
        plug.register_forward_hook(lambda module, inputs, output, site=site: returned.update({site: output}))
    for n, block in enumerate(net.backbone.fpn.inner_blocks):
        block.register_forward_pre_hook(lambda module, inputs, n=n: read.update({n: inputs[0]}))
    assert differ(net(pictures()), before)
    for n, site in enumerate(list(plugs)[1:]):
        torch.testing.assert_close(read[n], returned[site], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["stage", "neck", "residual"])
def test_a_plugged_detector_is_saved_and_loaded(name, where, tmp_path):
    options = OPTIONS[name] | {"num_classes": 4}
    net = make(name)
    before = net(pictures())
    saccade.plug(net, "se", where=where, input=SIZE, rd_ratio=0.5)
    assert_equal_predictions(net(pictures()), before)
    if where == "neck":
        sites = [row.site for row in saccade.plugs(net)]
        assert sites[:2] == ["backbone.fpn.layer_blocks.0", "backbone.fpn.layer_blocks.1"]
    perturb(net)
    saccade.save(net, tmp_path, host={"timm": name, "options": options})
    again = saccade.load(tmp_path).eval()
    assert_equal_predictions(again(pictures()), net(pictures()))
    assert differ(net(pictures()), before)
    saccade.unplug(net)
    assert saccade.plugs(net) == []


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_classifier_go_into_the_encoder(name, tmp_path, caplog):
    classifier = perturb(timm.create_model("resnet10_small", width=8, stem_stride=2, num_classes=7))
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path, metadata={"architecture": "resnet10_small", "mean": "(0.4, 0.4, 0.4)"})
    model = Model(name=name, options=OPTIONS[name], checkpoint=str(path))
    with caplog.at_level("WARNING", "saccade"):
        host = create_host(model, 4, 3)
    assert "left out" in caplog.text
    expected = classifier.state_dict()
    found = host.backbone.encoder.state_dict()
    assert len(found) > 20
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    assert encoder_of(model) == "resnet10_small"
    assert find_weight_settings(model).data["mean"] == (0.4, 0.4, 0.4)
    save_file(classifier.state_dict(), path, metadata={"architecture": "resnet18"})
    with pytest.raises(UserError, match=r"the encoder is 'resnet10_small'"):
        create_host(model, 4, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_of_other_classes_gives_all_but_its_scores(name, tmp_path, caplog):
    net = make(name)
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path)
    with caplog.at_level("WARNING", "saccade"):
        host = create_host(Model(name=name, options=OPTIONS[name], checkpoint=str(path)), 6, 3).eval()
    assert "the head is of another size and is left out" in caplog.text
    expected, random = net.state_dict(), []
    for key, value in host.state_dict().items():
        if value.shape != expected[key].shape or not torch.equal(value, expected[key]):
            random.append(key)
    scores = {"faster_rcnn": "roi_heads.box_predictor", "retinanet": "cls_logits", "fcos": "cls_logits"}[name]
    assert len(random) in (2, 4)
    assert [key for key in random if scores not in key] == []


def test_weights_under_the_names_of_torchvision_are_refused_by_these_names(tmp_path, caplog):
    path = tmp_path / "weights.safetensors"
    save_file({key.replace(".encoder.", ".body."): x for key, x in make("fcos").state_dict().items()}, path)
    with pytest.raises(UserError, match=r"missing: backbone\.encoder\.\S+.*unknown: backbone\.body\."):
        create_host(Model(name="fcos", options=OPTIONS["fcos"], checkpoint=str(path)), 4, 3)
    assert "encoder" not in caplog.text


def test_which_networks_are_detectors():
    assert [name for name in (*NAMES, "fcn", "resnet18", "unet") if is_detector(name)] == list(NAMES)
    assert is_detector("my.module:function")
    assert is_detector(DEFAULT_DETECTOR)


def test_all_strides_can_be_chosen():
    encoder = {"encoder": "mobilenetv2_100", "encoder_options": {"pad_type": "same"}}
    net = timm.create_model("faster_rcnn", **encoder, strides=[8, 16, 32], fpn_channels=16, box_head=8)
    assert [layer[0].in_channels for layer in net.backbone.fpn.inner_blocks] == [32, 96, 320]
    assert net.rpn.anchor_generator.sizes == ((64.0,), (128.0,), (256.0,), (512.0,))
    assert net.transform.multiple == 32
    default = timm.create_model("faster_rcnn", **encoder, fpn_channels=16, box_head=8)
    assert default.backbone.strides == [4, 8, 16, 32]
    assert timm.create_model("retinanet", **encoder, fpn_channels=64).backbone.strides == [8, 16, 32]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fcos", {"encoder": "resnet81"}, "model fcos: timm has no network 'resnet81'. Did you mean 'resnet18'"),
        ("fcos", {"encoder": "resnet18", "encoder_options": {"widht": 3}}, r"the encoder resnet18 .*\{'widht': 3\}"),
        ("fcos", {"encodr": "resnet18"}, "FCOS has no option 'encodr'. Did you mean 'encoder'"),
        ("fcos", {**ENCODER, "fpn_channels": 40}, "a multiple of 32, at least 64, got 40"),
        ("retinanet", {**ENCODER, "fpn_channels": 32}, "a multiple of 32, at least 64, got 32"),
        ("retinanet", {**ENCODER, "score_tresh": 0.1}, "RetinaNet has no option .score_tresh"),
        ("faster_rcnn", {**ENCODER, "min_size": 300}, "FasterRCNN has no option 'min_size'"),
        ("faster_rcnn", {**ENCODER, "strides": [4, 5]}, r"strides = \[4, 5\]: the feature maps of resnet10_small"),
        ("faster_rcnn", {**ENCODER, "strides": [8, 4]}, "2, 4, 8, 16; give some of these in ascending order"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(UserError, match=words):
        create_host(Model(name=name, options=options), 4, 3)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_computed_in_float32_under_bfloat16(name):
    net = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.backbone.encoder(pictures())[-1].dtype == torch.bfloat16
        assert {level.dtype for level in net.backbone(pictures()).values()} == {torch.float32}
        boxes = net(pictures())[0]["boxes"]
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())
