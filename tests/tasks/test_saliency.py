"""Rows, loss and references of saliency by hand; one run on digits."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.tv_tensors import KeyPoints

import saccade
from saccade.data import open_data
from saccade.errors import UserError
from saccade.metrics import fixations as measures
from saccade.metrics.rows import count_images, is_finite
from saccade.recipe import Model, Recipe
from saccade.tasks.saliency import Saliency
from saccade.training import train

SIZE = (8, 10)


def target(*points, viewers=None):
    coordinates = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    viewers = [-1] * len(points) if viewers is None else viewers
    return {"points": KeyPoints(coordinates, canvas_size=SIZE), "viewers": torch.tensor(viewers, dtype=torch.int64)}


class Part:
    """Images of one colour, image i of the colour i, with these targets."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return torch.full((1, *SIZE), float(i)), self.targets[i]

    def target(self, i):
        return self.targets[i]


TRAIN = [target((1.5, 2.5), (8.5, 7.5)), target((4.5, 4.5)), target()]
TEST = [
    target((1.5, 1.5), (2.5, 1.5), (7.5, 6.5), viewers=[0, 0, 3]),
    target((5.5, 0.5), (5.6, 0.6), (0.1, 7.9), (9.9, 7.9), viewers=[1, 4, 4, 7]),
]


def task(train=TRAIN, test=TEST, **settings):
    recipe = Recipe().with_overrides({"task.sigma": 1.5, **settings})
    return Saliency(recipe, SimpleNamespace(train=Part(train), test=Part(test), classes=[], channels=1, size=SIZE))


class Fixed(nn.Module):
    """Gives image i the logits i."""

    def __init__(self, n=2):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(n, 1, *SIZE, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def images(n=2):
    return torch.arange(n).view(-1, 1, 1, 1).expand(-1, 1, *SIZE).float()


def density(targets, sigma=1.5):
    counts = measures.count_fixations([t["points"] for t in targets], SIZE)
    return measures.normalise(measures.blur(counts, sigma)), counts


def test_rows_are_the_measures_of_the_softmax():
    network = Fixed()
    with torch.no_grad():
        rows = task().rows(network, images(), TEST)
    predicted = network.logits.detach().double().flatten(1).softmax(1).view(2, *SIZE)
    truth, counts = density(TEST)
    _, negatives = density([target(*(p for t in TRAIN for p in t["points"].tolist()))])
    expected = {
        "nss": measures.nss(predicted, counts),
        "cc": measures.correlation(predicted, truth),
        "kl": measures.kl_divergence(predicted, truth),
        "sim": measures.similarity(predicted, truth),
        "auc_judd": measures.auc_judd(predicted, counts),
        "auc_shuffled": measures.auc(predicted, counts, negatives.expand(2, -1, -1)),
        "fixations": torch.tensor([3, 4]),
    }
    assert rows.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(rows[key], values, rtol=1e-12, atol=0)
    scores = task().scores(rows)
    assert list(scores) == ["NSS", "CC", "KL", "SIM", "AUC-Judd", "shuffled AUC"]
    assert scores["KL"] == pytest.approx(expected["kl"].mean().item())
    assert task().primary_metric().name == "NSS"
    assert [metric.name for metric in Saliency.metrics if not metric.higher_is_better] == ["KL"]


def test_the_loss_by_hand():
    network = Fixed(3)
    truth, _ = density(TEST)
    logs = network.logits.flatten(1).log_softmax(1).view(3, *SIZE).double()
    known = sum((p * (p.log() - q)).sum() for p, q in zip(truth, logs, strict=False)) / 2
    (loss,) = task().loss(network, images(3), [*TEST, target()]).values()  # the third image has no fixation
    assert loss.item() == pytest.approx(known.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, network.logits)
    assert gradient[:2].abs().sum() > 0
    assert not gradient[2].any()
    (nothing,) = task().loss(network, images(), [target(), target()]).values()
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, network.logits)[0].any()


