"""Networks that fail, detectors that pad images, and square roots of scores that underflow."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from saccade.errors import UserError
from saccade.explanation import activation_maps, target_layer
from saccade.explanation.forward_pass import canvas_of

pytest.importorskip("pytorch_grad_cam")


class Padding(nn.Module):
    """A detector of one box, whose map is the brightness of what torchvision's transform makes of the image."""

    def __init__(self, **options):
        super().__init__()
        self.transform = GeneralizedRCNNTransform(20, 40, [0.0], [1.0], **options)
        self.layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, images):
        batch, _ = self.transform(list(images))
        scores = self.layer(batch.tensors).mean((1, 2, 3)).sigmoid()
        return [
            {"boxes": torch.zeros(1, 4), "labels": torch.ones(1, dtype=torch.int64), "scores": s[None]} for s in scores
        ]


@pytest.mark.parametrize(
    ("options", "canvas"), [({}, ((32, 64), (20, 40))), ({"fixed_size": (32, 32)}, ((32, 32), (32, 32)))]
)
def test_maps_of_detectors_lie_on_the_image(options, canvas):
    network = Padding(**options).eval()
    image = torch.zeros(1, 1, 20, 40)
    image[:, :, 14:, 30:] = 1  # at the edges that are padded
    assert canvas_of(network, image) == canvas
    found = activation_maps(network, image, [1], layers=["layer"])["layer"]
    assert (found[0] - image[0, 0]).abs().mean() < 0.03
    assert found[0, -1, -1] == 1
    assert canvas_of(nn.Conv2d(1, 1, 1), image) == ((20, 40), (20, 40))


def test_scores_that_underflow():
    class Backbone(nn.Conv2d):
        out_channels = 32

    torch.manual_seed(0)
    network = FCOS(Backbone(3, 32, 3, 8, 1), 3, min_size=32, max_size=32, score_thresh=0.01,
                   anchor_generator=AnchorGenerator(((8,),), ((1.0,),))).eval()  # fmt: skip
    nn.init.normal_(network.head.classification_head.cls_logits.weight, std=100)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)[0]["scores"]
    maps = activation_maps(network, images, layers=["backbone"])["backbone"]
    assert maps.isfinite().all()
    assert maps.amax() == 1
    assert len(expected)
    scores = torch.tensor([0.0, 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(scores.sqrt()[1], scores)
    assert gradient.isnan().tolist() == [True, False], "what the maps would be made of"


def test_a_network_that_fails_is_named():
    for call in (target_layer, activation_maps):
        with pytest.raises(UserError, match=r"VisionTransformer does not run on an image of 3×100×100: AssertionError"):
            call(timm.create_model("test_vit"), torch.zeros(1, 3, 100, 100))
