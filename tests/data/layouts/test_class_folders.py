"""Folders: parts, classes, subsets; and every way a folder can be wrong, named before anything is trained."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.datasets.folder import IMG_EXTENSIONS

from saccade import imagefiles
from saccade.data import layouts, open_data, opening
from saccade.data.opening import LazyImages, read_images
from saccade.data.resizing import Frame
from saccade.errors import UserError
from saccade.events import FilesChecked
from saccade.recipe import Data


def draw(path, size=(12, 12), value=None, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(sum(path.name.encode())).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if value is not None:
        drawn[:] = value
    Image.fromarray(drawn).convert(mode).save(path, **options)
    return path


def fill(root, counts, **options):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            draw(root / name / f"{i:03}.png", **options)
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "label")


def read_image(path, side):
    return opening.read_image(path, Frame(side, side))


def labels(images):
    return [images.target(i) for i in range(len(images))]


def files(split):
    """The numbers of the files of each part, by pictures: each file's picture is its own."""
    return [
        {tuple(images.raw_image(i).flatten().tolist()) for i in range(len(images))}
        for images in (split.train, split.test)
    ]


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("training", "val"), ("Train", "validation")])
def test_two_parts(tmp_path, first, second):
    fill(tmp_path / first, {"b": 3, "a": 2})
    fill(tmp_path / second, {"a": 1, "b": 2})
    (tmp_path / first / ".hidden").mkdir()
    split = opened(tmp_path)
    assert split.classes == ["a", "b"]
    assert labels(split.train) == [0, 0, 1, 1, 1]
    assert labels(split.test) == [0, 1, 1]
    assert (split.size, split.channels) == ((12, 12), 3)
    wanted = torch.from_numpy(np.array(Image.open(tmp_path / first / "b" / "002.png"))).permute(2, 0, 1)
    torch.testing.assert_close(split.train.raw_image(4), wanted, rtol=0, atol=0)


def test_with_three_parts_the_validation_part_is_set_aside(tmp_path):
    for part, count in (("train", 3), ("val", 5), ("test", 2)):
        fill(tmp_path / part, {"a": count, "b": count})
    split = opened(tmp_path, train_images=4)
    assert (len(split.train), len(split.test), len(split.val)) == (4, 4, 10)
    assert labels(split.val) == [0] * 5 + [1] * 5
    assert split.description.startswith(f"folder {tmp_path}: 4 training, 4 test and 10 validation images of 2 classes")
    assert split.val.augmentations == ()


def test_the_validation_part_changes_nothing_of_the_others(tmp_path):
    """Runs made before it was read still match: neither mean nor fingerprint knows it."""
    for part in ("train", "test"):
        fill(tmp_path / part, {"a": 2, "b": 2})
    alone = opened(tmp_path)
    fill(tmp_path / "val", {"a": 2, "b": 2}, value=(255, 0, 9))
    beside = opened(tmp_path)
    assert alone.val is None
    assert len(beside.val) == 4
    assert (beside.fingerprint, beside.mean, beside.std) == (alone.fingerprint, alone.mean, alone.std)
    draw(tmp_path / "test" / "a" / "new.png")  # the twin
    assert opened(tmp_path).fingerprint != alone.fingerprint


def test_of_two_parts_the_second_is_the_test_part_and_that_is_said(tmp_path):
    for part in ("train", "valid"):
        fill(tmp_path / part, {"a": 2, "b": 2})
    split = opened(tmp_path)
    assert split.val is None
    assert split.description.endswith("the parts 'train' and 'valid', 'valid' is the test part")
    (tmp_path / "valid").rename(tmp_path / "test")
    assert opened(tmp_path).description.endswith("the parts 'train' and 'test'")


def described(root, **fields):
    return layouts.get("class_folders").describe(Data(source=str(root), **fields), None)


