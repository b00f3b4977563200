"""YOLO sets as Ultralytics, Roboflow, CVAT, LabelImg and Label Studio write them, and text files that lie."""

import json
import re
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade import imagefiles
from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data

SIZE = (40, 20)  # width, height
BOX = "0 0.5 0.5 0.5 0.5"
YAML = "train: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\n"


def image(path, shade=0, orientation=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE, (shade % 256, shade // 256, 90)).save(path, exif=exif)
    return path


def write(path, text, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **{"encoding": "utf-8", **options})
    return path


def pair(images, labels, n, text=BOX):
    image(images / f"{n:02}.png", 7 * n + 1)
    if text is not None:
        write(labels / f"{n:02}.txt", text + "\n")


def ultralytics(root, yaml=YAML):
    """``images/train`` beside ``labels/train``."""
    for part, numbers in (("train", range(6)), ("val", range(6, 9))):
        for n in numbers:
            pair(root / "images" / part, root / "labels" / part, n, f"{n % 2} 0.5 0.5 0.5 0.25")
    write(root / "data.yaml", yaml)
    return root


def roboflow(root):
    """``train/images`` beside ``train/labels``; paths go up from the file, which lies beside them."""
    for part, numbers in (("train", range(6)), ("valid", range(6, 9)), ("test", range(9, 11))):
        for n in numbers:
            pair(root / part / "images", root / part / "labels", n, f"{n % 2} 0.5 0.5 0.5 0.25")
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: w\n  project: p\n  version: 1\n  license: CC BY 4.0\n",
    )
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "objects")


def counts(split):
    return [len(part) if part else 0 for part in (split.train, split.test, split.val)]


@pytest.mark.parametrize(("make", "parts"), [(ultralytics, [6, 3, 0]), (roboflow, [6, 2, 3])])
def test_a_set_with_a_yaml_file_is_opened_in_its_parts(tmp_path, make, parts):
    make(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"
    split = opened(tmp_path)
    assert counts(split) == parts
    assert (split.target, split.classes) == ("objects", ["cat", "dog"])
    target = split.train.target(1)
    assert target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[0, 84, 224, 140]]  # of the middle 20 of 40 columns
    stretched = opened(tmp_path, size=(20, 40)).test.target(0)
    assert stretched["boxes"].tolist() == [[10, 7.5, 30, 12.5]]
    assert "masks" not in stretched


NAMES = ["['cat', 'dog']", "\n- cat\n- dog", "{0: cat, 1: dog}", "\n  0: cat\n  1: dog", "\n  1: dog\n  0: cat"]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_names_are_a_list_or_a_dictionary(tmp_path, names, eol, bom):
    text = f"{bom}path: .\ntrain: images/train\nval: images/val\nnames: {names}\n"
    ultralytics(tmp_path)
    write(tmp_path / "data.yaml", text.replace("\n", eol), newline="")
    assert opened(tmp_path).classes == ["cat", "dog"]


def test_numbers_and_strange_words_are_names(tmp_path):
    ultralytics(tmp_path, YAML.replace("['cat', 'dog']", "[7, 'große Katze 🐈']"))
    assert opened(tmp_path).classes == ["7", "große Katze 🐈"]


def test_text_of_windows_is_read(tmp_path):
    ultralytics(tmp_path)
    write(tmp_path / "labels/train/00.txt", f"\ufeff1 0.5 0.5 0.5 0.5\r\n{BOX}\r\n\r\n", newline="")
    assert opened(tmp_path).train.target(0)["labels"].tolist() == [1, 0]


def test_names_of_images_hold_blanks_and_letters_of_all_kinds(tmp_path):
    ultralytics(tmp_path)
    for n, name in enumerate(("my photo (1)", "Ünï çødé", "🐈.v2", "a.b.c")):
        image(tmp_path / "images/train" / f"{name}.png", 900 + n)
        write(tmp_path / "labels/train" / f"{name}.txt", "1 0.5 0.5 0.1 0.1")
    split = opened(tmp_path)
    assert len(split.train) == 10
    assert sum(split.train.target(i)["labels"].tolist() == [1] for i in range(10)) == 7


