"""Boxes that lie: each is refused by name, or a detector that sees every object scores 100, or a note says why not."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import saccade
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks.detect import Detect

WIDTH, HEIGHT = 48, 32
COLOURS = {"cat": (1.0, 0.0, 0.0), "dog": (0.0, 1.0, 0.0), "bird": (0.0, 0.0, 1.0)}
NAMES = ("cat", "dog")
TRAIN, TEST = range(5), range(5, 9)


def things(n):
    """The objects of image ``n``: (class, x1, y1, x2, y2)."""
    draw = np.random.default_rng(n)
    found = []
    for k in range(2):
        width, height = draw.integers(8, 14, 2).tolist()
        left, top = 24 * k + int(draw.integers(0, 24 - width)), int(draw.integers(0, HEIGHT - height))
        found.append((k, left, top, left + width, top + height))
    return found


def draw(path, n, objects=None, orientation=1):
    """Image of rectangles in the colours of their classes, turned so that the EXIF orientation turns it back."""
    pixels = np.random.default_rng(n).integers(20, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for k, x1, y1, x2, y2 in things(n) if objects is None else objects:
        pixels[y1:y2, x1:x2] = [round(255 * value) for value in list(COLOURS.values())[k]]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image).save(path, exif=exif)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Seer(nn.Module):
    """Detector that returns a box around the pixels of each class's colour, whatever it was trained on."""

    def __init__(self, num_classes=3, names=NAMES):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.colours = [COLOURS[name] for name in names]

    def forward(self, images, targets=None):
        if targets is not None:
            return {"square": self.scale.square()}
        return [self._look(image) for image in images]

    def _look(self, image):
        boxes, labels = [], []
        for label, colour in enumerate(self.colours, 1):
            rows, columns = torch.nonzero((image - torch.tensor(colour)[:, None, None]).abs().amax(0) < 0.01).T
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        return {
            "boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.full((len(labels),), 0.9) * self.scale.detach(),
        }  # fmt: skip


def yolo_line(k, x1, y1, x2, y2):
    return f"{k} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"


def yolo(root, line=yolo_line, names="[cat, dog]", parts=(("train", TRAIN), ("val", TEST))):
    for part, numbers in parts:
        for n in numbers:
            draw(root / f"images/{part}/{n:02}.png", n)
            write(root / f"labels/{part}/{n:02}.txt", "".join(f"{line(*thing)}\n" for thing in things(n)))
    write(root / "data.yaml", f"train: images/train\nval: images/val\n{f'names: {names}' if names else ''}\n")
    return root


