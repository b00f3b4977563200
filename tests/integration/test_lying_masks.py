"""Masks that lie: each is refused by name with what was found, or means what the documentation says."""

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import open_data
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks.segment import Segment

WIDTH, HEIGHT = 12, 10
CAMVID = "0 0 0 sky\n128 64 128 road\n64 64 0 void\n"
COLOURS = np.array([(0, 0, 0), (128, 64, 128), (64, 64, 0)], np.uint8)


def indices(i, values=(0, 1, 2)):
    return np.random.default_rng(i).choice(np.array(values, np.uint8), (HEIGHT, WIDTH))


def fill(root, mask=lambda i: Image.fromarray(indices(i)), count=5, images="images", masks="masks"):
    """Images that differ, with the masks that ``mask`` makes."""
    for i in range(count):
        for folder, image in ((images, Image.fromarray(np.stack([indices(i), indices(i) + i, indices(i)], -1) * 20)),
                              (masks, mask(i))):  # fmt: skip
            (root / folder).mkdir(parents=True, exist_ok=True)
            image.save(root / folder / f"{i:02}.png")
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **{"test_part": 0.4, **fields}), "mask")


def larger(root):
    Image.fromarray(np.kron(indices(2), np.ones((2, 2), np.uint8))).save(root / "masks/02.png")
    return "masks/02.png, which is 24×20 pixels; its image is 12×10"


def transposed(root):
    Image.fromarray(indices(2).T.copy()).save(root / "masks/02.png")
    return "masks/02.png, which is 10×12 pixels; its image is 12×10"


