"""COCO's JSON as COCO, Roboflow, CVAT and Label Studio write it, and JSON that lies."""

import json
import re
import time
from array import array

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade import imagefiles
from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.data.annotations import Rle
from saccade.data.layouts import _coco_json
from saccade.data.outlines import rle_mask
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import choose_task

SIZE = (40, 20)  # width, height
CATEGORIES = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog", "supercategory": "animal"}]
RUNS = [5, 10, 785]  # the first column from row 5 on


def image(path, n=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (n % 256, n // 256, 90)).save(path)


def entry(n, name=None, **fields):
    return {"id": n, "file_name": name or f"{n:012}.png", "width": SIZE[0], "height": SIZE[1], **fields}


def annotation(n, image_id, **fields):
    return {
        "id": n, "image_id": image_id, "category_id": 18 if n % 2 else 1, "bbox": [10, 5, 20, 10], "area": 200,
        "iscrowd": 0, "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]], **fields,
    }  # fmt: skip


def document(numbers, **fields):
    return {
        "info": {"description": "made", "year": 2017}, "licenses": [],
        "images": [entry(n) for n in numbers], "annotations": [annotation(100 + n, n) for n in numbers],
        "categories": CATEGORIES, **fields,
    }  # fmt: skip


def write(path, content, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), **{"encoding": "utf-8", **options})


def coco(root, place="{}2017", **fields):
    """``annotations/instances_train2017.json`` beside ``train2017``."""
    for part, numbers in (("train", range(6)), ("val", range(6, 9))):
        write(root / f"annotations/instances_{part}2017.json", document(numbers, **(fields if part == "train" else {})))
        for n in numbers:
            image(root / place.format(part) / f"{n:012}.png", n)
    return root


def roboflow(root):
    """Images and JSON in one folder; a category without objects stands above the others, with the id 0."""
    dummy = {"id": 0, "name": "pets", "supercategory": "none"}
    own = [{"id": n, "name": name, "supercategory": "pets"} for n, name in ((1, "cat"), (2, "dog"))]
    for part, numbers in (("train", range(6)), ("valid", range(6, 9)), ("test", range(9, 11))):
        names = {n: f"pic_{n}_jpg.rf.0a1b2c{n}.png" for n in numbers}
        images = [entry(n, name, license=1, date_captured="2026-01-01T00:00:00+00:00") for n, name in names.items()]
        objects = [annotation(n, n, category_id=1 + n % 2, segmentation=[]) for n in numbers]
        write(
            root / part / "_annotations.coco.json",
            {"info": {}, "licenses": [], "categories": [dummy, *own], "images": images, "annotations": objects},
        )
        for n, name in names.items():
            image(root / part / name, n)
    return root


def label_studio(root):
    """``result.json`` beside ``images``; categories from 0, ``\\`` between folder and name on Windows."""
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    images = [entry(n, f"images\\0a1b-{n}.png" if n % 2 else f"images/0a1b-{n}.png") for n in range(6)]
    objects = [annotation(n, n, category_id=n % 2, ignore=0) for n in range(6)]
    write(root / "result.json", {"images": images, "categories": categories, "annotations": objects, "info": {}})
    for n in range(6):
        image(root / f"images/0a1b-{n}.png", n)
    return root


def cvat(root):
    """``annotations/instances_default.json`` beside ``images/default``."""
    write(root / "annotations/instances_default.json", document(range(6)))
    for n in range(6):
        image(root / f"images/default/{n:012}.png", n)
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "objects")


def described(root, **fields):
    return layouts.get("coco").describe(Data(source=str(root), **fields), None)


def edited(root, change):
    """The JSON to train on after ``change`` of its contents."""
    path = root / "annotations/instances_train2017.json"
    found = json.loads(path.read_text())
    change(found)
    write(path, found)


