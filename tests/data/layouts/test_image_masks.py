"""Images and masks of one name: every nesting, what masks may hold, and every way in which a pair is refused."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data, opening
from saccade.data import masks as mask_files
from saccade.errors import UserError
from saccade.recipe import Data, Recipe

SIZE = (12, 10)  # width, height


def mask_of(i, values=(0, 1, 2)):
    """A mask (H, W) that differs from image to image."""
    return np.random.default_rng(i).choice(np.array(values, np.uint8), SIZE[::-1])


def pair(images, masks, i, pixels=None, mode="L"):
    """Image ``i`` with its mask; the image's red is the mask, so that a test can compare the two."""
    pixels = mask_of(i) if pixels is None else pixels
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    coloured = np.stack([pixels, np.full_like(pixels, i), 0 * pixels], -1)
    Image.fromarray(coloured).save(images / f"{i:02}.png")
    mask = Image.fromarray(pixels)
    if mode == "P":
        mask = mask.convert("L")
        palette = Image.frombytes("P", mask.size, mask.tobytes())
        palette.putpalette([90, 80, 70, 1, 2, 3, 200, 0, 100] + [5] * 759)
        mask = palette
    mask.convert(mode).save(masks / f"{i:02}.png")


def fill(root, count=6, **options):
    for i in range(count):
        pair(root / "images", root / "masks", i, **options)
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "mask")


@pytest.mark.parametrize(
    "places",
    [
        lambda part: (f"{part}/images", f"{part}/masks"),
        lambda part: (f"images/{part}", f"masks/{part}"),
        lambda part: (f"{part}/img", f"{part}/labels"),
        lambda part: (part, f"{part}annot"),
        lambda part: (part, f"{part}_masks"),
    ],
    ids=["inside", "around", "other names", "camvid", "beside"],
)
def test_parts_in_every_nesting(tmp_path, places):
    for part, numbers in (("train", range(4)), ("test", range(4, 6)), ("val", range(6, 9))):
        for i in numbers:
            images, masks = places(part)
            pair(tmp_path / images, tmp_path / masks, i)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "image_masks"
    split = opened(tmp_path)
    assert (len(split.train), len(split.test), len(split.val)) == (4, 2, 3)
    assert (split.size, split.channels, split.target, split.classes) == ((10, 12), 3, "mask", ["0", "1", "2"])
    for images in (split.train, split.test, split.val):
        for i in range(len(images)):
            mask = images.target(i)
            assert mask.dtype == torch.uint8
            torch.testing.assert_close(mask.as_subclass(torch.Tensor), images.raw_image(i)[0], rtol=0, atol=0)
            np.testing.assert_array_equal(mask, mask_of(int(images.raw_image(i)[1, 0, 0])))


def test_without_parts_some_are_held_back(tmp_path):
    split = opened(fill(tmp_path, 10))
    assert (len(split.train), len(split.test), split.val) == (8, 2, None)
    assert split.description.endswith("20% of the images held back with seed 0")
    again, other = opened(tmp_path), opened(tmp_path, split_seed=1)
    assert split.fingerprint == again.fingerprint != other.fingerprint


def test_a_part_without_masks_is_not_used_and_that_is_said(tmp_path):
    """A test part is often published without them; then the validation part is it."""
    said = "'test' has no masks and is not used"
    for part in ("train", "val"):
        fill(tmp_path / part, 2)
    (tmp_path / "test" / "masks").mkdir(parents=True)
    assert "has no masks" not in opened(tmp_path).description  # the twin: no image lies in it
    pair(tmp_path / "test" / "images", tmp_path / "elsewhere", 7)
    split = opened(tmp_path)
    assert (len(split.train), len(split.test), split.val) == (2, 2, None)
    assert split.description.endswith(f"'val' is the test part; {said}")
    facts = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).stdout)
    assert any(said in note for note in facts["notes"])


def test_a_part_without_masks_where_folders_lie_around_the_parts(tmp_path):
    for i in range(5):
        pair(tmp_path / "images" / "train", tmp_path / "masks" / "train", i)
    pair(tmp_path / "images" / "test", tmp_path / "elsewhere", 7)
    said = "held back with seed 0; 'test' has no masks and is not used"
    assert opened(tmp_path).description.endswith(said)
    (tmp_path / "masks" / "test").mkdir()
    assert opened(tmp_path).description.endswith(said)


def test_a_folder_of_masks_holds_images(tmp_path):
    """Text files of boxes in ``labels`` hide no masks; of two folders of masks the better name counts."""
    fill(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "00.txt").write_text("0 0.5 0.5 1 1")
    assert opened(tmp_path).classes == ["0", "1", "2"]
    for i in range(6):
        Image.new("L", SIZE).save(tmp_path / "labels" / f"{i:02}.png")
    assert opened(tmp_path).classes == ["0", "1", "2"]


