"""The FCN host: values by hand, sizes, plugs and errors."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import saccade
import saccade.models  # registers
from saccade.contract.randomize import perturb
from saccade.errors import UserError
from saccade.models import create_host
from saccade.models.fcn import FCN
from saccade.recipe import Model

OPTIONS = {"encoder": "resnet10_small", "encoder_options": {"width": 4}, "num_classes": 5}
SIZE = (3, 33, 46)


def make(**options):
    torch.manual_seed(0)
    return perturb(timm.create_model("fcn", **OPTIONS, **options)).eval()


def pictures(batch=2):
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(1))


class Maps(nn.Module):
    def forward(self, x):
        fine, coarse = torch.tensor([10.0, 20.0, 30.0, 40.0]), torch.tensor([0.0, 4.0])
        return [torch.full((1, 1, 1, 8), 1e9), fine.view(1, 1, 1, 4), coarse.view(1, 1, 1, 2)]


def test_the_sum_by_hand():
    net = FCN(**OPTIONS | {"num_classes": 1}, levels=2)
    net.encoder = Maps()
    net.score = nn.ModuleList(nn.Conv2d(1, 1, 1) for _ in range(2))
    for score, weight, bias in zip(net.score, (1.0, 2.0), (0.0, 1.0), strict=True):
        score.weight.data.fill_(weight)
        score.bias.data.fill_(bias)
    # coarse 2·(0, 4) + 1 = (1, 9), enlarged (1, 3, 7, 9); fine (10, 20, 30, 40); sum (11, 23, 37, 49); enlarged:
    assert net(torch.zeros(1, 3, 1, 8)).flatten().tolist() == [11, 14, 20, 26.5, 33.5, 40, 46, 49]


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_every_level_is_scored_and_the_answer_has_the_size_of_the_image(levels):
    net = make(levels=levels)
    assert [score.in_channels for score in net.score] == [4, 4, 8, 16, 32][-levels:]
    answer = net(pictures())
    assert answer.shape == (2, 5, 33, 46)
    for score in net.score:
        before, score.bias.data = score.bias.data.clone(), score.bias.data + 1
        assert torch.allclose(net(pictures()), answer + 1, atol=1e-4)
        score.bias.data = before


def test_a_plug_is_neutral_at_first_and_saved_with_its_host(tmp_path):
    net, x = make(), pictures()
    before = net(x)
    saccade.plug(net, "se", where="stage", input=SIZE, rd_ratio=0.5)
    assert [row.site for row in saccade.plugs(net)] == [f"encoder.layer{k}" for k in (1, 2, 3, 4)]
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    perturb(net)
    saccade.save(net, tmp_path, host={"timm": "fcn", "options": OPTIONS})
    again = saccade.load(tmp_path).eval()
    assert isinstance(again, FCN)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    assert not torch.equal(net(x), before)


def test_a_recipe_builds_it():
    net = create_host(Model(name="fcn", options={"encoder": "resnet18", "levels": 2}), 4, 1)
    assert net.encoder.conv1.in_channels == 1
    assert net(torch.zeros(1, 1, 64, 48)).shape == (1, 4, 64, 48)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"encoder": "resnet81"}, "model fcn: timm has no network 'resnet81'. Did you mean 'resnet18'"),
        ({"encoder": "resnet18", "encoder_options": {"widht": 3}}, r"the encoder resnet18 .*\{'widht': 3\}"),
        ({"encodr": "resnet18"}, "no option 'encodr'. Did you mean 'encoder'"),
        *(
            (
                {"encoder": "resnet18", "levels": n},
                f"levels = {n}: the encoder resnet18 has 5 feature maps; give 1 to 5",
            )
            for n in (-1, 0, 6)
        ),
        ({"encoder": "resnet10_small", "encoder_options": {"width": 7}}, "width must be even and at least 2, got 7"),
    ],
)
def test_wrong_uses_are_named(model, words):
    with pytest.raises(UserError, match=words):
        create_host(Model(name="fcn", options=model), 3, 3)


def test_an_encoder_without_weights_is_named():
    with pytest.raises(UserError, match=r"build the encoder resnet10_small .*No pretrained weights exist"):
        create_host(Model(name="fcn", options={"encoder": "resnet10_small"}, pretrained=True), 3, 3)


@pytest.mark.parametrize("kept", ["other classes", "no head"])
def test_a_head_of_other_classes_is_left_out_with_a_warning(tmp_path, caplog, kept):
    net = make()
    whole = net.state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({key: value for key, value in whole.items() if kept != "no head" or key[:6] != "score."}, path)
    options = {"encoder": OPTIONS["encoder"], "encoder_options": OPTIONS["encoder_options"]}
    with caplog.at_level(logging.WARNING, "saccade"):
        again = create_host(Model(name="fcn", options=options, checkpoint=str(path)), 3, 3).eval()
    assert ("score.0.weight (5, 8, 1, 1) for (3, 8, 1, 1)" in caplog.text) is (kept == "other classes")
    assert ("has no head" in caplog.text) is (kept == "no head")
    assert again(pictures()).shape == (2, 3, 33, 46)
    for key, value in again.state_dict().items():
        assert key.startswith("score.") or torch.equal(value, whole[key]), key
    save_file({key: value for key, value in whole.items() if not key.startswith("encoder.layer3")}, path)
    with pytest.raises(UserError, match=r"another network .*missing: encoder.layer3"):
        create_host(Model(name="fcn", options=options, checkpoint=str(path)), 3, 3)