@pytest.mark.parametrize(
    ("make", "parts", "classes"),
    [
        (coco, [6, 3, 0], ["cat", "dog"]),
        (roboflow, [6, 2, 3], ["cat", "dog"]),
        (label_studio, [5, 1, 0], ["cat", "dog"]),
        (cvat, [5, 1, 0], ["cat", "dog"]),
    ],
)
def test_a_set_is_opened_as_its_tool_writes_it(tmp_path, make, parts, classes):
    make(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "coco"
    split = opened(tmp_path, size=(20, 40))
    assert [len(part) if part else 0 for part in (split.train, split.test, split.val)] == parts
    assert (split.target, split.classes) == ("objects", classes)
    assert split.train.target(0)["boxes"].tolist() == [[10, 5, 30, 15]]
    assert {label for i in range(parts[0]) for label in split.train.target(i)["labels"].tolist()} == {0, 1}
    assert ("masks" in split.train.target(0)) == (make is not roboflow)


@pytest.mark.parametrize("place", ["{}2017", "images/{}2017", "images/{}", "{}", "images", ".", "annotations/images"])
def test_images_are_found_where_programs_put_them(tmp_path, place):
    assert len(opened(coco(tmp_path, place)).train) == 6


def test_a_name_with_folders_blanks_and_letters_of_all_kinds(tmp_path):
    names = ["city 1/Straße (2).png", "猫/🐈.png", "plain.png"]
    coco(tmp_path, images=[entry(n, name) for n, name in enumerate(names)], annotations=[])
    for n, name in enumerate(names):
        image(tmp_path / "train2017" / name, 50 + n)
    assert len(opened(tmp_path).train) == 3


def test_the_categorys_above_the_others_is_left_out_and_said(tmp_path):
    facts = described(roboflow(tmp_path))
    assert facts["refused"] == []
    assert any(
        "the category 'pets' of train/_annotations.coco.json is the supercategory of all others" in n
        for n in facts["notes"]
    )


def test_categories_are_one_by_their_names_whatever_their_ids(tmp_path):
    coco(tmp_path)
    others = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    objects = [annotation(n, n, category_id=7) for n in range(6, 9)]
    write(
        tmp_path / "annotations/instances_val2017.json", document(range(6, 9), categories=others, annotations=objects)
    )
    split = opened(tmp_path)
    assert split.classes == ["cat", "dog"]
    assert split.test.target(0)["labels"].tolist() == [1]
    others.append({"id": 9, "name": "bird"})
    write(
        tmp_path / "annotations/instances_val2017.json", document(range(6, 9), categories=others, annotations=objects)
    )
    assert "the class 'bird' is in val and not in train" in described(tmp_path)["notes"]


def compressed(counts):
    """The text of COCO's RLE, as ``rleToString`` of pycocotools writes it."""
    text = ""
    for n, count in enumerate(counts):
        value = count - counts[n - 2] if n > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 * more))
    return text


@pytest.mark.parametrize("counts", [RUNS, compressed(RUNS)])
def test_runs_are_masks(tmp_path, counts):
    whole = {"size": [20, 40], "counts": counts}
    coco(tmp_path, annotations=[annotation(1, 0, bbox=[0, 5, 1, 10], segmentation=whole)])
    target = opened(tmp_path, size=(20, 40)).train.target(0)
    mask = np.zeros((20, 40))
    mask[5:15, 0] = 1
    np.testing.assert_array_equal(target["masks"][0], mask)


@pytest.mark.parametrize("counts", [[800], [0, 800], [1, 0, 0, 799], [0, 1, 2, 3, 700, 60, 34], [3, 400, 2, 395]])
def test_runs_and_their_text_are_one(counts):
    assert sum(counts) == 800
    assert _coco_json.run_lengths(compressed(counts)) == counts
    assert rle_mask(Rle(20, 40, array("q", counts))).sum() == sum(counts[1::2])