def coco(root, bbox=lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1], ids=(1, 2), size=(WIDTH, HEIGHT), only=None,
         names=NAMES):  # fmt: skip
    """Splits of COCO; with ``only`` the other arguments concern that split."""
    for part, numbers in (("train", TRAIN), ("val", TEST)):
        changed = only in (None, part)
        box = bbox if changed else lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1]
        own_ids, own_names, (width, height) = (ids, names, size) if changed else ((1, 2), NAMES, (WIDTH, HEIGHT))
        objects = [(n, k, box(*corners)) for n in numbers for k, *corners in things(n)]
        for n in numbers:
            draw(root / f"{part}2017/{n:012}.png", n)
        document = {
            "images": [{"id": n, "file_name": f"{n:012}.png", "width": width, "height": height} for n in numbers],
            "annotations": [
                {"id": i, "image_id": n, "category_id": own_ids[k], "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                for i, (n, k, b) in enumerate(objects)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(own_ids, own_names, strict=True)],
        }
        write(root / f"annotations/instances_{part}2017.json", json.dumps(document))
    return root


def voc(root, corners=lambda x1, y1, x2, y2: (x1, y1, x2, y2), size=(WIDTH, HEIGHT), names=NAMES, only=None):
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        changed = only in (None, part)
        for n in numbers:
            draw(root / f"JPEGImages/{n:06}.png", n)
            objects = ""
            for k, *thing in things(n):
                box = corners(*thing) if changed else thing
                tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
                inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
                name = names[k] if changed else NAMES[k]
                objects += f"<object><name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox></object>"
            sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
            write(
                root / f"Annotations/{n:06}.xml",
                f"<annotation><filename>{n:06}.png</filename>{sizes}{objects}</annotation>",
            )
        write(root / f"ImageSets/Main/{part}.txt", "".join(f"{n:06}\n" for n in numbers))
    return root


def task_of(root, **data):
    settings = {"source": str(root), "size": [HEIGHT, WIDTH], "mean": 0, "std": 1, **data}
    recipe = Recipe().with_overrides({f"data.{key}": value for key, value in settings.items()})
    return Detect(recipe, open_data(recipe.data, "objects"))


def score(root, network=None, **data):
    """AP of a detector that sees every object."""
    task = task_of(root, **data)
    test = task.data.test
    network = network or Seer(names=task.data.classes)
    rows = task.rows(network, task.images(range(len(test))), [test.target(i) for i in range(len(test))])
    return task.scores(rows)["AP"]


@pytest.mark.parametrize("make", [yolo, coco, voc])
def test_a_true_folder_scores_100_and_a_displaced_box_less(tmp_path, make):
    assert score(make(tmp_path)) == pytest.approx(100)

    class Displaced(Seer):
        def _look(self, image):
            found = super()._look(image)
            return {**found, "boxes": found["boxes"] + torch.tensor([3.0, 0, 3, 0])}

    assert score(tmp_path, Displaced()) < 60


def _of_pixels(k, *box):
    return f"{k} {' '.join(map(str, box))}"


def _corners(x1, y1, x2, y2):
    return [x1, y1, x2, y2]


REFUSED = {
    "YOLO: classes from 1": (lambda r: yolo(r, lambda k, *b: yolo_line(k + 1, *b)), "the 2 classes are 0 to 1"),
    "YOLO: pixels": (lambda r: yolo(r, _of_pixels), "divide pixels by the image's width and height"),
    "YOLO: corners": (
        lambda r: yolo(r, lambda k, x1, y1, x2, y2: f"{k} {x1 / WIDTH} {y1 / HEIGHT} {x2 / WIDTH} {y2 / HEIGHT}"),
        "outside its image of 48×32 pixels",
    ),
    "YOLO: class names": (lambda r: yolo(r, lambda k, *b: yolo_line(NAMES[k], *b)), "begins with 'cat'; a class"),
    "YOLO: commas": (lambda r: yolo(r, lambda k, *b: yolo_line(k, *b).replace(" ", ",")), "a class index is needed"),
    "YOLO: confidences": (lambda r: yolo(r, lambda k, *b: yolo_line(k, *b) + " 0.9"), "A fifth is the confidence"),
    "YOLO: class last": (
        lambda r: yolo(r, lambda k, *b: " ".join([*yolo_line(k, *b).split()[1:], str(k)])),
        "a whole number is needed",
    ),
    "YOLO: names with gaps": (lambda r: yolo(r, names="{0: cat, 3: dog}"), "2 entries, but none has the index 1"),
    "COCO: corners": (lambda r: coco(r, _corners), "outside its image of 48×32 pixels"),
    "COCO: centres": (
        lambda r: coco(r, lambda x1, y1, x2, y2: [(x1 + x2) / 2 + 12, (y1 + y2) / 2 + 9, x2 - x1, y2 - y1]),
        "outside its image of 48×32 pixels",
    ),
    "COCO: swapped sizes": (lambda r: coco(r, size=(HEIGHT, WIDTH)), "is 48×32 pixels; "),
    "COCO: sizes of the originals": (lambda r: coco(r, size=(4 * WIDTH, 4 * HEIGHT)), "states 192×128"),
    "COCO: negative sides": (
        lambda r: coco(r, lambda x1, y1, x2, y2: [x2, y2, x1 - x2, y1 - y2]), "both must be at least 0"
    ),
    "COCO: fractions": (
        lambda r: coco(r, lambda x1, y1, x2, y2: [x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]),
        "pixels are needed",
    ),
    "COCO: fractions to train on": (
        lambda r: coco(r, lambda x1, y1, x2, y2: [x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT],
                       only="train"),
        "pixels are needed",
    ),
    "VOC: widths and heights": (
        lambda r: voc(r, lambda x1, y1, x2, y2: (x1 + 16, y1 + 16, x2 - x1, y2 - y1)), "the smaller number comes first"
    ),
    "VOC: swapped axes": (lambda r: voc(r, lambda x1, y1, x2, y2: (y1, x1, y2, x2)), "outside its image of 48×32"),
    "VOC: swapped sizes": (lambda r: voc(r, size=(HEIGHT, WIDTH)), "states 32×48"),
    "VOC: sizes of the originals": (lambda r: voc(r, size=(2 * WIDTH, 2 * HEIGHT)), "states 96×64"),
    "VOC: fractions": (
        lambda r: voc(r, lambda x1, y1, x2, y2: (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)),
        "pixels are needed",
    ),
    "VOC: fractions to train on": (
        lambda r: voc(r, lambda x1, y1, x2, y2: (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT), only="train"),
        "pixels are needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", REFUSED)
def test_boxes_that_lie_are_refused(tmp_path, lie):
    make, said = REFUSED[lie]
    with pytest.raises(UserError) as caught:
        score(make(tmp_path))
    assert said in str(caught.value)


def _renamed(root, old, new):
    (root / old).rename(root / new)
    return root


def _emptied(root):
    """An image with an empty label file, which shows no object."""
    draw(root / "images/val/07.png", 7, [])
    write(root / "labels/val/07.txt", "")
    return root


def _unlabelled(root):
    """An image without objects and without a label file."""
    draw(root / "images/val/07.png", 7, [])
    (root / "labels/val/07.txt").unlink()
    return root


def _repeated(root):
    path = root / "labels/val/06.txt"
    write(path, path.read_text() * 3)
    return root


def _turned(make, image, **options):
    """A photograph on its side, whose boxes are those of the upright image."""

    def change(root):
        draw(make(root, **options) / image, 6, orientation=6)
        return root

    return change


def _stored(root):
    """A photograph on its side, whose boxes and size are those of the stored pixels."""
    voc(root)
    draw(root / "JPEGImages/000006.png", 6, orientation=6)
    path = root / "Annotations/000006.xml"
    text = path.read_text()
    for _, x1, y1, x2, y2 in things(6):
        old = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        new = f"<xmin>{y1}</xmin><ymin>{WIDTH - x2}</ymin><xmax>{y2}</xmax><ymax>{WIDTH - x1}</ymax>"
        assert old in text
        text = text.replace(old, new)
    write(path, text.replace(f"<width>{WIDTH}</width><height>{HEIGHT}", f"<width>{HEIGHT}</width><height>{WIDTH}"))
    return root


TRUE = {
    "YOLO: an empty file is background": lambda r: _emptied(yolo(r)),
    "YOLO: no file is background": lambda r: _unlabelled(yolo(r)),
    "YOLO: duplicates count once": lambda r: _repeated(yolo(r)),
    "YOLO: names in another order than the alphabet": lambda r: yolo(
        r, lambda k, *b: yolo_line(1 - k, *b), names="[dog, cat]"
    ),
    "YOLO: a photograph on its side": _turned(yolo, "images/val/06.png"),
    "COCO: ids that differ between the splits": lambda r: coco(r, ids=(2, 1), only="val"),
    "COCO: ids with gaps": lambda r: coco(r, ids=(7, 90)),
    "COCO: a photograph on its side": _turned(coco, "val2017/000000000006.png"),
    "VOC: a photograph on its side": _turned(voc, "JPEGImages/000006.png"),
    "VOC: a photograph on its side, in stored pixels": _stored,
}


@pytest.mark.parametrize("case", TRUE)
def test_what_only_looks_odd_means_what_it_says(tmp_path, case):
    assert score(TRUE[case](tmp_path)) == pytest.approx(100)


def test_a_box_in_the_first_pixel_is_left_out_beside_others(tmp_path):
    """The twin of fractions."""
    coco(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"].append(
        {"id": 99, "image_id": 6, "category_id": 1, "bbox": [0, 0, 0.5, 0.5], "area": 0.25, "iscrowd": 0}
    )
    write(path, json.dumps(content))
    assert score(tmp_path) == pytest.approx(100)


@pytest.mark.parametrize(("make", "part"), [(coco, "val"), (voc, "test")])
def test_names_that_differ_between_the_splits_are_said(tmp_path, make, part):
    spec = Data(source=str(make(tmp_path, names=("Cat", "dog"), only=part)))
    found = "\n".join(layouts.find_layout(spec, "objects").describe(spec, None)["notes"])
    assert "'cat'" in found
    assert "'Cat'" in found
    assert "differ in capital letters only and are kept apart" in found
    assert task_of(tmp_path).unscored() == ["Not scored, for lack of a test image: cat."]


def test_a_class_without_a_test_box_is_said_and_not_scored(tmp_path):
    yolo(tmp_path, names="[cat, dog, bird]")
    draw(tmp_path / "images/train/00.png", 0, [(2, 3, 3, 20, 20)])
    write(tmp_path / "labels/train/00.txt", yolo_line(2, 3, 3, 20, 20))
    task = task_of(tmp_path)
    assert task.unscored() == ["Not scored, for lack of a test image: bird."]
    assert score(tmp_path) == pytest.approx(100)


def test_test_images_that_are_trained_on_are_said(tmp_path):
    yolo(tmp_path)
    draw(tmp_path / "images/train/90.png", 6)
    write(tmp_path / "labels/train/90.txt", "\n".join(yolo_line(*thing) for thing in things(6)))
    messages = []
    saccade.train(
        data=tmp_path, task="detect", model=Seer, out=tmp_path / "run", device="cpu",
        settings={"data.size": [HEIGHT, WIDTH], "data.mean": 0, "data.std": 1, "training.epochs": 1},
        notify=messages.append,
    )  # fmt: skip
    assert any("1 of 4 test images are trained on too" in str(message) for message in messages), messages


@pytest.mark.parametrize(("resize", "expected"), [("stretch", 100), ("pad", 100), ("crop", 100)])
def test_boxes_follow_their_images_through_resizing(tmp_path, resize, expected):
    assert score(yolo(tmp_path), size=[2 * HEIGHT, 3 * WIDTH], resize=resize, interpolation="nearest") == expected
