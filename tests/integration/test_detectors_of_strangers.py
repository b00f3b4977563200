"""Detectors that Saccade did not write: torchvision's, a user's, and those that break the convention."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection

import saccade
from saccade.errors import UserError

WIDTH, HEIGHT = 64, 48
SMALL = {"min_size": HEIGHT, "max_size": WIDTH}
SIZE = (3, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """YOLO folder of two rectangles an image."""
    root, draw = tmp_path_factory.mktemp("boxes"), np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3)):
        for n in range(count):
            pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            lines = []
            for k in range(2):
                (w, h), x, y = draw.integers(10, 24, 2), draw.integers(0, 40), draw.integers(0, 24)
                pixels[y : y + h, x : x + w, k] = 255
                lines.append(f"{k} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n")
            for kind in ("images", "labels"):
                (root / kind / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / f"images/{part}/{n:02}.png")
            (root / f"labels/{part}/{n:02}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, green]\n")
    return root


def train(folder, out, model, **settings):
    settings = {
        "data.size": [HEIGHT, WIDTH], "data.mean": 0, "data.std": 1, "training.epochs": 1, "training.batch_size": 2,
        "training.threads": 1, **settings,
    }  # fmt: skip
    return saccade.train(
        data=folder, task="detect", model=model, settings=settings, out=out, device="cpu", notify=lambda event: None
    )


def test_a_detector_of_torchvision_is_trained_plugged_and_loaded(folder, tmp_path):
    model = {"name": "torchvision.models.detection:fasterrcnn_mobilenet_v3_large_320_fpn", "options": SMALL}
    run = train(folder, tmp_path / "run", model, **{"attention.mechanism": "se", "attention.where": "neck"})
    assert set(run.scores) >= {"AP", "AP50", "AP75"}
    network = saccade.load(run.folder).eval()
    assert isinstance(network, detection.FasterRCNN)
    assert len(saccade.plugs(network)) == 2
    shutil.rmtree(run.folder)


@pytest.mark.parametrize(
    ("make", "where", "found"),
    [
        (detection.retinanet_resnet50_fpn_v2, "neck", 5),
        (detection.fcos_resnet50_fpn, "neck", 5),
        (detection.ssdlite320_mobilenet_v3_large, "neck", 6),
        (detection.ssdlite320_mobilenet_v3_large, "stage[-1]", 1),
    ],
)
def test_a_plug_in_a_detector_of_torchvision_has_a_gradient(make, where, found):
    torch.manual_seed(0)
    network = make(num_classes=3, weights_backbone=None, **({} if "ssd" in make.__name__ else SMALL))
    saccade.plug(network, "se", where=where, input=SIZE)
    assert len(saccade.plugs(network)) == found
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}] * 2
    sum(network.train()(torch.rand(2, *SIZE), targets).values()).backward()
    gradients = {row.site: row.module.a.grad for row in saccade.plugs(network)}
    assert all(gradient is not None for gradient in gradients.values()), gradients
    assert any(gradient.abs().max() > 0 for gradient in gradients.values()), gradients


class Grid(nn.Module):
    """Detector of one box at each point of a grid of 8 pixels."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.head = nn.Conv2d(8, 4 + num_classes, 1)

    def predict(self, x):
        maps = self.head(self.body(x))
        y, x = (8 * n + 4 for n in torch.meshgrid(*map(torch.arange, maps.shape[2:]), indexing="ij"))
        sides = 4 * maps[:, :4].tanh().exp()
        boxes = torch.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], -1).flatten(1, 2)
        return boxes, maps[:, 4:].flatten(2).transpose(1, 2)

    def answer(self, boxes, logits):
        scores, labels = logits.softmax(-1)[..., 1:].max(-1)
        return [
            {"boxes": b, "labels": n + 1, "scores": s} for b, n, s in zip(boxes, labels, scores.detach(), strict=True)
        ]

    def losses(self, boxes, logits, targets):
        counts = torch.tensor([float(len(target["labels"])) for target in targets])
        return {
            "count": (logits.sigmoid().mean((1, 2)) - counts).square().mean(),
            "boxes": 1e-3 * boxes.square().mean(),
        }

    def forward(self, x, targets=None):
        predicted = self.predict(x)
        return self.answer(*predicted) if targets is None else self.losses(*predicted, targets)


