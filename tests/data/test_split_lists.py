"""The form in which ChestX-ray14 is published: one table, lists of the two splits, images in several folders."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import choose_task

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
FINDINGS = ("Edema|Mass", "No Finding", "Mass", "No Finding", "Edema", "Hernia|Mass")
NAMES = [f"0000000{patient}_00{visit}.png" for patient in range(3) for visit in range(2)]
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000000_000.png,Mass,1.5,2.0,3.0,4.5,,,\n"


def chest(root, findings=FINDINGS, folders=("images_001/images", "images_002/images"), test=NAMES[4:], train=NAMES[:4]):
    for i, name in enumerate(NAMES):
        folder = root / folders[i % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * i).save(folder / name)
    lines = [
        f"{name},{findings[i]},{i % 2},{i // 2},058Y,M,{('PA', 'AP')[i % 2]},2682,2749,0.143,0.143,"
        for i, name in enumerate(NAMES)
    ]
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER, *lines]))
    (root / "BBox_List_2017.csv").write_text(BOXES)
    for list_name, names in (("train_val_list.txt", train), ("test_list.txt", test)):
        if names is not None:
            (root / list_name).write_text("\n".join(names))
    return root


def opened(root, **fields):
    spec = Data(source=str(root), **fields)
    assert layouts.find_layout(spec).name == "csv"
    return open_data(spec, "vector")


@pytest.mark.parametrize("folders", [("images_001/images", "images_002/images"), ("images",)])
def test_as_it_is_published(tmp_path, folders):
    split = opened(chest(tmp_path, folders=folders), options={"by": "View Position"})
    assert split.classes == ["Edema", "Hernia", "Mass"]
    assert (len(split.train), len(split.test), split.val) == (4, 2, None)
    assert (sorted(split.train.groups), split.test.groups) == (["0", "0", "1", "1"], ["2", "2"])
    assert (split.test.by.name, sorted(split.test.by.values)) == ("View Position", ["AP", "PA"])
    targets = {split.test.by.values[i]: split.test.target(i).tolist() for i in range(2)}
    assert targets == {"PA": [1, 0, 0], "AP": [0, 1, 1]}
    assert "'train_val_list.txt' and 'test_list.txt'" in split.description
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "multilabel"


def test_what_the_command_says(tmp_path):
    chest(tmp_path, test=[*NAMES[4:], "00000009_000.png"], train=NAMES[:2])
    result = CliRunner().invoke(command, [str(tmp_path), "--json"])
    summary = json.loads(result.stdout)
    assert (summary["refused"], summary["used"]) == ([], {"train": 2, "test": 2})
    assert "the splits are those of train_val_list.txt and test_list.txt" in summary["notes"]
    assert "2 rows are in neither list and are not used, such as 00000001_000.png" in summary["notes"]
    assert "1 listed images are in no row, such as 00000009_000.png" in summary["notes"]


def test_no_finding_is_no_class_even_without_a_second_label(tmp_path):
    split = opened(chest(tmp_path, findings=("Edema", "No Finding", "Mass", "No Finding", "Edema", "Mass")))
    assert split.classes == ["Edema", "Mass"]


def test_a_patient_in_both_lists_is_refused(tmp_path):
    chest(tmp_path, test=NAMES[3:], train=NAMES[:3])
    with pytest.raises(
        UserError, match=r"1 groups in two splits: the group '1' is in 'train_val_list.txt' .1 image. and"
    ):
        opened(tmp_path)


def test_an_image_in_both_lists_is_refused(tmp_path):
    chest(tmp_path, test=NAMES[3:])
    with pytest.raises(UserError, match=r"00000001_001.png is in train_val_list.txt and in test_list.txt"):
        opened(tmp_path)
    chest(tmp_path, test=NAMES, train=NAMES)
    with pytest.raises(UserError, match=r"6 images are in two lists"):
        opened(tmp_path)


def test_lists_are_not_read_if_told_so_or_if_one_is_missing(tmp_path):
    split = opened(chest(tmp_path), options={"split": False}, test_part=0.4)
    assert "whole groups (1 of 3 groups)" in split.description
    chest(tmp_path / "other", train=None)
    assert "whole groups (1 of 3 groups)" in opened(tmp_path / "other", test_part=0.4).description


def test_a_changed_list_changes_the_stamp(tmp_path):
    spec = Data(source=str(chest(tmp_path)))
    layout = layouts.find_layout(spec)
    before = layout.stamp(spec)
    assert layout.stamp(spec) == before
    (tmp_path / "test_list.txt").write_text("\n".join(NAMES[4:5]))
    assert layout.stamp(spec) != before
