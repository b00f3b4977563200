"""Byte-identical files are counted by ``saccade data`` and reported before and after training."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import duplicates, open_data
from saccade.recipe import Data


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 3)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
                picture.save(tmp_path / part / label / f"{i}.bmp")
    return tmp_path


def facts(root, *words):
    return json.loads(CliRunner().invoke(command, [str(root), "--json", *words]).stdout)


def test_a_set_without_duplicates_has_no_caution(photos):
    assert open_data(Data(source=str(photos)), "label").cautions == []
    assert facts(photos)["same_bytes"] == {"test_images_trained_on": 0, "images_of_two_classes": 0}


def test_leaked_test_images_are_counted_with_two_examples(photos):
    for i in range(3):
        shutil.copy(photos / f"train/cat/{i}.bmp", photos / f"test/cat/again{i}.bmp")
    said = (
        "3 of 9 test images are trained on too, byte for byte: train/cat/0.bmp and test/cat/again0.bmp; "
        "train/cat/1.bmp and test/cat/again1.bmp. The score counts what was memorised; remove them from one split."
    )
    assert open_data(Data(source=str(photos)), "label").cautions == [said]
    found = facts(photos)
    assert found["same_bytes"] == {"test_images_trained_on": 3, "images_of_two_classes": 0}
    assert said in found["notes"]
    assert found["used"] == {"train": 8, "test": 9}


def test_images_with_two_labels_are_counted(photos):
    shutil.copy(photos / "train/cat/0.bmp", photos / "train/dog/x.bmp")
    (caution,) = open_data(Data(source=str(photos)), "label").cautions
    assert caution == (
        "1 images have the bytes of an image of another class: train/cat/0.bmp and train/dog/x.bmp. "
        "At most one label is right."
    )
    assert facts(photos)["same_bytes"] == {"test_images_trained_on": 0, "images_of_two_classes": 1}


def test_duplicates_within_a_class_of_one_split_are_ignored(photos):
    shutil.copy(photos / "train/cat/0.bmp", photos / "train/cat/x.bmp")
    assert open_data(Data(source=str(photos)), "label").cautions == []


def test_unselected_files_are_not_counted(photos):
    for i in range(4):
        shutil.copy(photos / f"train/cat/{i}.bmp", photos / f"test/cat/again{i}.bmp")
    counts = set()
    for seed in range(8):  # of seven cats to test on one is taken; which one, the seed says
        split = open_data(Data(source=str(photos), test_images=2, split_seed=seed), "label")
        trained = {split.train.raw_image(i).numpy().tobytes() for i in range(len(split.train))}
        both = sum(split.test.raw_image(i).numpy().tobytes() in trained for i in range(2))
        assert [caution.split()[:3] for caution in split.cautions] == [[str(both), "of", "2"]] * bool(both)
        counts.add(both)
    assert counts == {0, 1}


def test_a_held_back_split_is_checked_too(photos):
    shutil.rmtree(photos / "test")
    for i in range(4):
        for n in range(9):
            shutil.copy(photos / f"train/dog/{i}.bmp", photos / f"train/dog/{i}-{n}.bmp")
    split = open_data(Data(source=str(photos)), "label")
    assert [caution.split()[:3] for caution in split.cautions] == [["8", "of", "9"]]


def test_crc_collisions_are_not_duplicates(photos):
    """CRC-32 has so few values that a million files of one length hold a hundred such pairs."""
    paths = {part: [[photos / part / "cat/0.bmp"], [photos / part / "dog/0.bmp"]] for part in ("train", "test")}
    contents = dict.fromkeys((path for classes in paths.values() for files in classes for path in files), (486, 7))
    found = duplicates.find_duplicates(paths, contents)
    assert (found.leaked, found.conflicting) == ([], [])
    shutil.copy(paths["train"][0][0], paths["test"][0][0])  # the twin
    assert len(duplicates.find_duplicates(paths, contents).leaked) == 1


def test_only_candidates_are_read_again(photos, monkeypatch):
    read = []
    digest = duplicates.hashlib.file_digest
    monkeypatch.setattr(
        duplicates.hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    open_data(Data(source=str(photos)), "label")
    assert read == []
    shutil.copy(photos / "train/cat/0.bmp", photos / "test/cat/x.bmp")
    open_data(Data(source=str(photos)), "label")
    assert len(read) == 2


def test_images_with_other_sets_of_labels_are_counted(photos):
    paths = {"train": [[photos / "train/cat/0.bmp", photos / "train/cat/1.bmp", photos / "train/cat/2.bmp"]]}
    contents = dict.fromkeys(paths["train"][0], (486, 7))
    shutil.copy(paths["train"][0][0], paths["train"][0][1])
    labels = {"0": [0, 1], "1": [1], "2": []}
    found = duplicates.find_duplicates(paths, contents, lambda path: labels[path.stem])
    assert [[path.stem for path in pair] for pair in found.conflicting] == [["0", "1"]]
    assert "1 images have the bytes of an image with other labels" in found.sentences(photos)[0]
    assert duplicates.find_duplicates(paths, contents, lambda path: [1]).conflicting == []  # the twin