def test_classes_of_the_validation_part_that_are_not_those_of_the_others_are_noted(tmp_path):
    for part in ("train", "test", "val"):
        fill(tmp_path / part, {"a": 2, "b": 2})
    assert not any("would ignore" in note for note in described(tmp_path)["notes"])
    (tmp_path / "val" / "a").rename(tmp_path / "val" / "c")
    (tmp_path / "val" / "a").mkdir()  # an empty folder is no class of that part
    split = opened(tmp_path)
    assert labels(split.val) == [1, 1]
    facts = described(tmp_path)
    assert (facts["refused"], facts["used"]) == ([], {"train": 4, "test": 4, "val": 2})
    for name, here, there in (("a", "train", "val"), ("c", "val", "train")):
        said = f"class '{name}' is in {tmp_path / here} but not in {tmp_path / there}. Validation scores"
        assert any(note.startswith(said) for note in facts["notes"])
    (tmp_path / "test" / "a").rename(tmp_path / "test" / "c")  # the twin: a part that is scored
    with pytest.raises(UserError, match=r"class 'a' is in .*train but not in .*test"):
        opened(tmp_path)


def test_bad_files_of_the_validation_part_are_left_out(tmp_path):
    for part in ("train", "test", "val"):
        fill(tmp_path / part, {"a": 2, "b": 2})
    (tmp_path / "val" / "a" / "000.png").write_bytes(b"no")
    for skip_bad in (False, True):
        split = opened(tmp_path, skip_bad=skip_bad)
        assert split.left_out == {"val": {"a": 1}}
        assert ", 1 bad file left out (val: 1 of a)" in split.description
        assert labels(split.val) == [0, 1, 1]
        facts = described(tmp_path, skip_bad=skip_bad)
        assert (facts["refused"], facts["used"]["val"], len(facts["left_out"])) == ([], 3, 1)
    assert any("do not count when a checkpoint is chosen" in note for note in described(tmp_path)["notes"])
    (tmp_path / "test" / "a" / "000.png").write_bytes(b"no")  # the twin: a part that is scored
    with pytest.raises(UserError, match=r"1 of 12 images cannot be used: .*test/a/000\.png is not an image"):
        opened(tmp_path)
    assert len(described(tmp_path)["refused"]) == 1


@pytest.mark.parametrize(
    ("resize", "size"), [("crop", (9, 13)), ("pad", (9, 13)), ("pad", (15, 8)), ("stretch", (8, 11))]
)
@pytest.mark.parametrize("cache", [2**30, 0])
def test_any_size_by_any_resize(tmp_path, monkeypatch, resize, size, cache):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", cache)
    fill(tmp_path, {"a": 2, "b": 2}, size=(12, 12), value=(0, 51, 102))
    draw(tmp_path / "a" / "000.png", size=(12, 12), value=(255, 51, 102))
    split = opened(tmp_path, size=size, resize=resize, test_part=0.5)
    image, label = split.train[0]
    assert (split.size, image.shape, label) == (size, (3, *size), 0)
    assert split.mean[1:] == pytest.approx((0.2, 0.4), abs=1e-6)  # padding is not in it
    assert image[1:].abs().max() < 0.5  # of the mean colour: zero where padded, too
    left, top, width, height = Frame(*size, resize).content_box((12, 12))
    outside = torch.ones(size, dtype=torch.bool)
    outside[top : top + height, left : left + width] = False
    assert outside.any() == (resize == "pad")
    filled = split.train.raw_image(0)[:, outside]
    assert (torch.tensor([round(255 * value) for value in split.mean], dtype=torch.uint8) == filled.T).all()