def test_the_loss_is_least_at_the_truth():
    network, wrong = Fixed(), Fixed()
    truth, _ = density(TEST)
    with torch.no_grad():
        network.logits.copy_(truth.log()[:, None])
    losses = [next(iter(task().loss(net, images(), TEST).values())).item() for net in (network, wrong)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[1] > 0.1


def test_sigma_is_a_fraction_of_the_longer_side_unless_set():
    assert task().sigma == 1.5
    assert task(**{"task.sigma": None}).sigma == pytest.approx(10 * 15 / 512)
    narrow, wide = (task(**{"task.sigma": sigma}).loss(Fixed(), images(), TEST)["KL"] for sigma in (0.5, 2.0))
    assert narrow > wide + 0.1


def test_nan_logits_give_nan_rows():
    network = Fixed()
    with torch.no_grad():
        assert is_finite(task().rows(network, images(), TEST))
        network.logits[1, 0, 2, 3] = torch.nan
        rows = task().rows(network, images(), TEST)
    assert count_images(rows) == 2
    assert rows["nss"].isnan().tolist() == [False, True]


def test_the_trivial_answer_is_where_training_images_are_looked_at():
    """The mean of the images with fixations, each of weight 1, blurred."""
    words, rows = task().trivial_baseline()
    assert words == "where training images are looked at"
    weights = torch.zeros(1, *SIZE, dtype=torch.float64)
    weights[0, 2, 1] = weights[0, 7, 8] = 0.5
    weights[0, 4, 4] = 1
    constant = measures.normalise(measures.blur(weights, 1.5)).expand(2, -1, -1)
    _, counts = density(TEST)
    assert rows["nss"].tolist() == pytest.approx(measures.nss(constant, counts).tolist())
    assert rows.keys() == task().rows(Fixed(), images(), TEST).keys()


def test_the_references_by_hand():
    references = task().references()
    assert list(references) == ["a Gaussian at the centre", "one half of the viewers predicts the other"]
    centre, halves = references.values()
    constant = measures.gaussian_at_centre(SIZE, 10 * 96 / 512).expand(2, -1, -1)
    truth, _ = density(TEST)
    assert centre["cc"].tolist() == pytest.approx(measures.correlation(constant, truth).tolist())
    # Viewers 0 | 3 of the first image, 1 and 7 | 4 of the second.
    first = [target((1.5, 1.5), (2.5, 1.5)), target((5.5, 0.5), (9.9, 7.9))]
    second = [target((7.5, 6.5)), target((5.6, 0.6), (0.1, 7.9))]
    expected = sum(
        measures.nss(density(one)[0], density(other)[1]) for one, other in ((first, second), (second, first))
    )
    assert halves["nss"].tolist() == pytest.approx((expected / 2).tolist())
    assert halves["fixations"].tolist() == [3, 4]
    assert halves.keys() == centre.keys()


@pytest.mark.parametrize("viewers", [None, [2, 2, 2]])
def test_halves_need_two_known_viewers_of_every_image(viewers):
    test = [*TEST, target((1.5, 1.5), (2.5, 1.5), (7.5, 6.5), viewers=viewers)]
    assert list(task(test=test).references()) == ["a Gaussian at the centre"]


def test_the_negatives_are_a_fixed_sample(monkeypatch):
    points = [target(*np.random.default_rng(i).uniform(0, 8, (50, 2)).tolist()) for i in range(6)]
    everything = task(train=points)._negatives
    monkeypatch.setattr("saccade.tasks.saliency._N_NEGATIVES", 100)
    sample, again = (task(train=points)._negatives for _ in range(2))
    assert (everything.sum(), sample.sum()) == (300, 100)
    torch.testing.assert_close(sample, again, rtol=0, atol=0)
    assert (sample <= everything).all()


def test_a_test_image_without_fixations_is_refused():
    with pytest.raises(UserError, match=r"1 of 3 test images have no fixation within the 8×10 pixels .*data.resize"):
        task(test=[*TEST, target()]).build(Model(name="fcn"))


def test_label_smoothing_is_refused():
    task(**{"training.label_smoothing": 0})  # the twin
    with pytest.raises(UserError, match=r"label_smoothing = 0.1: the loss of saliency has no smoothing"):
        task(**{"training.label_smoothing": 0.1})


def test_the_network():
    model = Recipe().model
    assert task().host(model)["timm"] == "fcn"
    assert task().host(model)["options"]["encoder"] == model.name
    assert task().host(Model(name="fcn", options={"levels": 2}))["options"] == {
        "levels": 2, "num_classes": 1, "in_chans": 1,
    }  # fmt: skip
    logits, two = torch.randn(2, 1, *SIZE), images()
    assert task().output_problem(logits, two) is None
    assert "logits of shape (2, 1, 8, 10) are needed" in task().output_problem(logits[:, :, ::2], two)
    softmax = logits.flatten(1).softmax(1).view(2, 1, *SIZE)
    assert "gives a density, which adds up to 1 over the pixels" in task().output_problem(softmax, two)


def test_drawings():
    truths, (drawn, _) = task().draw([0, 1], None), task().draw([0, 1], Fixed())
    assert [drawing.caption for drawing in truths] == ["3 fixations", "4 fixations"]
    nss = task().rows(Fixed(), images(), TEST)["nss"][0].item()
    assert drawn.caption == f"NSS {nss:.2f}"
    assert drawn.right is None
    pixels = np.asarray(truths[0].picture).astype(int)
    assert pixels.shape == (*SIZE, 3)
    assert pixels[1, 2].tolist() == [253, 231, 37]  # the yellow of the maximum
    assert pixels[7, 0].sum() < pixels[1, 2].sum()


RECIPE = Recipe().with_overrides({
    "task.name": "saliency", "data.size": [24, 32], "data.train_images": 20, "data.test_images": 11,
    "data.augment": ["flip", "crop"], "model.options": {"width": 4}, "attention.mechanism": "se:rd_ratio=0.5",
    "training.epochs": 1, "training.batch_size": 10, "training.lr": 0.1,
})  # fmt: skip


def test_a_run_on_digits(tmp_path):
    split = open_data(RECIPE.data, "fixations")
    result = train(RECIPE, tmp_path, device="cpu")
    assert (result["task"], result["metric"], result["diverged"]) == ("saliency", "NSS", None)
    assert result["trivial"]["answer"] == "where training images are looked at"
    network = saccade.load(tmp_path)
    assert type(network).__name__ == "FCN"
    assert saccade.plugs(network)
    saved, expected = load_file(tmp_path / "rows.safetensors"), Saliency(RECIPE, split)
    pictures = torch.stack([split.test[i][0] for i in range(11)])
    with torch.no_grad():
        rows = expected.rows(network, pictures, [split.test.target(i) for i in range(11)])
    for key in rows:
        torch.testing.assert_close(saved[key], rows[key], rtol=1e-4, atol=1e-5)
    assert result["scores"] == expected.scores(saved)
    assert not any(math.isnan(score) for score in result["scores"].values())
