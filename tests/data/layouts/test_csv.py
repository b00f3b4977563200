"""Tables in CSV beside images: every form, what headers say, and which folders stay what they are."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data, records
from saccade.data.samples import collate
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import choose_task


def picture(path, number=0):
    """An image whose red is ``number``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, len(path.name), 9)).save(path)


def fill(root, text, names=None, table="labels.csv"):
    """Eight images, unless they are named, and a table."""
    for number, name in enumerate(names or [f"images/{i}.png" for i in range(8)]):
        picture(root / name, number)
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def opened(root, target="label", **fields):
    return open_data(Data(source=str(root), **fields), target)


def seen(split, part="train"):
    """Number of the image -> target; a vector as a list."""
    images = getattr(split, part)
    targets = [images.target(i) for i in range(len(images))]
    numbers = [int(images.raw_image(i)[0, 0, 0]) for i in range(len(images))]
    return {n: t.int().tolist() if torch.is_tensor(t) else t for n, t in zip(numbers, targets, strict=True)}


def rows(*lines):
    return "".join(f"{line}\n" for line in lines)


SPLIT = ("train", "train", "train", "train", "test", "test", "val", "val")
LABELLED = rows("file,label,split", *(f"{i}.png,{'ab'[i % 2]},{SPLIT[i]}" for i in range(8)))


@pytest.mark.parametrize(
    "text",
    [
        LABELLED,
        LABELLED.replace(",", ";"),
        LABELLED.replace(",", "\t"),
        "\ufeff" + LABELLED.replace("\n", "\r\n"),
        LABELLED.replace("file,", '"file",').replace("3.png,b", '"3.png","b"') + "\n\n",
        LABELLED.replace("file", "Image Index").replace("label", "Diagnosis").replace("split", "Subset"),
        LABELLED.replace(".png", ""),
        LABELLED.replace("file,", "file , ").replace(",a,", ", a ,"),
        LABELLED.replace("test", "Testing").replace("val", "VALID"),
        "".join(f"{i - 1 if i else ''},{line}\n" for i, line in enumerate(LABELLED.splitlines())),
        LABELLED.replace("0.png", "images/0.png").replace("1.png", "./images\\1.png"),
        rows("label,age,split,sex,file", *(f"{'ab'[i % 2]},{i},{SPLIT[i]},F,{i}.png" for i in range(8))),
    ],
    ids=["commas", "semicolons", "tabs", "excel", "quotes", "headers", "no endings", "blanks", "words", "pandas",
         "paths", "others"],
)  # fmt: skip
def test_one_label_a_row(tmp_path, text):
    fill(tmp_path, text)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "csv"
    split = opened(tmp_path)
    assert split.classes == ["a", "b"]
    assert seen(split) == {0: 0, 1: 1, 2: 0, 3: 1}
    assert seen(split, "test") == {4: 0, 5: 1}
    assert seen(split, "val") == {6: 0, 7: 1}
    assert (split.train.groups, split.target) == (None, "label")


VECTORS = {
    0: [1, 0, 0],
    1: [0, 1, 1],
    2: [0, 0, 0],
    3: [1, 1, 0],
    4: [0, 0, 1],
    5: [1, 1, 1],
    6: [0, 0, 0],
    7: [1, 0, 1],
}


def delimited(mark, none, header="labels"):
    names = {i: mark.join(n for n, flag in zip("abc", flags, strict=True) if flag) for i, flags in VECTORS.items()}
    quoted = {i: f'"{text}"' if mark == "," and text else text for i, text in names.items()}
    return rows(f"file,{header},split", *(f"{i}.png,{quoted[i] or none},{SPLIT[i]}" for i in range(8)))


def flags(header="file,a,b,c,age,view,split", one="1", zero="0"):
    return rows(
        header,
        *(f"{i}.png,{','.join(one if f else zero for f in VECTORS[i])},{30 + i},PA,{SPLIT[i]}" for i in range(8)),
    )