@pytest.mark.parametrize(
    ("train", "lines"),
    [
        ("images/train", None),
        ("[images/train]", None),
        ("./images/train/", None),
        ("images\\train", None),
        ("train.txt", "./images/train/{n}.png"),
        ("train.txt", "images/train/{n}.png"),
        ("lists/train.txt", "images/train/{n}.png"),
        ("{root}/images/train", None),
        ("train.txt", "{root}/images/train/{n}.png"),
    ],
)
def test_a_part_is_a_folder_or_a_list(tmp_path, train, lines):
    ultralytics(tmp_path, YAML.replace("images/train", train.format(root=tmp_path)))
    if lines:
        names = (lines.format(root=tmp_path, n=f"{n:02}") for n in range(4))
        write(tmp_path / train, "\n".join(names) + "\n")
    assert len(opened(tmp_path).train) == (4 if lines else 6)


def test_a_part_of_two_folders(tmp_path):
    ultralytics(tmp_path, YAML.replace("images/train", "[images/train, images/more]"))
    pair(tmp_path / "images/more", tmp_path / "labels/more", 40)
    assert len(opened(tmp_path).train) == 7


@pytest.mark.parametrize("path", [".", "", "./", "set", "/elsewhere/set", "../datasets/set"])
def test_paths_begin_at_path_where_that_is_in_here(tmp_path, path):
    inner = tmp_path / "set" if path == "set" else tmp_path
    ultralytics(inner)
    (inner / "data.yaml").unlink()
    write(tmp_path / "data.yaml", f"path: {path}\n{YAML}")
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert facts["used"] == {"train": 6, "test": 3}
    assert any("is not a folder in the data folder" in note for note in facts["notes"]) == (path[:2] in ("/e", ".."))


@pytest.mark.parametrize("inner", ["", "set"])
@pytest.mark.parametrize("source", ["data", "link"])
def test_an_absolute_path_is_found_from_a_relative_or_linked_folder(tmp_path, monkeypatch, inner, source):
    root = tmp_path / "data"
    ultralytics(root / inner)
    (root / inner / "data.yaml").unlink()
    write(root / "data.yaml", f"path: {root / inner}\n{YAML}")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    facts = layouts.get("yolo").describe(Data(source=source), None)
    assert facts["used"] == {"train": 6, "test": 3}
    assert [note for note in facts["notes"] if "is not a folder in the data folder" in note] == []


def test_a_set_of_cvat_with_lists_at_its_path(tmp_path):
    """Ultralytics YOLO of CVAT: ``train.txt`` names ``data/images/train/…``, as its file lies above."""
    for n in range(4):
        pair(tmp_path / "images/train", tmp_path / "labels/train", n)
    write(tmp_path / "train.txt", "".join(f"images/train/{n:02}.png\n" for n in range(4)))
    write(tmp_path / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\n")
    split = opened(tmp_path)
    assert counts(split) == [3, 1, 0]
    assert "held back with seed 0" in split.description


def labelimg(root):
    for n in range(5):
        pair(root / "images", root / "labels", n, "1 0.5 0.5 0.2 0.2")
    write(root / "labels" / "classes.txt", "cat\ndog\n")


def label_studio(root):
    for n in range(5):
        pair(root / "images", root / "labels", n, "1 0.5 0.5 0.2 0.2")
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.json", '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}')


def without_names(root):
    for n in range(5):
        pair(root / "images", root / "labels", n, "1 0.5 0.5 0.2 0.2")


def around(root):
    ultralytics(root)
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "cat\ndog\n")


def within(root):
    roboflow(root)
    (root / "data.yaml").unlink()
    write(root / "train" / "labels" / "classes.txt", "cat\ndog\n")


