"""The RT-DETR host: boxes by hand, losses, plugs, configurations and weights of transformers, and errors."""

import copy
import json
import logging
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import saccade
import saccade.models  # registers
from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import create_host, encoder_of, host_as_saved
from saccade.models.rt_detr import RTDetr
from saccade.recipe import Model, Recipe
from saccade.recipe_paths import with_absolute_paths
from saccade.training.freezing import freeze

TRANSFORMER = {
    "d_model": 32, "num_queries": 10, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_denoising": 8, "hidden_expansion": 0.25,
}  # fmt: skip
ENCODER = {"encoder": "resnet10_small", "encoder_options": {"width": 4, "stem_stride": 2}}
OPTIONS = {**ENCODER, **TRANSFORMER, "num_classes": 4}
SIZE = (3, 50, 70)
BACKBONE = {
    "model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4,
    "layer_type": "basic", "out_indices": [2, 3, 4],
}  # fmt: skip
CONFIG = {
    "model_type": "rt_detr", "backbone_config": BACKBONE, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3,
    "id2label": {"0": "a"}, "_name_or_path": "some/where", **TRANSFORMER,
}  # fmt: skip
TARGETS = [
    {"boxes": torch.tensor([[3.0, 4, 20, 30], [30, 10, 60, 45]]), "labels": torch.tensor([1, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def make(**options):
    torch.manual_seed(0)
    return perturb(timm.create_model("rt_detr", **OPTIONS | options)).eval()


def pictures(batch=2, size=SIZE):
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))


def flat(detections):
    return torch.cat([torch.cat([d["boxes"].flatten(), d["labels"].float(), d["scores"]]) for d in detections])


class Fixed(nn.Module):
    """Outputs of transformers' network, whatever the image."""

    def __init__(self, logits, boxes):
        super().__init__()
        self.output = type("Output", (), {"logits": logits, "pred_boxes": boxes})()

    def forward(self, x):
        return self.output


def test_the_boxes_by_hand():
    net = make(detections=4)
    config = net.network.config
    # An image of 40×24 is padded to 48×32: boxes are fractions of these.
    boxes = torch.tensor([[[0.25, 0.5, 0.25, 0.5], [0.75, 0.5, 0.5, 1.0], [0.95, 0.5, 0.05, 0.5]]])
    logits = torch.tensor([[[2.0, -9, 1], [-9, 0, -9], [-9, -9, 3]]])
    net.network = Fixed(logits, boxes)
    net.network.config = config
    (found,) = net(torch.zeros(1, 3, 24, 40))
    # The box of the third query lies in the padding; the second reaches into it.
    assert found["boxes"].tolist() == [[6, 8, 18, 24], [6, 8, 18, 24], [24, 0, 40, 24]]
    assert found["labels"].tolist() == [1, 3, 2]
    torch.testing.assert_close(found["scores"], torch.tensor([2.0, 1.0, 0.0]).sigmoid())


@pytest.mark.parametrize("size", [(3, 64, 96), SIZE])
def test_detections_meet_the_contract(size):
    net = make(detections=20)
    with torch.no_grad():
        found = net(pictures(size=size))
    assert len(found) == 2
    for image in found:
        boxes, labels, scores = image["boxes"], image["labels"], image["scores"]
        assert 0 < len(boxes) <= 20
        assert boxes.shape == (len(labels), 4)
        assert bool((boxes[:, 2:] > boxes[:, :2]).all())
        assert float(boxes.min()) >= 0
        assert bool((boxes <= torch.tensor([size[2], size[1]] * 2)).all())
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) <= {1, 2, 3}
        assert bool((scores[:-1] >= scores[1:]).all())
        assert float(scores.max()) <= 1


def test_the_loss_falls_and_is_finite_without_objects():
    torch.manual_seed(0)
    net, x = timm.create_model("rt_detr", **OPTIONS).train(), pictures()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    totals = []
    for _ in range(3):
        torch.manual_seed(0)
        losses = net(x, TARGETS)
        assert set(losses) == {"vfl", "bbox", "giou"}
        totals.append(float(sum(losses.values()).detach()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert totals[2] < totals[1] < totals[0], totals
    without = net(x, TARGETS[1:] * 2)
    assert all(bool(torch.isfinite(loss)) for loss in without.values()), without
    assert float(without["vfl"].detach()) > 0
    assert float(without["bbox"].detach()) == 0
    with torch.autocast("cpu", torch.bfloat16):
        losses = net(x, TARGETS)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values()), losses


def test_labels_boxes_and_the_global_generator_decide_the_loss():
    net, x = make().train(), pictures()

    def total(targets, seed=0):
        torch.manual_seed(seed)
        return sum(float(loss.detach()) for loss in copy.deepcopy(net)(x, targets).values())

    assert total(TARGETS) == total(TARGETS)
    assert total(TARGETS) != total(TARGETS, seed=1)  # the noise of the denoising queries
    others = [{**TARGETS[0], "labels": torch.tensor([2, 3])}, {**TARGETS[0], "boxes": TARGETS[0]["boxes"] + 1}]
    assert len({total([target, TARGETS[1]]) for target in (TARGETS[0], *others)}) == 3


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("stage", [f"network.model.backbone.model.layer{k}" for k in (1, 2, 3, 4)]),
        ("neck", [f"network.model.decoder_input_proj.{k}" for k in (0, 1, 2)]),
    ],
)
def test_a_plug_is_neutral_at_first_learns_and_is_saved_with_its_host(tmp_path, where, found):
    net, x = make(), pictures()
    with torch.no_grad():
        before = flat(net(x))
        saccade.plug(net, "se", where=where, input=SIZE, rd_ratio=0.5)
        assert [row.site for row in saccade.plugs(net)] == found
        torch.testing.assert_close(flat(net(x)), before, rtol=0, atol=0)
    sum(net.train()(x, TARGETS).values()).backward()
    for row in saccade.plugs(net):
        assert row.module.a.grad.abs().max() > 0, row.site
    perturb(net.eval())
    saccade.save(net, tmp_path, host={"timm": "rt_detr", "options": OPTIONS})
    again = saccade.load(tmp_path).eval()
    assert isinstance(again, RTDetr)
    with torch.no_grad():
        after = flat(net(x))
        torch.testing.assert_close(flat(again(x)), after, rtol=0, atol=0)
        torch.testing.assert_close(flat(copy.deepcopy(net)(x)), after, rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_the_neck_is_in_no_stage():
    net = make(hidden_expansion=1.0)
    saccade.plug(net, "eca", where="conv3x3 in stage[-1]", input=SIZE)
    assert [row.site for row in saccade.plugs(net)] == ["network.model.backbone.model.layer4.0.conv2"]
    saccade.unplug(net)
    saccade.plug(net, "eca", where="conv3x3", input=SIZE)
    assert any(".fpn_blocks." in row.site for row in saccade.plugs(net))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A network of transformers, and the folder to which it saved itself."""
    import transformers

    folder = tmp_path_factory.mktemp("transformers")
    settings = {key: value for key, value in CONFIG.items() if key not in ("model_type", "id2label", "_name_or_path")}
    torch.manual_seed(0)
    network = perturb(transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(num_labels=3, **settings)))
    network.save_pretrained(folder)
    return network.eval(), folder


def test_a_folder_of_transformers_is_loaded_and_saved_without_its_path(library, tmp_path):
    network, folder = library
    model = Model(name="rt_detr", options={"config": str(folder)}, checkpoint=str(folder / "model.safetensors"))
    host, x = create_host(model, 4, 3).eval(), pictures(size=(3, 64, 96))
    for key, value in network.state_dict().items():
        assert torch.equal(host.state_dict()[f"network.{key}"], value), key
    with torch.no_grad():
        scores = network(x).logits.sigmoid().flatten(1).max(1).values
        found = host(x)
        torch.testing.assert_close(torch.stack([image["scores"][0] for image in found]), scores)
        described = host_as_saved(model, 4, 3)
        assert str(folder) not in json.dumps(described)
        saccade.save(host, tmp_path, host=described)
        torch.testing.assert_close(flat(saccade.load(tmp_path).eval()(x)), flat(found), rtol=0, atol=0)


def test_a_head_of_other_classes_starts_at_random_with_a_warning(library, caplog):
    network, folder = library
    model = Model(name="rt_detr", options={"config": str(folder)}, checkpoint=str(folder / "model.safetensors"))
    with caplog.at_level(logging.WARNING, "saccade"):
        host = create_host(model, 6, 3)
    assert "network.model.enc_score_head.weight (3, 32) for (5, 32)" in caplog.text
    loaded = host.state_dict()
    changed = [key for key, value in network.state_dict().items() if not torch.equal(loaded[f"network.{key}"], value)]
    assert {key.removeprefix("model.").removeprefix("decoder.").split(".")[0] for key in changed} == {
        "class_embed", "enc_score_head", "denoising_class_embed",
    }  # fmt: skip


def test_the_configuration_is_changed_by_options_and_an_encoder():
    own = RTDetr(config=CONFIG, num_classes=4, in_chans=1, num_queries=12)
    assert own.network.config.num_queries == 12
    assert own.network.config.d_model == 32
    assert own.eval()(torch.zeros(1, 1, 64, 64))[0]["boxes"].shape[1] == 4
    mixed = RTDetr(config=CONFIG, num_classes=4, **ENCODER)
    assert [conv.in_channels for conv, _ in mixed.network.model.encoder_input_proj] == [8, 16, 32]
    assert mixed.network.config.d_model == 32
    assert mixed.multiple == 16
    assert len(RTDetr(**{**OPTIONS, "levels": 2}).network.model.encoder_input_proj) == 2


def test_the_norms_start_at_one_and_no_layer_is_tiny():
    torch.manual_seed(0)
    network = RTDetr(**OPTIONS).network
    for name, module in network.model.encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight)), name
        elif isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().std()) > 0.02, name
    assert not network.model.decoder.bbox_embed[0].layers[-1].weight.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "resnet81"}, "timm has no network 'resnet81'. Did you mean 'resnet18'"),
        ({**ENCODER, "encoder_options": {"widht": 3}}, r"the encoder resnet10_small .*\{'widht': 3\}"),
        ({"d_modle": 32}, "RTDetrConfig has no option 'd_modle'. Did you mean 'd_model'"),
        ({"eval_size": 32}, "RTDetrConfig has no option 'eval_size'"),
        ({**ENCODER, "levels": 7}, "levels = 7: the encoder resnet10_small has fewer feature maps"),
        ({**ENCODER, "levels": 0}, "levels = 0: at least 1"),
        ({"encoder": "vit_tiny_patch16_224"}, "maps at strides 16, 16, 16; each must be twice the one before"),
        ({**ENCODER, "d_model": 30}, "'d_model': 30.*divisible by num_heads"),
        ({"config": "no/such/config.json"}, "config: no/such/config.json cannot be read: No such file"),
        ({"config": {"model_type": "d_fine"}}, "config has the model_type 'd_fine'; 'rt_detr' is needed"),
        ({"config": {"backbone": "microsoft/resnet-50"}}, "names the backbone 'microsoft/resnet-50'; give a timm name"),
        ({"config": {"backbone_config": {"model_type": "resnet_rt"}}}, "transformers has no backbone 'resnet_rt'"),
        ({"config": CONFIG, "encoder_options": {"width": 4}}, "encoder_options needs .* set the option encoder"),
    ],
)
def test_wrong_uses_are_named(options, words):
    with pytest.raises(UserError, match=words):
        create_host(Model(name="rt_detr", options=options), 3, 3)


def test_a_broken_file_a_small_image_and_a_missing_package_are_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        create_host(Model(name="rt_detr", options={"config": str(tmp_path)}), 3, 3)
    with pytest.raises(UserError, match=r"num_queries = 10 is more than the 5 positions .* an image of 16×16 pixels"):
        make(levels=2)(torch.zeros(1, 3, 16, 16))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"cannot be imported .*pip install \"saccade-attention\[detect\]\""):
        create_host(Model(name="rt_detr"), 3, 3)


def test_the_weights_of_a_classifier_are_loaded_into_the_encoder(tmp_path):
    torch.manual_seed(1)
    classifier = perturb(timm.create_model("resnet10_small", num_classes=7, **ENCODER["encoder_options"]))
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path)
    options = {**ENCODER, **TRANSFORMER}
    loaded = create_host(Model(name="rt_detr", options=options, checkpoint=str(path)), 4, 3).state_dict()
    for key, value in classifier.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(loaded[f"network.model.backbone.model.{key}"], value), key
    assert encoder_of(Model(name="rt_detr", options=options)) == "resnet10_small"
    assert encoder_of(Model(name="rt_detr")) == "resnet18"
    assert encoder_of(Model(name="rt_detr", options={"config": CONFIG})) is None


@pytest.mark.parametrize("options", [{}, {"num_denoising": 0, "learn_initial_query": True}])
def test_a_frozen_host_trains_all_but_the_encoder(options):
    net = make(**options)
    freeze(net, Recipe().with_overrides({"training.freeze": "host"}))
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in net.named_parameters() if name.startswith("network.model.backbone.")}
    assert frozen


def test_the_path_of_a_configuration_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "own")
    assert with_absolute_paths({"model.options.config": "own"}) == {"model.options.config": path}
    options = {"config": "own", "d_model": 32}
    assert with_absolute_paths({"model.options": options}) == {"model.options": {**options, "config": path}}
    assert with_absolute_paths({"model.options": {"config": "tiny"}}) == {"model.options": {"config": "tiny"}}


def test_the_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"model.decoder.layers.0.fc1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match=r"another network .*missing: network\.model"):
        create_host(Model(name="rt_detr", options={"config": CONFIG}, checkpoint=str(path)), 3, 3)