@pytest.mark.parametrize(
    "text",
    [
        delimited("|", "No Finding", "Finding Labels"),
        delimited(" | ", "none"),
        delimited(";", ""),
        delimited(" ", "", "tags"),
        delimited(",", "", "tags"),
        flags(),
        flags(one="1.0", zero="0.0"),
        flags(one="True", zero="False"),
    ],
    ids=["bars", "blank bars", "semicolons", "blanks", "commas", "flags", "floats", "words"],
)
def test_several_labels_a_row(tmp_path, text):
    fill(tmp_path, text)
    split = opened(tmp_path, "vector")
    assert (split.classes, split.target) == (["a", "b", "c"], "vector")
    assert seen(split) | seen(split, "test") | seen(split, "val") == VECTORS
    images, targets = collate([split.train[i] for i in range(4)])
    assert images.shape == (4, 3, 8, 8)
    assert (targets.shape, targets.dtype) == ((4, 3), torch.float32)


def test_the_targets_choose_the_task(tmp_path):
    fill(tmp_path, flags())
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "multilabel"
    with pytest.raises(UserError, match="csv gives vector; label is needed"):
        opened(tmp_path)
    fill(tmp_path, LABELLED)
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "classify"


def test_one_1_in_every_row_is_a_class(tmp_path):
    text = rows("file,cat,dog", *(f"{i}.png,{int(i % 2 == 0)},{i % 2}" for i in range(8)))
    fill(tmp_path, text)
    facts = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).stdout)
    assert "each image has exactly one of 2 labels; they are read as classes" in facts["notes"]
    assert facts["parts"][0]["classes"] == {"cat": 4, "dog": 4}
    assert opened(tmp_path).classes == ["cat", "dog"]
    fill(tmp_path, text.replace("3.png,0,1", "3.png,1,1"))  # the twin
    assert opened(tmp_path, "vector").classes == ["cat", "dog"]


def test_phrases_are_one_label(tmp_path):
    names = ("golden retriever", "border collie, black", "red setter", "poodle")
    fill(tmp_path, rows("file,label", *(f'{i}.png,"{names[i % 4]}"' for i in range(8))))
    assert opened(tmp_path).classes == sorted(names)


def test_numbers_are_classes_in_their_order(tmp_path):
    fill(tmp_path, rows("id,level", *(f"{i},{(2, 10)[i % 2]}" for i in range(8))))
    assert opened(tmp_path).classes == ["2", "10"]


def test_the_options_say_what_headers_do_not(tmp_path):
    fill(
        tmp_path,
        rows("photo,colour,size,when,u", *(f"{i}.png,{'rb'[i % 2]},{'ls'[i // 4]},x,{i % 2}" for i in range(8))),
    )
    wanted = r"has 4 columns that may be the label: colour, size, when, u\. Set data\.options\.labels = 'colour'"
    with pytest.raises(UserError, match=wanted):
        opened(tmp_path)
    assert opened(tmp_path, options={"labels": "colour"}).classes == ["b", "r"]
    assert opened(tmp_path, options={"labels": "size", "image": "photo"}).classes == ["l", "s"]
    done = CliRunner().invoke(command, [str(tmp_path), "--set", "data.options.labels=size", "--json"])
    assert json.loads(done.stdout)["used"] == {"train": 6, "test": 2}
    for options, message in (
        ({"labels": "color"}, r"has no column 'color'\. Did you mean 'colour'\?"),
        ({"labels": "u,sice"}, r"has no column 'sice'\. Did you mean 'size'\?"),
        ({"image": "foto", "labels": "u"}, r"data\.options\.image: .* has no column 'foto'\. Did you mean 'photo'\?"),
        ({"group": "whem", "labels": "u"}, r"data\.options\.group: .* no column 'whem'\. Did you mean 'when'\?"),
        ({"label": "u", "labels": "u"}, r"csv has no option 'label'\. Did you mean 'labels'\?"),
        ({"file": "label.csv"}, r"the folder has no file 'label\.csv'\. Did you mean 'labels\.csv'\?"),
        ({"labels": "u", "blank": 2}, r"data\.options\.blank = 2: 0 or 1 is needed"),
        ({"labels": "u", "uncertain": "u"}, r"data\.options\.uncertain = 'u': 0 or 1 is needed"),
    ):
        with pytest.raises(UserError, match=message):
            opened(tmp_path, options=options)