def test_one_folder_is_split_once(tmp_path):
    # One name for one picture, so that a picture tells its file.
    for label, count in (("a", 10), ("b", 30), ("c", 2)):
        for i in range(count):
            draw(tmp_path / label / f"{label * 3}{i}.png", value=(ord(label), i, 7))
    split = opened(tmp_path, test_part=0.2)
    assert [labels(split.test).count(k) for k in range(3)] == [2, 6, 1]
    assert [labels(split.train).count(k) for k in range(3)] == [8, 24, 1]
    train, test = files(split)
    assert not train & test
    assert len(train | test) == 42
    assert files(opened(tmp_path, test_part=0.2)) == [train, test]
    assert files(opened(tmp_path, test_part=0.2, split_seed=1)) != [train, test]


def test_a_train_folder_alone_is_split(tmp_path):
    fill(tmp_path / "train", {"a": 10, "b": 10})
    split = opened(tmp_path)
    assert (len(split.train), len(split.test)) == (16, 4)


@pytest.mark.parametrize(("asked", "shares"), [(9, [3, 3, 3]), (10, [2, 4, 4]), (21, [2, 4, 15]), (3, [1, 1, 1])])
def test_subsets_take_the_same_number_of_each_class_as_far_as_it_reaches(tmp_path, asked, shares):
    counts = {9: (3, 5, 20), 10: (2, 5, 20), 21: (2, 4, 40), 3: (2, 4, 40)}[asked]
    for part in ("train", "test"):
        for label, count in zip("abc", counts, strict=True):
            for i in range(count):
                draw(tmp_path / part / label / f"{i}.png", size=(8, 8), value=(ord(label), i, 7))
    split = opened(tmp_path, train_images=asked, test_images=asked)
    assert [labels(split.train).count(k) for k in range(3)] == shares
    assert [labels(split.test).count(k) for k in range(3)] == shares
    assert files(opened(tmp_path, train_images=asked))[0] == files(split)[0]
    if asked == 10:
        assert files(opened(tmp_path, train_images=asked, split_seed=1))[0] != files(split)[0]
        assert files(opened(tmp_path, train_images=7))[0] < files(split)[0]


def test_sizes(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4}, size=(20, 20))
    assert opened(tmp_path).size == (20, 20)
    assert opened(tmp_path, size=9).train[0][0].shape == (3, 9, 9)
    draw(tmp_path / "b" / "wide.png", size=(20, 21))
    split = opened(tmp_path)
    assert split.size == (224, 224)
    assert split.train[0][0].shape == (3, 224, 224)


def test_resize_fits_the_short_side_and_cuts_the_middle(tmp_path):
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 10).pixels == 200).all()
    assert read_image(tmp_path / "wide.png", 10).size == (40, 10)
    assert (read_image(tmp_path / "wide.png", 5).pixels[:, :, 1:-1] == 200).all()