def test_index_masks_of_grey_and_of_a_palette_are_one(tmp_path):
    grey, palette = fill(tmp_path / "grey"), fill(tmp_path / "palette", mode="P")
    one, two = opened(grey), opened(palette)
    for i in range(len(one.train)):
        torch.testing.assert_close(one.train.target(i), two.train.target(i), rtol=0, atol=0)
    assert one.classes == two.classes


@pytest.mark.parametrize("mode", ["L", "1"])
def test_masks_of_black_and_white_have_two_classes(tmp_path, mode):
    for i in range(4):
        pair(tmp_path / "images", tmp_path / "masks", i, mask_of(i, (0, 255)), mode)
    split = opened(tmp_path)
    assert split.classes == ["background", "foreground"]
    for i in range(len(split.train)):
        torch.testing.assert_close(split.train.target(i) == 1, split.train.raw_image(i)[0] == 255, rtol=0, atol=0)
    assert opened(tmp_path).train.target(0).max() == 1
    pair(tmp_path / "images", tmp_path / "masks", 4, mask_of(4, (0, 1)))  # the twin: 255 is void beside indices
    if mode == "1":
        with pytest.raises(UserError, match=r"00\.png, which is black and white, where other masks hold class indices"):
            opened(tmp_path)
        return
    with pytest.raises(UserError, match=r"masks/00\.png and 3 other masks hold 0 and 255 alone, .* but masks/04\.png"):
        opened(tmp_path)
    split = opened(tmp_path, options={"void": 255})
    assert split.classes == ["0", "1"]
    assert max(split.train.target(i).max() for i in range(len(split.train))) == 255


def test_255_is_one_thing_whatever_images_are_taken(tmp_path):
    """Two names: 255 is the second class where no mask of the folder has 1; else the folder is refused."""
    for i in range(9):
        pair(tmp_path / "images", tmp_path / "masks", i, mask_of(i, (0, 255)))
    (tmp_path / "classes.txt").write_text("land\nsea\n")
    layout = layouts.get("image_masks")

    def meaning(seed, **options):
        """The class of 255 where two images are trained on, the images described with it, captions of the sheet."""
        spec = Data(source=str(tmp_path), train_images=2, split_seed=seed, options=options)
        train = open_data(spec, "mask").train
        pairs = [(train.raw_image(i)[0], train.target(i)) for i in range(2)]
        found = {code for red, mask in pairs for code in mask[red == 255].tolist()}
        shown = layout.describe(spec, None)["parts"][0]["classes"]["sea"]
        return found, shown, {cell.caption for cell in layout.read_cells(spec, "train", 2)}

    for seed in range(4):
        assert meaning(seed) == ({1}, 9, {"sea"})
    pair(tmp_path / "images", tmp_path / "masks", 9, mask_of(9, (0, 1)))
    for seed in range(4):
        with pytest.raises(UserError, match=r"data\.options\.void = 255 if 255 is no class"):
            meaning(seed)
        found, shown, captions = meaning(seed, void=255)
        assert (found, shown) == ({255}, 1)
        assert "" in captions


def test_the_meaning_of_values_is_in_the_fingerprint(tmp_path):
    def printed(names):
        (tmp_path / "classes.txt").write_text(names)
        return opened(tmp_path).fingerprint

    fill(tmp_path)
    plain = opened(tmp_path).fingerprint
    assert plain == printed("sky\nroad\ncar\n")  # each value is its own class, as before
    assert len({plain, printed("sky\nvoid\ncar\n"), printed("void\nsky\ncar\n")}) == 3


def test_void_is_no_class(tmp_path):
    for i in range(4):
        pair(tmp_path / "images", tmp_path / "masks", i, mask_of(i, (0, 1, 2, 255)))
    split = opened(tmp_path)
    assert split.classes == ["0", "1", "2"]
    assert split.train.target(0).unique().tolist() == [0, 1, 2, 255]
    (tmp_path / "classes.txt").write_text("sky\nvoid\ncar\n")
    split = opened(tmp_path)
    assert split.classes == ["sky", "car"]
    raw, mask = split.train.raw_image(0)[0], split.train.target(0)
    torch.testing.assert_close(mask == 255, (raw == 1) | (raw == 255), rtol=0, atol=0)
    torch.testing.assert_close(mask == 1, raw == 2, rtol=0, atol=0)


def test_the_names_of_the_classes_are_read_in_the_order_of_their_indices(tmp_path):
    (fill(tmp_path) / "classes.txt").write_text("road\nape\nzebra\nnever seen\n")
    assert opened(tmp_path).classes == ["road", "ape", "zebra", "never seen"]