def test_a_delimiter_can_be_said(tmp_path):
    fill(tmp_path, rows("file,label", *(f"{i}.png,{('a+b', 'a', 'b', 'a|b')[i % 4]}" for i in range(8))))
    assert opened(tmp_path, "vector").classes == ["a", "a+b", "b"]
    assert opened(tmp_path, "vector", options={"delimiter": "+"}).classes == ["a", "a|b", "b"]
    assert opened(tmp_path, options={"delimiter": ""}).classes == ["a", "a+b", "a|b", "b"]


def test_what_is_uncertain_or_blank_can_be_said(tmp_path):
    """The form of CheXpert."""
    lines = ("0,1.0,", "1,-1.0,1.0", "2,,0.0", "3,0.0,", "4,1.0,1.0", "5,,", "6,1.0,0.0", "7,0.0,1.0")
    fill(tmp_path, rows("Path,Edema,Mass,Sex,Age", *(f"{line},M,50" for line in lines)))
    with pytest.raises(
        UserError, match=r"line 3 of labels\.csv has '-1\.0' in the column 'Edema'; .*options\.uncertain"
    ):
        opened(tmp_path, "vector", options={"blank": 0})
    with pytest.raises(UserError, match=r"line 2 of labels\.csv has a blank in the column 'Mass'; .*options\.blank"):
        opened(tmp_path, "vector", options={"uncertain": 0})
    for uncertain in (0, 1):
        split = opened(tmp_path, "vector", options={"uncertain": uncertain, "blank": 0})
        assert (seen(split) | seen(split, "test"))[1] == [uncertain, 1]


def test_tables_of_parts(tmp_path):
    names = [f"{part}/{i}.png" for part in ("train", "test") for i in range(4)]
    lines = rows("id,breed", *(f"{i},{'ab'[i % 2]}" for i in range(4)))
    fill(tmp_path, lines, names, "train.csv")
    fill(tmp_path, rows("id", "0", "1"), names, "test.csv")
    split = opened(tmp_path)  # Kaggle's: no labels to test on
    assert split.description.endswith("held back with seed 0; 'test.csv' has no column 'breed' and is not used")
    assert {*seen(split), *seen(split, "test")} == {0, 1, 2, 3}
    fill(tmp_path, lines, names, "test.csv")
    split = opened(tmp_path)
    assert (seen(split), seen(split, "test")) == ({0: 0, 2: 0, 1: 1, 3: 1}, {4: 0, 6: 0, 5: 1, 7: 1})
    assert "the parts 'train.csv' and 'test.csv'" in split.description
    fill(tmp_path, rows("id,a,b", "0,1,1", "1,0,1"), names, "train.csv")
    fill(tmp_path, rows("id,a", "0,1", "1,0"), names, "test.csv")
    with pytest.raises(UserError, match=r"test\.csv has no column 'b'; train\.csv has it"):
        opened(tmp_path, "vector")


def test_the_table_of_roboflow(tmp_path):
    for part in ("train", "valid", "test"):
        text = rows("filename, cat, dog", "a b0.jpg, 1, 0", "c.jpg, 1, 1")
        fill(tmp_path / part, text, ["a b0.jpg", "c.jpg"], "_classes.csv")
    split = opened(tmp_path, "vector")
    assert split.classes == ["cat", "dog"]
    assert [seen(split, part) for part in ("train", "test", "val")] == [{0: [1, 0], 1: [1, 1]}] * 3


