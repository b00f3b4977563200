"""Rows, losses and checks of detection by hand; one run on digits, killed and resumed to the same bytes."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.tv_tensors import BoundingBoxes

import saccade
from saccade.data import open_data
from saccade.errors import UserError
from saccade.metrics.matching import match
from saccade.metrics.rows import is_finite, select_images
from saccade.models import DEFAULT_DETECTOR
from saccade.recipe import Model, Recipe
from saccade.tasks.base import Box
from saccade.tasks.detect import Detect
from saccade.training import build, train
from saccade.training.module import training_loss
from tiny_runs import Killed, after, assert_same_run, listener, rows

CLASSES = ["cat", "dog", "eel"]
CAT, DOG, EEL = range(3)
TINY_DETECTOR = Recipe().with_overrides(
    {
        "data.size": 24,
        "data.train_images": 16,
        "data.test_images": 10,
        "task.name": "detect",
        "model.name": "faster_rcnn",
        "model.options": {
            "encoder": "resnet10_small", "encoder_options": {"width": 4, "stem_stride": 2}, "strides": [4, 8],
            "fpn_channels": 8, "anchor_scale": 3.0, "box_head": 16, "rpn_post_nms_top_n_train": 20,
            "rpn_batch_size_per_image": 16, "box_batch_size_per_image": 8, "rpn_post_nms_top_n_test": 10,
        },
        "attention.mechanism": "se:rd_ratio=0.5",
        "attention.where": "stage",
        "training.epochs": 2,
        "training.batch_size": 8,
        "training.lr": 0.02,
        "training.warmup_epochs": 0,
    }
)  # fmt: skip


def objects(*boxes):
    """Return a target of (left, top, right, bottom, label)."""
    corners = torch.tensor([box[:4] for box in boxes], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    return {"boxes": BoundingBoxes(corners, format="XYXY", canvas_size=(40, 60)), "labels": labels}


class Part:
    """Images whose pixels are their index, with these objects."""

    by = groups = None

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return torch.full((3, 40, 60), float(i)), self.targets[i]

    def target(self, i):
        return self.targets[i]

    def codes(self):
        return {}


TRAIN = [
    objects((2, 2, 22, 22, CAT)),
    objects((3, 2, 22, 22, CAT), (30, 10, 50, 30, DOG)),
    objects((40, 5, 50, 9, CAT)),
]
TEST = [objects((2, 2, 22, 22, CAT), (30, 10, 50, 30, DOG)), objects(), objects((5, 5, 25, 25, CAT))]


def task(train=TRAIN, test=TEST, mean=(0.0,) * 3, std=(1.0,) * 3, **settings):
    data = SimpleNamespace(
        train=Part(train), test=Part(test), classes=CLASSES, channels=3, size=(40, 60), mean=mean, std=std
    )
    return Detect(Recipe().with_overrides(settings), data)


def prediction(*boxes):
    """Return a network's prediction of (left, top, right, bottom, label from 1, score)."""
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


class Fixed(nn.Module):
    """Detector that gives image i its prediction i, and keeps the targets it is trained with."""

    def __init__(self, predictions):
        super().__init__()
        self.predictions = predictions
        self.weight = nn.Parameter(torch.ones(2))
        self.targets = None

    def forward(self, images, targets=None):
        if self.training:
            self.targets = targets
            return {"boxes": self.weight.sum(), "labels": 2 * self.weight.sum()}
        return [self.predictions[int(image[0, 0, 0])] for image in images]


PREDICTIONS = [
    prediction((2, 2, 22, 22, 1, 0.9), (30, 10, 50, 30, 1, 0.8), (30, 10, 50, 29, 2, 0.7), (0, 0, 9, 9, 0, 0.99)),
    prediction((0, 0, 10, 10, 2, 0.3)),
    prediction(),
]


def images(count=3):
    return torch.stack([torch.full((3, 40, 60), float(i)) for i in range(count)])