def test_more_names_than_masks_can_hold(tmp_path):
    (fill(tmp_path) / "classes.txt").write_text("\n".join(map(str, range(255))))
    assert len(opened(tmp_path).classes) == 255
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(256))))
    with pytest.raises(
        UserError, match="there are 256 class names; 8-bit masks have room for 255 classes besides void"
    ):
        opened(tmp_path)


def test_a_name_that_stands_twice(tmp_path):
    (fill(tmp_path) / "classes.txt").write_text("road\ncar\nroad\n")
    with pytest.raises(UserError, match=r"classes\.txt has the name 'road' in the lines 1 and 3"):
        opened(tmp_path)


def no_mask(root):
    (root / "masks" / "02.png").unlink()
    return r"images/02\.png has no mask of the same name \(without suffix\)"


def other_size(root):
    Image.new("L", (12, 11)).save(root / "masks" / "02.png")
    return r"images/02\.png has the mask masks/02\.png, which is 12×11 pixels; its image is 12×10"


def too_many(root):
    Image.fromarray(mask_of(2, (0, 7))).save(root / "masks" / "02.png")
    (root / "classes.txt").write_text("a\nb\nc\n")
    return r"masks/02\.png, which has the value 7; 3 classes are 0 to 2"


def coloured(root):
    Image.new("RGB", SIZE, (3, 4, 5)).save(root / "masks" / "02.png")
    return r"masks/02\.png, which is in colours \(\(3, 4, 5\)\); labelmap\.txt, class_dict\.csv or .* is needed"


def compressed(root):
    (root / "masks" / "02.png").unlink()
    Image.fromarray(mask_of(2)).save(root / "masks" / "02.jpg")
    return r"masks/02\.jpg, which is a JPEG, whose compression changes class indices and colours; write PNG"


def deep(root):
    Image.fromarray(mask_of(2).astype(np.uint16)).save(root / "masks" / "02.png")
    return r"masks/02\.png, which is of mode I;16"


def broken(root):
    (root / "masks" / "02.png").write_bytes((root / "masks" / "02.png").read_bytes()[:50])
    return r"masks/02\.png, which cannot be read"


@pytest.mark.parametrize("wrong", [no_mask, other_size, too_many, coloured, compressed, deep, broken])
@pytest.mark.parametrize("cache", [2**30, 0])
def test_a_pair_that_cannot_be_used_is_refused_by_name_or_left_out(tmp_path, monkeypatch, wrong, cache):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", cache)
    monkeypatch.setattr(mask_files, "MEMORY_LIMIT", cache)
    fill(tmp_path)
    opened(tmp_path)
    words = wrong(tmp_path)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)
    split = opened(tmp_path, skip_bad=True)
    assert len(split.train) + len(split.test) == 5
    assert sum(split.left_out[part][""] for part in split.left_out) == 1
    assert ", 1 bad file left out (t" in split.description
    assert split.description.endswith(": 1)")
    for images in (split.train, split.test):
        for i in range(len(images)):
            torch.testing.assert_close(
                images.target(i).as_subclass(torch.Tensor), images.raw_image(i)[0], rtol=0, atol=0
            )


def test_two_masks_of_one_name(tmp_path):
    Image.new("L", SIZE).save(fill(tmp_path) / "masks" / "02.bmp")
    with pytest.raises(UserError, match=r"masks/02\.bmp and .*masks/02\.png are masks of the same name"):
        opened(tmp_path)