def test_paths_that_begin_with_parts_say_them(tmp_path):
    names = [f"{part}/{i}.png" for part in ("train", "valid") for i in range(4)]
    fill(tmp_path, rows("path,label", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names))), names)
    split = opened(tmp_path)
    assert (len(split.train), len(split.test), split.val) == (4, 4, None)
    assert "'valid' is the test part" in split.description
    assert "held back" in opened(tmp_path, options={"split": False}).description  # the twin


def test_a_table_beside_class_folders_does_not_take_them(tmp_path):
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(4)]
    lines = rows("file,photographer", *(f"{name},{'xyz'[i % 3]}" for i, name in enumerate(names)))
    fill(tmp_path, lines, names, "photographers.csv")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    assert "its rows name images in class folders (cat, dog)" in layouts.get("csv").check_source(str(tmp_path))
    assert opened(tmp_path, layout="csv").classes == ["x", "y", "z"]
    for old, new in (("cat", "images_001"), ("dog", "images_002")):  # the twin: folders of a data set in pieces
        (tmp_path / old).rename(tmp_path / new)
    (tmp_path / "photographers.csv").write_text(lines.replace("cat/", "images_001/").replace("dog/", "images_002/"))
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "csv"


def test_a_table_that_names_no_image_is_none(tmp_path):
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(4)]
    fill(tmp_path, rows("class,latin", "cat,Felis catus", "dog,Canis familiaris"), names, "classes.csv")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    reason = layouts.get("csv").check_source(str(tmp_path))
    assert reason == (
        "no column of classes.csv names any of the 8 images of the folder; the first row begins with 'cat'"
    )


def test_boxes_beside_labels_do_not_confuse(tmp_path):
    fill(tmp_path, rows("image,finding,x,y,w,h", "0.png,mass,1,1,4,4"), table="boxes.csv")
    with pytest.raises(
        UserError, match=r"boxes\.csv holds one box or RLE mask per row and is not read: convert it to COCO"
    ):
        opened(tmp_path)
    fill(tmp_path, LABELLED)
    assert opened(tmp_path).classes == ["a", "b"]
    fill(tmp_path, LABELLED.replace("label", "colour"), table="colours.csv")
    assert opened(tmp_path, options={"file": "colours.csv"}).fingerprint == opened(tmp_path).fingerprint
    (tmp_path / "labels.csv").rename(tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"colours\.csv and other\.csv are 2 tables of images; choose one"):
        opened(tmp_path)


def test_names_with_blanks_letters_and_folders(tmp_path):
    names = [
        "bilder/größe ü.png",
        "bilder/猫 1.png",
        "deep/er/2.PNG",
        "deep/3.tar.png",
        *(f"{i}.png" for i in range(4, 8)),
    ]
    lines = [f"{name.rpartition('/')[2]},{'ab'[i % 2]}" for i, name in enumerate(names)]
    fill(tmp_path, rows("file,label", *lines[:3], "3.tar,b", *lines[4:]), names)
    split = opened(tmp_path)
    assert seen(split) | seen(split, "test") == {i: i % 2 for i in range(8)}


def test_a_changed_table_changes_stamp_and_fingerprint(tmp_path):
    layout, spec = layouts.get("csv"), Data(source=str(fill(tmp_path, flags())))
    before, stamp = opened(tmp_path, "vector").fingerprint, layout.stamp(spec)
    assert (opened(tmp_path, "vector").fingerprint, layout.stamp(spec)) == (before, stamp)
    fill(tmp_path, flags().replace("3.png,1,1,0", "3.png,1,0,00".replace("00", "0 ")))
    assert opened(tmp_path, "vector").fingerprint != before
    assert layout.stamp(spec) != stamp