def test_rows_by_hand():
    found = task().rows(Fixed(PREDICTIONS).eval(), images(), TEST)
    # The background (label 0 of the network) is left out.
    assert found["found/offsets"].tolist() == [0, 3, 4, 4]
    assert found["found/label"].tolist() == [CAT, CAT, DOG, DOG]
    assert found["found/score"].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.3])
    assert found["found/hit"][:, 0].tolist() == [2**10 - 1, 0, 2**10 - 1, 0]
    assert found["truth/label"].tolist() == [CAT, DOG, CAT]
    assert found["truth/offsets"].tolist() == [0, 2, 2, 3]
    small = [True, True, False, False]
    assert found["scored"].tolist() == [[small, small, [False] * 4]] * 3
    scores = task().scores(found)
    assert list(scores) == ["AP", "AP50", "AP75", "AP small"]  # no object is medium or large
    # Recalls 0 to 0.5 of the cat and all recalls of the dog are reached at precision 1.
    assert scores["AP50"] == pytest.approx(100 * (51 / 101 + 1) / 2)
    assert scores["AP50"] != task().scores(task().rows(Fixed([prediction()] * 3).eval(), images(), TEST))["AP50"]


def test_the_network_learns_from_labels_of_which_0_is_the_background():
    network = Fixed(PREDICTIONS).train()
    losses = training_loss(task(), network, images(), TEST)
    assert {name: loss.item() for name, loss in losses.items()} == {"boxes": 2.0, "labels": 4.0}
    assert [target["labels"].tolist() for target in network.targets] == [[1, 2], [], [1]]
    assert [type(target["boxes"]) for target in network.targets] == [torch.Tensor] * 3
    assert network.targets[0]["boxes"].tolist() == [[2, 2, 22, 22], [30, 10, 50, 30]]
    network.training_loss = lambda images, targets: {"own": torch.ones(())}
    assert list(training_loss(task(), network, images(), TEST)) == ["own"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_finds_nothing_because_its_weights_are_not_finite_has_diverged(value):
    network = Fixed([prediction()] * 3).eval()
    found = task().rows(network, images(), TEST)
    assert is_finite(found)
    assert task().scores(found)["AP"] == 0
    network.weight.data[1] = value
    found = task().rows(network, images(), TEST)
    assert not is_finite(found)
    assert task().scores(found)["AP"] is None


def test_a_box_that_is_not_finite_has_diverged():
    assert not is_finite(task().rows(Fixed([prediction((0, 0, math.nan, 9, 1, 0.5))] * 3).eval(), images(), TEST))


def test_the_trivial_prediction_is_the_boxes_that_most_training_boxes_overlap():
    name, found = task().trivial_baseline()
    assert name == "the most frequent boxes"
    assert found["found/label"].tolist() == [CAT, CAT, DOG] * 3
    # Two of three images have a cat at the left, one at the right; one has a dog.
    assert found["found/score"][:3].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert task().scores(found)["AP50"] > 0
    assert found["scored"].shape == (3, 3, 4)


def test_classes_without_a_test_image_are_named():
    assert task().unscored() == ["Not scored, for lack of a test image: eel."]
    assert task(test=[*TEST, objects((0, 0, 9, 9, EEL))]).unscored() == []
    with pytest.raises(UserError, match="no object is in any of the 2 test images"):
        task(test=[objects(), objects()]).applicable_metrics()


def test_scores_by_value_are_over_the_classes_of_the_value():
    test = [objects((2, 2, 22, 22, CAT)), objects((30, 10, 50, 30, DOG))] * 15 + [objects((0, 0, 9, 9, EEL))]
    answers = [PREDICTIONS[0]] * 31
    found = task(test=test).rows(Fixed(answers).eval(), torch.zeros(31, 3, 40, 60), test)
    found["by"] = torch.tensor([0, 1] * 15 + [2])
    metrics = Detect.metrics_by(Detect.metrics, "view", ["top", "side", "rare"], found)
    assert [metric.name for metric in metrics] == [
        f"{name} (view = {view})" for view in ("top", "side") for name in ("AP", "AP50", "AP75", "AP small")
    ]
    for metric, code, of_one_class in ((metrics[1], 0, CAT), (metrics[5], 1, DOG)):
        chosen = select_images(found, torch.nonzero(found["by"] == code)[:, 0])
        scored = torch.zeros(3, 4, dtype=torch.bool)
        scored[of_one_class, :2] = True
        alone = Detect.metrics[1].compute(chosen | {"scored": scored.repeat(15, 1, 1)})
        assert metric.compute(found) == alone > 0


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"boxes": 1, "labels": 2}, "gives a dict with 'boxes', 'labels'; a list of 2 dictionaries"),
        (torch.zeros(2, 4), "gives a Tensor; a list of 2 dictionaries"),
        ([prediction()], "gives a list of 1 for 2 images"),
        ([torch.zeros(3), prediction()], "gives a Tensor for an image"),
        ([prediction(), {"boxes": torch.zeros(0, 4), "labels": 0}], "dict with 'boxes', 'labels' for an image"),
        ([prediction() | {"scores": torch.zeros(2)}] * 2, r"gives 'scores' as a tensor of shape \(2,\); a tensor"),
        ([prediction() | {"boxes": torch.zeros(0, 5)}] * 2, r"shape \(0, 5\); floating point \(n, 4\)"),
        ([prediction() | {"boxes": None}] * 2, "gives 'boxes' as NoneType"),
        ([prediction((0, 0, 1, 1, 4, 0.5))] * 2, r"gives the labels \[4\]; integers 1 to 3 are needed"),
        ([prediction() | {"labels": torch.zeros(0)}] * 2, "integers 1 to 3 are needed"),
        ([prediction((0, 0, 1, 1, 3, 1.5))] * 2, r"gives scores from 1\.5 to 1\.5; 0 to 1"),
    ],
)  # fmt: skip
def test_outputs_that_are_no_predictions_are_named(output, words):
    problem = task().output_problem(output, images(2))
    assert re.search(words, problem), problem