def test_names_that_pair_with_nothing(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    reason = layouts.get("image_masks").check_source(str(tmp_path))
    assert reason == "no image in images has a mask of its name in masks"
    for target in ("label", "mask"):
        with pytest.raises(UserError, match=rf"{reason}; .*class_list: .*class_folders: images and masks are"):
            open_data(Data(source=str(tmp_path)), target)
    split = open_data(Data(source=str(tmp_path), layout="class_folders"), "label")
    assert split.classes == ["images", "masks"]
    (tmp_path / "masks").rename(tmp_path / "ships")  # the twin: two names of classes
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("cache", [2**30, 0])
def test_image_and_mask_are_resized_and_augmented_as_one(tmp_path, monkeypatch, resize, cache):
    """Of an image that is its own mask, in flat quarters: wherever the image is flat, the two agree."""
    monkeypatch.setattr(opening, "MEMORY_LIMIT", cache)
    monkeypatch.setattr(mask_files, "MEMORY_LIMIT", cache)
    for i in range(6):
        pixels = np.zeros((60, 90), np.uint8)
        pixels[: 20 + 3 * i, 40:] = 1
        pixels[30 + i :, : 30 + i] = 2
        pair(tmp_path / "images", tmp_path / "masks", i, pixels)
        Image.fromarray(np.stack([100 * pixels] * 3, -1)).save(tmp_path / "images" / f"{i:02}.png")
    split = opened(tmp_path, size=(24, 40), resize=resize, augment=("flip", "crop"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (split.mean, split.std))
    for i in range(len(split.train)):
        for key in (i, (0, 1, i), (3, 4, i)):
            image, mask = split.train[key]
            assert mask.shape == image.shape[1:] == (24, 40)
            classes = ((image * std + mean)[0] * 255 / 100).round()
            valid = mask != 255
            assert valid.all() == (resize != "pad")
            assert (classes != mask)[valid].float().mean() < 0.1  # lines between classes alone
    assert any(not torch.equal(split.train[i][1], split.train[(0, 1, i)][1]) for i in range(len(split.train)))


def test_a_photograph_that_lies_on_its_side_has_an_upright_mask(tmp_path):
    fill(tmp_path)
    pixels = mask_of(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.stack([pixels] * 3, -1)).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "images" / "00.png", exif=exif)
    split = opened(tmp_path, test_part=0.1)
    assert split.size == (10, 12)
    torch.testing.assert_close(
        split.train.target(0).as_subclass(torch.Tensor), split.train.raw_image(0)[0], rtol=0, atol=0
    )


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    pair(fill(tmp_path) / "images", tmp_path / "masks", 6, np.zeros((30, 40), np.uint8))
    assert opened(tmp_path).size == (224, 224)


@pytest.mark.parametrize(
    ("size", "suited"), [((40, 30), (30, 40)), (SIZE, (16, 19)), ((30, 30), 30)], ids=["own", "enlarged", "square"]
)
def test_small_images_that_are_no_squares_are_not_cropped(tmp_path, size, suited):
    for i in range(4):
        pair(tmp_path / "images", tmp_path / "masks", i, np.zeros(size[::-1], np.uint8))
    found = layouts.get("image_masks").suggest_recipe(str(tmp_path))
    assert found == ("small_images", {"data.size": suited})
    data = Recipe().with_overrides(found[1]).data
    assert data.height_width == (suited if isinstance(suited, tuple) else (suited, suited))
    pair(tmp_path / "images", tmp_path / "masks", 4, np.zeros((31, 50), np.uint8))  # the twin: of several sizes
    assert isinstance(layouts.get("image_masks").suggest_recipe(str(tmp_path))[1]["data.size"], int)


def test_a_changed_mask_changes_fingerprint_and_stamp(tmp_path):
    layout, spec = layouts.get("image_masks"), Data(source=str(fill(tmp_path)))
    before, stamp = opened(tmp_path).fingerprint, layout.stamp(spec)
    assert opened(tmp_path).fingerprint == before
    assert layout.stamp(spec) == stamp
    Image.fromarray(mask_of(99)).save(tmp_path / "masks" / "02.png")
    assert opened(tmp_path).fingerprint != before
    assert layout.stamp(spec) != stamp


def test_a_folder_is_described_with_the_images_that_show_a_class(tmp_path):
    for i in range(4):
        pair(tmp_path / "images", tmp_path / "masks", i, mask_of(i, (0, 1) if i else (0,)))
    Image.new("L", SIZE).save(tmp_path / "masks" / "alone.png")
    done = CliRunner().invoke(command, [str(tmp_path), "--json", "--show", str(tmp_path / "sheet.png")])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert facts["layout"] == "image_masks"
    assert facts["parts"] == [{"name": "", "images": 4, "classes": {"0": 4, "1": 3}}]
    assert (facts["height"], facts["width"]) == (10, 12)
    assert "1 masks have no image of their name" in facts["notes"]
    assert (tmp_path / "sheet.png").exists()
    coloured(tmp_path)
    done = CliRunner().invoke(command, [str(tmp_path), "--json"])  # the twin
    assert done.exit_code == 1
    assert "which is in colours ((3, 4, 5))" in json.loads(done.stdout)["refused"][0]


def test_for_a_task_without_targets_masks_are_not_read(tmp_path):
    coloured(fill(tmp_path))
    split = open_data(Data(source=str(tmp_path)), "none")
    assert (split.classes, split.train.target(0)) == ([], None)
    with pytest.raises(UserError):
        opened(tmp_path)


def test_real_street_scenes(real_data):
    split = open_data(Data(source=f"{real_data}/camvid", size=(90, 120), train_images=20, test_images=10), "mask")
    assert (len(split.train), len(split.test), len(split.val)) == (20, 10, 101)
    assert len(split.classes) == 11
    assert split.classes[0] == "sky"
    upper, lower = (torch.stack([split.train.target(i)[rows] for i in range(20)]) for rows in (slice(9), slice(81, 90)))
    assert (upper == 0).sum() > 100 * (lower == 0).sum()  # the sky is above
    assert (lower == split.classes.index("road")).float().mean() > 0.4
