"""Tables that lie: each is refused or cleaned by name, before any training."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data

ROWS = ["file,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(8))]
FLAGS = ["file,a,b", *(f"{i}.png,{i % 2},{i // 4}" for i in range(8))]


@pytest.fixture
def root(tmp_path):
    for i in range(8):
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (i, 3, 9)).save(tmp_path / "set" / "images" / f"{i}.png")
    return tmp_path / "set"


def write(root, lines, table="labels.csv"):
    data = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
    (root / table).write_bytes(data)


def changed(lines, **changes):
    """``lines`` with line ``lN``, from 1, replaced."""
    return [changes.get(f"l{n}", line) for n, line in enumerate(lines, 1)]


def with_columns(name, values):
    return [f"{line},{value}" for line, value in zip(ROWS, [name, *values], strict=True)]


def refused(root, layout="auto", target=None, **options):
    spec = Data(source=str(root), layout=layout, options=options)
    with pytest.raises(UserError) as caught:
        open_data(spec, target or layouts.find_layout(spec).list_targets(spec)[0])
    return str(caught.value)


LIES = {
    "an image that does not exist": (
        changed(ROWS, l4="2.jpg,a"),
        "set/2.jpg does not exist; line 4 of labels.csv names it. Did you mean '2.png'?",
    ),
    "an image with two labels": (
        [*ROWS, "0.png,b"],
        "0.png has two labels, in line 2 of labels.csv (a) and line 10 of labels.csv (b); one row for each image is",
    ),
    "an empty label": (changed(ROWS, l5="3.png, "), "line 5 of labels.csv has an empty label in the column 'label'"),
    "a label that pandas lost": (changed(ROWS, l5="3.png,NaN"), "line 5 of labels.csv has an empty label"),
    "an empty name": (changed(ROWS, l5=",b"), "line 5 of labels.csv names no image: its 'file' is empty"),
    "an unknown part": (
        with_columns("split", ["train", "tests", *["train"] * 5, "tests"]),
        "line 3 of labels.csv has 'tests' in the column 'split', as have 1 other rows; known names are train, "
        "training, test, testing, val, valid, validation. Did you mean 'test'",
    ),
    "a blank part": (
        with_columns("split", ["train", "", *["train"] * 5, "test"]),
        "line 3 of labels.csv has a blank in the column 'split'; known names are",
    ),
    "an image in two parts": (
        [*with_columns("split", [*["train"] * 6, "test", "test"]), "0.png,a,test"],
        "0.png is in two splits, in line 2 of labels.csv (train) and line 10 of labels.csv (test)",
    ),
    "no row to train on": (with_columns("split", ["test"] * 8), "no row names an image to train on"),
    "a 2 among 0 and 1": (
        changed(FLAGS, l6="4.png,2,1"),
        "line 6 of labels.csv has '2' in the column 'a'; 0 or 1 is needed. Set data.options.labels = ",
    ),
    "a blank among 0 and 1": (
        changed(FLAGS, l6="4.png,,1"),
        "line 6 of labels.csv has a blank in the column 'a'; 0 or 1 is needed. Set data.options.blank to 0 or 1",
    ),
    "a -1 among 0 and 1": (
        changed(FLAGS, l6="4.png,1,-1"),
        "line 6 of labels.csv has '-1' in the column 'b'; 0 or 1 is needed. Set data.options.uncertain to 0 or 1",
    ),
    "a nan among 0 and 1": (changed(FLAGS, l6="4.png,nan,1"), "line 6 of labels.csv has 'nan' in the column 'a'"),
    "no header": (
        ROWS[1:],
        "labels.csv has no header: its first line names '0.png'. Write the names of the columns above it, such as",
    ),
    "no header and no endings": (
        [line.replace(".png", "") for line in ROWS[1:]],
        "labels.csv has no header: its first line names '0'",
    ),
    "a short row": (changed(ROWS, l3="1.png"), "line 3 of labels.csv has 1 cells; the header has 2"),
    "a long row": (changed(ROWS, l3="1.png,b,c"), "line 3 of labels.csv has 3 cells; the header has 2"),
    "short rows alone": (["file,label", "1.png", "2.png"], "line 2 of labels.csv has 1 cells; the header has 2"),
    "an open quote": (changed(ROWS, l8='6.png,"a'), "labels.csv cannot be read from line 8 on: unexpected end of data"),
    "an unknown delimiter": (
        [line.replace(",", "|") for line in ROWS],
        "labels.csv has the one column 'file|label'; at least 2 are needed, separated by a comma, a semicolon or a "
        "tab; '|' is not supported",
    ),
    "two columns of one name": (
        [f"{line},x" if n else "file,label,label" for n, line in enumerate(ROWS)],
        "labels.csv has 2 columns called 'label'",
    ),
    "no label": (["file,age", *(f"{i}.png,4" for i in range(8))], "labels.csv has no column of labels; its columns"),
    "an absolute path": (
        changed(ROWS, l3="/content/drive/1.png,b"),
        "line 3 of labels.csv names '/content/drive/1.png', which is absolute; a path relative to the data folder",
    ),
    "a path of Windows": (changed(ROWS, l3="C:\\x\\1.png,b"), "names 'C:\\\\x\\\\1.png', which is absolute"),
    "a path out of the folder": (changed(ROWS, l3="../1.png,b"), "of labels.csv names '../1.png', which contains '..'"),
    "a header and no rows": (ROWS[:1], "labels.csv has a header and no rows"),
    "an empty file": ([""], "labels.csv is empty"),
    "another encoding": (
        "\n".join(ROWS).replace(",b", ",é").encode("latin-1"),
        "cannot read labels.csv: byte 25 is not UTF-8; save it as UTF-8",
    ),
    "UTF-16": ("\n".join(ROWS).encode("utf-16"), "cannot read labels.csv: it is UTF-16; save it as UTF-8"),
    "one class": ([line.replace(",b", ",a") for line in ROWS], "has 1 class(es); at least 2 are needed"),
    "a class with one image": (changed(ROWS, l3="1.png,c"), "class 'c' has 1 image; at least one to train on and one"),
    "a class in one part": (
        with_columns("split", ["train"] * 6 + ["test", "train"]),
        "class 'b' is in ",
    ),
    "an image without a group": (
        with_columns("patient", ["p", "p", "", "q", "q", "r", "r", "r"]),
        "line 4 of labels.csv has no 'patient'; every image needs one",
    ),
    "an image in two groups": (
        [*with_columns("patient", list("ppqqrrss")), "0.png,a,t"],
        "0.png is in two groups, in line 2 of labels.csv (p) and line 10 of labels.csv (t)",
    ),
    "labels that nobody has": (
        ["file,tags", *(f"{i}.png,{('none|nothing', 'none')[i % 2]}" for i in range(8))],
        "no row has a label",
    ),
    "none of them and one of them": (
        ["file,Finding Labels", *(f"{i}.png,{('a|b', 'b', 'No Finding|a')[i % 3]}" for i in range(8))],
        "line 4 of labels.csv has 'No Finding' together with 1 labels; remove one or the other",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_refused_by_name(root, lie):
    lines, message = LIES[lie]
    write(root, ROWS)
    assert len(open_data(Data(source=str(root)), "label").train) == 6  # the twin
    write(root, lines)
    assert message in refused(root)


def test_everything_that_is_wrong_is_said_at_once(root):
    write(root, changed(ROWS, l3="1.jpg,b", l4="2.png,", l5="/3.png,a"))
    done = CliRunner().invoke(command, [str(root), "--json"])
    assert done.exit_code == 1
    text = " | ".join(json.loads(done.stdout)["refused"])
    assert [part for part in ("1.jpg does not exist", "line 4 of", "names '/3.png'") if part not in text] == []


def test_images_that_do_not_exist_can_be_left_out(root):
    parts = ["train"] * 5 + ["test", "test", "train"]
    write(root, changed(with_columns("split", parts), l3="1.jpg,b,train", l4="77.png,a,train"))
    split = open_data(Data(source=str(root), skip_bad=True), "label")
    assert sum(sum(of.values()) for of in split.left_out.values()) == 2
    assert len(split.train) + len(split.test) == 6


def test_a_name_of_two_images(root):
    Image.new("RGB", (6, 6)).save(root / "images" / "1.jpg")
    write(root, [line.replace(".png", "") for line in ROWS])
    said = (
        "line 3 of labels.csv names '1', which matches images/1.jpg and images/1.png; write the full path "
        "with its extension"
    )
    assert said in refused(root)
    write(root, ROWS)
    assert len(open_data(Data(source=str(root)), "label").train) == 6
    (root / "more").mkdir()
    Image.new("RGB", (6, 6)).save(root / "more" / "2.png")  # beside images/, which is asked first
    assert len(open_data(Data(source=str(root)), "label").train) == 6


def cleaned(root, lines):
    write(root, lines)
    facts = json.loads(CliRunner().invoke(command, [str(root), "--json"]).stdout)
    assert facts["refused"] == []
    return facts["notes"], facts["parts"][0]["classes"]


def test_what_is_cleaned_is_said(root):
    notes, classes = cleaned(root, changed(ROWS, l2="0.png,a ", l3='1.png," b"'))
    assert "2 labels have spaces around them, which are removed" in notes
    assert classes == {"a": 4, "b": 4}
    notes, classes = cleaned(root, changed(ROWS, l2="0.png,A", l4="2.png,A"))
    assert "the labels 'A' and 'a' differ in capital letters only and are kept apart" in notes
    assert classes == {"A": 2, "a": 2, "b": 4}
    notes, _ = cleaned(root, [*ROWS, "0.png,a", "1.png,b"])
    assert "2 rows name an image again with the same labels; each image is used once" in notes
    notes, _ = cleaned(root, ROWS[:-2])
    assert "2 images are in no row and are not used" in notes
    notes, _ = cleaned(root, ["file,a,b,c", *(f"{i}.png,{i % 2},{i // 4},0" for i in range(8))])
    assert "2 images have none of the labels (line 2 of labels.csv is the first)" in notes
    assert "no image has 'c'" in notes


def test_a_link_to_one_image_is_taken_once(root):
    (root / "images" / "9.png").symlink_to("0.png")
    write(root, [*ROWS, "9.png,a"])
    split = open_data(Data(source=str(root)), "label")
    assert len(split.train) + len(split.test) == 8
    write(root, [*ROWS, "9.png,b"])
    assert "are the same file in two classes" in refused(root)