def test_modes_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        ending = "tif" if mode == "CMYK" else "png"
        assert read_image(draw(tmp_path / f"{mode}.{ending}", mode=mode), 12).pixels.shape == (3, 12, 12), mode
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "clear.png", transparency=bytes([0, 255]))
    assert read_image(tmp_path / "clear.png", 4).pixels[:, 0, 0].tolist() == [10, 20, 30]
    Image.fromarray(np.full((4, 4), 0x1234, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", 4).pixels == 0x12).all()
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in read_image(tmp_path / "float.tif", 4).problem


def test_what_is_transparent_is_dropped_and_the_colour_kept(tmp_path):
    for mode, pixel, seen in (("RGBA", (10, 20, 30, 0), [10, 20, 30]), ("LA", (40, 0), [40, 40, 40])):
        Image.new(mode, (4, 4), pixel).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png", 4).pixels[:, 0, 0].tolist() == seen


def test_cmyk_is_ink(tmp_path):
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "cyan.tif")
    assert read_image(tmp_path / "cyan.tif", 4).pixels[:, 0, 0].tolist() == [0, 255, 255]


def test_a_decompression_bomb_is_refused_unread(tmp_path, monkeypatch):
    """A white PNG of 10,000 by 9,000 is 29 kB; Pillow itself warns of it, and stops at twice as many."""
    Image.new("1", (10_000, 9_000), 1).save(tmp_path / "large.png")
    Image.new("1", (20_000, 9_000), 1).save(tmp_path / "larger.png")
    assert (tmp_path / "large.png").stat().st_size < 30_000

    def load(image):
        raise AssertionError(f"{image.size} is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    large, larger = read_images([tmp_path / "large.png", tmp_path / "larger.png"], Frame(8, 8))
    assert large.problem == "has 10000×9000 pixels; at most 89,478,485 are allowed"
    assert larger.problem == "has 20000×9000 pixels; at most 89,478,485 are allowed"
    Image.new("1", (3_000, 2_000), 1).save(tmp_path / "fair.png")
    assert "is decoded" in read_image(tmp_path / "fair.png", 8).problem  # the twin


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: the first row is the right one
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", 8).pixels
    assert (turned[:, :, 4:] == 255).all()
    assert (turned[:, :, :4] == 0).all()


def test_large_sets_stay_on_disk_and_give_the_same(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 5, "b": 5})
    kept = opened(tmp_path)
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 10 * 3 * 12 * 12 - 1)
    read = opened(tmp_path)
    assert isinstance(kept.train.images, torch.Tensor)
    assert isinstance(read.train.images, LazyImages)
    assert read.mean == kept.mean
    for i in range(len(kept.test)):
        torch.testing.assert_close(read.test[i][0], kept.test[i][0], rtol=0, atol=0)
    path = read.test.images.paths[0]
    path.write_bytes(b"gone")
    with pytest.raises(UserError, match=path.name):
        read.test[0]


def test_mean_and_deviation_are_those_of_the_training_part(tmp_path):
    fill(tmp_path / "train", {"a": 2, "b": 2}, value=(0, 51, 102))
    fill(tmp_path / "test", {"a": 2, "b": 2}, value=(255, 255, 255))
    draw(tmp_path / "train" / "a" / "000.png", value=(255, 51, 102))
    split = opened(tmp_path)
    assert split.mean == pytest.approx((0.25, 0.2, 0.4), abs=1e-6)
    assert split.std == pytest.approx((0.75**0.5 / 2, 1 / 255, 1 / 255), abs=1e-6)  # of one colour: the floor


def test_progress_is_told(tmp_path):
    events = []
    open_data(Data(source=str(fill(tmp_path, {"a": 3, "b": 3}))), "label", events.append)
    assert events[-1] == FilesChecked(6, 6)


def broken(root):
    (root / "a" / "cut.jpg").write_bytes(draw(root / "x.jpg", size=(64, 64)).read_bytes()[:900])
    return "cut.jpg cannot be read: image file is truncated"


def empty_file(root):
    (root / "b" / "nothing.png").touch()
    return "nothing.png is an empty file"


def no_image(root):
    (root / "b" / "text.png").write_text("words")
    return "text.png is not an image"


def dangling(root):
    (root / "b" / "lost.png").symlink_to(root / "nowhere.png")
    return "lost.png cannot be read"


def pipe(root):
    os.mkfifo(root / "b" / "pipe.png")
    return "pipe.png is not a regular file"


def postscript(root):
    """Pillow would hand it to Ghostscript, whatever its ending."""
    Image.new("RGB", (12, 12)).save(root / "b" / "drawing.jpg", format="EPS")
    return "drawing.jpg is not an image in JPEG, PNG, BMP, PPM, TIFF or WEBP"


def empty_class(root):
    (root / "c").mkdir()
    return "class 'c' in .* is empty"


def one_class(root):
    for path in (root / "b").iterdir():
        path.unlink()
    (root / "b").rmdir()
    return "class_folders: a holds images; at least 2 classes are needed"


def hollow(root):
    for path in (root / "b").iterdir():
        path.unlink()
    return r"class_folders: a holds images \(none in b\); at least 2 classes are needed"


def single_image(root):
    draw(root / "c" / "only.png")
    return "class 'c' has 1 image"