def partly_transparent(root):
    pixels = np.dstack([*[indices(2)] * 3, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[3, 4:9, 3] = 0
    Image.fromarray(pixels).save(root / "masks/02.png")
    return "masks/02.png, which is transparent in 5 of 120 pixels, whose class is not stated"


def classes_in_the_alpha_channel(root):
    Image.fromarray(np.dstack([*[np.zeros((HEIGHT, WIDTH), np.uint8)] * 3, indices(2)])).save(root / "masks/02.png")
    return "masks/02.png, which is transparent in 120 of 120 pixels"


def one_bit_among_indices(root):
    Image.fromarray(indices(2) > 0).save(root / "masks/02.png")
    return "masks/02.png, which is black and white, where other masks hold class indices"


def webp(root):
    (root / "masks/02.png").unlink()
    Image.fromarray(indices(2)).save(root / "masks/02.webp")
    return "masks/02.webp, which is a WEBP, whose compression changes class indices and colours; write PNG"


def floats(root):
    (root / "masks/02.png").unlink()
    Image.fromarray(indices(2).astype(np.float32)).save(root / "masks/02.tif")
    return "masks/02.tif, which is of mode F; class indices (mode L or P) or colours (mode RGB) are needed"


def two_pages(root):
    (root / "masks/02.png").unlink()
    pages = [Image.fromarray(indices(i)) for i in (2, 3)]
    pages[0].save(root / "masks/02.tif", save_all=True, append_images=pages[1:])
    return "masks/02.tif, which has 2 pages; a mask of one page is needed"


def empty_file(root):
    (root / "masks/02.png").write_bytes(b"")
    return "masks/02.png, which is an empty file"


def text(root):
    (root / "masks/02.png").write_text("0 0 1")
    return "masks/02.png, which is not an image in JPEG, PNG, BMP, PPM, TIFF or WEBP"


def the_photograph_itself(root):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for folder in ("images", "masks"):
        Image.fromarray(pixels).save(root / folder / "02.png")
    return "masks/02.png, which is in colours ("


def a_folder(root):
    (root / "masks/02.png").unlink()
    (root / "masks/02.png").mkdir()
    return "images/02.png has no mask of the same name (without suffix)"


def another_name(root):
    (root / "masks/02.png").rename(root / "masks/2.png")
    return "images/02.png has no mask of the same name (without suffix)"


def an_index_above_the_names(root):
    (root / "classes.txt").write_text("a\nb\nc\n")
    Image.fromarray(np.maximum(indices(2), 3)).save(root / "masks/02.png")
    return "masks/02.png, which has the value 3; 3 classes are 0 to 2"


LIES = [
    larger, transposed, partly_transparent, classes_in_the_alpha_channel, one_bit_among_indices, webp, floats,
    two_pages, empty_file, text, the_photograph_itself, a_folder, another_name, an_index_above_the_names,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_one_bad_mask_is_refused_by_name_or_left_out(tmp_path, lie):
    assert len(opened(fill(tmp_path)).classes) == 3
    said = lie(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert said in str(caught.value)
    assert "1 of 5 images cannot be used" in str(caught.value)
    split = opened(tmp_path, skip_bad=True)
    assert len(split.train) + len(split.test) == 4
    assert sum(split.left_out[part][""] for part in split.left_out) == 1


def test_an_opaque_mask_of_mode_rgba_is_read(tmp_path):
    """The twin of transparent ones."""
    split = opened(fill(tmp_path, lambda i: Image.fromarray(indices(i)).convert("RGBA")))
    assert sorted({c for i in range(3) for c in split.train.target(i).unique().tolist()}) == [0, 1, 2]


def test_two_images_of_one_name_share_no_mask(tmp_path):
    """The copy could be in the test part, and its mask would have been learnt."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(fill(tmp_path) / "images/02.jpg")
    with pytest.raises(UserError, match=r"02\.jpg and .*02\.png are images of the same name, and one mask is theirs"):
        opened(tmp_path)


def test_two_masks_of_one_name_are_refused_though_they_are_equal(tmp_path):
    Image.fromarray(indices(2)).save(fill(tmp_path) / "masks/02.tif")
    with pytest.raises(UserError, match=r"02\.png and .*02\.tif are masks of the same name"):
        opened(tmp_path)


def test_a_colour_that_the_map_lacks_is_named_with_the_nearest(tmp_path):
    fill(tmp_path, lambda i: Image.fromarray(COLOURS[indices(i)]))
    (tmp_path / "label_colors.txt").write_text(CAMVID)
    split = opened(tmp_path)
    assert split.classes == ["sky", "road"]  # void by its name
    assert sorted({c for i in range(3) for c in split.train.target(i).unique().tolist()}) == [0, 1, 255]
    pixels = COLOURS[indices(2)]
    pixels[0, 0] = 130, 64, 128
    Image.fromarray(pixels).save(tmp_path / "masks/02.png")
    said = r"has the colour \(130, 64, 128\) in 1 of 120 pixels, .*; the nearest is road \(128, 64, 128\)"
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def test_indices_from_1_need_a_name_for_0(tmp_path):
    fill(tmp_path, lambda i: Image.fromarray(indices(i, (1, 2, 3))))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"5 of 5 images cannot be used: .* has the value 3; 3 classes are 0 to 2"):
        opened(tmp_path)
    (tmp_path / "classes.txt").write_text("void\na\nb\nc\n")
    split = opened(tmp_path)
    assert split.classes == ["a", "b", "c"]
    assert torch.equal(split.train.target(0).unique().as_subclass(torch.Tensor), torch.tensor([0, 1, 2]).byte())


@pytest.mark.parametrize("values", [(0, 127, 254), (0, 1, 254, 255), (0, 85, 170, 255)])
def test_grey_levels_become_no_classes(tmp_path, values):
    """Indices stretched for the eye, and masks of two values smeared by resizing."""
    with pytest.raises(UserError, match=r"which are grey levels: as class indices, \d+ of the classes 0 to \d+"):
        opened(fill(tmp_path, lambda i: Image.fromarray(indices(i, values))))


def built(split):
    return Segment(Recipe(), split).build(Recipe().model)


def test_a_void_mask_is_no_error_among_others_and_void_masks_alone_are(tmp_path):
    Image.new("L", (WIDTH, HEIGHT), 255).save(fill(tmp_path) / "masks/02.png")
    split = opened(tmp_path)
    targets = [part.target(i) for part in (split.train, split.test) for i in range(len(part))]
    assert sum(bool((target == 255).all()) for target in targets) == 1
    assert built(split) is not None
    fill(tmp_path, lambda i: Image.new("L", (WIDTH, HEIGHT)))
    with pytest.raises(UserError, match=r"the masks have 1 classes besides void \(0\); 2 or more are needed"):
        built(opened(tmp_path))
    (tmp_path / "classes.txt").write_text("void\n")
    with pytest.raises(UserError, match=r"the masks have 0 classes besides void \(none\)"):
        built(opened(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classes.txt", "sky\nroad\nsky\n", "has the name 'sky' in the lines 1 and 3"),
        ("label_colors.txt", "0 0 0 sky\n0 0 0 road\n", "has the colour (0, 0, 0) 2 times"),
        ("label_colors.txt", "0 0 sky\n", "has the line '0 0 sky'; name:r,g,b:: or r g b name is needed"),
    ],
)
def test_class_files_that_contradict_themselves(tmp_path, name, text, said):
    (fill(tmp_path) / name).write_text(text)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert said in str(caught.value)


def voc(root):
    return fill(root, images="JPEGImages", masks="SegmentationClass")


def test_voc_masks_are_checked_too(tmp_path):
    voc(tmp_path)
    (tmp_path / "labelmap.txt").write_text("sky:0,0,0::\nroad:128,64,128::\nvoid:64,64,0::\n")
    split = opened(tmp_path)
    assert split.classes == ["sky", "road"]
    assert split.train.target(0).unique().tolist() == [0, 1, 255]
    Image.fromarray(np.maximum(indices(2), 3)).save(tmp_path / "SegmentationClass/02.png")
    with pytest.raises(UserError, match=r"02\.png, which has the value 3; 3 classes are 0 to 2"):
        opened(tmp_path)
    (tmp_path / "SegmentationClass/02.png").unlink()
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("00\n01\n02\n")
    (lists / "val.txt").write_text("03\n04\n")
    with pytest.raises(UserError, match=r"02\.png has no mask"):
        opened(tmp_path)


def test_camvid_has_eleven_classes_and_void(real_data):
    """Void is the twelfth name; each class is where it is in a street."""
    split = open_data(Data(source=f"{real_data}/camvid", size=(48, 64), train_images=40, test_images=20), "mask")
    names = "sky building pole road pavement tree signsymbol fence car pedestrian bicyclist"
    assert split.classes == names.split()
    masks = torch.stack([split.train.target(i) for i in range(40)])
    raw = np.stack([
        np.asarray(Image.open(path)) for path in sorted((real_data / "camvid/trainannot").glob("*.png"))[:40]
    ])  # fmt: skip
    assert raw.max() == 11
    assert (masks == 11).sum() == 0
    assert 0.01 < (masks == 255).float().mean() < 0.1
    rows = torch.arange(48.0)[:, None].expand(48, 64)
    height = {name: rows.expand_as(masks)[masks == c].mean() for c, name in enumerate(split.classes)}
    assert height["sky"] < height["building"] < height["car"] < height["road"]
