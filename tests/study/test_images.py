"""Data sets of a study: read once per process, and again when they have changed."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from saccade import Recipe, UserError
from saccade.data import opening
from saccade.events import Caution, DataOpened, EpochEnded, TrainingBegan
from saccade.study import images, series

SIDE = 17


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                _draw(rng, place / f"{i}.bmp")  # no compression: images of one size are files of one size
    return tmp_path / "pets"


def _draw(rng, path):
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def read(monkeypatch):
    """Files that were read, in order."""
    monkeypatch.setattr(images, "_last", None)
    paths, read_image = [], opening.read_image
    monkeypatch.setattr(opening, "read_image", lambda path, *how: paths.append(path.name) or read_image(path, *how))
    return paths


def _recipe(folder, **more):
    settings = {"data.source": str(folder), "data.size": SIDE, "training.epochs": 1, "training.batch_size": 4}
    return Recipe().with_overrides({**settings, "model.options": {"width": 4}, **more})


def test_a_second_run_reads_no_image_again(folder, read, tmp_path):
    told = []
    first = series.train_run(_recipe(folder), tmp_path / "a", device="cpu", notify=told.append)
    assert len(read) >= 12
    read.clear()
    other = _recipe(folder, **{"attention.mechanism": "eca", "training.seed": 1})
    second = series.train_run(other, tmp_path / "b", device="cpu", notify=told.append)
    assert read == []
    assert second["fingerprint"] == first["fingerprint"]
    assert sum(isinstance(event, TrainingBegan) for event in told) == 2


@pytest.mark.parametrize(("skip_bad", "gone"), [(True, {"train": {"cat": 1}}), (False, {})])
def test_a_run_records_images_left_out(folder, read, tmp_path, skip_bad, gone):
    if skip_bad:
        (folder / "train/cat/0.bmp").write_bytes(b"BM")
    series.train_run(
        _recipe(folder, **{"data.skip_bad": skip_bad}), tmp_path / "a", device="cpu", notify=lambda event: 0
    )
    assert json.loads((tmp_path / "a/done.json").read_text())["left_out"] == gone


@pytest.mark.parametrize("leaks", [True, False])
def test_images_in_both_splits_are_reported(folder, read, tmp_path, leaks):
    from saccade.study.worker import check_study

    if leaks:
        shutil.copy(folder / "train/cat/0.bmp", folder / "test/cat/x.bmp")
    checked, told = [], []
    check_study([_recipe(folder).model_dump(mode="json")], None, "cpu", checked.append)
    series.train_run(_recipe(folder), tmp_path / "a", device="cpu", notify=told.append)
    (data,) = (event for event in checked if isinstance(event, DataOpened))
    kinds = [type(event) for event in told if isinstance(event, Caution | TrainingBegan | EpochEnded)]
    assert kinds == [Caution] * leaks + [TrainingBegan, EpochEnded, EpochEnded]
    kept = json.loads((tmp_path / "a/done.json").read_text())["cautions"]
    assert kept == list(data.cautions) == [event.text for event in told if isinstance(event, Caution)]
    assert [caution.partition(".bmp")[0] for caution in kept] == [
        "1 of 5 test images are trained on too, byte for byte: train/cat/0"
    ] * leaks


def test_the_check_and_the_first_run_read_images_once(folder, read, tmp_path):
    from saccade.study.worker import check_study

    check_study([_recipe(folder).model_dump(mode="json")], None, "cpu", lambda event: None)
    assert len(read) >= 12
    read.clear()
    series.train_run(_recipe(folder), tmp_path / "a", device="cpu", notify=lambda event: None)
    assert read == []


def _replace(folder):
    _draw(np.random.default_rng(1), folder / "train/cat/0.bmp")
    os.utime(folder / "train/cat/0.bmp", (1, 1))


def _enlarge(folder):
    path = folder / "train/cat/0.bmp"
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as of a copy that keeps times: the size alone tells


def _remove(folder):
    (folder / "train/cat/0.bmp").unlink()


def _add(folder):
    shutil.copy(folder / "train/cat/0.bmp", folder / "train/cat/9.bmp")


def _move(folder):
    (folder / "train/cat/0.bmp").rename(folder / "train/dog/x.bmp")


@pytest.mark.parametrize("change", [_replace, _enlarge, _remove, _add, _move])
def test_changed_images_are_noticed(folder, read, change):
    spec = _recipe(folder).data
    before = images.open_once(spec, "label")
    assert images.open_once(spec, "label") is before
    size = (folder / "train/cat/0.bmp").stat().st_size
    change(folder)
    after = images.open_once(spec, "label")
    assert after is not before
    assert images.open_once(spec, "label") is after
    if change is _replace:
        assert (folder / "train/cat/0.bmp").stat().st_size == size, "the time alone tells"
        assert not after.train.raw_image(0).equal(before.train.raw_image(0))
    assert after.fingerprint != before.fingerprint


def test_one_data_set_is_kept_per_process(folder, read):
    one, two = _recipe(folder).data, _recipe(folder, **{"data.train_images": 4}).data
    whole = images.open_once(one, "label")
    assert len(images.open_once(two, "label").train) == 4
    assert images.open_once(one, "label") is not whole
    digits = Recipe().with_overrides({"data.train_images": 20, "data.test_images": 10}).data
    labels = images.open_once(digits, "label")
    assert images.open_once(digits, "label") is labels
    assert images.open_once(digits, "mask") is not labels


def test_a_failed_data_set_is_not_kept(folder, read):
    spec = _recipe(folder).data
    images.open_once(spec, "label")
    (folder / "train/cat/0.bmp").write_bytes(b"BM")
    for _ in range(2):
        with pytest.raises(UserError, match=r"0\.bmp"):
            images.open_once(spec, "label")
    (folder / "train/cat/0.bmp").unlink()
    (folder / "train/cat/0.bmp").symlink_to("nowhere.bmp")
    with pytest.raises((UserError, OSError), match=r"0\.bmp"):
        images.open_once(spec, "label")
    assert images._last is None


def test_the_check_decides_open_settings_with_the_baseline(folder, read, monkeypatch):
    from saccade.events import SettingsDecided
    from saccade.study.worker import check_study
    from saccade.training import fastest

    found = {"settings": {"training.precision": "bf16"}, "step_ms": {"32": 2.0, "bf16": 1.0}, "batch": 4}
    asked, told = [], []

    def decide(task, keys, device, trust):
        asked.append((task.recipe, keys))
        return found

    monkeypatch.setattr(fastest, "time_choices", decide)
    recipes = [_recipe(folder, **{"attention.mechanism": name}) for name in ("none", "eca")]
    said = check_study([recipe.model_dump(mode="json") for recipe in recipes], None, "cpu", told.append)
    assert said == {"devices": ["cpu"], "decided": {}}
    assert asked == []
    recipes[1] = recipes[1].with_overrides({"training.precision": "auto"})
    said = check_study([recipe.model_dump(mode="json") for recipe in recipes], None, "cpu", told.append)
    assert said == {"devices": ["cpu"], "decided": found}
    assert asked == [(recipes[0], ["training.precision"])]
    assert [event.settings for event in told if isinstance(event, SettingsDecided)] == [found["settings"]]


def test_a_run_is_bitwise_equal_with_images_from_disk(folder, read, tmp_path, monkeypatch):
    def run(name, **more):
        monkeypatch.setattr(images, "_last", None)
        series.train_run(_recipe(folder, **more), tmp_path / name, device="cpu", notify=lambda event: None)
        return [(tmp_path / name / file).read_bytes() for file in ("model.safetensors", "rows.safetensors")]

    plain = run("plain")
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "pictures"))
    assert run("first") == plain
    read.clear()
    assert run("second") == plain
    assert run("of two processes", **{"training.workers": 2}) == plain
    assert read == []
    assert run("other", **{"training.seed": 1}) != plain
