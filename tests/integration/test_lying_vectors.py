"""Tables of labels that lie: each is refused or left out by name, before any training, or noted."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.training import train

FLAGS = ["image,a,b,patient,view,split"]
FLAGS += [f"{i}.png,{i % 2},{i // 4},p{i // 2},{('AP', 'PA')[i % 2]},{('train', 'test')[i // 4]}" for i in range(8)]
CELLS = ["image,labels,patient", *(f"{i}.png,{('a|b', 'b', '')[i % 3]},p{i // 2}" for i in range(8))]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (6, 6), (i, 3, 9)).save(tmp_path / "set" / "images" / f"{i}.png")
    return tmp_path / "set"


def write(root, lines):
    (root / "labels.csv").write_text("\n".join(lines))


def changed(lines, number, text):
    """``lines`` with line ``number``, from 1, replaced."""
    return [text if n == number else line for n, line in enumerate(lines, 1)]


def opened(root, **fields):
    spec = Data(source=str(root), **fields)
    assert layouts.find_layout(spec).list_targets(spec) == ("vector",)
    return open_data(spec, "vector")


LIES = {
    "a label that is nan": (changed(FLAGS, 3, "1.png,nan,0,p0,PA,train"), {}, "line 3 of labels.csv has 'nan' in the"),
    "a label that is NaN in capitals": (changed(FLAGS, 3, "1.png,1,NaN,p0,PA,train"), {}, "'NaN' in the column 'b'"),
    "a 2 among 0 and 1": (changed(FLAGS, 4, "2.png,2,0,p1,AP,train"), {}, "line 4 of labels.csv has '2' in the column"),
    "a probability": (changed(FLAGS, 4, "2.png,0.5,0,p1,AP,train"), {}, "has '0.5' in the column 'a'; 0 or 1 is"),
    "a word": (changed(FLAGS, 4, "2.png,0,maybe,p1,AP,train"), {}, "has 'maybe' in the column 'b'; 0 or 1 is needed"),
    "an uncertain label": (changed(FLAGS, 4, "2.png,-1,0,p1,AP,train"), {}, "Set data.options.uncertain to 0 or 1"),
    "a blank label": (changed(FLAGS, 4, "2.png,,0,p1,AP,train"), {}, "Set data.options.blank to 0 or 1"),
    "a meaning of blanks that is no label": (FLAGS, {"blank": 2}, "data.options.blank = 2: 0 or 1 is needed"),
    "a missing image": (changed(FLAGS, 5, "3.jpg,1,0,p1,PA,train"), {}, "3.jpg does not exist; line 5 of labels.csv"),
    "two rows with other labels": (
        [*FLAGS, "0.png,1,1,p0,AP,train"], {},
        "0.png has two labels, in line 2 of labels.csv (none) and line 10 of labels.csv (a, b)",
    ),
    "two rows with other splits": ([*FLAGS, "0.png,0,0,p0,AP,test"], {}, "0.png is in two splits, in line 2"),
    "two rows with other patients": ([*FLAGS, "0.png,0,0,p7,AP,train"], {}, "0.png is in two groups, in line 2"),
    "two rows with other views": (
        [*FLAGS, "0.png,0,0,p0,,train"], {"by": "view"},
        "0.png has two values of 'view', in line 2 of labels.csv ('AP') and line 10 of labels.csv (a blank)",
    ),
    "a patient to train and to test on": (
        changed(FLAGS, 6, "4.png,0,1,p1,AP,test"), {},
        "1 groups in two splits: the group 'p1' is in 'train' (2 images) and in 'test' (1 image)",
    ),
    "a patient to train and to validate on": (
        changed(FLAGS, 5, "3.png,1,0,p1,PA,val"), {}, "the group 'p1' is in 'train' (1 image) and in 'val' (1 image)",
    ),
    "no patient": (changed(FLAGS, 4, "2.png,0,0,,AP,train"), {}, "line 4 of labels.csv has no 'patient'"),
    "an unknown split": (changed(FLAGS, 4, "2.png,0,0,p1,AP,trian"), {}, "'trian' in the column 'split'"),
    "an unknown column of values": (
        FLAGS, {"by": "veiw"}, "data.options.by: labels.csv has no column 'veiw'. Did you mean 'view'? There are",
    ),
    "a column without values": (
        [line.replace("AP", "").replace("PA", "") for line in FLAGS], {"by": "view"},
        "data.options.by: the column 'view' has 0 values; 1 to 20 are needed",
    ),
    "a label that is no column": (FLAGS, {"labels": "a,c"}, "data.options.labels: labels.csv has no column 'c'"),
    "none and a label in one cell": (
        changed(CELLS, 3, "1.png,No Finding|b,p0"), {}, "line 3 of labels.csv has 'No Finding' together with 1 labels",
    ),
    "cells without any label": (
        [CELLS[0], *(f"{i}.png,none|,p{i}" for i in range(8))], {}, "no row has a label",
    ),
    "a short row": (changed(FLAGS, 4, "2.png,0,0,p1"), {}, "line 4 of labels.csv has 4 cells; the header has 6"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_refused_by_name(root, lie):
    lines, options, message = LIES[lie]
    write(root, FLAGS)
    assert len(opened(root, options={"by": "view"}).test) == 4  # the twin
    write(root, lines)
    with pytest.raises(UserError) as caught:
        open_data(Data(source=str(root), options=options), "vector")
    assert message in str(caught.value)


def test_too_many_values_are_refused(root):
    for i in range(8, 21):
        Image.new("RGB", (6, 6), (i, 3, 9)).save(root / "images" / f"{i}.png")
    rows = [f"{i}.png,{i % 2},{i // 4 % 2},v{i}" for i in range(21)]
    write(root, ["image,a,b,view", *rows])
    with pytest.raises(UserError, match="the column 'view' has 21 values; 1 to 20 are needed"):
        opened(root, options={"by": "view"})
    write(root, ["image,a,b,view", *rows[:20]])
    assert len(opened(root, options={"by": "view"}).train.by.levels) == 16


def test_what_can_be_left_out_is_left_out(root):
    write(root, [*changed(FLAGS, 3, "1.png,1,0,p0,,train"), "9.png,0,0,p9,AP,train", "0.png,0,0,p0,AP,train"])
    split = opened(root, skip_bad=True, options={"by": "view"})
    assert (len(split.train), len(split.test), split.left_out) == (4, 4, {"train": {"": 1}})
    codes = dict(zip(split.train.by.values, split.train.codes()["by"].tolist(), strict=True))
    assert codes == {"AP": 0, "": -1, "PA": 1}


def test_a_test_part_without_enough_labels_is_refused_before_anything_is_written(root):
    lines = [line.replace(",p", f",{'c' if n == 0 else 0},p", 1) for n, line in enumerate(FLAGS)]
    write(root, lines)
    recipe = Recipe().with_overrides({"data.source": str(root), "data.size": 16, "model.options": {"width": 4}})
    with pytest.raises(UserError, match=r"no class can be scored: .* a 2 \(groups: 2\), b 4 \(groups: 2\), c 0 \(gr"):
        train(recipe, root / "run")
    assert not list((root / "run").glob("*.json"))


def test_a_label_that_nobody_has_is_noted_and_trained(root):
    """Its targets are 0 everywhere, and it is never averaged."""
    write(root, ["image,a,b,c", *(f"{i}.png,{i % 2},{i // 4},0" for i in range(8))])
    split = opened(root)
    assert split.classes == ["a", "b", "c"]
    assert np.stack([split.train.target(i) for i in range(len(split.train))])[:, 2].max() == 0


def rows(header, *columns, names=None):
    """Eight rows: the image, and the values of each column, repeated as often as needed."""
    cells = [[str(column[i % len(column)]) for column in columns] for i in range(8)]
    return [header, *(",".join([names[i] if names else f"{i}.png", *cells[i]]) for i in range(8))]


AB = ["0", "1"], ["0", "0", "1"]
REFUSED = {
    "a split in flags": (rows("image,a,b,is_train", *AB, "1110"), "the 0/1 column 'is_train' of labels.csv may be the"),
    "a split in flags beside a label": (rows("image,label,is_test", "ab", "0001"), "the 0/1 column 'is_test' of labe"),
    "two splits": (
        rows("image,label,phase,dataset", "ab", ["train", "test"], ["train", "val"]),
        "labels.csv has 2 columns that may be the split: phase, dataset. Set data.options.split = 'phase'",
    ),
    "another split": (
        rows("image,label,phase", "ab", ["train", "train", "test", "dev"]), "line 5 of labels.csv has 'dev' in the col",
    ),
    "a label beside flags": (
        rows("image,a,b,target", *AB, "01"), "labels.csv has the column 'target' and 2 columns of 0 and 1 (a, b)",
    ),
    "names beside flags": (
        rows("image,a,b,name", *AB, ["Ann", "Ben"]), "labels.csv has the column 'name' and 2 columns of 0 and 1 (a, b)",
    ),
    "no finding and a finding": (
        rows("image,No Finding,Edema", "1", "01"), "line 3 of labels.csv has 1 in the column 'No Finding' and",
    ),
    "labels separated by commas": (
        rows("image,label", ['"Edema, Mass"', "Edema", "Mass"]),
        "the label 'Edema, Mass' contains ',', which may separate labels. Set data.options.delimiter = ',', or '' if",
    ),
    "labels separated by slashes": (
        rows("image,label", ["Edema/Mass", "Edema", "Mass"]), "the label 'Edema/Mass' contains '/', which may separate",
    ),
    "two separators": (
        rows("image,labels", ["a|b", "a", "c;d"]), "the label 'c;d' contains ';', which may separate labels. Set",
    ),
    "NA": (rows("image,label", ["a", "b", "NA"]), "line 4 of labels.csv has an empty label in the column 'label'"),
    "N/A": (rows("image,label", ["a", "N/A", "b"]), "line 3 of labels.csv has an empty label in the column 'label'"),
    "two columns of images": (
        rows("image,filename,label", [f"{7 - i}.png" for i in range(8)], "ab"),
        "the columns 'filename' and 'image' of labels.csv both name images; line 2 of labels.csv names 7.png and "
        "0.png. Set data.options.image = 'filename'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", REFUSED)
def test_what_cannot_be_known_is_refused(root, lie):
    lines, message = REFUSED[lie]
    write(root, rows("image,label", "ab"))
    assert open_data(Data(source=str(root)), "label").classes == ["a", "b"]  # the twin
    write(root, lines)
    spec = Data(source=str(root))
    with pytest.raises(UserError) as caught:
        open_data(spec, layouts.find_layout(spec).list_targets(spec)[0])
    assert message in str(caught.value)


def described(root):
    return json.loads(CliRunner().invoke(command, [str(root), "--json"]).stdout)


CHEXPERT = [f"patient{1 + i // 2:05}/study1/view{1 + i % 2}.png" for i in range(8)]
NOTED = {
    "which columns are labels": (
        rows("image,a,b,PA", *AB, "0011"),
        "the labels are the 3 columns of 0 and 1 in labels.csv: a, b, PA; data.options.labels = 'one,other' names",
    ),
    "columns that are not labels": (
        rows("image,a,b,c,d,e", *AB, ["0.2", "0.7"], ["x", ""], ["-1", ""]),
        "Not read, because their values are not 0 and 1: c, d, e",
    ),
    "a label that nobody was asked about": (
        rows("image,a,b,c", *AB, [""]), "Not read, because their values are not 0 and 1: c",
    ),
    "a group of two values": (
        rows("image,label,lesion", "ab", "0011"),
        "the column 'lesion' of labels.csv holds 0 and 1 only and is not read as the group; data.options.group = ",
    ),
    "groups in two cases": (
        rows("image,label,patient", "ab", ["p1", "p2", "P1"]),
        "the groups 'P1' and 'p1' differ in capital letters only and are kept apart",
    ),
    "blank cells": (
        rows("image,Finding Labels", ["a|b", "a", "", "No Finding"]),
        "2 of them have a blank in the column of labels (line 4 of labels.csv is the first), which is read as no label",
    ),
    "a comma in a label": (
        rows("image,label", ['"Edema, Mass"', "Edema"]),
        "the label 'Edema, Mass' contains ',' and is kept whole; data.options.delimiter = ',' divides it",
    ),
    "labels that differ in spaces": (
        rows("image,label", ["Lung Mass", "lung_mass", "other"]),
        "the labels 'Lung Mass' and 'lung_mass' differ in capital letters, spaces, _ or .0 only and are kept apart",
    ),
    "labels that are one number": (rows("image,label", ["1", "1.0", "2"]), "the labels '1.0' and '1' differ in"),
}  # fmt: skip


@pytest.mark.parametrize("lie", NOTED)
def test_what_may_be_wrong_is_noted(root, lie):
    lines, message = NOTED[lie]
    write(root, rows("image,label", "ab"))
    assert message not in " | ".join(described(root)["notes"])  # the twin
    write(root, lines)
    summary = described(root)
    assert message in " | ".join(summary["notes"])
    assert summary["refused"] == []


@pytest.mark.parametrize("header", ["dataset", "phase", "Which"])
def test_a_column_of_split_names_is_the_split(root, header):
    write(root, rows(f"image,label,{header}", "ab", ["Train", "train", "train", "train", "TEST", "test", "val", "val"]))
    split = open_data(Data(source=str(root)), "label")
    assert (len(split.train), len(split.test), len(split.val)) == (4, 2, 2)
    write(root, rows(f"image,label,{header}", "ab", ["train", "x", "y", "z"]))
    assert "held back" in open_data(Data(source=str(root)), "label").description  # the twin
    write(root, rows(f"image,label,{header}", "ab", ["train", "test"]))
    split = open_data(Data(source=str(root), options={"split": False}), "label")
    assert "held back" in split.description


@pytest.mark.parametrize(
    "folders", [("train_images", "test_images"), ("images/train", "images/val"), ("x/Trainset", "x/testing")]
)
def test_folders_of_splits_under_one_table(root, folders):
    for i in range(8):
        folder = root / folders[i // 4]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(root / f"images/{i}.png", folder / f"{i}.png")
    write(root, rows("image,label", "ab"))
    split = open_data(Data(source=str(root)), "label")
    assert (len(split.train), len(split.test)) == (4, 4)
    assert {int(split.test.raw_image(i)[0, 0, 0]) for i in range(4)} == {4, 5, 6, 7}
    shutil.move(root / folders[0] / "0.png", root / "0.png")
    assert "1 images are in no such folder; write a column split" in " | ".join(described(root)["notes"])


def test_cases_are_groups(root):
    write(root, rows("image,label,case", "ab", ["c1", "c1", "c2", "c2", "c3", "c3"]))
    split = open_data(Data(source=str(root)), "label")
    assert not set(split.train.groups) & set(split.test.groups)
    write(root, rows("image,label,case", "ab", "01"))
    assert open_data(Data(source=str(root)), "label").train.groups is None  # the twin: 0/1


def test_folders_of_patients_are_groups(root):
    for i, name in enumerate(CHEXPERT):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / f"images/{i}.png", root / name)
    write(root, rows("Path,a,b", *AB, names=CHEXPERT))
    split = opened(root)
    assert {*split.train.groups, *split.test.groups} == {f"patient0000{i}" for i in range(1, 5)}
    assert not set(split.train.groups) & set(split.test.groups)
    assert "images are in 4 groups, by folders such as 'patient00001'" in " | ".join(described(root)["notes"])
    assert opened(root, options={"group": False}).train.groups is None  # the twin


def test_a_patient_of_two_spellings_is_one(root):
    for first, second in (("1", "1.0"), ("007", "7"), ("p 1", "p  1")):
        (root / "train.csv").write_text("\n".join(rows("image,a,b,patient", *AB, [first, "x"])[:5]))
        header, *lines = rows("image,a,b,patient", *AB, [second, "y"])
        (root / "test.csv").write_text("\n".join([header, *lines[4:]]))
        with pytest.raises(UserError, match=f"1 groups in two splits: the group '{first}' is in 'train.csv'"):
            opened(root)
        (root / "test.csv").write_text("\n".join([header, *lines[4:]]).replace(f",{second}", ",9"))
        assert set(opened(root).test.groups) == {"9", "y"}  # the twin


def test_flags_can_be_written_in_words(root):
    write(root, rows("image,a,b", ["1.00", "0.00"], ["no", "Yes", "false"]))
    split = opened(root, test_part=0.25)
    assert split.classes == ["a", "b"]
    targets = [part.target(i).tolist() for part in (split.train, split.test) for i in range(len(part))]
    assert np.sum(targets, 0).tolist() == [4, 3]


def test_commas_in_finding_labels_separate(root):
    write(root, rows("image,Finding Labels", ['"Mass, Pleural Effusion"', "Mass", "No Finding", "Pleural Effusion"]))
    assert opened(root).classes == ["Mass", "Pleural Effusion"]
    write(root, rows("image,Finding Labels", ["Mass", "No Finding", "Pleural Effusion"]))
    assert opened(root).classes == ["Mass", "Pleural Effusion"]  # the twin: no separator


def test_separators_that_differ_between_tables_are_refused(root):
    train, test = rows("image,labels", ["a|b", "a", "b"])[:5], rows("image,labels", ["a;b", "a", "b"])
    (root / "train.csv").write_text("\n".join(train))
    (root / "test.csv").write_text("\n".join([test[0], *test[5:]]))
    with pytest.raises(UserError, match="the label 'a;b' contains ';', which may separate labels"):
        opened(root)
    (root / "test.csv").write_text("\n".join([test[0], *test[5:]]).replace(";", "|"))
    assert opened(root).classes == ["a", "b"]  # the twin


def test_a_device_is_no_finding(root):
    write(root, rows("image,No Finding,Support Devices,Edema", "1100", "01", "0011"))
    assert opened(root).classes == ["No Finding", "Support Devices", "Edema"]


def test_one_name_in_two_unicode_forms_is_one_label(root):
    names = [unicodedata.normalize(form, "Ödem") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    write(root, rows("image,label", [*names, "x"]))
    assert open_data(Data(source=str(root)), "label").classes == ["x", names[0]]


def test_equal_images_with_other_labels_are_a_caution(root):
    shutil.copy(root / "images/0.png", root / "images/1.png")
    write(root, FLAGS)
    caution = (
        "1 images have the bytes of an image with other labels: images/0.png and images/1.png. "
        "At most one set of labels is right."
    )
    assert caution in opened(root).cautions
    write(root, changed(FLAGS, 3, "1.png,0,0,p0,PA,train"))
    assert [said for said in opened(root).cautions if "bytes" in said] == []  # the twin
