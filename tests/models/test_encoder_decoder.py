"""Networks of segmentation_models_pytorch as hosts: equal to the library's own, any size, weights, saving, errors."""

import builtins
import logging
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from timm.models import is_model, list_models

import saccade
from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import create_host, encoder_of, find_weight_settings, head_paths, host_as_saved, is_dense
from saccade.models.encoder_decoder import ARCHITECTURES, EncoderDecoder
from saccade.recipe import Model, Recipe
from saccade.tasks import resolve

ENCODER = "lcnet_035"
SMALL = {"encoder": ENCODER, "decoder_channels": [8, 8, 8, 8, 4]}
OWN = {  # options that keep each network small
    "unet": SMALL,
    "unetplusplus": SMALL,
    "manet": SMALL | {"decoder_pab_channels": 4},
    "fpn": {"encoder": ENCODER, "decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32},
    "pspnet": {"encoder": ENCODER, "psp_out_channels": 8},
    "deeplabv3": {"encoder": ENCODER, "decoder_channels": 8},
    "deeplabv3plus": {"encoder": ENCODER, "decoder_channels": 8},
    "pan": {"encoder": ENCODER, "decoder_channels": 4},
    "upernet": {"encoder": ENCODER, "decoder_channels": 8},
    "segformer": {"encoder": ENCODER, "decoder_segmentation_channels": 8},
    "dpt": {
        "encoder": "vit_tiny_patch16_224",
        "encoder_options": {"dynamic_img_size": True},
        "decoder_intermediate_channels": [8, 8, 8, 8],
        "decoder_fusion_channels": 8,
    },
}


def options_of(architecture):
    return OWN.get(architecture, {"encoder": ENCODER})


def built(architecture, classes=5, channels=3, **options):
    torch.manual_seed(0)
    model = Model(name=architecture, options={**options_of(architecture), **options})
    return perturb(create_host(model, classes, channels)).eval()


def pictures(*size):
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(1))