@pytest.mark.parametrize(
    ("make", "names", "parts"),
    [
        (labelimg, ["cat", "dog"], [4, 1, 0]),
        (without_names, ["0", "1"], [4, 1, 0]),
        (around, ["cat", "dog"], [6, 3, 0]),
        (within, ["cat", "dog"], [6, 2, 3]),
    ],
)
def test_folders_alone(tmp_path, make, names, parts):
    make(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"
    split = opened(tmp_path)
    assert (split.classes, counts(split)) == (names, parts)
    assert split.train.target(1)["labels"].tolist() == [1]


def test_the_notes_of_label_studio_are_no_coco(tmp_path):
    label_studio(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"


def test_text_files_among_the_images(tmp_path):
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        for n in numbers:
            pair(tmp_path / part, tmp_path / part, n)
    write(tmp_path / "data.yaml", "train: train\nval: val\nnames: [cat]\n")
    (tmp_path / "train" / "readme.md").touch()
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert facts["used"] == {"train": 4, "test": 2}
    assert "1 files have no image suffix and are not read: .md (1)" in facts["notes"]


def test_polygons_are_outlines_and_boxes_around_them(tmp_path):
    ultralytics(tmp_path)
    for folder in ("train", "val"):
        for path in (tmp_path / "labels" / folder).iterdir():
            path.write_text("1 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n")
    target = opened(tmp_path, size=(20, 40)).train.target(0)
    assert target["boxes"].numpy() == pytest.approx(np.array([[10, 4, 30, 16]]))
    mask = np.zeros((20, 40))
    mask[4:16, 10:30] = 1
    np.testing.assert_array_equal(target["masks"][0], mask)


def test_keypoints_are_not_read_and_that_is_said(tmp_path):
    ultralytics(tmp_path, YAML + "kpt_shape: [2, 3]\n")
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text("0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 2\n")
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert facts["refused"] == []
    assert any("keypoints" in note for note in facts["notes"])
    assert opened(tmp_path, size=(20, 40)).train.target(0)["boxes"].tolist() == [[10, 5, 30, 15]]


def test_an_image_without_a_text_file_or_with_an_empty_one_is_background(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "labels/train/00.txt").write_text("\n")
    (tmp_path / "labels/train/01.txt").unlink()
    write(tmp_path / "labels/train/99.txt", BOX)
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert "1 images have no text file and count as background" in facts["notes"]
    assert "1 text files have no image of their name" in facts["notes"]
    train = opened(tmp_path).train
    assert [len(train.target(i)["labels"]) for i in range(3)] == [0, 0, 1]


def test_classes_to_yolo_are_class_folders(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            for n in range(2):
                image(tmp_path / part / name / f"{n}.png", n + 10 * len(part) + ord(name[0]))
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


@pytest.mark.parametrize("text", ["train: train\nval: val\nnames: [cat, dog]\n", "train: [\n"])
def test_class_folders_beside_a_yaml_file(tmp_path, text):
    for part in ("train", "val"):
        for n in range(4):
            image(tmp_path / part / ("cat", "dog")[n % 2] / f"{n}.png", n + 10 * len(part))
    write(tmp_path / "data.yaml", text)
    write(tmp_path / "README.txt", "about it")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


def test_text_files_in_class_folders_are_labels(tmp_path):
    for part in ("train", "val"):
        for n in range(4):
            place = tmp_path / part / ("cat", "dog")[n % 2]
            pair(place, place, n + 10 * len(part))
    write(tmp_path / "data.yaml", "train: train\nval: val\nnames: [cat, dog]\n")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"


def test_a_part_of_no_images(tmp_path):
    ultralytics(tmp_path, YAML.replace("images/train", "empty"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no image to train on"):
        opened(tmp_path)


@pytest.mark.parametrize("number", ["10000", "99999999", "9" * 5000])
def test_a_class_beyond_all_counts(tmp_path, number):
    """Without names the highest index says how many classes there are; a wrong one costs no memory."""
    ultralytics(tmp_path)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "labels/train/02.txt", BOX.replace("0", "9999", 1))
    assert len(opened(tmp_path).classes) == 10_000
    write(tmp_path / "labels/train/02.txt", BOX.replace("0", number, 1))
    with pytest.raises(UserError, match=r"has labels of the class 10000 or above and no data\.yaml or classes\.txt"):
        opened(tmp_path)


def test_a_yaml_file_of_another_program_is_passed_over(tmp_path):
    for name in ("cat", "dog"):
        for n in range(2):
            image(tmp_path / name / f"{n}.png", n + ord(name[0]))
    write(tmp_path / "config.yaml", "a: !!python/object:os.system {}\n")
    write(tmp_path / "mkdocs.yml", "names: [a]\n")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


def test_a_yaml_file_runs_nothing(tmp_path):
    ultralytics(tmp_path, f"names: !!python/object/apply:os.mkdir ['{tmp_path}/made']\ntrain: images/train\n")
    with pytest.raises(UserError, match=r"cannot read .*data\.yaml, line 1: it is not valid YAML"):
        opened(tmp_path)
    assert not (tmp_path / "made").exists()


# What lies in a line: refused by name; with skip_bad the image alone is left out.

LINES = {
    "class of nc": ("2 0.5 0.5 0.5 0.5", "has the class 2; the 2 classes are 0 to 1"),
    "negative class": ("-1 0.5 0.5 0.5 0.5", "has the class -1; the 2 classes are 0 to 1"),
    "fractional class": ("0.5 0.5 0.5 0.5 0.5", r"has the class 0\.5; a whole number is needed"),
    "class of no number": ("nan 0.5 0.5 0.5 0.5", "has the class nan; a whole number is needed"),
    "class by name": ("cat 0.5 0.5 0.5 0.5", "begins with 'cat'; a class index is needed"),
    "above 1": ("0 0.5 0.5 1.2 0.5", r"has the number 1\.2; a fraction of width or height, 0 to 1, is needed"),
    "pixels": ("0 20 10 20 10", "has the number 20; .* divide pixels by the image's width and height"),
    "negative": ("0 -0.2 0.5 0.2 0.5", r"has the number -0\.2"),
    "not a number": ("0 nan 0.5 0.5 0.5", "has nan where a finite number is needed"),
    "infinite": ("0 inf 0.5 0.5 0.5", "has inf where a finite number is needed"),
    "a word": ("0 x 0.5 0.5 0.5", "has 'x' where a number is needed"),
    "commas": ("0,0.5,0.5,0.5,0.5", "begins with '0,0.5,0.5,0.5,0.5'; a class index is needed"),
    "cut": ("0 0.5 0.5", "has 2 numbers after its class; a box has 4, a polygon an even count of at least 6"),
    "class alone": ("0", "has 0 numbers after its class"),
    "prediction": ("0 0.5 0.5 0.5 0.5 0.9", "has 5 numbers .* confidence of a prediction"),
    "odd polygon": ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "has 7 numbers after its class"),
    "negative width": ("0 0.5 0.5 -0.04 0.5", r"has a box -0\.04 wide and 0\.5 high; both must be at least 0"),
    "half outside": ("0 1 0.5 0.5 0.5", r"has a box 30 5 50 15 \(x1 y1 x2 y2\), outside its image of 40×20 pixels"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_that_lies(tmp_path, kind):
    line, why = LINES[kind]
    ultralytics(tmp_path)
    write(tmp_path / "labels/train/02.txt", f"{BOX}\n{line}\n")
    with pytest.raises(
        UserError, match=rf"images/train/02\.png has a faulty annotation: line 2 of labels/train/02\.txt {why}"
    ):
        opened(tmp_path)
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert len(facts["refused"]) == 1
    split = opened(tmp_path, skip_bad=True)
    assert (len(split.train), split.left_out) == (5, {"train": {"": 1}})
    assert split.train.target(2)["labels"].tolist() == [1]  # of image 3, not of 2


@pytest.mark.parametrize(
    "line", ["0.0 0.5 0.5 0.5 0.5", "1.0 0.5 0.5 1.0000001 1", "0 0.5 0.5 1e-1 5e-1", "00 .5 .5 1 1"]
)
def test_a_line_that_only_looks_odd(tmp_path, line):
    ultralytics(tmp_path)
    write(tmp_path / "labels/train/02.txt", line)
    assert len(opened(tmp_path).train.target(2)["labels"]) == 1


CLEANED = {
    "no area": ("0 0.5 0.5 0 0.5", 1, r"1 objects without area are left out \(labels/train/02\.txt, line 2"),
    "flat polygon": ("0 0.1 0.5 0.5 0.5 0.9 0.5", 1, "1 objects without area are left out"),
    "twice": (BOX, 1, "1 objects are exact duplicates and are counted once"),
    "overhang": ("0 0.98 0.5 0.1 0.5", 2, "1 boxes extend a little beyond their image and are clipped to it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLEANED)
def test_a_line_that_is_cleaned_and_counted(tmp_path, kind):
    line, left, said = CLEANED[kind]
    ultralytics(tmp_path)
    write(tmp_path / "labels/train/02.txt", f"{BOX}\n{line}\n")
    notes = "\n".join(layouts.get("yolo").describe(Data(source=str(tmp_path)), None)["notes"])
    assert re.search(said, notes), notes
    target = opened(tmp_path, size=(20, 40)).train.target(2)
    assert len(target["labels"]) == left
    assert target["boxes"][:, 2].max() <= 40


@pytest.mark.parametrize("content", [b"\xff\xfe0\x00", b"\x89PNG\r\n\x1a\n"])
def test_a_text_file_that_is_no_text(tmp_path, content):
    ultralytics(tmp_path)
    (tmp_path / "labels/train/02.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"02\.png has labels/train/02\.txt, which cannot be read: it is not UTF-8"):
        opened(tmp_path)


FILES = {
    "fewer names than nc": (YAML.replace("nc: 2", "nc: 3"), r"data\.yaml: nc is 3, but names has 2 names"),
    "names with a gap": (YAML.replace("['cat', 'dog']", "{0: cat, 2: dog}"), "has 2 entries, but none has the index 1"),
    "a name twice": (YAML.replace("'dog'", "'cat'"), "names has 'cat' twice"),
    "a name that YAML takes for a truth": (YAML.replace("'dog'", "no"), "name of class 1 is read as False; put it"),
    "an empty name": (YAML.replace("'dog'", "~"), "the name of class 1 is read as None"),
    "names of no list": (YAML.replace("['cat', 'dog']", "cat"), "names is a str; a list or a dictionary"),
    "no part to train on": (YAML.replace("train:", "test:"), "names no training images"),
    "a part that is not there": (YAML.replace("images/train", "pictures"), "'pictures' as train, which does not exist"),
    "a path up": (YAML.replace("images/train", "../../train"), r"'\.\./train', which contains '\.\.'"),
    "a path from the root": (YAML.replace("images/train", "/etc"), "names '/etc', which is absolute"),
    "one folder in two parts": (YAML.replace("images/val", "images/train"), "are the same file in two splits"),
    "cut": (YAML[:-3], r"cannot read .*data\.yaml, line \d: it is not valid YAML"),
    "tabs": ("names:\n\t- cat\ntrain: images/train\n", r"data\.yaml, line 2: it is not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_yaml_file_that_lies(tmp_path, kind):
    text, why = FILES[kind]
    ultralytics(tmp_path, text)
    with pytest.raises(UserError, match=why):
        opened(tmp_path)


def test_a_list_that_leaves_the_folder_or_repeats_itself(tmp_path):
    ultralytics(tmp_path / "set", YAML.replace("images/train", "train.txt"))
    image(tmp_path / "images/stranger.png", 77)
    lines = [f"images/train/{n:02}.png" for n in range(4)]
    write(tmp_path / "set/train.txt", "\n".join([*lines, lines[0]]))
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path / "set")), None)
    assert facts["used"]["train"] == 4
    assert "1 images of train are listed twice; each is used once" in facts["notes"]
    write(tmp_path / "set/train.txt", "\n".join([*lines, "images/../../images/stranger.png"]))
    with pytest.raises(UserError, match=r"train\.txt names '.*stranger\.png', which contains '\.\.'"):
        opened(tmp_path / "set")
    write(tmp_path / "set/train.txt", "\n".join([*lines, "images/train/77.png"]))
    with pytest.raises(UserError, match=r"train/77\.png cannot be read: No such file"):
        opened(tmp_path / "set")


def test_one_image_in_two_lists(tmp_path):
    ultralytics(tmp_path, YAML.replace("images/val", "val.txt"))
    write(tmp_path / "val.txt", "images/val/06.png\nimages/train/02.png\n")
    with pytest.raises(UserError, match=r"02\.png and .*02\.png are the same file in two splits"):
        opened(tmp_path)
    write(tmp_path / "val.txt", "images/val/06.png\n")  # the twin
    assert counts(opened(tmp_path)) == [6, 1, 0]


def test_a_part_without_any_text_file(tmp_path):
    ultralytics(tmp_path)
    for path in (tmp_path / "labels/val").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no image of val has a text file in labels/val"):
        opened(tmp_path)


def test_a_test_part_that_is_not_there_is_said(tmp_path):
    roboflow(tmp_path)
    for path in sorted((tmp_path / "test").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "test").rmdir()
    facts = layouts.get("yolo").describe(Data(source=str(tmp_path)), None)
    assert facts["used"] == {"train": 6, "test": 3}
    assert any("'test' has no text files and is not used" in note for note in facts["notes"])


def test_a_test_part_without_text_files_is_not_used_and_that_is_said(tmp_path):
    """As COCO's, whose objects are not published."""
    roboflow(tmp_path)
    for path in (tmp_path / "test/labels").iterdir():
        path.unlink()
    split = opened(tmp_path)
    assert counts(split) == [6, 3, 0]
    assert split.description.endswith("'test' has no text files and is not used")


def test_a_yaml_file_that_would_unfold(tmp_path):
    """Nine aliases of nine aliases …: a message that wrote them out would never end."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    for text in ("names: *a11\ntrain: images/train", "names: [a]\ntrain: *a11", "names: [a]\ntrain: x\npath: *a11",
                 "names: [a]\ntrain: x\nnc: *a11"):  # fmt: skip
        ultralytics(tmp_path, f"{bomb}{text}\n")
        with pytest.raises(UserError, match=r"a list|type list"):
            opened(tmp_path)


def test_a_changed_text_file_changes_fingerprint_and_stamp(tmp_path):
    layout, spec = layouts.get("yolo"), Data(source=str(ultralytics(tmp_path)))
    before, stamp = opened(tmp_path).fingerprint, layout.stamp(spec)
    assert (opened(tmp_path).fingerprint, layout.stamp(spec)) == (before, stamp)
    write(tmp_path / "labels/train/02.txt", "0 0.5 0.5 0.5 0.2501\n")
    assert opened(tmp_path).fingerprint != before
    assert layout.stamp(spec) != stamp


def test_the_verb_describes_and_draws(tmp_path):
    ultralytics(tmp_path / "set")
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(command, [str(tmp_path / "set"), "--json", "--show", str(sheet)])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert facts["parts"][0] == {"name": "train", "images": 6, "classes": {"cat": 3, "dog": 3}}
    with Image.open(sheet) as page:
        colours = {colour for _, colour in page.convert("RGB").getcolors(10**6)}
    assert {(255, 176, 0), (86, 180, 233)} <= colours  # boxes of two classes


def test_a_folder_is_recognised_by_its_names_alone(tmp_path, monkeypatch):
    ultralytics(tmp_path)
    monkeypatch.setattr(imagefiles, "_read_header", None)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path)  # the twin


def test_20_000_files_are_recognised_at_once(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    first = image(tmp_path / "images" / "first.png")
    text = write(tmp_path / "labels" / "first.txt", BOX)
    for n in range(10_000):
        (tmp_path / "images" / f"{n}.png").hardlink_to(first)
        (tmp_path / "labels" / f"{n}.txt").hardlink_to(text)
    used = time.process_time()
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "yolo"
    assert time.process_time() - used < 3
