"""List files beside class folders: how lines are read, and no path that leads out of the folder."""

import pytest
from PIL import Image

from saccade.data import layouts, open_data
from saccade.data.layouts import class_list
from saccade.errors import UserError
from saccade.imagefiles import resolve_inside
from saccade.recipe import Data


@pytest.fixture
def root(tmp_path):
    for label in ("cat", "dog"):
        for i in range(6):
            picture(tmp_path / "set" / label / f"{i}.png", (i, ord(label[0]), 9))
    return tmp_path / "set"


def picture(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)


def write(root, **lists):
    for name, text in lists.items():
        (root / f"{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.txt").write_text(text, encoding="utf-8")


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "label")


def seen(images):
    """(number of the file, label) of each image, in order; the number is its red."""
    return [(int(images.raw_image(i)[0, 0, 0]), images.target(i)) for i in range(len(images))]


PLAIN = {"train": "cat/0.png\ndog/1.png\ndog/0.png\n", "test": "cat/5.png\ndog/5.png\n"}


@pytest.mark.parametrize(
    "lists",
    [
        PLAIN,
        {"train": "\ufeffcat/0\r\ndog/1\r\n\r\ndog/0\r\n", "test": "cat/5\ndog/5"},
        {"train": "./cat/0.png\n./dog/1.png\n./dog/0.png\n", "test": "cat\\5.png\ndog\\5.png\n"},
        {"train": "cat/0.png cat\ndog/1.png dog\ndog/0.png dog", "test": "cat/5.png\tcat\ndog/5.png\tdog"},
        {"train": "cat/0.png 0\ndog/1.png 1\ndog/0.png 1", "test": "cat/5.png 0\ndog/5.png 1"},
    ],
    ids=["endings", "none", "dots", "names", "indices"],
)
def test_lines_name_images_and_classes(root, lists):
    write(root, **lists)
    split = opened(root)
    assert seen(split.train) == [(0, 0), (0, 1), (1, 1)]
    assert seen(split.test) == [(5, 0), (5, 1)]
    assert split.val is None
    assert split.classes in (["cat", "dog"], ["0", "1"])
    assert "the parts 'train.txt' and 'test.txt'" in split.description


def test_the_lists_decide_and_not_the_folders(root):
    write(root, **PLAIN)
    assert layouts.find_layout(Data(source=str(root))).name == "class_list"
    before = opened(root)
    write(root, train=PLAIN["train"] + "cat/3.png\n")
    assert len(opened(root).train) == 4
    assert opened(root).fingerprint != before.fingerprint
    for name in ("train", "test"):
        (root / f"{name}.txt").unlink()
    assert layouts.find_layout(Data(source=str(root))).name == "class_folders"  # the twin


def test_lists_in_meta_and_images_in_their_folder(root):
    """The form of Food-101."""
    for label in ("cat", "dog"):
        (root / "images").mkdir(exist_ok=True)
        (root / label).rename(root / "images" / label)
    write(root, **{"meta/train": "dog/0\ncat/1\n", "meta/test": "dog/2\ncat/2\n", "meta/classes": "dog\ncat\n"})
    split = opened(root)
    assert split.classes == ["dog", "cat"]
    assert seen(split.train) == [(0, 0), (1, 1)]
    assert len(split.val or ()) == 0


def test_labels_of_images_that_lie_in_one_folder(root):
    """The form of ImageNet's validation part."""
    for i in range(6):
        picture(root / "images" / f"{i}.png", (i, 7, 9))
    write(root, train="0.png 65\n1.png 970\n2.png 65\n", test="./4.png 970\n5.png 65\n")
    split = opened(root)
    assert split.classes == ["65", "970"]
    assert seen(split.train) == [(0, 0), (2, 0), (1, 1)]
    assert seen(split.test) == [(5, 0), (4, 1)]


