"""Groups never span two splits and are held back whole."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data import layouts, open_data
from saccade.data.groups import folder_groups, group_key, group_name_notes, groups_in_two_splits, hold_back_groups
from saccade.data.selection import select_files
from saccade.data.survey import SplitFiles
from saccade.errors import UserError
from saccade.recipe import Data


def scene(root, patients, header="file,label,patient", labels="ab", **columns):
    """Save one image per patient in ``patients``, with alternating labels."""
    (root / "images").mkdir(parents=True)
    lines = [",".join([header, *columns])]
    for i, patient in enumerate(patients):
        Image.new("RGB", (4, 4), (i, 7, 9)).save(root / "images" / f"{i:03}.png")
        lines.append(",".join([f"{i:03}.png", labels[i % len(labels)], patient, *(of[i] for of in columns.values())]))
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "label")


PATIENTS = [f"p{i // 5}" for i in range(100)]


@pytest.mark.parametrize("seed", range(4))
def test_whole_groups_are_held_back(tmp_path, seed):
    split = opened(scene(tmp_path, PATIENTS), split_seed=seed)
    train, test = Counter(split.train.groups), Counter(split.test.groups)
    assert not train.keys() & test.keys()
    assert {*train.values(), *test.values()} == {5}
    assert (len(split.train), len(split.test)) == (80, 20)
    assert f"20% of the images held back with seed {seed} in whole groups (4 of 20 groups)" in split.description
    labels = Counter(split.test.target(i) for i in range(20))
    assert abs(labels[0] - labels[1]) <= 4
    numbers = [int(split.test.raw_image(i)[0, 0, 0]) for i in range(20)]
    assert split.test.groups == [PATIENTS[n] for n in numbers]


def test_seed_and_groups_change_the_fingerprint(tmp_path):
    root = scene(tmp_path, PATIENTS)
    held = {tuple(sorted(set(opened(root, split_seed=seed).test.groups))) for seed in range(6)}
    assert len(held) > 3
    assert opened(root).fingerprint == opened(root).fingerprint
    ungrouped = opened(root, options={"group": False})
    assert ungrouped.train.groups is None
    assert "of each class held back" in ungrouped.description
    cut = {PATIENTS[int(ungrouped.test.raw_image(i)[0, 0, 0])] for i in range(20)}
    assert len(cut) > 8  # the twin: images are drawn, whatever group they are of


@pytest.mark.parametrize("header", ["group", "patient", "Patient ID", "subject_id", "Scene"])
def test_columns_that_name_groups(tmp_path, header):
    split = opened(scene(tmp_path, PATIENTS[:20], f"file,label,{header}"))
    assert len(set(split.test.groups)) == 1


def test_another_column_can_name_them(tmp_path):
    root = scene(tmp_path, PATIENTS[:20], "file,label,ward")
    with pytest.raises(UserError, match=r"data\.options\.group: labels\.csv has no column 'war'"):
        opened(root, options={"group": "war"})
    assert opened(root).train.groups is None
    assert len(set(opened(root, options={"group": "ward"}).test.groups)) == 1


def test_a_group_in_two_splits_is_refused(tmp_path):
    parts = ["train", "train", "train", "test", "test", "val", "val", "val", "train", "test"]
    patients = ["p", "p", "q", "r", "r", "s", "s", "t", "q", "r"]
    split = opened(scene(tmp_path / "fine", patients, split=parts))
    assert (split.train.groups, split.test.groups) == (["p", "q", "q", "p"], ["r", "r", "r"])
    patients[3] = "p"
    root = scene(tmp_path / "leaks", patients, split=parts)
    with pytest.raises(UserError) as caught:
        opened(root)
    said = str(caught.value)
    assert "has 1 groups in two splits: the group 'p' is in 'train' (2 images) and in 'test' (1 image)" in said
    assert said.endswith("or set data.options.group = false to treat images as unrelated")
    assert opened(root, options={"group": False}).train.groups is None


def test_a_group_in_train_and_val_is_a_conflict():
    files = [Path(str(i)) for i in range(4)]
    groups = dict(zip(files, "abab", strict=True))
    parts = [SplitFiles("train", {"": files[:2]}), SplitFiles("val", {"": files[2:]})]
    assert groups_in_two_splits(parts, groups) == [
        f"the group {g!r} is in 'train' (1 image) and in 'val' (1 image)" for g in "ab"
    ]
    assert groups_in_two_splits(parts[:1], groups) == []


def test_subsampling_reports_partial_groups(tmp_path):
    root = scene(tmp_path, PATIENTS)
    split = opened(root, test_images=6, train_images=10)
    assert (len(split.train), len(split.test)) == (10, 6)
    assert not set(split.train.groups) & set(split.test.groups)
    assert "data.test_images takes a part of " in split.description
    assert "data.test_images" not in opened(root, train_images=10).description


@pytest.mark.parametrize("seed", range(20))
def test_the_test_fraction_is_near_its_goal_for_groups_of_many_sizes(seed):
    rng = np.random.default_rng(seed)
    classes = list("abc")
    files = [[Path(f"{name}{i}") for i in range(n)] for name, n in zip(classes, (300, 120, 14), strict=True)]
    groups = {path: f"g{rng.integers(60)}" for of in files for path in of}
    train, test = hold_back_groups(classes, files, groups, 0.2, seed)
    for whole, left, right in zip(files, train, test, strict=True):
        assert sorted([*left, *right]) == sorted(whole)
        assert left == [path for path in whole if path in set(left)]  # in their order
        assert len(left) > 0 < len(right)
        assert abs(len(right) - 0.2 * len(whole)) <= max(2.5, 0.03 * len(whole))
    held = {groups[path] for of in test for path in of}
    assert not held & {groups[path] for of in train for path in of}


def test_a_class_in_a_single_group_is_refused(tmp_path):
    root = scene(tmp_path, ["p", "q"] * 5)
    with pytest.raises(UserError, match=r"class 'a' has images of only 1 group \('p'\); groups are held back whole"):
        opened(root)
    with pytest.raises(UserError, match="there are images of only 1 group"):
        hold_back_groups([""], [[Path("0"), Path("1")]], {Path("0"): "g", Path("1"): "g"}, 0.2, 0)


def test_groups_that_cannot_be_divided_are_refused():
    """Two groups, of which one holds all but one of the classes of the other."""
    files = [[Path("a0"), Path("a1")], [Path("b0"), Path("b1")], [Path("c0"), Path("c1")]]
    groups = {path: path.name[1] if path.name[0] != "c" else "0" for of in files for path in of}
    groups[Path("c1")] = "2"
    train, test = hold_back_groups(list("abc"), files, groups, 0.5, 0)
    assert all(train)
    assert all(test)
    of = {"a0": "1", "a1": "2", "b0": "2", "b1": "3", "c0": "3", "c1": "1"}
    with pytest.raises(UserError, match="no choice of whole groups was found that leaves each of 3 classes images"):
        hold_back_groups(list("abc"), files, {Path(name): group for name, group in of.items()}, 0.5, 0)


def test_the_selection_without_groups_is_unchanged(tmp_path):
    """Numbers drawn before there were groups."""
    root = scene(tmp_path, PATIENTS, "file,label,ward")
    chosen = select_files(Data(source=str(root)), layouts.get("csv").survey(root))
    held = [int(path.stem) for path in chosen.files("test")]
    assert held == [6, 10, 12, 20, 30, 38, 40, 74, 86, 88, 11, 13, 15, 17, 57, 77, 87, 93, 95, 97]


def test_spellings_of_one_group_have_one_key():
    assert {group_key(name) for name in ("7", "7.0", "007", "7.00")} == {"7"}
    assert group_key("p  1") == group_key("p 1") != group_key("p1")
    assert len({group_key(name) for name in ("7", "70", "7.5", "-7", "p7", "P7", "0")}) == 7


def test_groups_that_differ_in_case_are_noted():
    assert group_name_notes(["p1", "p2", "P3"]) == []
    (note,) = group_name_notes(["p1", "P1", "p2", "P2", "P1"])
    assert "'P1' and 'p1' differ in capital letters only and are kept apart; so do 1 other pairs" in note


def test_folders_of_patients():
    root = Path("/patient1/set")
    paths = [root / f"train/{folder}/study1/view{i}.jpg" for folder in ("patient00001", "sub-02") for i in range(2)]
    assert list(folder_groups(paths, root).values()) == ["patient00001", "patient00001", "sub-02", "sub-02"]
    assert folder_groups([*paths, root / "train/x/1.jpg"], root) == {}
    assert folder_groups(paths[::2], root) == {}  # an image each
    assert folder_groups([], root) == {}