def test_a_sheet_names_the_labels(tmp_path):
    fill(tmp_path, flags())
    cells = layouts.get("csv").read_cells(Data(source=str(tmp_path)), "train", 4)
    assert [cell.caption for cell in cells] == ["a", "b, c", "", "a, b"]
    done = CliRunner().invoke(command, [str(tmp_path), "--show", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()[:2]] == [["class", "train", "test", "val"],
                                                                       ["a", "2", "1", "1"]]  # fmt: skip


def test_real_chest_radiographs_and_photographs(real_data):
    split = open_data(Data(source=f"{real_data}/nih_cxr1000", size=32, train_images=60, test_images=30), "vector")
    assert (len(split.train), len(split.test), len(split.val)) == (60, 30, 100)
    assert (len(split.classes), split.classes[0], split.classes[-1]) == (14, "Atelectasis", "Hernia")
    assert len(set(split.test.groups)) <= 30
    share = np.mean([split.train.target(i)[split.classes.index("Pneumonia")] for i in range(60)])
    assert 0.3 < share < 0.7
    with pytest.raises(UserError, match="143 of 143 classes have 1 image, such as 'African crocodile'; at least one"):
        open_data(Data(source=f"{real_data}/imagenet_sample"), "label")


def test_a_table_is_read_once_and_anew_when_it_changes(tmp_path, monkeypatch):
    fill(tmp_path, rows("file,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(8))))
    path, read = tmp_path / "labels.csv", []
    text_of = records._read_text
    monkeypatch.setattr(records, "_read_text", lambda path, owner: read.append(path) or text_of(path, owner))
    layout = layouts.find_layout(Data(source=str(tmp_path)))
    layout.describe(Data(source=str(tmp_path)), None)
    assert opened(tmp_path).classes == ["a", "b"]
    assert len(read) <= 2  # of one column at least, and of two
    before = path.stat()
    path.write_text(path.read_text().replace("b", "c"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time
    assert opened(tmp_path).classes == ["a", "c"]


def test_folders_of_which_no_name_is_in_both_parts_are_no_classes(tmp_path):
    """As of patients, each in one part."""
    names = {part: [f"{part}/{part[0]}{i // 2}/{i}.png" for i in range(4)] for part in ("train", "valid")}
    for part, of in names.items():
        fill(tmp_path, rows("path,label", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(of))), of, f"{part}.csv")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "csv"
    split = opened(tmp_path)
    assert (split.classes, len(split.train), len(split.test)) == (["a", "b"], 4, 4)
    shutil.copytree(tmp_path / "train/t0", tmp_path / "valid/t0")  # the twin
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


def test_one_part_of_class_folders_beside_a_table(tmp_path):
    names = [f"train/{'ab'[i % 2]}/{i}.png" for i in range(4)]
    fill(tmp_path, rows("path,colour", *(f"{name},{'xy'[i // 2]}" for i, name in enumerate(names))), names)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


def test_lesions_are_groups(tmp_path):
    lines = rows("lesion_id,image_id,dx", *(f"HAM_{i // 2},{i},{('nv', 'mel')[i // 2 % 2]}" for i in range(8)))
    split = opened(fill(tmp_path, lines, table="HAM10000_metadata.csv"))
    assert split.classes == ["mel", "nv"]
    assert not set(split.train.groups) & set(split.test.groups)


def test_tables_of_images_that_are_not_read_are_named(tmp_path):
    fill(tmp_path, rows("image,bald,young", *(f"{i}.png,{i % 2},{i // 4}" for i in range(8))), table="attributes.csv")
    (tmp_path / "partition.csv").write_text(rows("image,partition", *(f"{i}.png,{i % 3}" for i in range(8))))
    (tmp_path / "signs.csv").write_text(
        rows("path,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2", *(f"{i}.png,1,1,5,5" for i in range(8)))
    )
    facts = layouts.get("csv").describe(Data(source=str(tmp_path)), None)
    assert "partition.csv has no labels and is not read" in facts["notes"]
    assert "signs.csv holds one box or RLE mask per row and is not read" in facts["notes"]
    assert list(facts["parts"][0]["classes"]) == ["bald", "young"]