def test_three_lists_and_one(root):
    write(root, **PLAIN, val="cat/3.png\ndog/3.png\n")
    assert seen(opened(root).val) == [(3, 0), (3, 1)]
    for name in ("test", "val"):
        (root / f"{name}.txt").unlink()
    write(root, train="".join(f"{label}/{i}.png\n" for label in ("cat", "dog") for i in range(5)))
    split = opened(root)
    assert (len(split.train), len(split.test)) == (8, 2)
    assert "20% of each class held back with seed 0" in split.description


def test_folders_that_all_lines_share_are_no_class(root):
    """Absent a second class, such lists are of another layout: YOLO's name images alone."""
    write(root, train="images/train/1.png\nimages/train/2.png\n", test="images/test/3.png\n")
    assert layouts.find_layout(Data(source=str(root))).name == "class_folders"
    assert layouts.get("class_list").check_source(str(root)) == "train.txt names 1 class(es), at least 2 are needed"


def test_numbers_are_classes_in_their_order_and_names_may_be_given(root):
    write(root, train="cat/0.png 10\ncat/1.png 2\ndog/1.png 10\ndog/2.png 2\n", test="cat/3.png 10\ndog/3.png 2\n")
    assert opened(root).classes == ["2", "10"]
    write(root, train="cat/0.png 0\ndog/1.png 1\n", test="cat/3.png 0\ndog/3.png 1\n", classes="zebra\nape\n")
    assert opened(root).classes == ["zebra", "ape"]
    write(root, test="cat/3.png 0\ndog/3.png 2\n")
    with pytest.raises(
        UserError, match=r"test\.txt has the label '2'; classes\.txt has 2 names, with the indices 0 to 1"
    ):
        opened(root)


def test_each_line_of_classes_is_one_name(root, monkeypatch):
    write(root, train="cat/0.png 0\ndog/1.png 1\n", test="cat/3.png 0\ndog/3.png 1\n", classes="zebra\nzebra\n")
    with pytest.raises(UserError, match=r"classes\.txt has the name 'zebra' in the lines 1 and 2"):
        opened(root)
    write(root, classes="zebra\n\nape\n")
    with pytest.raises(UserError, match=r"line 2 of .*classes\.txt is blank"):
        opened(root)
    write(root, classes="zebra\nape\n \n\n")
    assert opened(root).classes == ["zebra", "ape"]  # the twin
    monkeypatch.setattr(class_list, "read_class_names", lambda path: ["zebra", "ape", "ape"])
    with pytest.raises(ValueError, match="the survey lists a file twice: 6 files, 4 images"):
        opened(root)


def test_the_class_lies_where_the_list_to_train_on_has_it(root):
    for label in ("cat", "dog"):
        (root / label / "deep").mkdir()
        for i in range(3):
            (root / label / f"{i}.png").rename(root / label / "deep" / f"{i}.png")
    lists = {"train": "cat/deep/0\ndog/deep/0\n", "test": "cat/deep/1\ndog/deep/1\n", "val": "cat/deep/2\n"}
    write(root, **lists)
    assert seen(opened(root).val) == [(2, 0)]
    write(root, val="cat/deep/2\ndog/deep/2\n")
    assert seen(opened(root).val) == [(2, 0), (2, 1)]


def test_a_listed_image_that_is_not_there(root):
    write(root, train=PLAIN["train"] + "dog/99.png\n", test=PLAIN["test"])
    with pytest.raises(UserError, match=r"dog/99\.png cannot be read: No such file"):
        opened(root)
    assert opened(root, skip_bad=True).left_out == {"train": {"dog": 1}}
    write(root, train=PLAIN["train"] + "dog/98\n", test=PLAIN["test"])
    with pytest.raises(UserError, match=r"dog/98 cannot be read: No such file"):
        opened(root)


def test_an_image_in_two_lists_or_without_a_class(root):
    write(root, train=PLAIN["train"], test=PLAIN["test"] + "cat/0.png\n")
    with pytest.raises(UserError, match=r"cat/0\.png and .*cat/0\.png are the same file in two splits"):
        opened(root)
    write(root, train=PLAIN["train"] + "7.png\n", test=PLAIN["test"])
    with pytest.raises(UserError, match=r"train\.txt names '7\.png', which is in no class folder"):
        opened(root)
    write(root, train=PLAIN["train"], test="cat/5.png\n")
    with pytest.raises(UserError, match=r"class 'dog' is in .*train\.txt but not in .*test\.txt"):
        opened(root)


