"""Objects are resized, rotated and augmented together with their image."""

from array import array
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade.data.annotations import Annotation, ImageAnnotations, Rle
from saccade.data.objects import Objects
from saccade.data.opening import upright as upright_of
from saccade.data.resizing import Frame
from saccade.data.sampling import Key
from saccade.data.transforms import augment

SIZE = (60, 40)  # width, height


def outline(x1, y1, x2, y2):
    return array("d", [x1, y1, x2, y1, x2, y2, x1, y2])


def painted(path, boxes, size=SIZE, orientation=1):
    """Save a black image with red boxes and an EXIF orientation."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def around(red):
    """The box around red pixels (H, W)."""
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def runs(mask):
    flat = np.asarray(mask, np.uint8).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    bounds = [0, *edges, len(flat)]
    return [b - a for a, b in pairwise(bounds)]


@pytest.mark.parametrize(("resize", "part"), [("crop", None), ("crop", 0.875), ("pad", None), ("stretch", None)])
@pytest.mark.parametrize("frame", [(40, 60), (30, 30), (80, 50), (96, 200)])
@pytest.mark.parametrize("kind", ["polygon", "runs"])
def test_boxes_and_masks_match_the_resized_image(tmp_path, resize, part, frame, kind):
    box = (22, 8, 38, 32)
    painted(tmp_path / "a.png", [box])
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[8:32, 22:38] = 1
    shape = {"polygons": (outline(*box),)} if kind == "polygon" else {"rle": Rle(40, 60, array("q", runs(mask)))}
    path = tmp_path / "a.png"
    objects = Objects({path: ImageAnnotations("a", [Annotation("cell", box, **shape)], SIZE)}, {path: SIZE}, ["cell"])
    shown = Frame(*frame, resize, crop_pct=part)
    with Image.open(path) as image:
        red = np.asarray(shown.fit_image(image.convert("RGB")))[..., 0] > 127
    target = objects.targets([path], shown)[0]
    assert target["boxes"][0].tolist() == pytest.approx(around(red), abs=0.75)
    assert (target["masks"][0].numpy() != red).sum() <= 0.06 * red.sum()
    assert target["labels"].tolist() == [0]
    assert target["boxes"].canvas_size == frame == tuple(target["masks"].shape[1:])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("stated", ["stored", "upright", "nothing"])
def test_boxes_of_an_image_with_an_exif_rotation(tmp_path, orientation, stated):
    """Boxes are those of the upright image, unless the file states the size that the pixels are stored with."""
    path, box = tmp_path / "a.png", (5, 8, 25, 14)
    painted(path, [box], orientation=orientation)
    upright = SIZE[::-1]
    size = {"stored": SIZE, "upright": upright, "nothing": None}[stated]
    mask = np.zeros(upright if stated == "stored" else SIZE, np.uint8)
    mask[8:14, 5:25] = 1
    shapes = [
        Annotation("a", box, (outline(*box),)),
        Annotation("b", box, (), Rle(*mask.shape, array("q", runs(mask)))),
    ]
    objects = Objects({path: ImageAnnotations("a.json", shapes, size)}, {path: upright}, ["a", "b"])
    target = objects.targets([path], Frame(SIZE[0], SIZE[1], "stretch"))[0]
    with Image.open(path) as image:
        red = np.asarray(upright_of(image))[..., 0] > 127
    where = around(red) if stated == "stored" else list(box)
    assert target["boxes"].tolist() == [where, where]
    for found in target["masks"].numpy():
        assert around(found) == where
    assert any("their boxes were given for the stored pixels" in note for note in objects.notes) == (stated == "stored")


@pytest.mark.parametrize("orientation", [1, 3])
def test_a_size_that_no_rotation_explains_is_refused(tmp_path, orientation):
    path = tmp_path / "a.png"
    painted(path, [], orientation=orientation)
    objects = Objects({path: ImageAnnotations("a.json", [], SIZE[::-1])}, {path: SIZE}, [])
    assert objects.problems == {path: "is 60×40 pixels; a.json states 40×60"}
    assert Objects({path: ImageAnnotations("a.json", [], SIZE)}, {path: SIZE}, []).problems == {}


def test_objects_outside_the_frame_are_dropped(tmp_path):
    boxes = [(0, 10, 8, 20), (5, 10, 20, 20), (30, 10, 31, 11), (40, 0, 60, 40)]
    path = tmp_path / "a.png"
    found = ImageAnnotations("a", [Annotation(str(n), box, (outline(*box),)) for n, box in enumerate(boxes)])
    objects = Objects({path: found}, {path: SIZE}, list("0123"))
    whole = objects.targets([path], Frame(40, 60))[0]
    assert whole["labels"].tolist() == [0, 1, 2, 3]
    middle = objects.targets([path], Frame(40, 40))[0]  # columns 10 to 50
    assert middle["labels"].tolist() == [1, 2, 3]
    assert middle["boxes"].tolist() == [[0, 10, 10, 20], [20, 10, 21, 11], [30, 0, 40, 40]]
    small = objects.targets([path], Frame(20, 20))[0]
    assert small["labels"].tolist() == [1, 3]  # half a pixel is no object
    assert small["masks"].shape == (2, 20, 20)


def test_an_image_without_objects_has_empty_tensors(tmp_path):
    path = tmp_path / "a.png"
    target = Objects({path: ImageAnnotations("a")}, {path: SIZE}, ["x"]).targets([path], Frame(20, 20))[0]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].dtype == torch.int64
    assert "masks" not in target


def test_masks_are_given_where_every_object_has_an_outline(tmp_path):
    box, paths = (10, 10, 20, 20), [tmp_path / name for name in ("a.png", "b.png")]
    with_outline, alone = Annotation("x", box, (outline(*box),)), Annotation("x", box)
    sizes = dict.fromkeys(paths, SIZE)
    whole = Objects({path: ImageAnnotations("a", [with_outline]) for path in paths}, sizes, ["x"])
    assert "masks" in whole.targets(paths, Frame(20, 20))[1]
    mixed = Objects(
        {paths[0]: ImageAnnotations("a", [with_outline]), paths[1]: ImageAnnotations("a", [alone])}, sizes, ["x"]
    )
    assert "masks" not in mixed.targets(paths, Frame(20, 20))[0]
    assert "1 of 2 objects have no outline: targets have boxes only" in mixed.notes
    assert [note for note in whole.notes if "outline" in note] == []


def test_objects_without_masks_are_augmented():
    boxes = BoundingBoxes(torch.tensor([[2.0, 3.0, 10.0, 9.0]]), format="XYXY", canvas_size=(16, 32))
    target = {"boxes": boxes, "labels": torch.tensor([4])}
    image = torch.zeros(3, 16, 32)
    flipped = next(
        found
        for n in range(20)
        if (found := augment(image, target, ["flip"], Key(0, 0, n), (0.5,) * 3)[1])["boxes"][0, 0] != 2
    )
    assert flipped["boxes"].tolist() == [[22, 3, 30, 9]]
    assert flipped.keys() == {"boxes", "labels"}
    with_masks = augment(image, {**target, "masks": Mask(torch.zeros(1, 16, 32))}, ["crop"], Key(0, 0, 0), (0.5,) * 3)
    assert "masks" in with_masks[1]


def test_a_changed_object_changes_the_fingerprint(tmp_path):
    path = tmp_path / "a.png"

    def fact(**change):
        one = Annotation("a", (1.0, 2.0, 9.0, 9.0), (outline(1, 2, 9, 9),))._replace(**change)
        return Objects({path: ImageAnnotations("x", [one])}, {path: SIZE}, ["a", "b"]).fingerprint_entry(path)

    rle = Rle(40, 60, array("q", [2400]))
    changes = [{}, {"name": "b"}, {"box": (1.0, 2.0, 9.0, 8.5)}, {"polygons": (outline(1, 2, 9, 8),)}, {"rle": rle}]
    assert len({fact(**change) for change in changes}) == len(changes)
    assert fact() == fact(where="line 7")


def test_objects_that_cropping_cuts_off_are_counted(tmp_path):
    path = tmp_path / "a.png"
    boxes = [(0, 0, 8, 40), (6, 0, 16, 40), (25, 10, 35, 30)]  # the middle 40 of 60 columns remain
    objects = Objects(
        {path: ImageAnnotations("a", [Annotation("cell", box) for box in boxes], SIZE)}, {path: SIZE}, ["cell"]
    )
    (sentence,) = objects.cautions([path], Frame(20, 20))
    assert "Cropping to 20×20 pixels cuts off more than half of 1 of 3 test objects" in sentence
    assert objects.cautions([path], Frame(40, 60)) == []
    assert objects.cautions([path], Frame(20, 20, "pad")) == objects.cautions([path], Frame(20, 20, "stretch")) == []