def test_a_box_may_be_missing_where_there_are_polygons(tmp_path):
    coco(tmp_path, annotations=[annotation(1, 0, bbox=None, segmentation=[[1, 2, 9, 2, 9, 8]])])
    assert opened(tmp_path, size=(20, 40)).train.target(0)["boxes"].tolist() == [[1, 2, 9, 8]]


def test_an_object_in_parts_is_one(tmp_path):
    parts = [[0, 0, 5, 0, 5, 5, 0, 5], [30, 10, 40, 10, 40, 20, 30, 20]]
    coco(tmp_path, annotations=[annotation(1, 0, bbox=[0, 0, 40, 20], segmentation=parts)])
    target = opened(tmp_path, size=(20, 40)).train.target(0)
    assert target["labels"].tolist() == [1]
    assert target["masks"].sum() == 25 + 100


def test_an_image_without_annotations_is_background(tmp_path):
    coco(tmp_path)
    edited(tmp_path, lambda found: found.update(annotations=found["annotations"][1:]))
    assert [len(opened(tmp_path).train.target(i)["labels"]) for i in range(2)] == [0, 1]


def test_what_coco_publishes_beside_its_instances_is_not_read(tmp_path):
    coco(tmp_path)
    for name in ("captions_train2017", "person_keypoints_train2017", "image_info_test2017"):
        write(tmp_path / f"annotations/{name}.json", document(range(6)))
    facts = described(tmp_path)
    assert facts["used"] == {"train": 6, "test": 3}
    assert any("captions_train2017.json" in note and "are not read" in note for note in facts["notes"])