@pytest.mark.parametrize("between", [" ", "\t", ",", ", ", ";", "   "])
def test_a_label_is_what_follows_the_ending(root, between):
    (root / "cat").rename(root / "a cat")
    write(
        root,
        train=f"a cat/0.png{between}golden retriever\ndog/1.png{between}cat\n",
        test=f"a cat/3.png{between}golden retriever\ndog/3.png{between}cat\n",
    )
    split = opened(root)
    assert split.classes == ["cat", "golden retriever"]
    assert seen(split.train) == [(1, 0), (0, 1)]
    write(root, train="a cat/0.png\ndog/1.png\n", test="a cat/3.png\ndog/3.png\n")
    assert opened(root).classes == ["a cat", "dog"]  # the twin


def test_the_line_that_is_unlike_the_others_is_named(root):
    write(root, train="cat/0.png 0\ndog/1.png 1\n", test="cat/3.png\ndog/3.png 1\n")
    with pytest.raises(UserError, match=r"test\.txt: the line of 'cat/3\.png' has no label, but other lines have one"):
        opened(root)
    write(root, train="cat/0.png\ndog/1.png\n", test="cat/3.png\ndog/3.png 1\n")
    with pytest.raises(UserError, match=r"test\.txt: the line of 'dog/3\.png' has a label, but other lines have none"):
        opened(root)
    write(root, train="filename,label\ncat/0.png,0\ndog/1.png,1\n", test="cat/3.png,0\ndog/3.png,1\n")
    with pytest.raises(UserError, match=r"train\.txt: the line of 'filename,label' has no label"):
        opened(root)


@pytest.mark.parametrize("line", [".", "/"])
def test_a_first_line_without_a_name(root, line):
    write(root, train=f"{line}\n{PLAIN['train']}", test=PLAIN["test"])
    with pytest.raises(UserError, match=f"names {line!r}, which is in no class folder".replace(".", r"\.")):
        opened(root)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/etc/cat/0.png", "is absolute"),
        ("C:/cat/0.png", "is absolute"),
        ("\\\\server\\cat\\0.png", "is absolute"),
        ("cat/../../out/0.png", "contains '..'"),
        ("cat\\..\\..\\out\\0.png", "contains '..'"),
        ("cat/link.png", "is a link that leads out of"),
        ("cat/away/0.png", "is a link that leads out of"),
    ],
)
def test_no_path_leads_out_of_the_folder(root, line, why):
    picture(root.parent / "out" / "0.png", (1, 2, 3))
    (root / "cat" / "link.png").symlink_to(root.parent / "out" / "0.png")
    (root / "cat" / "away").symlink_to(root.parent / "out")
    (root / "cat" / "within.png").symlink_to(root / "cat" / "4.png")
    write(root, train=f"{PLAIN['train']}{line}\ncat/within.png\n", test=PLAIN["test"])
    with pytest.raises(UserError) as caught:
        opened(root)
    assert why in str(caught.value)
    assert "train.txt" in str(caught.value)
    write(root, train=f"{PLAIN['train']}cat/within.png\n", test=PLAIN["test"])  # the twin: a link inside is followed
    assert len(opened(root).train) == 4
    assert resolve_inside(root, "cat/new..png", "x") == root / "cat" / "new..png"


def test_a_list_that_is_no_text(root):
    write(root, **PLAIN)
    (root / "test.txt").write_bytes(b"cat/\xff\xfe\n")
    with pytest.raises(UserError, match=r"cannot read .*test\.txt: it is not UTF-8"):
        opened(root)


def test_a_changed_list_changes_the_stamp(root):
    write(root, **PLAIN)
    layout, spec = layouts.get("class_list"), Data(source=str(root))
    before = layout.stamp(spec)
    assert layout.stamp(spec) == before
    write(root, train=PLAIN["train"] + "\n")
    assert layout.stamp(spec) != before
