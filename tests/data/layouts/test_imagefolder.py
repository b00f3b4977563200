"""Hugging Face's imagefolder: metadata in CSV and JSON Lines, in the folder or in each part."""

import json

import pytest
from PIL import Image

from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data


def fill(folder, rows, table="metadata.jsonl"):
    """An image for each row, and the table; a row is what stands beside ``file_name``."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [{"file_name": f"{i}.png", **row} for i, row in enumerate(rows)]
    for i, row in enumerate(named):
        (folder / row["file_name"]).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (i, 3, 9)).save(folder / row["file_name"])
    if table.endswith(".csv"):
        lines = [",".join(named[0]), *(",".join(map(str, row.values())) for row in named)]
    else:
        lines = [json.dumps(row) for row in named]
    (folder / table).write_text("\n".join(lines))
    return folder


def opened(root, target="label", **fields):
    return open_data(Data(source=str(root), **fields), target)


ONE = [{"label": "ab"[i % 2], "text": "a dog, or not"} for i in range(6)]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("parts", [(), ("train", "test", "validation")], ids=["alone", "parts"])
def test_one_label(tmp_path, table, parts):
    rows = ONE if table.endswith("jsonl") else [{"label": row["label"], "extra": 1} for row in ONE]
    for part in parts or ("",):
        fill(tmp_path / part, rows, table)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "imagefolder"
    split = opened(tmp_path)
    assert split.classes == ["a", "b"]
    assert (len(split.train), len(split.test)) == ((6, 6) if parts else (4, 2))
    assert len(split.val or ()) == 2 * len(parts)
    assert [split.train.target(i) for i in range(4)] == ([0, 0, 0, 1] if parts else [0, 0, 1, 1])


def test_labels_in_lists(tmp_path):
    rows = [{"labels": labels} for labels in (["b"], ["a", "b"], [], ["a"], ["a", "c, d"], ["b"])]
    split = opened(fill(tmp_path, rows), "vector")
    assert split.classes == ["a", "b", "c, d"]
    found = {
        int(s.raw_image(i)[0, 0, 0]): s.target(i).int().tolist()
        for s in (split.train, split.test)
        for i in range(len(s))
    }
    assert found == {0: [0, 1, 0], 1: [1, 1, 0], 2: [0, 0, 0], 3: [1, 0, 0], 4: [1, 0, 1], 5: [0, 1, 0]}


def test_numbers_are_labels_and_groups_are_kept(tmp_path):
    rows = [{"label": i % 2, "patient": f"p{i // 2}"} for i in range(12)]
    split = opened(fill(tmp_path, rows))
    assert split.classes == ["0", "1"]
    assert not set(split.train.groups) & set(split.test.groups)


def test_folders_of_parts_below_one_table(tmp_path):
    rows = [{"file_name": f"{part}/{i}.png", "label": "ab"[i % 2]} for part in ("train", "test") for i in range(4)]
    split = opened(fill(tmp_path, rows))
    assert (len(split.train), len(split.test)) == (4, 4)


def test_a_part_without_labels_is_not_used(tmp_path):
    fill(tmp_path / "train", ONE)
    fill(tmp_path / "validation", ONE)
    fill(tmp_path / "test", [{"text": "x"}] * 3)
    split = opened(tmp_path)
    assert (len(split.test), split.val) == (6, None)
    assert "'test/metadata.jsonl' is not used: test/metadata.jsonl has no column label or labels" in split.description


def test_folders_of_classes_stay_the_labels(tmp_path):
    rows = [{"file_name": f"{'ab'[i % 2]}/{i}.png", "text": "x"} for i in range(8)]
    for part in ("train", "test"):
        fill(tmp_path / part, rows)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    fill(tmp_path / "train", [row | {"label": "c"} for row in rows])  # the twin
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "imagefolder"


@pytest.mark.parametrize("mark", ["\u2028", "\x85"])
def test_a_text_with_another_line_mark(tmp_path, mark):
    """Writers of JSON leave these as they are; Python's splitlines() cuts there."""
    fill(tmp_path, ONE)
    path = tmp_path / "metadata.jsonl"
    path.write_text(path.read_text().replace("a dog", f"a{mark}dog"), encoding="utf-8")
    assert len(opened(tmp_path).train) == 4


def test_groups_in_one_part_alone(tmp_path):
    fill(tmp_path / "train", [row | {"patient": f"p{i}"} for i, row in enumerate(ONE)])
    fill(tmp_path / "test", ONE)
    with pytest.raises(UserError, match=r"test/metadata\.jsonl has no column 'patient'; train/metadata\.jsonl has it"):
        opened(tmp_path)
    assert opened(tmp_path, options={"group": False}).train.groups is None


def no_label(root):
    fill(root, [{"text": "x"}] * 4)
    return "metadata.jsonl has no column label or labels; captions in 'text' are not labels"


def objects(root):
    fill(root, [{"objects": [[0, 0, 2, 2]]}] * 4)
    return "no column label or labels; boxes in 'objects' are not read: convert them to COCO or YOLO"


def no_name(root):
    fill(root, ONE)
    (root / "metadata.jsonl").write_text((root / "metadata.jsonl").read_text().replace("file_name", "name"))
    return "metadata.jsonl has no column 'file_name'; its columns are name, label, text"


def cut(root):
    fill(root, ONE)
    text = (root / "metadata.jsonl").read_text()
    (root / "metadata.jsonl").write_text(text[: text.rindex('"label')])
    return "line 6 of metadata.jsonl is not valid JSON: "


def unlike(root):
    fill(root, ONE)
    lines = (root / "metadata.jsonl").read_text().splitlines()
    (root / "metadata.jsonl").write_text("\n".join([*lines[:3], lines[3].replace("label", "lable"), *lines[4:]]))
    return "line 4 of metadata.jsonl has no 'label'; the first line has it"


def no_object(root):
    fill(root, ONE)
    with (root / "metadata.jsonl").open("a") as file:
        file.write("\n[1, 2]")
    return "line 7 of metadata.jsonl holds list; an object is needed"


def packed(root):
    fill(root, ONE)
    (root / "metadata.jsonl").rename(root / "metadata.parquet")
    return "metadata.parquet is not read: convert it to metadata.csv"


def gone(root):
    fill(root, ONE)
    (root / "3.png").unlink()
    return "3.png does not exist; line 4 of metadata.jsonl names it"


def empty(root):
    fill(root, [row | {"label": "" if i == 2 else row["label"]} for i, row in enumerate(ONE)])
    return "line 3 of metadata.jsonl has an empty label in the column 'label'"


def nothing(root):
    fill(root, [row | {"label": None if i == 2 else row["label"]} for i, row in enumerate(ONE)])
    return "line 3 of metadata.jsonl has an empty label in the column 'label'"


@pytest.mark.parametrize("lie", [no_label, objects, no_name, cut, unlike, no_object, packed, gone, empty, nothing])
def test_each_lie_is_refused_by_name(tmp_path, lie):
    said = lie(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert said in str(caught.value)


def test_flags_beside_the_label_are_not_the_label(tmp_path):
    fill(tmp_path, [{"label": "ab"[i % 2], "flash": i % 2, "indoor": i // 3} for i in range(6)])
    assert opened(tmp_path).classes == ["a", "b"]
