"""``saccade.explain``: what it reads, what it returns, and the sheets that it writes."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import saccade
from saccade.contract.randomize import perturb
from saccade.data.resizing import Frame
from saccade.errors import UserError
from saccade.explanation import activation_maps, gate_maps, prepare

pytest.importorskip("pytorch_grad_cam")
NAMES = ["ant", "bee, honey bee", "cow", "dog", "eel"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two saved networks: with squeeze and excitation, and plain; trained on 48×40 with a mean and std of their own."""
    home = tmp_path_factory.mktemp("saved")
    for name in ("se", "none"):
        torch.manual_seed(1)
        network = timm.create_model("test_resnet", num_classes=5)
        if name == "se":
            saccade.plug(network, "se", where="stage", input=(3, 48, 40), start="paper")
        perturb(network)
        with torch.no_grad():
            network.fc.weight.mul_(20)
        saccade.save(
            network, home / name, host={"timm": "test_resnet", "options": {"num_classes": 5}}, input=(3, 48, 40),
            classes=NAMES, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], interpolation="bicubic",
        )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)


@pytest.fixture(scope="module")
def picture(pixels):
    return Image.fromarray(pixels).resize((80, 96), Image.Resampling.BICUBIC)


def normalised(picture):
    resized = np.asarray(picture.resize((40, 48), Image.Resampling.BICUBIC), np.float32).transpose(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    return (torch.from_numpy(resized) - mean) / std


def test_a_saved_network_reads_a_picture_as_in_its_training(folders, picture, tmp_path):
    explanation = saccade.explain(folders / "se", picture)
    ((cell,),) = explanation.rows
    network, image = saccade.load(folders / "se"), normalised(picture)
    with torch.no_grad():
        probabilities = network(image[None])[0].softmax(0)
    best = int(probabilities.argmax())
    assert cell.class_index == best
    assert cell.class_name == NAMES[best].partition(",")[0]
    assert cell.value == pytest.approx(float(probabilities[best]), abs=1e-5)
    assert [p.index for p in cell.predictions] == probabilities.argsort(descending=True).tolist()
    (layer,) = cell.heat_maps
    assert layer == "layer4.0"
    expected = activation_maps(network, image[None], [best])[layer][0]
    torch.testing.assert_close(cell.heat_maps[layer], expected, rtol=0, atol=1e-5)
    for site, gate in gate_maps(network, image[None]).items():
        torch.testing.assert_close(cell.gates[site], gate[0], rtol=0, atol=1e-5)
    assert len(cell.gates) == 4
    twin = saccade.explain(folders / "se", picture, mean=[0.9], std=[0.3])  # another normalisation, another result
    assert abs(twin.rows[0][0].predictions[0].value - cell.value) > 1e-3


def test_one_picture_in_every_form(folders, picture, tmp_path):
    """A file, a file turned by its EXIF orientation, grey, transparency, tensors: one result where the pixels agree."""
    upright, turned, transparent = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    picture.save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    picture.convert("RGBA").save(transparent)
    as_tensor = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    forms = [upright, str(turned), transparent, picture, as_tensor, normalised(picture)]
    explanation = saccade.explain(folders / "se", forms)
    assert explanation.images == ["a.png", "b.png", "c.png", "image 4", "image 5", "image 6"]
    maps = [row[0].heat_maps["layer4.0"] for row in explanation.rows]
    for values in maps[1:]:
        torch.testing.assert_close(values, maps[0], rtol=0, atol=1e-4)
    mirrored = saccade.explain(folders / "se", picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert (mirrored.rows[0][0].heat_maps["layer4.0"] - maps[0]).abs().amax() > 0.05
    grey = saccade.explain(folders / "se", picture.convert("L")).rows[0][0].pixels
    assert torch.equal(grey[0], grey[2])


def test_several_networks_classes_and_layers(folders, picture):
    calls = []
    explanation = saccade.explain(
        {"with": folders / "se", "without": saccade.load(folders / "none")}, [picture, picture],
        classes=["honey bee", 3], layers=["layer2", "layer4.0"], progress=lambda *numbers: calls.append(numbers),
        mean=[0.5], std=[0.5], class_names=NAMES, size=64,
    )  # fmt: skip
    assert explanation.networks == ["with", "without"]
    assert [[cell.class_name for cell in row] for row in explanation.rows] == [["bee", "bee"], ["dog", "dog"]]
    assert all(list(cell.heat_maps) == ["layer2", "layer4.0"] for row in explanation.rows for cell in row)
    assert explanation.rows[0][0].pixels.shape == (3, 64, 64)
    assert calls == [(2, 4), (4, 4)]
    first, second = (row[0].heat_maps["layer2"] for row in explanation.rows)
    assert not torch.allclose(first, second), "of two classes"
    assert not explanation.rows[0][1].gates
    same = saccade.explain([folders / "se", folders / "se"], picture)
    assert same.networks == ["se", "se (2)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "honybee"}, "has no class 'honybee'. Did you mean 'honey bee'"),
        ({"classes": 7}, "there is no class 7"),
        ({"classes": ["ant", "cow"]}, "2 classes for 1 images"),
        ({"layers": ["layer9"]}, "no layer 'layer9'"),
        ({"method": "gradcan"}, "Did you mean 'gradcam'"),
        ({"images": []}, "no image is given"),
        ({"images": "missing.png"}, "missing.png cannot be read"),
        ({"images": torch.zeros(3, 4)}, "must have shape (3, H, W), got (3, 4)"),
        ({"images": torch.zeros(2, 3, 4, dtype=torch.uint8)}, "uint8 (C, H, W)"),
        ({"models": []}, "no network is given"),
        ({"top": 0}, "at least one prediction"),
        ({"regions": [(0, 0, 1, 1)] * 2}, "2 regions for 1 images"),
    ],
)
def test_errors(folders, picture, options, message):
    with pytest.raises(UserError) as error:
        saccade.explain(**{"models": folders / "none", "images": picture, **options})
    assert message in str(error.value)


def test_settings_of_networks_by_library():
    timms = prepare(timm.create_model("mobilenetv2_100"))
    assert (timms.name, timms.frame.crop_pct, timms.mean) == ("mobilenetv2_100", 0.875, (0.485, 0.456, 0.406))
    assert timms.class_name(0) == "tench"
    assert timms.class_index("Tinca tinca") == 0
    own = prepare(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()))
    assert (own.mean, own.std, own.frame) == ((0.0,), (1.0,), Frame(224, 224))
    assert "normalisation" in own.note
    assert own.pixels(torch.full((3, 224, 224), 90, dtype=torch.uint8)).shape == (1, 224, 224)
    assert prepare(own.module, mean=[0.5], std=[0.2]).note == ""
    assert own.class_name(3) == "class 3"


