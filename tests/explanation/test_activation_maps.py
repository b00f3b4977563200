"""Activation maps against Grad-CAM written out here, and that computing them leaves the network as it was.

The maps of real photographs need SACCADE_DATA, and the weights mobilenetv2_100.safetensors in the folder that
SACCADE_WEIGHTS names.
"""

import copy
import csv
import os
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import transforms

import saccade
from saccade.bases import Gate
from saccade.contract.randomize import randomize
from saccade.errors import UserError
from saccade.explanation import activation_maps
from saccade.explanation.activation_maps import maps_and_output
from saccade.explanation.methods import METHODS
from saccade.surgery import plugs

grad_cam = pytest.importorskip("pytorch_grad_cam")


def scaled(cam, size):
    """Scale a map (B, h, w) as the docstring of the module says."""
    cam = cam.double().relu()
    for step in range(2):
        cam = cam - cam.amin((1, 2), keepdim=True)
        cam = cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-300)
        if step == 0:
            cam = F.interpolate(cam[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return cam.float()


def by_hand(network, layer, images, classes):
    """Grad-CAM: the channels weighted by the mean gradient of the logit, rectified and scaled."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, output: kept.append(output))
    logits = network(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[torch.arange(len(images)), classes].sum(), kept[0])
    weights = gradient.mean((2, 3), keepdim=True)
    return scaled((weights * kept[0].detach()).sum(1), images.shape[2:])


class Net(nn.Module):
    """A small network, with an activation in place after its norm, or not."""

    def __init__(self, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(6, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(inplace), nn.Conv2d(7, 5, 1)
        )
        self.head = nn.Linear(5, 4)

    def features(self, x):
        return self.body(self.stem(x).relu())

    def forward(self, x):
        return self.head(self.features(x).relu().mean((2, 3)))


def net(kind=Net, **options):
    torch.manual_seed(0)
    return randomize(kind(**options)).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 24, 18, generator=torch.Generator().manual_seed(1))


CLASSES = [2, 0, 3]


@pytest.mark.parametrize("layer", ["stem", "body.1", "body", "body.3"])
def test_equals_grad_cam_by_hand(images, layer):
    ours = activation_maps(net(), images, CLASSES, layers=[layer])[layer]
    torch.testing.assert_close(ours, by_hand(net(), layer, images, CLASSES), rtol=0, atol=1e-6)
    other = by_hand(net(), layer, images, [1, 1, 1])
    assert (ours - other).abs().amax() > 0.1, "another class has another map"
    assert ours.dtype == torch.float32
    assert not ours.requires_grad


@pytest.mark.parametrize("method", [name for name, how in METHODS.items() if not how.reruns])
def test_every_method_equals_the_package(images, method):
    network, targets = net(), [grad_cam.utils.model_targets.ClassifierOutputTarget(k) for k in CLASSES]
    with getattr(grad_cam, METHODS[method].class_name)(network, [network.body[0]]) as cam:
        expected = torch.from_numpy(cam(images, targets))
    ours = activation_maps(net(), images, CLASSES, layers=["body.0"], method=method)["body.0"]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [name for name, how in METHODS.items() if how.reruns])
def test_methods_that_run_again_are_quiet_and_find_the_class(images, method, capfd):
    network = net()
    ours = activation_maps(network, images, CLASSES, layers=["body.0"], method=method)["body.0"]
    one = activation_maps(network, images[1:2], CLASSES[1:2], layers=["body.0"], method=method)["body.0"]
    torch.testing.assert_close(ours[1:2], one, rtol=0, atol=1e-5)
    assert (ours.amax((1, 2)) == 1).all()
    assert not torch.allclose(
        ours, activation_maps(network, images, [0, 1, 1], layers=["body.0"], method=method)["body.0"]
    )
    assert capfd.readouterr() == ("", "")


class Half(Gate):
    """A gate that closes the left half."""

    def gate(self, x):
        columns = torch.arange(x.shape[-1]) >= x.shape[-1] / 2
        return columns.to(x.dtype).expand(len(x), 1, *x.shape[-2:])

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


def test_the_plugged_map_is_explained(images):
    network = saccade.plug(net(), Half, where=["body.3"], input=(3, 24, 18), start="paper")
    gated = activation_maps(network, images, CLASSES)["body.3"]
    plain = activation_maps(net(), images, CLASSES)["body.3"]
    assert not gated[:, :, :6].any()
    assert plain[:, :, :6].any()
    half, kept, closed = (torch.arange(9) >= 4.5).float(), [], net()

    def features(x):
        kept.append(Net.features(closed, x) * half)
        return kept[0]

    closed.features = features
    (gradient,) = torch.autograd.grad(closed(images)[torch.arange(3), CLASSES].sum(), kept[0])
    expected = scaled((gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1), (24, 18))
    torch.testing.assert_close(gated, expected, rtol=0, atol=1e-6)


def test_layers_in_any_order_with_their_own_maps(images):
    names = ["body.3", "stem", "body.1"]
    maps = activation_maps(net(), images, CLASSES, layers=names)
    assert list(maps) == names
    for name, values in maps.items():
        torch.testing.assert_close(values, by_hand(net(), name, images, CLASSES), rtol=0, atol=1e-6)


def test_an_activation_in_place_does_not_change_the_map_before_it(images):
    maps = [
        activation_maps(net(inplace=value), images, CLASSES, layers=["body.1"])["body.1"] for value in (True, False)
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)
    after = activation_maps(net(), images, CLASSES, layers=["body.2"])["body.2"]
    assert not torch.allclose(maps[0], after)


class Frozen(Net):
    def features(self, x):
        with torch.no_grad():
            return super().features(x)


def test_without_gradients_in_the_network_or_around_it(images):
    expected = activation_maps(net(), images, CLASSES, layers=["body"])["body"]
    network = net()
    with torch.inference_mode():
        inside = activation_maps(network, images.clone(), CLASSES, layers=["body"])["body"]
    frozen = net().requires_grad_(False)
    for found in (
        inside,
        *(activation_maps(n, images, CLASSES, layers=["body"])["body"] for n in (frozen, net(Frozen))),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_faint_maps_reach_one(images):
    faint = net()
    with torch.no_grad():
        faint.head.weight.mul_(1e-16)
    ours = activation_maps(faint, images, CLASSES, layers=["body"])["body"]
    torch.testing.assert_close(
        ours, activation_maps(net(), images, CLASSES, layers=["body"])["body"], rtol=0, atol=1e-5
    )
    targets = [grad_cam.utils.model_targets.ClassifierOutputTarget(k) for k in CLASSES]
    with grad_cam.GradCAM(faint, [faint.body]) as cam:
        assert cam(images, targets).max() < 0.5, "the package darkens them"
    with torch.no_grad():
        faint.head.weight.zero_().sub_(1)
        faint.body[3].bias.fill_(9.0)
    assert not activation_maps(faint, images, CLASSES, layers=["body"])["body"].any(), "no channel speaks for the class"


def test_a_layer_that_runs_twice(images):
    class Shared(Net):
        def features(self, x):
            x = self.stem(x)
            return self.body[3](self.body[0](x).relu() + 0.5 * self.body[0](x.relu()))

    maps = activation_maps(net(Shared), images, CLASSES, layers=["body.0"])
    assert list(maps) == ["body.0 (call 1)", "body.0 (call 2)"]
    assert not torch.allclose(*maps.values())
    with pytest.raises(UserError, match="runs 2 times"):
        activation_maps(net(Shared), images, CLASSES, layers=["body.0"], method="ablationcam")


class Detector(Net):
    """Returns one box per image, of label 2, whose score is the first logit; nothing for label 1."""

    def forward(self, x):
        scores = super().forward(x)[:, :1].sigmoid()
        box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        return [{"boxes": box, "labels": torch.tensor([2]), "scores": score} for score in scores]


class Dense(Net):
    def forward(self, x):
        return {"out": F.interpolate(self.features(x), x.shape[2:])}


def test_detections_and_dense_outputs(images):
    boxes = activation_maps(net(Detector), images, [2, None, 1], layers=["body"])["body"]
    logits = activation_maps(net(), images, [0, 0, 0], layers=["body"])["body"]  # the sigmoid is monotonic
    torch.testing.assert_close(boxes[:2], logits[:2], rtol=0, atol=1e-5)
    assert not boxes[2].any()
    dense = activation_maps(net(Dense), images, [1, 1, None], layers=["body.0"])["body.0"]
    assert dense[:2].any()
    with pytest.raises(UserError, match="there is no class 5"):
        activation_maps(net(Dense), images, [5, 1, 1], layers=["body.0"])


class Transposed(Net):
    def __init__(self):
        super().__init__()
        self.last = nn.LayerNorm(5)

    def features(self, x):
        return self.last(super().features(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_maps_with_channels_last(images):
    ours = activation_maps(net(Transposed), images, CLASSES)["last"]
    network, kept = net(Transposed), []
    network.last.register_forward_hook(lambda m, i, output: kept.append(output))
    (gradient,) = torch.autograd.grad(network(images)[torch.arange(3), CLASSES].sum(), kept)
    expected = scaled((gradient.mean((1, 2), keepdim=True) * kept[0].detach()).sum(3), (24, 18))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "ablationcam"])
def test_the_network_stays_as_it_was(images, method):
    network = net().train()
    network.stem.eval()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    modules, state = dict(network.named_modules()), copy.deepcopy(network.state_dict())
    generator = torch.get_rng_state()
    activation_maps(network, images, CLASSES, layers=["body.1", "stem"], method=method)
    assert dict(network.named_modules()) == modules
    assert network.training
    assert network.body.training
    assert not network.stem.training
    assert all((p.grad == 1).all() and p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_the_package_alone_changes_the_network(images):
    """The twin of the test before."""
    network = net().train()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    with grad_cam.GradCAM(network, [network.body]) as cam:
        cam(images, [grad_cam.utils.model_targets.ClassifierOutputTarget(0)] * 3)
    assert not network.training
    assert not (network.head.weight.grad == 1).all()


def test_a_failure_inside_ablation_puts_the_layer_back(images):
    class Breaks(Net):
        calls = 0

        def forward(self, x):
            Breaks.calls += 1
            if Breaks.calls > 2:
                raise RuntimeError("out of order")
            return super().forward(x)

    network = net(Breaks)
    layer = network.body[0]
    with pytest.raises(RuntimeError, match="out of order"):
        activation_maps(network, images, CLASSES, layers=["body.0"], method="ablationcam")
    assert network.body[0] is layer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["body.9"]}, "no layer 'body.9'. Did you mean 'body.3'"),
        ({"layers": ["head"]}, "head returns a tensor of shape (3, 4); a feature map (B, C, H, W) is needed. The last "
                               "layers with one: stem, body.0, body.1, body.3"),
        ({"method": "grad-cam"}, "no method is called 'grad-cam'. Did you mean 'gradcam'"),
        ({"classes": [0, 0]}, "2 classes for 3 images"),
        ({"classes": [0, 0, 4]}, "there is no class 4; the network has 4, from 0 to 3"),
    ],
)  # fmt: skip
def test_errors(images, options, message):
    with pytest.raises(UserError) as error:
        activation_maps(net(), images, **options)
    assert message in str(error.value)


def test_a_layer_that_the_score_does_not_depend_on(images):
    class Unused(Net):
        def forward(self, x):
            self.body[0](self.stem(x))
            return self.head(self.stem(x)[:, :5].mean((2, 3)))

    with pytest.raises(UserError, match="does not depend on the layer body"):
        activation_maps(net(Unused), images, CLASSES, layers=["body.0"])
    with pytest.raises(UserError, match="did not run"):
        activation_maps(net(Unused), images, CLASSES, layers=["body.1"])


@pytest.fixture
def photographs(real_data):
    """The 143 photographs of classes of ImageNet, normalised, and their classes."""
    folder = real_data / "imagenet_sample"
    if not folder.is_dir():
        pytest.skip("SACCADE_DATA has no folder imagenet_sample")
    prepare = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    )
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = [prepare(Image.open(folder / "images" / row["file"]).convert("RGB")) for row in rows]
    return torch.stack(images), torch.tensor([int(row["index"]) for row in rows])


@pytest.fixture
def mobilenet():
    weights = Path(os.environ.get("SACCADE_WEIGHTS", "")) / "mobilenetv2_100.safetensors"
    if not weights.is_file():
        pytest.skip("SACCADE_WEIGHTS names no folder with mobilenetv2_100.safetensors")
    return timm.create_model("mobilenetv2_100", pad_type="same", checkpoint_path=str(weights)).eval()


def in_batches(network, images):
    """Return output, map and layer for all images, 13 at a time."""
    found = [maps_and_output(network, some) for some in images.split(13)]
    (layer,) = found[0].maps
    return torch.cat([each.output for each in found]), torch.cat([each.maps[layer] for each in found]), layer


def test_photographs(photographs, mobilenet):
    """A neutral plug changes no prediction and no map of any photograph; a plug that acts changes them."""
    images, labels = photographs
    logits, maps, layer = in_batches(mobilenet, images)
    assert layer == "bn2"
    assert int((logits.argmax(1) == labels).sum()) == 126
    few = images[:13]
    torch.testing.assert_close(maps[:13], by_hand(mobilenet, layer, few, logits[:13].argmax(1)), rtol=0, atol=1e-6)

    plugged = saccade.plug(mobilenet, "se", where="stage", start="neutral")
    neutral_logits, neutral_maps, _ = in_batches(plugged, images)
    assert torch.equal(neutral_logits, logits)
    assert torch.equal(neutral_maps, maps)
    with torch.no_grad():
        for row in plugs(plugged):
            row.module.a.fill_(0.3)
    moved_logits, moved_maps, _ = in_batches(plugged, few)
    assert not torch.allclose(moved_logits, logits[:13], atol=0.1)
    assert (moved_maps - maps[:13]).abs().amax() > 0.05