def options(root):
    return "this layout has no options, got clutter"


def few(root):
    return r"data.train_images = 2 is less than one image for each of 3 classes"


@pytest.mark.parametrize(
    "wrong",
    [
        broken,
        empty_file,
        no_image,
        dangling,
        pipe,
        postscript,
        empty_class,
        one_class,
        hollow,
        single_image,
        options,
        few,
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path, wrong):
    root = fill(tmp_path / "set", {"a": 4, "b": 4})
    opened(root)
    fields = {}
    if wrong is options:
        fields["options"] = {"clutter": 3}
    if wrong is few:
        fill(root, {"c": 4})
        fields["train_images"] = 2
    words = wrong(root)
    with pytest.raises(UserError, match=words):
        opened(root, **fields)


def test_all_broken_images_are_counted(tmp_path):
    fill(tmp_path, {"a": 9, "b": 9})
    for i in range(7):
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"no")
    with pytest.raises(
        UserError, match=r"7 of 18 images cannot be used: .*000\.png is not an image in JPEG, .*; and 2 more"
    ):
        opened(tmp_path)


def test_bad_files_are_left_out_on_request_and_the_others_stay_where_they_are(tmp_path):
    for label in "ab":
        for i in range(20):
            draw(tmp_path / label / f"{label}{i:02}.png", value=(ord(label), i, 7))
    whole = opened(tmp_path)
    (tmp_path / "a" / "a00.png").write_bytes(b"no")
    (tmp_path / "b" / "b07.png").write_bytes((tmp_path / "b" / "b07.png").read_bytes()[:45])
    with pytest.raises(UserError, match=r"2 of 40 images cannot be used: .*a00\.png is not an image.*--skip-bad"):
        opened(tmp_path)
    rest = opened(tmp_path, skip_bad=True)
    gone = {tuple(v for v in colour for _ in range(144)) for colour in ((97, 0, 7), (98, 7, 7))}
    assert [part - gone for part in files(whole)] == files(rest)
    assert len(rest.train) + len(rest.test) == 38
    assert len(labels(rest.train)) == len(rest.train)
    assert rest.left_out == {"train": {"b": 1}, "test": {"a": 1}}
    assert rest.description.endswith(", 2 bad files left out (train: 1 of b; test: 1 of a)")
    assert whole.left_out == {}
    assert "left out" not in whole.description
    assert rest.fingerprint != whole.fingerprint
    assert rest.size == (12, 12)  # though the first file says nothing


def test_bad_files_are_left_out_of_a_set_that_stays_on_disk(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "001.png").write_bytes(b"no")
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    split = opened(tmp_path, skip_bad=True)
    assert isinstance(split.train.images, LazyImages)
    pictures = [split.train[i] for i in range(len(split.train))] + [split.test[i] for i in range(len(split.test))]
    assert [label for _, label in pictures].count(0) == 9


def test_a_class_of_bad_files_is_refused(tmp_path):
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "test", {"a": 1, "b": 1})
    (tmp_path / "test" / "b" / "000.png").write_bytes(b"no")
    with pytest.raises(UserError, match="class 'b' has no image to test on that can be read"):
        opened(tmp_path, skip_bad=True)


def test_a_class_in_one_part_only(tmp_path):
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "test", {"cat": 2, "dogs": 2})
    with pytest.raises(UserError, match=r"class 'dog' is in .*train but not in .*test\. Did you mean 'dogs'\?"):
        opened(tmp_path)


@pytest.mark.parametrize(("first", "second", "words"), [("train", "tset", "Did you mean 'test'"),
                                                       ("test", "tarin", "Did you mean 'train'")])  # fmt: skip
def test_a_part_without_its_other(tmp_path, first, second, words):
    fill(tmp_path / first, {"a": 2, "b": 2})
    fill(tmp_path / second, {"a": 2, "b": 2})
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


