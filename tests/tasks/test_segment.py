"""Rows and scores of segmentation by hand and against torchmetrics; one run on digits."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from segmentation_models_pytorch import losses as smp_losses
from segmentation_models_pytorch import metrics as smp_metrics
from timm.models import _registry, get_pretrained_cfg
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex
from torchmetrics.segmentation import DiceScore

import saccade
from saccade.data import open_data
from saccade.data.samples import VOID
from saccade.metrics.rows import count_images, is_finite
from saccade.recipe import Model, Recipe
from saccade.study.pseudovalues import pseudo_values
from saccade.tasks.segment import Segment
from saccade.training import train

CLASSES = 5
ABSENT = 3
IOU, DICE, ACCURACY = Segment.metrics


class Part:
    """Images of one colour, image i of the colour i, with these masks."""

    def __init__(self, masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, i):
        return torch.full((1, *self.masks[i].shape), float(i)), self.masks[i]

    def target(self, i):
        return self.masks[i]


def task(train=(), test=(), classes=CLASSES, **settings):
    recipe = Recipe().with_overrides(settings)
    names = ["background", *"abcdefghijkl"][:classes]
    return Segment(recipe, SimpleNamespace(train=Part(train), test=Part(test), classes=names, channels=1))


class Fixed(nn.Module):
    """Answers image i with map i."""

    def __init__(self, answers, classes=CLASSES):
        super().__init__()
        self.logits = F.one_hot(answers, classes).movedim(-1, 1).float()

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def tables(answers, truth, classes=CLASSES):
    images = torch.arange(len(truth)).view(-1, 1, 1, 1).expand(-1, 1, *truth.shape[1:]).float()
    return task(test=list(truth), classes=classes).rows(Fixed(answers, classes), images, truth)


def maps(absent_in_answers=True):
    """Random answers and truths (N, H, W): void in each, class 1 not in image 0, class 3 in none."""
    draw = torch.Generator().manual_seed(0)
    there = torch.tensor([c for c in range(CLASSES) if c != ABSENT])
    truth = there[torch.randint(0, CLASSES - 1, (6, 9, 7), generator=draw)]
    wrong = torch.randint(0, CLASSES, truth.shape, generator=draw)
    if absent_in_answers:
        wrong[wrong == ABSENT] = 0
    answers = torch.where(torch.rand(truth.shape, generator=draw) < 0.4, wrong, truth)
    truth[0][truth[0] == 1] = 2
    truth[torch.rand(truth.shape, generator=draw) < 0.15] = VOID
    return answers, truth


def test_rows_by_hand():
    truth = torch.tensor([[[0, 0, 1], [1, 2, VOID]], [[VOID, VOID, VOID], [VOID, VOID, 2]]])
    answers = torch.tensor([[[0, 1, 1], [0, 0, 0]], [[0, 1, 2], [0, 1, 2]]])
    rows = tables(answers, truth, 3)
    assert {key: value.tolist() for key, value in rows.items()} == {
        "tp": [[1, 1, 0], [0, 0, 1]], "fp": [[2, 1, 0], [0, 0, 0]], "fn": [[1, 1, 1], [0, 0, 0]],
        "tn": [[1, 2, 4], [1, 1, 0]], "scored": [[True] * 3] * 2,
    }  # fmt: skip
    assert IOU.by_class(rows).tolist() == pytest.approx([25, 100 / 3, 50])
    assert IOU.compute(rows) == pytest.approx((25 + 100 / 3 + 50) / 3)
    assert DICE.by_class(rows).tolist() == pytest.approx([40, 50, 200 / 3])
    assert ACCURACY.compute(rows) == pytest.approx(50)


@pytest.mark.parametrize("absent_in_answers", [True, False])
def test_scores_are_those_of_torchmetrics(absent_in_answers):
    """A class that no truth has is left out; torchmetrics gives it 0 if an answer has it."""
    answers, truth = maps(absent_in_answers)
    rows = tables(answers, truth)
    there = [c for c in range(CLASSES) if c != ABSENT]
    each = {"average": None, "ignore_index": VOID}
    beside_void = truth == VOID
    dice = DiceScore(CLASSES + 1, average=None, aggregation_level="global", input_format="index")
    for metric, known in (
        (IOU, MulticlassJaccardIndex(CLASSES, **each)(answers, truth)),
        (DICE, MulticlassF1Score(CLASSES, **each)(answers, truth)),
        (DICE, dice(answers.masked_fill(beside_void, CLASSES), truth.masked_fill(beside_void, CLASSES))[:CLASSES]),
    ):
        found = metric.by_class(rows)
        assert found[there].tolist() == pytest.approx((100 * known[there]).tolist(), rel=1e-5)
        assert found[ABSENT].isnan()
        assert metric.compute(rows) == pytest.approx(100 * known[there].mean().item(), rel=1e-5)
    if absent_in_answers:
        macro = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=VOID)(answers, truth)
        assert IOU.compute(rows) == pytest.approx(100 * macro.item(), rel=1e-5)
    accuracy = MulticlassAccuracy(CLASSES, average="micro", ignore_index=VOID)(answers, truth)
    assert ACCURACY.compute(rows) == pytest.approx(100 * accuracy.item(), rel=1e-5)


def test_predictions_on_void_pixels_are_not_counted():
    answers, truth = maps()
    rows = tables(answers, truth)
    changed = answers.clone()
    changed[truth == VOID] = ABSENT
    other = tables(changed, truth)
    for key in rows:
        torch.testing.assert_close(rows[key], other[key], rtol=0, atol=0)
    changed[0][truth[0] == 2] = ABSENT
    assert not torch.equal(tables(changed, truth)["fp"], rows["fp"])


def test_a_void_image_has_no_score():
    rows = tables(torch.zeros(2, 3, 4, dtype=torch.int64), torch.full((2, 3, 4), VOID))
    assert task().scores(rows) == {"mIoU": None, "Dice": None, "pixel accuracy": None}


def test_nan_logits_give_nan_rows():
    network, truth = Fixed(torch.zeros(2, 3, 4, dtype=torch.int64)), torch.zeros(2, 3, 4, dtype=torch.int64)
    images = torch.arange(2.0).view(-1, 1, 1, 1).expand(-1, 1, 3, 4)
    assert is_finite(task().rows(network, images, truth))
    network.logits[1, 2, 0, 0] = torch.nan
    rows = task().rows(network, images, truth)
    assert not is_finite(rows)
    assert count_images(rows) == 2
    assert set(task().scores(rows).values()) == {None}


def test_the_trivial_answer_is_the_most_frequent_class_everywhere():
    seen = [torch.tensor([[0, 1, 1], [2, 2, 2]]), torch.tensor([[1, 1, VOID], [VOID, VOID, VOID]])]
    shown = [torch.tensor([[1, 1, 0]]), torch.tensor([[2, VOID, 1]])]
    words, rows = task(seen, shown, 4).trivial_baseline()
    assert words == "a everywhere"
    expected = tables(torch.ones(2, 1, 3, dtype=torch.int64), torch.stack(shown), 4)
    for key in expected:
        torch.testing.assert_close(rows[key], expected[key], rtol=0, atol=0)
    assert rows["fp"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert IOU.compute(rows) == pytest.approx((0 + 100 * 3 / 5 + 0) / 3)


def test_rows_are_the_table_of_segmentation_models_pytorch():
    answers, truth = maps(absent_in_answers=False)
    rows = tables(answers, truth)
    known = smp_metrics.get_stats(answers, truth, "multiclass", ignore_index=VOID, num_classes=CLASSES)
    for key, table in zip(("tp", "fp", "fn", "tn"), known, strict=True):
        torch.testing.assert_close(rows[key], table.long(), rtol=0, atol=0)
    there = [c for c in range(CLASSES) if c != ABSENT]
    for metric, score in ((IOU, smp_metrics.iou_score), (DICE, smp_metrics.f1_score)):
        whole = [table.sum(0)[there] for table in known]
        assert metric.compute(rows) == pytest.approx(100 * score(*whole, reduction="none").mean().item())
        per_image = score(*known, reduction="macro-imagewise")  # the twin: the mean of the scores of the images
        assert abs(metric.compute(rows) - 100 * per_image.item()) > 0.5


def test_a_class_predicted_but_in_no_truth_counts_where_it_is_wrong():
    truth = torch.tensor([[[0, 0, 1, 1]]])
    wrong, right = torch.tensor([[[0, 2, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]]])
    rows = tables(wrong, truth, 3)
    assert rows["fp"].tolist() == [[0, 0, 1]]
    assert IOU.by_class(rows).tolist() == pytest.approx([50, 100, math.nan], nan_ok=True)
    assert IOU.compute(rows) == pytest.approx(75)
    assert IOU.compute(tables(right, truth, 3)) == 100


def test_leaving_out_an_image_keeps_the_classes_of_the_whole_test_part():
    """Class 2 is in image 2 alone: of its IoU and Dice of 100 without that image 0 is left."""
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 1, 1, 1]], [[0, 0, 2, 2]]])
    answers = torch.tensor([[[0, 0, 1, 0]], [[0, 1, 1, 1]], [[0, 0, 2, 2]]])
    rows = tables(answers, truth, 3)
    # class 0: tp 5, fp 1; class 1: tp 4, fn 1; class 2: tp 2
    whole = (500 / 6 + 80 + 100) / 3
    assert IOU.compute(rows) == pytest.approx(whole)
    without = [(100 + 100 + 100) / 3, (400 / 5 + 50 + 100) / 3, (300 / 4 + 80 + 0) / 3]
    assert pseudo_values(IOU, rows).tolist() == pytest.approx([3 * whole - 2 * score for score in without])
    grouped = rows | {"group": torch.tensor([7, 7, 9])}
    pairs = [100 / 3 * (1 + 0 + 1), without[2]]  # class 1 is in no image of the group 9
    assert pseudo_values(IOU, grouped).tolist() == pytest.approx([2 * whole - score for score in pairs])
    old = {key: rows[key] for key in ("tp", "fp", "fn")}  # of an earlier version
    assert IOU.compute(old) == pytest.approx(whole)
    assert pseudo_values(IOU, old)[2] == pytest.approx(3 * whole - 2 * (75 + 80) / 2)


def test_the_standard_error_of_a_class_of_one_image_is_its_share_of_the_score():
    """Two arms that differ in one class, which one of G images shows: the difference is one standard error."""
    truth = torch.zeros(40, 1, 8, dtype=torch.int64)
    truth[7] = 1
    right, wrong = truth.clone(), truth.clone()
    wrong[7, 0, 2:] = 2  # in no truth, so that class 0 stays right
    arms = [tables(answers, truth, 3) for answers in (right, wrong)]
    difference = pseudo_values(IOU, arms[0]) - pseudo_values(IOU, arms[1])
    scores = IOU.compute(arms[0]) - IOU.compute(arms[1])
    assert scores == pytest.approx((100 - 25) / 2)
    assert difference.std(ddof=1) / len(truth) ** 0.5 == pytest.approx(scores * 39 / 40)


def test_the_loss_is_the_mean_over_labelled_pixels():
    draw = torch.Generator().manual_seed(2)
    logits, (_, truth) = torch.randn(6, CLASSES, 9, 7, generator=draw), maps()
    network = nn.Identity()
    for smoothing in (0.0, 0.1):
        terms = task(**{"training.label_smoothing": smoothing}).loss(network, logits, truth)
        assert list(terms) == ["cross-entropy", "Dice"]
        known = F.cross_entropy(logits, truth, ignore_index=VOID, label_smoothing=smoothing)
        assert terms["cross-entropy"].item() == pytest.approx(known.item(), rel=1e-6)


def test_the_dice_loss_by_hand():
    probabilities = torch.tensor([[[[0.5, 0.2, 0.9]], [[0.25, 0.7, 0.1]], [[0.25, 0.1, 0.0]]]])
    terms = task(classes=3).loss(nn.Identity(), probabilities.log(), torch.tensor([[[0, 1, VOID]]]))
    # class 0: 2·0.5 / (0.7 + 1), class 1: 2·0.7 / (0.95 + 1), class 2 is not in the batch
    assert terms["Dice"].item() == pytest.approx(1 - (1 / 1.7 + 1.4 / 1.95) / 2)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_dice_loss_is_that_of_segmentation_models_pytorch(precision):
    """Of the classes in the batch: the library counts the others as 0 where no list of classes is given."""
    logits = torch.randn(6, CLASSES, 9, 7, generator=torch.Generator().manual_seed(2), requires_grad=True)
    _, truth = maps()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        found = task().loss(nn.Identity(), logits, truth)["Dice"]
    there = [c for c in range(CLASSES) if c != ABSENT]
    known = smp_losses.DiceLoss("multiclass", classes=there, ignore_index=VOID)(logits, truth)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(known.item(), rel=1e-5)
    gradient, known_gradient = (torch.autograd.grad(loss, logits)[0] for loss in (found, known))
    torch.testing.assert_close(gradient, known_gradient, rtol=1e-4, atol=1e-8)
    every_class = smp_losses.DiceLoss("multiclass", ignore_index=VOID)(logits, truth)  # the twin
    assert every_class.item() == pytest.approx(known.item() * len(there) / CLASSES)


def test_void_pixels_change_no_loss_and_a_void_batch_has_none():
    logits, (_, truth) = torch.randn(6, CLASSES, 9, 7, generator=torch.Generator().manual_seed(2)), maps()
    changed = torch.where((truth == VOID)[:, None], 10 * logits.flip(1), logits)
    terms, same, other = (
        task().loss(nn.Identity(), logits, truth) for logits, truth in (
            (logits, truth), (changed, truth), (changed, truth.masked_fill(truth == VOID, 0)),
        )
    )  # fmt: skip
    for name, value in terms.items():
        assert same[name].item() == pytest.approx(value.item(), rel=1e-6)
        assert other[name].item() != pytest.approx(value.item(), rel=1e-3)
    logits.requires_grad_()
    void = task().loss(nn.Identity(), logits, torch.full_like(truth, VOID))
    assert [term.item() for term in void.values()] == [0, 0]
    (gradient,) = torch.autograd.grad(sum(void.values()), logits)
    assert not gradient.any()


def test_drawings():
    truth = torch.tensor([[[0, 1], [VOID, 2]], [[VOID, VOID], [VOID, VOID]]])
    answers = torch.tensor([[[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    three = task(test=list(truth), classes=3)
    one, other = three.draw([0, 1], Fixed(answers, 3))
    assert (one.caption, one.right) == ("mIoU 50\u202f%", None)  # 100, 50 and 0
    assert other.caption == "void everywhere"
    colours = np.asarray(one.picture)
    assert colours[0, 0].tolist() == [0, 0, 0]
    assert colours[0, 1].tolist() == colours[1, 1].tolist() != [0, 0, 0]
    (drawn,) = three.draw([0], None)
    assert drawn.caption == "a, b"
    assert np.asarray(drawn.picture)[1, 0].tolist() == [128, 128, 128]
    assert np.asarray(drawn.picture)[1, 1].tolist() not in ([0, 0, 0], colours[0, 1].tolist())


def test_a_first_class_other_than_background_is_named_and_coloured():
    task = Segment(Recipe(), SimpleNamespace(test=Part([torch.tensor([[0, 1, VOID]])]), classes=["road", "background"]))
    (drawn,) = task.draw([0], None)
    assert drawn.caption == "road"
    road, background, void = np.asarray(drawn.picture)[0].tolist()
    assert (background, void) == ([0] * 3, [128] * 3)
    assert road not in (background, void)


def test_a_dense_network_is_not_wrapped(monkeypatch):
    model = Recipe().model
    assert task().host(model)["timm"] == "fcn"
    assert task().host(model)["options"]["encoder"] == model.name
    assert task().host(Model(name="fcn", options={"levels": 2})) == {
        "timm": "fcn", "options": {"levels": 2, "num_classes": CLASSES, "in_chans": 1},
    }  # fmt: skip
    dense = dataclasses.replace(get_pretrained_cfg(model.name), notes=("dense",))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, model.name, dense)
    assert task().host(model)["timm"] == model.name


def test_wrong_outputs_are_described():
    images = torch.zeros(2, 1, 8, 6)
    assert task().output_problem(torch.zeros(2, CLASSES, 8, 6), images) is None
    assert "gives shape (2, 5, 4, 3) for 2 images; logits of shape (2, 5, 8, 6)" in task().output_problem(
        torch.zeros(2, CLASSES, 4, 3), images
    )
    assert "gives a dict" in task().output_problem({}, images)


RECIPE = Recipe().with_overrides({
    "task.name": "segment", "data.size": 24, "data.train_images": 20, "data.test_images": 11,
    "model.options": {"width": 4}, "attention.mechanism": "se:rd_ratio=0.5", "training.epochs": 1,
    "training.batch_size": 10, "training.lr": 0.1, "training.label_smoothing": 0.1,
})  # fmt: skip


def test_a_run_on_digits(tmp_path):
    split = open_data(RECIPE.data, "mask")
    result = train(RECIPE, tmp_path, device="cpu")
    assert (result["task"], result["metric"], result["diverged"]) == ("segment", "mIoU", None)
    assert result["trivial"]["answer"] == f"{split.classes[0]} everywhere"
    assert len(result["by_class"]["mIoU"]) == len(result["by_class"]["Dice"]) == len(split.classes)
    network = saccade.load(tmp_path)
    assert type(network).__name__ == "FCN"
    assert saccade.plugs(network)
    images = torch.stack([split.test[i][0] for i in range(11)])
    truth = torch.stack([torch.as_tensor(split.test.target(i)).long() for i in range(11)])
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(1) for part in images.split(10)])
    saved = load_file(tmp_path / "rows.safetensors")
    expected = tables(answers, truth, len(split.classes))
    for key in expected:
        torch.testing.assert_close(saved[key], expected[key], rtol=0, atol=0)
    assert result["scores"] == Segment(RECIPE, split).scores(expected)
    assert [score for score in result["scores"].values() if math.isnan(score)] == []


def test_a_unet_is_trained_on_images_of_one_channel_and_goes_on_from_a_run(tmp_path):
    options = {"encoder": "lcnet_035", "decoder_channels": [8, 8, 8, 8, 8]}
    recipe = RECIPE.with_overrides({
        "model.name": "unet", "model.options": options, "data.size": [21, 30], "data.train_images": 10,
        "attention.mechanism": "se:rd_ratio=0.5", "attention.where": ["decoder.blocks.[12]"],
    })  # fmt: skip
    result = train(recipe, tmp_path / "first", device="cpu")
    assert (result["metric"], result["diverged"]) == ("mIoU", None)
    network = saccade.load(tmp_path / "first", trust=False)
    assert type(network).__name__ == "EncoderDecoder"
    assert [row.site for row in saccade.plugs(network)] == ["decoder.blocks.1", "decoder.blocks.2"]
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 21, 30)).shape[2:] == (21, 30)
    again = recipe.with_overrides({
        "model.init_from": str(tmp_path / "first"), "model.options": {"encoder": "lcnet_035"},
        "training.lr": 1e-8, "attention.start": "auto",
    })  # fmt: skip
    train(again, tmp_path / "second", device="cpu")
    old, new = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert old.keys() == new.keys()
    for key in ("decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight", "encoder.model.conv_stem.weight"):
        torch.testing.assert_close(new[key], old[key], rtol=0, atol=1e-5)


def test_balanced_class_weights_are_those_of_pytorch():
    """Void has no weight; a class without a training pixel has the weight 1, which label smoothing needs."""
    train = [torch.tensor([[0, 0, 0, 0], [1, 1, 2, VOID]])]
    targets = torch.tensor([[[0, 1, 2, VOID], [0, 0, 1, 0]]])
    network, images = Fixed(torch.randint(0, 4, (1, 2, 4)), classes=4), torch.zeros(1, 1, 2, 4)
    network.logits = torch.randn(1, 4, 2, 4, generator=torch.Generator().manual_seed(0))
    losses = [
        float(task(train, [targets[0]], 4, **settings).loss(network, images, targets)["cross-entropy"])
        for settings in ({}, {"task.class_weights": "balanced"})
    ]
    weights = torch.tensor([7 / (4 * 4), 7 / (4 * 2), 7 / (4 * 1), 1])
    wanted = [F.cross_entropy(network.logits, targets, w, ignore_index=VOID) for w in (None, weights)]
    assert losses == [pytest.approx(float(loss)) for loss in wanted]
    assert losses[0] != pytest.approx(losses[1])
    smooth = {"task.class_weights": "balanced", "training.label_smoothing": 0.1}
    smoothed = task(train * 1000, [targets[0]], 4, **smooth).loss(network, images, targets)
    wanted = F.cross_entropy(network.logits, targets, weights, ignore_index=VOID, label_smoothing=0.1)
    assert float(smoothed["cross-entropy"]) == pytest.approx(float(wanted))
    void = torch.full_like(targets, VOID)
    empty = task(train, [targets[0]], 4, **{"task.class_weights": "balanced"}).loss(network, images, void)
    assert float(empty["cross-entropy"]) == 0
