"""Tables of several labels that lie: each is refused or left out by name, before any training."""

import numpy as np
import pytest
from PIL import Image

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
    "a word": (changed(FLAGS, 4, "2.png,0,yes,p1,AP,train"), {}, "has 'yes' in the column 'b'; 0 or 1 is needed"),
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