def test_settings_of_saved_networks_by_task(tmp_path):
    """Labels of their own are not shares of 1, and a detector counts the background."""
    network = perturb(timm.create_model("test_resnet", num_classes=5))
    host = {"timm": "test_resnet", "options": {"num_classes": 5}}
    for task in ("multilabel", "classify", "detect"):
        saccade.save(network, tmp_path / task, host=host, input=(3, 48, 40), classes=NAMES, task=task)
    image = torch.randn(3, 48, 40, generator=torch.Generator().manual_seed(0))
    several, one = (saccade.explain(tmp_path / task, image).rows[0][0] for task in ("multilabel", "classify"))
    with torch.no_grad():
        logits = network.eval()(image[None])[0]
    assert several.value == pytest.approx(float(logits.max().sigmoid()), abs=1e-5)
    assert one.value == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
    assert prepare(tmp_path / "detect").class_name(1) == "ant"
    assert prepare(tmp_path / "classify").class_name(1) == "bee"
    (tmp_path / "study/se/seed0").mkdir(parents=True)
    (tmp_path / "study/se/seed0/done.json").touch()
    with pytest.raises(UserError, match="is a study; name one of its runs"):
        prepare(tmp_path / "study")


class Detector(nn.Module):
    """Finds boxes of label 1 and 2 where the picture is bright, and nothing in a dark one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x):
        score = self.body(x).mean((1, 2, 3)).sigmoid()
        box = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 8.0, 8.0]])
        labels = torch.tensor([1, 2])
        return [{"boxes": box[: 2 * k], "labels": labels[: 2 * k], "scores": torch.stack([s, s / 2])[: 2 * k]}
                for s, k in zip(score, (x.mean((1, 2, 3)) > 0.2).tolist(), strict=True)]  # fmt: skip


def test_sizes_are_positive():
    with pytest.raises(UserError, match="size must be positive, got 0×8"):
        prepare(Detector(), size=(0, 8))


def test_a_detector():
    torch.manual_seed(0)
    network = replace(prepare(Detector(), size=16), class_names=("background", "cell", "nucleus"))
    bright = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    explanation = saccade.explain(network, [bright, torch.zeros(3, 16, 16)], layers=["body.0"])
    found, nothing = (row[0] for row in explanation.rows)
    assert (found.class_name, found.predictions[0].box) == ("cell", (1.0, 1.0, 9.0, 9.0))
    assert found.heat_maps["body.0"].any()
    assert (nothing.class_index, nothing.notes) == (None, ("nothing found",))
    assert not nothing.heat_maps["body.0"].any()
    (named,) = saccade.explain(network, torch.zeros(3, 16, 16), classes="cell", layers=["body.0"]).rows
    assert named[0].notes == ("no cell found",)
    ((of_box,),) = saccade.explain(network, bright, boxes=[2], layers=["body.0"]).rows
    assert of_box.class_name == "nucleus", "not the class of the best box"
    assert of_box.value == pytest.approx(found.value / 2)
    for boxes, message in (([3], "no box 3"), ([1, 1], "2 boxes for 1 images")):
        with pytest.raises(UserError, match=message):
            saccade.explain(network, bright, boxes=boxes, layers=["body.0"])


def test_the_scores_of_a_region(folders, picture, tmp_path):
    mask = np.zeros((96, 80), np.uint8)
    mask[10:50, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = {"layers": ["layer2", "layer4.0"]}
    expected = torch.zeros(48, 40, dtype=torch.bool)
    expected[5:25, 10:30] = True
    by_form = [
        saccade.explain(folders / "se", picture, regions=region, **options).rows[0][0].region
        for region in (tmp_path / "mask.png", (20, 10, 40, 40), expected)
    ]
    assert all(torch.equal(scores.mask, expected) for scores in by_form)
    assert by_form[0].maps == by_form[1].maps == by_form[2].maps
    scores = by_form[0]
    assert list(scores.controls["layer2"]) == ["centre", "random weights", "another class"]
    assert len({score.sfd for score in (scores.maps["layer2"], *scores.controls["layer2"].values())}) > 2
    with pytest.raises(UserError, match="nothing of the region"):
        saccade.explain(folders / "se", picture, regions=(200, 200, 5, 5))
    Image.fromarray(mask[:50]).save(tmp_path / "half.png")
    with pytest.raises(UserError, match="80×50 pixels; the picture has 80×96"):
        saccade.explain(folders / "se", picture, regions=tmp_path / "half.png")


@pytest.fixture(scope="module")
def explanation(folders, picture):
    return saccade.explain([folders / "se", folders / "none"], [picture, picture], classes=["bee", None])


def test_the_sheet_is_a_picture(explanation, tmp_path):
    assert explanation.save(tmp_path / "sheet.png") == tmp_path / "sheet.png"
    sheet, opaque = (Image.open(tmp_path / "sheet.png").convert("RGB") for _ in range(2))
    explanation.save(tmp_path / "opaque.png", opacity=1.0)
    opaque = Image.open(tmp_path / "opaque.png").convert("RGB")
    assert sheet.size == opaque.size
    assert sheet.width > 4 * 224
    assert sheet.tobytes() != opaque.tobytes()
    explanation.save(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_the_page_holds_everything(explanation, folders, picture, tmp_path):
    page = explanation.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "url(" not in page
    assert page.count("<img ") == 2 * (1 + 2 * 2 + 1)  # a picture; two maps over their pictures; a strip of gates
    assert all(name in page for name in ("bee", "layer4.0", "channels at 4 sites", "image 2", "Grad-CAM"))
    hostile = saccade.explain(
        {"<script>x</script>": folders / "none"}, picture, class_names=["<b>", "&", "a", "b", "c"]
    )
    for html in (hostile._repr_html_(), hostile.save(tmp_path / "b.html").read_text(encoding="utf-8")):
        assert "<script>x" not in html
        assert "<b>" not in html
        assert "&lt;script&gt;x" in html


def test_a_broken_name_writes_nothing(explanation, tmp_path):
    for name, message in (("a.gif", ".png or .html"), ("missing/a.png", "cannot write")):
        with pytest.raises(UserError, match=message):
            explanation.save(tmp_path / name)
    with pytest.raises(UserError, match="opacity must be from 0 to 1"):
        explanation.save(tmp_path / "a.html", opacity=2)
    assert list(tmp_path.iterdir()) == []


def test_json_without_pixels(explanation):
    rows = explanation.to_json()["explained"]
    assert [(row["image"], row["network"], row["name"]) for row in rows][:2] == [
        ("image 1", "se", "bee"), ("image 1", "none", "bee"),
    ]  # fmt: skip
    cells = [cell for row in explanation.rows for cell in row]
    peaks = [row["maps"]["layer4.0"]["peak"] for row in rows]
    assert any(peaks)
    for peak, heat_map in zip(peaks, (cell.heat_maps["layer4.0"] for cell in cells), strict=True):
        assert (peak is None and not heat_map.any()) or heat_map[peak[1], peak[0]] == 1
    assert len(rows[0]["gates"]) == 4
    assert rows[1]["gates"] == {}


def test_overlay_by_hand():
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    heat_map = torch.zeros(4, 4)
    heat_map[0, 0] = 1
    drawn = np.asarray(saccade.explanation.overlay(image, heat_map, opacity=0.25, threshold=0.5))
    assert drawn[0, 0].tolist() == [round(0.25 * c + 75) for c in (253, 231, 37)]
    assert (drawn.reshape(-1, 3)[1:] == 100).all()
    file = io.BytesIO()
    saccade.explanation.overlay(image[:1], heat_map[:2, :2]).save(file, "PNG")
    with pytest.raises(UserError, match="threshold"):
        saccade.explanation.overlay(image, heat_map, threshold=1.5)
