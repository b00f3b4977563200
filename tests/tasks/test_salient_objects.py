"""Rows and loss of salient objects by hand; one run on digits and one on masks of grey levels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.tv_tensors import Mask

import saccade
from saccade.data import open_data
from saccade.data.samples import VOID
from saccade.errors import UserError
from saccade.metrics import salient_objects as measures
from saccade.metrics.rows import is_finite
from saccade.recipe import Data, Model, Recipe
from saccade.study.pseudovalues import pseudo_values
from saccade.tasks.salient_objects import SalientObjects
from saccade.training import train

SIZE = (6, 8)
S_MEASURE, MAX_F, ADAPTIVE_F, MAE = SalientObjects.metrics


def masks(n=4, void=0.2):
    """Masks of background, two classes and void; the third has no object."""
    draw = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, 3, (n, *SIZE), generator=draw, dtype=torch.uint8)
    drawn[2] = 0
    drawn[torch.rand(drawn.shape, generator=draw) < void] = VOID
    return drawn


class Part:
    """Images of one colour, image i of the colour i, with these masks."""

    def __init__(self, targets):
        self.targets = [Mask(target) for target in targets]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return torch.full((1, *SIZE), float(i)), self.targets[i]

    def target(self, i):
        return self.targets[i]


def task(test=None, train=None, classes=("background", "a", "b"), **settings):
    test, train = (masks() if part is None else part for part in (test, train))
    data = SimpleNamespace(train=Part(train), test=Part(test), classes=list(classes), channels=1, size=SIZE)
    return SalientObjects(Recipe().with_overrides(settings), data)


class Fixed(nn.Module):
    """Gives image i the logits i."""

    def __init__(self, n=4):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(n, 1, *SIZE, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def images(n=4):
    return torch.arange(n).view(-1, 1, 1, 1).expand(-1, 1, *SIZE).float()


@torch.no_grad()
def rows_of(network, truth):
    return task(truth).rows(network, images(len(truth)), truth.long())


def test_rows_are_the_measures_of_the_sigmoid():
    network, truth = Fixed(), masks()
    rows = rows_of(network, truth)
    labelled, salient = truth != VOID, (truth > 0) & (truth != VOID)
    maps = measures.scale_to_range(network.logits.detach()[:, 0].double().sigmoid(), labelled)
    assert rows["salient"].tolist() == salient.sum((1, 2)).tolist()
    for key, measure in (
        ("s_measure", measures.s_measure), ("adaptive_f", measures.adaptive_f), ("mae", measures.mean_absolute_error),
    ):  # fmt: skip
        torch.testing.assert_close(rows[key], measure(maps, salient, labelled), rtol=1e-12, atol=0)
    curve = measures.f_curve(maps, salient, labelled)
    torch.testing.assert_close(rows["f_curve"], curve.float(), rtol=0, atol=0)
    scores = task().scores(rows)
    assert list(scores) == ["S-measure", "max F", "adaptive F", "MAE"]
    assert scores["max F"] == pytest.approx(curve.mean(0).max().item(), rel=1e-6)
    assert curve.max(1).values.mean().item() > scores["max F"] + 0.01  # the twin: the mean of the maxima
    assert [metric.name for metric in SalientObjects.metrics if not metric.higher_is_better] == ["MAE"]


def test_leaving_images_out_is_as_if_they_were_not_there():
    rows = {key: value.repeat(3, *[1] * (value.ndim - 1)) for key, value in rows_of(Fixed(), masks()).items()}
    rows["f_curve"] += torch.rand(rows["f_curve"].shape, generator=torch.Generator().manual_seed(0)) / 10
    for groups in (torch.arange(12), torch.arange(12) % 5):
        fast = MAX_F.score_without(rows, groups)
        slow = [MAX_F.score({"f_curve": rows["f_curve"][groups != g]}) for g in range(int(groups.max()) + 1)]
        assert fast.tolist() == pytest.approx(slow, rel=1e-6)
    assert len(pseudo_values(MAX_F, rows)) == 12


def test_the_loss_by_hand():
    network, truth = Fixed(), masks()
    terms = task().loss(network, images(), truth.long())
    assert list(terms) == ["cross-entropy", "IoU"]
    entropy, distances = [], []
    for logits, mask in zip(network.logits[:, 0].double(), truth, strict=True):
        s, g = logits.sigmoid()[mask != VOID], (mask[mask != VOID] > 0).double()
        entropy.append(-(g * s.log() + (1 - g) * (1 - s).log()))
        if g.any():
            distances.append(1 - (s * g).sum() / (s + g - s * g).sum())
    assert len(distances) == 3
    assert terms["cross-entropy"].item() == pytest.approx(torch.cat(entropy).mean().item(), rel=1e-5)
    assert terms["IoU"].item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-5)


def test_void_pixels_have_no_gradient_and_empty_batches_a_loss_of_zero():
    network, truth = Fixed(), masks()
    (gradient,) = torch.autograd.grad(sum(task().loss(network, images(), truth.long()).values()), network.logits)
    is_void = truth[:, None] == VOID
    assert not gradient[is_void].any()
    assert gradient[~is_void].all()
    terms = task().loss(network, images(), torch.full((4, *SIZE), VOID))
    assert [term.item() for term in terms.values()] == [0, 0]
    assert not torch.autograd.grad(sum(terms.values()), network.logits)[0].any()


def test_nan_logits_give_nan_rows():
    network = Fixed()
    assert is_finite(rows_of(network, masks()))
    with torch.no_grad():
        network.logits[1, 0, 2, 3] = torch.nan
    assert rows_of(network, masks())["mae"].isnan().tolist() == [False, True, False, False]


def test_the_trivial_answer_is_the_mean_mask():
    seen = [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(3)]
    seen[0][1:3, 2:5], seen[1][1:3] = 1, 2
    seen[2][0] = VOID
    test = masks()
    words, rows = task(test, seen).trivial_baseline()
    assert words == "the mean training mask"
    mean = torch.zeros(SIZE, dtype=torch.float64)
    mean[1:3], mean[1:3, 2:5] = 1 / 3, 2 / 3
    network = Fixed()
    with torch.no_grad():
        network.logits.copy_(torch.logit(mean, 1e-12).expand(4, 1, *SIZE))
    expected = rows_of(network, test)
    assert rows.keys() == expected.keys()
    for key in ("mae", "s_measure", "salient"):
        torch.testing.assert_close(rows[key], expected[key], rtol=1e-5, atol=1e-6)


def test_the_first_class_must_be_the_background():
    for classes in (["Background", "a"], ["0", "1"]):
        task(classes=classes)._check_masks()
    with pytest.raises(UserError, match="must be called background; the first is 'sky'"):
        task(classes=["sky", "road"]).build(Model(name="fcn"))
    with pytest.raises(UserError, match=r"255 classes without names.*data.options.threshold = 128"):
        task(classes=map(str, range(255))).build(Model(name="fcn"))
    void = masks()
    void[1] = VOID
    with pytest.raises(UserError, match="1 of 4 test masks are void everywhere"):
        task(void).build(Model(name="fcn"))
    nothing = masks() * (masks() == VOID)
    for parts, named in (((nothing, None), "4 test"), ((None, nothing), "4 training")):
        with pytest.raises(UserError, match=f"no pixel of the {named} masks is salient"):
            task(*parts).build(Model(name="fcn"))


def test_label_smoothing_is_refused():
    task(**{"training.label_smoothing": 0})  # the twin
    with pytest.raises(UserError, match=r"label_smoothing = 0.1: the loss of salient_objects has no smoothing"):
        task(**{"training.label_smoothing": 0.1})


def test_the_network():
    assert task().host(Recipe().model)["options"]["num_classes"] == 1
    logits, four = torch.randn(4, 1, *SIZE, requires_grad=True), images()
    assert task().output_problem(logits, four) is None
    assert "logits of shape (4, 1, 6, 8) are needed" in task().output_problem(logits.expand(-1, 2, -1, -1), four)
    assert "remove the sigmoid" in task().output_problem(logits.sigmoid(), four)


def test_drawings():
    truth, drawn = task().draw([0, 2], None), task().draw([0, 2], Fixed())
    share = ((masks()[0] > 0) & (masks()[0] != VOID)).double().mean()
    assert [drawing.caption for drawing in truth] == [f"{100 * share:.0f}\u202f% salient", "0\u202f% salient"]
    value = rows_of(Fixed(), masks())["s_measure"][0]
    assert drawn[0].caption == f"S-measure {value:.2f}"
    colours = np.asarray(truth[0].picture)
    salient = ((masks()[0] > 0) & (masks()[0] != VOID)).numpy()
    assert (colours[salient] == [253, 231, 37]).all()
    assert (colours[~salient] == [68, 1, 84]).all()


RECIPE = Recipe().with_overrides({
    "task.name": "salient_objects", "data.size": 24, "data.train_images": 20, "data.test_images": 11,
    "model.options": {"width": 4}, "attention.mechanism": "se:rd_ratio=0.5",
    "training.epochs": 1, "training.batch_size": 10, "training.lr": 0.1,
})  # fmt: skip


def test_a_run_on_digits(tmp_path):
    split = open_data(RECIPE.data, "mask")
    result = train(RECIPE, tmp_path, device="cpu")
    assert (result["task"], result["metric"], result["diverged"]) == ("salient_objects", "S-measure", None)
    network, saved = saccade.load(tmp_path), load_file(tmp_path / "rows.safetensors")
    pictures = torch.stack([split.test[i][0] for i in range(11)])
    truth = torch.stack([split.test.target(i).as_subclass(torch.Tensor) for i in range(11)])
    with torch.no_grad():
        rows = SalientObjects(RECIPE, split).rows(network, pictures, truth.long())
    for key in ("s_measure", "mae", "salient"):
        torch.testing.assert_close(saved[key], rows[key], rtol=1e-4, atol=1e-5)
    assert result["scores"] == SalientObjects(RECIPE, split).scores(saved)


def test_a_teacher_of_one_output_is_refused(tmp_path):
    train(RECIPE, tmp_path / "teacher", device="cpu")
    student = RECIPE.with_overrides({"training.teacher": str(tmp_path / "teacher")})
    with pytest.raises(UserError, match="has one output per pixel or image; a teacher gives probabilities of classes"):
        train(student, tmp_path / "student", device="cpu")


def grey_masks(root, levels=range(0, 256, 5)):
    """Images and masks whose edges are smoothed: a bright square, half of its border dark."""
    draw = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for i in range(10):
        pixels = draw.choice(np.array(levels, np.uint8), (12, 16))
        Image.fromarray(np.stack([pixels] * 3, -1)).save(root / "images" / f"{i}.png")
        Image.fromarray(pixels).save(root / "masks" / f"{i}.png")
    return root


def test_masks_of_grey_levels(tmp_path):
    """Without the option they would be 255 classes and void."""
    grey_masks(tmp_path, range(256))
    spec = Data(source=str(tmp_path))
    split = open_data(spec, "mask")
    with pytest.raises(UserError, match=r"255 classes without names.*threshold"):
        SalientObjects(Recipe(), split).build(Model(name="fcn"))
    split = open_data(spec.model_copy(update={"options": {"threshold": 128}}), "mask")
    assert split.classes == ["background", "foreground"]
    for i in range(len(split.train)):
        pixels = split.train.images[i][0]
        torch.testing.assert_close(split.train.target(i).as_subclass(torch.Tensor), (pixels > 128).byte())
    SalientObjects(Recipe(), split).build(Model(name="fcn"))


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ({"threshold": 255}, None, "data.options.threshold = 255: a whole number from 0 to 254 is needed"),
        ({"threshold": True}, None, "data.options.threshold = True: a whole number from 0 to 254 is needed"),
        ({"threshold": 128, "void": "255"}, None, "leave data.options.void out"),
        ({"threshold": 128}, "background\na\nb", "makes two classes of grey levels; classes.txt has 3 classes"),
    ],
)
def test_thresholds_that_are_not_possible(tmp_path, options, names, message):
    grey_masks(tmp_path)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(UserError, match=message):
        open_data(Data(source=str(tmp_path), options=options), "mask")


def test_indices_of_a_palette_are_no_grey_levels(tmp_path):
    grey_masks(tmp_path, (0, 1))
    for path in (tmp_path / "masks").iterdir():
        image = Image.fromarray(np.asarray(Image.open(path)), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(path)
    with pytest.raises(UserError, match=r"has a palette, whose indices are not grey levels; save it as a grey image"):
        open_data(Data(source=str(tmp_path), options={"threshold": 0}), "mask")


def test_a_threshold_that_leaves_one_class(tmp_path):
    grey_masks(tmp_path, (0, 1))
    open_data(Data(source=str(tmp_path), options={"threshold": 0}), "mask")  # the twin
    with pytest.raises(UserError, match="threshold = 128: the masks hold values from 0 to 1, so that every pixel"):
        open_data(Data(source=str(tmp_path), options={"threshold": 128}), "mask")