def test_json_of_windows_is_read(tmp_path):
    coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    write(path, "\ufeff" + json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n"), newline="")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "coco"
    assert len(opened(tmp_path).train) == 6


# What lies in an annotation: its image is refused by name; with skip_bad that image alone is left out.

OBJECTS = {
    "inverted": ({"bbox": [30, 5, -20, 10]}, "has a bbox -20 wide and 10 high; both must be at least 0"),
    "corners for sides": ({"bbox": [25, 5, 39, 19]}, r"has a box 25 5 64 24 .*outside its image of 40×20 pixels"),
    "outside": ({"bbox": [50, 5, 5, 5]}, "outside its image"),
    "not a number": ({"bbox": [float("nan"), 5, 5, 5]}, "has the bbox .*four numbers .* are needed"),
    "text": ({"bbox": ["1", 2, 3, 4]}, "has the bbox"),
    "three numbers": ({"bbox": [1, 2, 3]}, "has the bbox"),
    "nothing": ({"bbox": None, "segmentation": None}, "has neither a bbox nor polygons"),
    "unknown category": ({"category_id": 2}, "has the category_id 2; the categories have the ids 1, 18"),
    "negative category": ({"category_id": -1}, "has the category_id -1"),
    "fractional category": ({"category_id": 1.5}, r"has the category_id 1\.5"),
    "category of text": ({"category_id": "1"}, "has the category_id 1;"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "has a polygon of 4 numbers; an even count of at least 6"),
    "odd count": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "has a polygon of 7 numbers"),
    "polygon of text": ({"segmentation": [["a", "b"]]}, "has the polygon .*a list of numbers"),
    "outline outside": ({"segmentation": [[1, 2, 90, 2, 90, 8]]}, "has an outline in 1 2 90 8 .*outside its image"),
    "text for an outline": ({"segmentation": "x"}, "has the segmentation x; polygons or an RLE are needed"),
    "runs of another size": ({"segmentation": {"size": [40, 20], "counts": RUNS}}, "has a mask of 20×40 pixels"),
    "runs too short": ({"segmentation": {"size": [20, 40], "counts": [5, 10]}}, "an RLE of 15 pixels; 20×40 are 800"),
    "runs without a size": ({"segmentation": {"counts": RUNS}}, "has an RLE of the size None"),
    "negative runs": ({"segmentation": {"size": [20, 40], "counts": [-5, 805]}}, "counts are not run lengths"),
    "text that is cut": ({"segmentation": {"size": [20, 40], "counts": "P"}}, "has a compressed RLE that is cut"),
    "numbers without end": ({"bbox": [1, 2, 10**400, 4]}, "has the bbox"),
    "runs without end": ({"segmentation": {"size": [20, 10**30], "counts": [20 * 10**30]}}, "has an RLE of the size"),
    "text without end": ({"segmentation": {"size": [20, 40], "counts": "o" * 10**5}}, "compressed RLE with an invalid"),
    "text of other letters": ({"segmentation": {"size": [20, 40], "counts": "~~"}}, "with an invalid character, '~'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_annotation_that_lies(tmp_path, kind):
    change, why = OBJECTS[kind]
    coco(tmp_path)
    edited(tmp_path, lambda found: found["annotations"][2].update(change))
    owner = r"000002\.png has a faulty annotation: annotation 102 of annotations/instances_train2017\.json "
    with pytest.raises(UserError, match=f"1 of 9 images cannot be used: .*{owner}.*{why}"):
        opened(tmp_path)
    assert len(described(tmp_path)["refused"]) == 1
    split = opened(tmp_path, skip_bad=True)
    assert (len(split.train), split.left_out) == (5, {"train": {"": 1}})


CLEANED = {
    "no area": ({"bbox": [10, 5, 0, 10]}, "1 objects without area are left out"),
    "crowd": ({"iscrowd": 1, "segmentation": {"size": [20, 40], "counts": RUNS}}, r"1 crowds \(iscrowd = 1\) are left"),
    "of no image": ({"image_id": 999}, r"1 annotations of .* that it does not list; .* annotation 102 of image 999"),
    "of an image by text": ({"image_id": "2"}, "1 annotations of .* that it does not list"),
    "twice": ({"image_id": 3, "category_id": 18}, "1 objects are exact duplicates and are counted once"),
    "an id twice": ({"id": 101}, r"1 annotation ids occur more than once in .* \(first: 101\); all annotations"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLEANED)
def test_an_annotation_that_is_cleaned_and_counted(tmp_path, kind):
    change, said = CLEANED[kind]
    coco(tmp_path)
    edited(tmp_path, lambda found: found["annotations"][2].update(change))
    facts = described(tmp_path)
    assert re.search(said, "\n".join(facts["notes"])), facts["notes"]
    assert facts["refused"] == []
    train = opened(tmp_path).train
    assert sum(len(train.target(i)["labels"]) for i in range(6)) == (6 if kind == "an id twice" else 5)


def test_a_box_past_the_edge_is_cut(tmp_path):
    coco(tmp_path, annotations=[annotation(1, 0, bbox=[20, 10, 21.5, 10.5], segmentation=[])])
    assert opened(tmp_path, size=(20, 40)).train.target(0)["boxes"].tolist() == [[20, 10, 40, 20]]
    assert any("are clipped to it (annotations/instances" in note for note in described(tmp_path)["notes"])


def of_another_size(found):
    found["images"][2].update(width=39)
    return r"000002\.png is 40×20 pixels; annotations/instances_train2017\.json states 39×20"


def lying_on_its_side(found):
    found["images"][2].update(width=20, height=40)
    return r"000002\.png is 40×20 pixels; .* states 20×40"


def listed_twice(found):
    found["images"].append(entry(77, found["images"][2]["file_name"]))
    return r"000002\.png is listed twice in annotations/instances_train2017\.json, with the ids 2 and 77"


def listed_twice_in_other_words(found):
    found["images"].append(entry(77, "./" + found["images"][2]["file_name"]))
    return "is listed twice in .*, with the ids 2 and 77"


def not_there(found):
    found["images"][2]["file_name"] = "gone.png"
    return r"train2017/gone\.png cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "lie", [of_another_size, lying_on_its_side, listed_twice, listed_twice_in_other_words, not_there]
)
def test_an_image_that_lies(tmp_path, lie):
    coco(tmp_path)
    said = []
    edited(tmp_path, lambda found: said.append(lie(found)))
    with pytest.raises(UserError, match=said[0]):
        opened(tmp_path)
    assert len(opened(tmp_path, skip_bad=True).train) == 5


def test_a_size_that_is_not_stated_is_not_compared(tmp_path):
    coco(tmp_path)
    edited(tmp_path, lambda found: [one.pop("width") for one in found["images"]])
    assert len(opened(tmp_path).train) == 6


FILES = {
    "path up": (lambda found: found["images"][1].update(file_name="../../x.png"), r"which contains '\.\.'"),
    "path from the root": (lambda found: found["images"][1].update(file_name="/etc/x.png"), "which is absolute"),
    "drive": (lambda found: found["images"][1].update(file_name="C:\\x.png"), "which is absolute"),
    "image id twice": (lambda found: found["images"][1].update(id=0), r"the id 0 for the images 0+\.png and 0+1\.png"),
    "image without id": (lambda found: found["images"][1].pop("id"), "an id and a file_name are needed"),
    "image without name": (lambda found: found["images"][1].update(file_name=7), "an id and a file_name are needed"),
    "category id twice": (lambda found: found["categories"][1].update(id=1), "the id 1 for the categories 'cat' and"),
    "category name twice": (lambda found: found["categories"][1].update(name="cat"), "the name 'cat' for the cat"),
    "category id of text": (lambda found: found["categories"][1].update(id="b"), r"an integer id and a name are"),
    "a name of no letters": (lambda found: found["images"][1].update(file_name="\ud800.png"), "and a file_name are"),
    "a category of no letters": (lambda found: found["categories"][1].update(name="\udcff"), "and a name are needed"),
    "no categories": (lambda found: found.pop("categories"), "has no list 'categories' of JSON objects"),
    "no images": (lambda found: found.update(images=[]), r"instances_train2017\.json lists no images"),
    "annotations of numbers": (lambda found: found.update(annotations=[1]), "no list 'annotations' of JSON objects"),
    "other images": (lambda found: [one.update(file_name=f"x{one['id']}.png") for one in found["images"]],
                     r"lists 6 images, such as x0\.png; none of them was found in annotations, "),
    "one image in two parts": (lambda found: found["images"][1].update(file_name="../val2017/000000000006.png"),
                               r"which contains '\.\.'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_lies(tmp_path, kind):
    change, why = FILES[kind]
    coco(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(UserError, match=why):
        opened(tmp_path, skip_bad=True)


def test_one_image_in_two_parts(tmp_path):
    coco(tmp_path, "images")
    edited(tmp_path, lambda found: found["images"][1].update(file_name="000000000006.png"))
    with pytest.raises(UserError, match=r"000006\.png and .*000006\.png are the same file in two splits"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda text: text[:-40], r"cannot read annotations/instances_train2017\.json: not valid JSON at line 1, col"),
        (lambda text: text.replace('"info"', '"inf\xff'), "not valid JSON|not UTF-8"),
        (lambda text: '{"images": ' + "[" * 100_000, "nested too deep|not valid JSON"),
    ],
)  # fmt: skip
def test_json_that_is_cut(tmp_path, content, why):
    coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text(content(path.read_text()), encoding="latin-1")
    with pytest.raises(UserError, match=why):
        opened(tmp_path)


def test_two_files_of_one_part(tmp_path):
    coco(tmp_path)
    write(tmp_path / "annotations/train_new.json", document(range(6)))
    with pytest.raises(
        UserError, match=r"instances_train2017\.json and annotations/train_new\.json both name the split"
    ):
        opened(tmp_path)


def test_a_part_to_test_on_alone(tmp_path):
    coco(tmp_path)
    (tmp_path / "annotations/instances_train2017.json").unlink()
    split = opened(tmp_path)  # one file is one set, whatever its name
    assert (len(split.train), len(split.test)) == (2, 1)
    write(tmp_path / "annotations/instances_test2017.json", document(range(6)))
    with pytest.raises(UserError, match="is of the split train; name one after it"):
        opened(tmp_path)


def test_json_is_read_once(tmp_path, monkeypatch):
    layout, spec = layouts.get("coco"), Data(source=str(coco(tmp_path)))
    read, load = [], json.load
    monkeypatch.setattr(_coco_json.json, "load", lambda file: read.append(file.name) or load(file))
    layout.describe(spec, None)
    layout.read_cells(spec, "train", 3)
    layout.stamp(spec)
    opened(tmp_path)
    assert len(read) == 2
    edited(tmp_path, lambda found: found["annotations"][0]["bbox"].__setitem__(0, 9))
    opened(tmp_path)
    assert len(read) == 3  # the twin: the other part has not changed


def test_a_changed_annotation_changes_fingerprint_and_stamp(tmp_path):
    layout, spec = layouts.get("coco"), Data(source=str(coco(tmp_path)))
    before, stamp = opened(tmp_path).fingerprint, layout.stamp(spec)
    assert (opened(tmp_path).fingerprint, layout.stamp(spec)) == (before, stamp)
    edited(tmp_path, lambda found: found["annotations"][0]["bbox"].__setitem__(0, 9))
    assert opened(tmp_path).fingerprint != before
    assert layout.stamp(spec) != stamp


def test_classify_does_not_learn_the_parts(tmp_path):
    """``train2017`` and ``val2017`` look like two class folders."""
    coco(tmp_path)
    with pytest.raises(UserError, match="coco gives objects; label is needed"):
        open_data(Data(source=str(tmp_path)), "label")
    recipe = Recipe().with_overrides({"data.source": str(tmp_path), "task.name": "classify"})
    with pytest.raises(UserError, match=r"classify learns from targets of the kind 'label'; .* coco, has 'objects'"):
        choose_task(recipe)
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "detect"


def test_the_verb_describes(tmp_path):
    done = CliRunner().invoke(command, [str(coco(tmp_path)), "--json"])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert facts["layout"] == "coco"
    assert facts["parts"][1]["classes"] == {"cat": 2, "dog": 1}


def test_a_file_is_recognised_by_its_head(tmp_path, monkeypatch):
    coco(tmp_path)
    monkeypatch.setattr(imagefiles, "_read_header", None)
    monkeypatch.setattr(_coco_json.json, "load", None)
    path = tmp_path / "annotations/instances_train2017.json"
    write(path, path.read_text() + " " * 20_000_000)
    used = time.process_time()
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "coco"
    assert time.process_time() - used < 1


@pytest.mark.parametrize("stated", [10**9, 10**30, 1e300])
def test_a_stated_size_beyond_all_images(tmp_path, stated):
    coco(tmp_path)
    edited(tmp_path, lambda found: found["images"][1].update(width=stated))
    with pytest.raises(UserError, match=r"is 40×20 pixels; .*\.json states 1000000000×20"):
        opened(tmp_path)


def test_a_number_of_thousands_of_digits(tmp_path):
    path = coco(tmp_path) / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"area": 200', f'"area": {"9" * 5000}', 1))
    with pytest.raises(UserError, match=r"cannot read annotations/instances_train2017\.json: Exceeds the limit"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [{"images": [], "made": 1}, {"annotations": [1, 2]}])
def test_json_of_another_program_beside_class_folders(tmp_path, content):
    for n in range(4):
        image(tmp_path / "ab"[n % 2] / f"{n}.png", n)
    write(tmp_path / "notes.json", content)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    write(tmp_path / "notes.json", {"images": [], "annotations": []})  # the twin
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "coco"