class OwnLoss(Grid):
    """Detector with a loss of its own, which checks what it is given."""

    def forward(self, x):
        return self.answer(*self.predict(x))

    def training_loss(self, images, targets):
        for target in targets:
            assert sorted(target["labels"].tolist()) == [1, 2], target
            assert type(target["boxes"]) is torch.Tensor, target
        return self.losses(*self.predict(images), targets)


class Refusing(OwnLoss):
    """Detector whose loss is called, which shows that the checks above are."""

    def training_loss(self, images, targets):
        raise UserError("called")


class Tuples(Grid):
    def forward(self, x, targets=None):
        return self.predict(x)


class Widths(Grid):
    def answer(self, boxes, logits):
        return super().answer(torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1), logits)


class Fractions(Grid):
    def answer(self, boxes, logits):
        return super().answer((boxes / WIDTH).clamp(0, 1), logits)


class Logits(Grid):
    def answer(self, boxes, logits):
        return [{**found, "scores": 9 * found["scores"]} for found in super().answer(boxes, logits)]


class OtherClasses(Grid):
    def answer(self, boxes, logits):
        return [{**found, "labels": found["labels"] + 2} for found in super().answer(boxes, logits)]


class Rows(Grid):
    def answer(self, boxes, logits):
        return [torch.cat([found["boxes"], found["scores"][:, None]], 1) for found in super().answer(boxes, logits)]


class NoTargets(Grid):
    def forward(self, x):
        return self.answer(*self.predict(x))


class OneLoss(Grid):
    def losses(self, *predicted):
        return sum(super().losses(*predicted).values())


class Classifier(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x, targets=None):
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("model", [Grid, OwnLoss])
def test_a_users_detector_is_trained(folder, tmp_path, model):
    run = train(folder, tmp_path / "run", model)
    assert set(run.scores) >= {"AP", "AP50", "AP75"}


def test_a_loss_of_its_own_is_called(folder, tmp_path):
    with pytest.raises(UserError, match="called"):
        train(folder, tmp_path / "run", Refusing)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Classifier, r"gives a Tensor; a list of 2 dictionaries with boxes, labels and scores is needed"),
        (Tuples, r"gives a Tensor for an image; a dictionary with boxes, labels and scores is needed"),
        (Rows, r"gives a Tensor for an image; a dictionary with boxes, labels and scores is needed"),
        (Widths, r"gives the box .*; left, top, right, bottom are needed"),
        (Fractions, r"gives boxes within 0 to 1; pixels of the image are needed"),
        (Logits, r"gives scores from .*; 0 to 1 is needed"),
        (OtherClasses, r"gives the labels \[3, 4\]; integers 1 to 2 are needed"),
        (NoTargets, r"in training mode: .*takes 2 positional arguments but 3 were given"),
        (OneLoss, r"in training mode, gives a Tensor .*; a dictionary of scalar losses is needed"),
        (
            {"name": "torchvision.models.detection:maskrcnn_resnet50_fpn", "options": SMALL},
            r"in training mode: .*should have a masks key",
        ),
        ("torchvision.models:resnet18", r"gives a Tensor; a list of 2 dictionaries"),
    ],
)
def test_what_breaks_the_convention_is_refused_in_one_sentence(folder, tmp_path, model, words):
    with pytest.raises(UserError, match=words) as caught:
        train(folder, tmp_path / "run", model)
    assert "\n" not in str(caught.value)


def test_images_are_normalised_once(folder, tmp_path):
    model = {"name": "torchvision.models.detection:fasterrcnn_mobilenet_v3_large_320_fpn", "options": SMALL}
    with pytest.raises(UserError, match=r"normalises images itself.* set data\.mean = 0 and data\.std = 1"):
        train(folder, tmp_path / "run", model, **{"data.mean": 0.5})


def test_rt_detr_is_trained_plugged_and_loaded(folder, tmp_path):
    options = {
        "encoder": "resnet10_small", "encoder_options": {"width": 4, "stem_stride": 2}, "d_model": 32,
        "num_queries": 10, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_denoising": 8,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "hidden_expansion": 0.25,
    }  # fmt: skip
    plugged = {"attention.mechanism": "se:rd_ratio=0.5", "attention.where": "neck"}
    run = train(folder, tmp_path / "run", {"name": "rt_detr", "options": options}, **plugged)
    network = saccade.load(run.folder).eval()
    assert len(saccade.plugs(network)) == 3
    assert all(set(found) == {"boxes", "labels", "scores"} for found in network(torch.rand(2, *SIZE)))