def test_a_prediction_with_the_background_is_none_of_them():
    assert (
        task().output_problem([prediction((0, 0, 1, 1, 3, 1.0), (0, 0, 1, 1, 0, 0.0)), prediction()], images(2)) is None
    )


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"boxes": torch.ones(()), "labels": torch.ones(1)}, None),
        ([prediction()] * 2, "gives a list for images and targets; a dictionary of scalar losses"),
        ({"boxes": torch.ones(2)}, "gives a dict for images"),
        ({}, "gives a dict for images"),
    ],
)
def test_the_training_mode_of_a_users_network_is_checked_with_targets(losses, words):
    class Network(nn.Module):
        def forward(self, images, targets):
            assert [target["labels"].tolist() for target in targets] == [[3], [3]]
            assert targets[0]["boxes"].tolist() == [[15.0, 10.0, 45.0, 30.0]]
            return losses

    problem = task().training_problem(Network(), images(2))
    assert problem is None if words is None else words in problem


def test_a_network_without_an_output_for_the_background_is_told_so():
    class Network(nn.Module):
        def forward(self, images, targets):
            labels = torch.cat([target["labels"] for target in targets])
            return {"loss": nn.functional.cross_entropy(torch.zeros(2, n_outputs), labels)}

    n_outputs = 4
    assert task().training_problem(Network(), images(2)) is None
    n_outputs = 3
    words = r"fails on the label 3 \(Target 3 is out of bounds.*labels are 1 to 3, and num_classes = 4 counts the back"
    problem = task().training_problem(Network(), images(2))
    assert re.search(words, problem), problem