def test_the_names_are_those_of_the_library_and_of_no_network_of_timm():
    assert set(ARCHITECTURES) == set(smp.MODEL_ARCHITECTURES_MAPPING)
    for name in ARCHITECTURES:
        assert [*list_models(name)] == [name]
        assert timm.models.model_entrypoint(name).__module__ == "saccade.models.encoder_decoder"
        assert is_dense(name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keys_and_outputs_are_those_of_the_library_and_any_size_works(architecture):
    options = dict(options_of(architecture))
    encoder, encoder_options = options.pop("encoder"), options.pop("encoder_options", {})
    library = smp.create_model(
        architecture, f"tu-{encoder}", encoder_weights=None, in_channels=1, classes=5, **options, **encoder_options
    ).eval()
    host = built(architecture, channels=1)
    assert host.state_dict().keys() == library.state_dict().keys()
    library.load_state_dict(host.state_dict())
    with torch.no_grad():
        x = pictures(1, 128, 128)
        torch.testing.assert_close(host(x), library(x), rtol=0, atol=0)
        odd = pictures(1, 129, 135)
        found = host(odd)
        assert found.shape == (1, 5, 129, 135)
        if host.multiple > 1:  # zeros at the right and at the bottom
            padded = torch.zeros(1, 1, 160, 160)
            padded[:, :, :129, :135] = odd
            height, width = (-(-side // host.multiple) * host.multiple for side in (129, 135))
            expected = library(padded[:, :, :height, :width])[:, :, :129, :135]
        else:
            expected = library(odd)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        if architecture not in ("unet", "dpt"):
            with pytest.raises(RuntimeError, match="divisible by"):
                library(odd)


@pytest.mark.parametrize("encoder", ["convnext_atto", "vgg11_bn", "regnetx_002"])
def test_encoders_of_other_strides(encoder):
    host = create_host(Model(name="unet", options=SMALL | {"encoder": encoder}), 3, 1)
    with torch.no_grad():
        assert host.eval()(pictures(1, 70, 33)).shape == (1, 3, 70, 33)


def test_options_of_the_library_are_passed_on():
    options = {"encoder": ENCODER, "decoder_attention_type": "scse", "encoder_depth": 4}
    host = create_host(Model(name="unet", options=options | {"decoder_channels": [16] * 4}), 3, 3)
    assert "decoder.blocks.0.attention1.attention.cSE.1.weight" in host.state_dict()
    assert len(host.decoder.blocks) == 4
    assert not any("attention1.attention" in key for key in built("unet").state_dict())


def test_a_plugged_host_is_saved_and_rebuilds_itself_without_trust(tmp_path):
    host, x = built("fpn"), pictures(3, 40, 56)
    before = host(x)
    saccade.plug(host, "se", where="encoder.model.blocks.2", input=(3, 40, 56))
    torch.testing.assert_close(host(x), before, rtol=0, atol=0)
    perturb(host)
    model = Model(name="fpn", options=options_of("fpn"))
    saccade.save(host, tmp_path, host=host_as_saved(model, 5, 3), input=(3, 40, 56))
    again = saccade.load(tmp_path, trust=False).eval()
    assert isinstance(again, EncoderDecoder)
    torch.testing.assert_close(again(x), host(x), rtol=0, atol=0)
    assert not torch.equal(again(x), before)


@pytest.mark.parametrize("encoder", [ENCODER, "convnext_atto"])
def test_the_weights_of_a_classifier_are_loaded_into_the_encoder(tmp_path, caplog, encoder):
    classifier = perturb(timm.create_model(encoder, num_classes=7)).eval()
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path, {"architecture": encoder})
    model = Model(name="unet", options=SMALL | {"encoder": encoder}, checkpoint=str(path))
    with caplog.at_level(logging.WARNING, "saccade"):
        host = create_host(model, 3, 3)
    features = timm.create_model(encoder, features_only=True)
    count = len(features.state_dict())
    assert f"weights.safetensors: {count} tensors are for the encoder; " in caplog.text
    x = pictures(3, 64, 64)
    indices = host.encoder.model.feature_info.out_indices
    with torch.no_grad():
        known, found = classifier.forward_intermediates(x, indices=list(indices))[1], host.encoder.model.eval()(x)
        fresh = create_host(model.model_copy(update={"checkpoint": None}), 3, 3).encoder.model.eval()(x)
    for i, feature_map in enumerate(known):
        torch.testing.assert_close(found[i], feature_map, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(fresh[i], feature_map, rtol=1e-2)
    other = model.model_copy(update={"options": model.options | {"encoder": "resnet18"}})
    with pytest.raises(UserError, match=f"its weights are of '{encoder}'; the encoder is 'resnet18'"):
        create_host(other, 3, 3)
    save_file(classifier.state_dict(), path)
    with pytest.raises(UserError, match=r"another network \(\d+ missing: (encoder\.model\.)?conv1\.weight"):
        create_host(other, 3, 3)


@pytest.mark.parametrize(("classes", "head_loads"), [(5, True), (4, False)])
def test_weights_of_the_whole_network(tmp_path, caplog, classes, head_loads):
    """Of the library's own network, too; with other classes the decoder still starts trained."""
    host = built("unet")
    path = tmp_path / "weights.safetensors"
    save_file(host.state_dict(), path, {"architecture": "unet"})
    model = Model(name="unet", options=options_of("unet"), checkpoint=str(path))
    with caplog.at_level(logging.WARNING, "saccade"):
        again = create_host(model, classes, 3)
    assert ("segmentation_head.0.weight (5, 4, 3, 3) for (4, 4, 3, 3)" in caplog.text) is not head_loads
    for key, value in again.state_dict().items():
        if head_loads or not key.startswith("segmentation_head"):
            torch.testing.assert_close(value, host.state_dict()[key], rtol=0, atol=0)
    encoder = {key: value for key, value in host.state_dict().items() if key.startswith("encoder.")}
    save_file(encoder, path)
    create_host(model, classes, 3)
    assert "has no head; it starts at random" in caplog.text
    encoder.popitem()
    save_file(encoder, path)
    with pytest.raises(UserError, match="another network"):
        create_host(model, classes, 3)


def test_settings_of_the_encoders_weights_reach_the_encoder(tmp_path):
    path = tmp_path / "weights.safetensors"
    facts = {"pad_type": "same", "mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "architecture": "mobilenetv2_100"}
    save_file({"w": torch.ones(1)}, path, facts)
    asked = Recipe().with_overrides({
        "model.name": "unet", "model.checkpoint": str(path), "model.options.encoder": "mobilenetv2_100",
    })  # fmt: skip
    found = resolve(asked, "mask")
    assert found.model.options == {"encoder": "mobilenetv2_100", "encoder_options": {"pad_type": "same"}}
    assert (found.data.mean, found.data.std) == ((0.5,) * 3, (0.25,) * 3)
    assert resolve(found, "mask") == found
    paddings = {
        type(module).__name__
        for model in (found.model, asked.model)
        for module in create_host(model.model_copy(update={"checkpoint": None}), 2, 3).encoder.model.modules()
        if type(module).__name__ == "Conv2dSame"
        if model is found.model
    }
    assert paddings == {"Conv2dSame"}
    more = asked.with_overrides({"model.options.encoder_options": {"drop_path_rate": 0.1}})
    assert resolve(more, "mask").model.options["encoder_options"] == {"pad_type": "same", "drop_path_rate": 0.1}
    for value in ("", "valid"):
        other = asked.with_overrides({"model.options.encoder_options": {"pad_type": value}})
        with pytest.raises(UserError, match=rf"needs model\.options\.encoder_options\.pad_type .* says '{value}'"):
            resolve(other, "mask")
    plain = Recipe().with_overrides({"model.name": "mobilenetv2_100", "model.checkpoint": str(path)})
    assert resolve(plain, "mask").model.options == {"pad_type": "same"}  # the task makes it the encoder of an FCN


def test_pretrained_is_the_encoders():
    model = Model(name="fpn", options={"encoder": "resnet50"}, pretrained=True)
    assert find_weight_settings(model).data["mean"] == pytest.approx((0.485, 0.456, 0.406))
    with pytest.raises(UserError, match=r"lcnet_035 .*No pretrained weights exist"):
        create_host(Model(name="fpn", options={"encoder": ENCODER}, pretrained=True), 3, 3)


def test_the_encoder_of_a_model():
    assert encoder_of(Model(name="unet")) == "resnet34"
    assert encoder_of(Model(name="dpt")) == "vit_base_patch16_224"
    assert encoder_of(Model(name="fcn")) == "resnet18"
    assert encoder_of(Model(name="unet", options={"encoder": "resnet50"})) == "resnet50"
    assert encoder_of(Model(name="resnet18")) is None
    assert encoder_of(Model(name="my.module:unet")) is None


def test_the_head_is_decoder_and_head_for_freezing():
    assert head_paths(built("unet")) == {"decoder", "segmentation_head"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unett", {}, "timm has no network 'unett'. Did you mean 'unet'?"),
        ("unet", {"encoder": "mobilenetv2_10"}, "timm has no network 'mobilenetv2_10'. Did you mean 'mobilenetv2_1"),
        ("unet", {"decoder_chanels": [1]}, "Unet has no option 'decoder_chanels'. Did you mean 'decoder_channels'?"),
        ("unet", {"encoder_name": "resnet18"}, "Unet has no option 'encoder_name'. Did you mean 'encoder"),
        ("unet", {"activation": "softmax"}, "Unet has no option 'activation'"),
        ("unet", {"aux_params": {"classes": 2}}, "Unet has no option 'aux_params'"),
        ("fpn", {"decoder_channels": [4]}, "FPN has no option 'decoder_channels'"),
        ("unet", {"encoder_options": {"pad_typ": "same"}}, "could not build Unet with the encoder resnet34"),
        ("unet", {"encoder_options": {"in_chans": 1}}, "already specified internally"),
        ("unet", {"decoder_channels": [8, 8]}, "could not build Unet"),
        ("unet", {"decoder_attention_type": "se"}, "Attention se is not implemented"),
        ("unet", {"encoder": "resnet10_small"}, "Unsupported model downsampling pattern"),
        ("deeplabv3", {"encoder": "densenet121"}, "could not build DeepLabV3 with the encoder densenet121"),
        ("unet", {"encoder_weights": "imagenet"}, "fetches weights"),
    ],
)
def test_wrong_uses_are_named(name, options, words):
    with pytest.raises(UserError) as caught:
        create_host(Model(name=name, options=options), 3, 3)
    assert words in str(caught.value)


def test_without_the_library_the_command_to_install_it_is_named(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *rest):
        if name == "segmentation_models_pytorch":
            raise ImportError("No module named 'segmentation_models_pytorch'")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "segmentation_models_pytorch")
    with pytest.raises(UserError, match=r'pip install "saccade-attention\[segment\]"'):
        create_host(Model(name="unet"), 3, 3)
    assert is_model("unet")
    assert create_host(Model(name="resnet10_small"), 3, 3) is not None
    monkeypatch.setattr(smp, "MODEL_ARCHITECTURES_MAPPING", {"unet": smp.Unet, "fpn": smp.FPN})
    monkeypatch.setattr(builtins, "__import__", real_import)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", smp)
    with pytest.raises(UserError, match=r"segmentation_models_pytorch \S+ has no dpt\."):
        create_host(Model(name="dpt"), 3, 3)