def test_a_folder_around_the_folder_is_seen_through(tmp_path):
    fill(tmp_path / "images", {"a": 2, "b": 2})
    with pytest.raises(UserError, match=r"Did you mean .*images\?"):
        opened(tmp_path)


def test_missing_folders(tmp_path, monkeypatch):
    fill(tmp_path / "photos", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="Did you mean 'photos'"):
        opened(tmp_path / "photo")
    with pytest.raises(UserError, match="there is no folder"):
        opened(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(UserError, match="is a file"):
        opened(draw(tmp_path / "one.png"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        opened("digit")
    with pytest.raises(UserError, match=r"CIFAR10 is a data set of torchvision.*image\.save"):
        opened("cifar10")


def test_no_images(tmp_path):
    with pytest.raises(UserError, match="no image ends in"):
        opened(tmp_path)
    draw(tmp_path / "loose.png")
    with pytest.raises(UserError, match="1 images in it are in no class folder"):
        opened(tmp_path)


class Trap:
    """Unpickling this would leave a mark."""

    def __reduce__(self):
        return Path.touch, (Path(os.environ["MARK"]),)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1", "train.pkl", "images.npy"])
def test_packed_sets_are_named_and_never_unpickled(tmp_path, name, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    if name.endswith("npy"):
        np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps({"data": Trap()}))
    with pytest.raises(UserError, match=rf"holds {name}, a packed data set.*image\.save"):
        opened(tmp_path / "set")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert mark.exists()  # the twin: the trap works


def test_real_photographs(real_data):
    split = opened(real_data / "cifar10", train_images=200, test_images=100)
    assert split.size == (32, 32)
    assert split.classes[0] == "airplane"
    assert [labels(split.train).count(k) for k in range(10)] == [20] * 10
    assert [labels(split.test).count(k) for k in range(10)] == [10] * 10
    # Krizhevsky's whole set has mean (0.491, 0.482, 0.447), deviation (0.247, 0.243, 0.262).
    assert split.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.04)
    assert split.std == pytest.approx((0.247, 0.243, 0.262), abs=0.04)


def test_a_file_replaced_in_place_by_one_of_its_size_is_another(tmp_path):
    fill(tmp_path / "one", {"a": 3, "b": 3})
    for path in sorted((tmp_path / "one").rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    before, path = opened(tmp_path / "one"), tmp_path / "one/a/001.bmp"
    size = path.stat().st_size
    assert opened(tmp_path / "one").fingerprint == before.fingerprint
    draw(path, value=(1, 2, 3))
    assert path.stat().st_size == size
    assert opened(tmp_path / "one").fingerprint != before.fingerprint


def test_a_telephones_photograph_is_read(tmp_path):
    """Of the pictures in an MPO file the first is the photograph."""
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    pictures[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert read_image(tmp_path / "a.jpg", 16).pixels[:, 8, 8].tolist() == pytest.approx([200, 0, 0], abs=3)


def test_the_endings_are_those_of_image_folder_and_each_is_read(tmp_path):
    assert set(imagefiles.SUFFIXES) == set(IMG_EXTENSIONS)
    for ending in imagefiles.SUFFIXES:
        assert read_image(draw(tmp_path / f"a{ending}", mode="L" if ending == ".pgm" else "RGB"), 12).problem == "", (
            ending
        )


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_what_this_machine_lacks_is_no_fault_of_the_image(tmp_path, monkeypatch, error):
    fill(tmp_path, {"a": 3, "b": 3})

    def load(image):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(UserError, match=r"(out of memory|Too many open files), which is not a fault of the file"):
        opened(tmp_path, skip_bad=True)
    error = OSError("image file is truncated")  # the twin
    with pytest.raises(UserError, match="cannot be read: image file is truncated"):
        opened(tmp_path)


def test_a_loop_of_links_is_walked_once(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4})
    plain = opened(tmp_path)
    (tmp_path / "a" / "again").symlink_to(".")
    assert len(list(imagefiles.walk(tmp_path / "a"))) == 4
    looped = opened(tmp_path)
    assert (len(looped.train), len(looped.test)) == (len(plain.train), len(plain.test))
    assert looped.fingerprint == plain.fingerprint
    fill(tmp_path / ".elsewhere", {"c": 3})
    (tmp_path / "b" / "more").symlink_to(tmp_path / ".elsewhere" / "c")  # the twin: links are followed
    assert len(opened(tmp_path).train) > len(plain.train)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_file_with_several_names_is_taken_once_or_refused_by_both(tmp_path, link):
    fill(tmp_path / "train", {"a": 3, "b": 3})
    fill(tmp_path / "test", {"a": 2, "b": 2})
    whole, file = opened(tmp_path), tmp_path / "train/a/000.png"
    link(tmp_path / "train/a/900.png", file)
    assert len(opened(tmp_path).train) == 6
    assert opened(tmp_path).fingerprint == whole.fingerprint
    link(tmp_path / "train/b/900.png", file)
    with pytest.raises(UserError, match=r"train/a/000\.png and .*train/b/900\.png are the same file in two classes$"):
        opened(tmp_path)
    (tmp_path / "train/b/900.png").unlink()
    for name in ("900.png", "901.png"):
        link(tmp_path / "test/b" / name, file)
    with pytest.raises(
        UserError,
        match=r"train/a/000\.png and .*test/b/900\.png are the same file in two splits, as are 1 other pairs$",
    ):
        opened(tmp_path)


def test_what_is_hidden_is_passed_over(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4})
    draw(tmp_path / "a" / ".checkpoints" / "x.png")
    draw(tmp_path / "a" / ".x.png")
    assert sum(map(len, (opened(tmp_path).train, opened(tmp_path).test))) == 8


def test_many_classes_of_bad_files_are_said_in_short():
    assert imagefiles.describe_left_out({}) == ""
    counts = {"train": {"a": 1, "b": 3, "c": 1}, "test": {"b": 1}}
    assert imagefiles.describe_left_out(counts, 2) == (
        "6 bad files left out (train: 3 of b, 1 of a, 1 of 1 other classes; test: 1 of b)"
    )


def test_the_fingerprint_tells_other_files_other_labels_and_nothing_else(tmp_path):
    """The same below another root; another where a file is renamed, resized, added, or moved to a class or part."""

    def changed(number, *change):
        root = tmp_path / str(number)
        fill(root / "train", {"a": 3, "b": 3})
        fill(root / "test", {"a": 2, "b": 2})
        for act in change:
            act(root)
        return opened(root).fingerprint

    first = changed(0)
    assert changed(1, lambda root: os.utime(root / "train" / "a" / "000.png", (1, 1))) == first
    others = [
        changed(2, lambda root: (root / "train/a/000.png").rename(root / "train/a/007.png")),
        changed(3, lambda root: (root / "train/a/000.png").write_bytes((root / "train/a/000.png").read_bytes() + b"0")),
        changed(4, lambda root: draw(root / "test/b/009.png")),
        changed(5, lambda root: (root / "test/b/000.png").rename(root / "test/a/009.png")),
        changed(6, lambda root: (root / "test/b/000.png").rename(root / "train/b/009.png")),
    ]
    assert len({first, *others}) == 6


@pytest.mark.parametrize("closed", [".", "a"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, closed):
    fill(tmp_path, {"a": 2, "b": 2})
    place = tmp_path / closed

    def closing(real):
        def reads(path):
            if Path(path) == place:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return reads

    monkeypatch.setattr(os, "listdir", closing(os.listdir))
    monkeypatch.setattr(os, "scandir", closing(os.scandir))
    with pytest.raises(UserError, match=f"cannot read {place}: Permission denied"):
        opened(tmp_path)