def test_a_network_that_normalises_needs_images_that_are_not():
    name = "torchvision.models.detection:fasterrcnn_mobilenet_v3_large_320_fpn"
    model = Model(name=name, options={"min_size": 64, "max_size": 64})
    network = task().build(model)
    assert any(isinstance(module, GeneralizedRCNNTransform) for module in network.modules())
    assert network.roi_heads.box_predictor.cls_score.out_features == len(CLASSES) + 1
    for wrong in ({"mean": (0.5,) * 3}, {"std": (0.2,) * 3}):
        with pytest.raises(UserError, match=r"image_mean = \[0\.485.*--set data\.mean=0 --set data\.std=1"):
            task(**wrong).build(model)
    identity = model.model_copy(update={"options": model.options | {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}})
    task(mean=(0.5,) * 3).build(identity)


def test_a_classifier_becomes_the_encoder_of_the_default_detector():
    model = Model(name="resnet10_small", options={"width": 4})
    network = task().build(model)
    assert type(network).__name__.lower() == DEFAULT_DETECTOR
    assert task().host(model)["timm"] == DEFAULT_DETECTOR
    assert network.backbone.encoder.conv1.out_channels == 4
    assert task().output_problem(network.eval()(images(2)), images(2)) is None


def test_settings_of_other_losses_are_refused():
    with pytest.raises(UserError, match=r"training\.label_smoothing = 0\.1: a detector has losses of its own"):
        task(**{"training.label_smoothing": 0.1}).build(Model(name="resnet10_small"))
    with pytest.raises(UserError, match=r"task\.class_weights"):
        task(**{"task.class_weights": "balanced"})


def test_boxes_are_drawn_as_fractions_of_the_image():
    (truth,) = task().draw([0], None)
    assert truth.boxes == (
        Box(*torch.tensor([2 / 60, 2 / 40, 22 / 60, 22 / 40]).tolist(), CAT, "cat"),
        Box(0.5, 0.25, *torch.tensor([50 / 60, 0.75]).tolist(), DOG, "dog"),
    )
    assert truth.caption == "2 objects"
    drawings = task().draw([0, 1], Fixed(PREDICTIONS).eval())
    assert [[box.text for box in drawing.boxes] for drawing in drawings] == [["cat 0.90", "cat 0.80", "dog 0.70"], []]
    assert [drawing.caption for drawing in drawings] == ["2 of 2 found, 1 false", "0 of 0 found, 0 false"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    train(TINY_DETECTOR, folder, device="cpu")
    return folder


def test_a_run_on_digits(straight):
    table = rows(straight)
    assert [list(row["losses"]) for row in table[1:]] == [
        ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
    ] * 2
    assert list(table[-1]["scores"]) == ["AP", "AP50", "AP75", "AP small"]
    saved = load_file(straight / "rows.safetensors")
    network, data = saccade.load(straight).eval(), open_data(TINY_DETECTOR.data, "objects")
    targets = [data.test.target(i) for i in range(10)]
    with torch.no_grad():
        found = network(torch.stack([data.test[i][0] for i in range(10)]))
    predictions = [{**entry, "labels": entry["labels"] - 1} for entry in found]
    plain = [{key: target[key].as_subclass(torch.Tensor) for key in ("boxes", "labels")} for target in targets]
    expected = match(predictions, plain)
    for key, value in expected.items():
        torch.testing.assert_close(saved[key], value, rtol=1e-4, atol=1e-5)
    assert len(saved["found/score"]) > 0


def test_a_killed_run_resumes_to_the_same_bytes(straight, tmp_path):
    _, listen = listener(until=after(1))
    with pytest.raises(Killed):
        train(TINY_DETECTOR, tmp_path, device="cpu", notify=listen)
    torch.manual_seed(5)  # another state of the generator than at the end of the epoch
    train(TINY_DETECTOR, tmp_path, device="cpu")
    assert_same_run(straight, tmp_path)


def test_proposals_are_drawn_at_random():
    """Without seeds, two trainings would differ."""
    network = build(Detect(TINY_DETECTOR, data := open_data(TINY_DETECTOR.data, "objects"))).train()
    batch = data.train.__getitems__(list(range(8)))
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        detect = Detect(TINY_DETECTOR, data)
        losses.append(detect.loss(network, torch.stack([x for x, _ in batch]), [y for _, y in batch]))
    assert losses[0] == losses[1] != losses[2]
