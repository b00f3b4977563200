"""Masks that lie: each is refused by name with what was found, or means what the documentation says."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import layouts, open_data
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


def stored_pixels_of_a_turned_image(root):
    """The mask of a photo on its side that was drawn before the photo was turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "images/02.png") as image:
        image.load()
    image.save(root / "images/02.png", exif=exif)
    return "masks/02.png, which is 12×10 pixels; its image is 10×12 after EXIF orientation 6, which the mask lacks"


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
    larger, transposed, stored_pixels_of_a_turned_image, partly_transparent, classes_in_the_alpha_channel,
    one_bit_among_indices, webp, floats, two_pages, empty_file, text, the_photograph_itself, a_folder, another_name,
    an_index_above_the_names,
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


def two_values(i):
    return Image.fromarray(indices(i, (0, 255)))


def a_one_among_two_values(root):
    pixels = np.asarray(two_values(2)).copy()
    pixels[0, 0] = 1
    Image.fromarray(pixels).save(fill(root, two_values) / "masks/02.png")
    return "masks/00.png and 3 other masks hold 0 and 255 alone, as masks of background and foreground do, but masks/02"


def three_names_for_two_values(root):
    (fill(root, two_values) / "classes.txt").write_text("sky\nroad\ncar\n")
    return (
        "hold 0 and 255 alone, as masks of background and foreground do, but there are 3 class names (sky, road, car)"
    )


def palette(i, order):
    image = Image.frombytes("P", (WIDTH, HEIGHT), np.argsort(order).astype(np.uint8)[indices(i)].tobytes())
    image.putpalette(COLOURS[list(order)].ravel().tolist())
    return image


def palettes_in_two_orders(root):
    fill(root, lambda i: palette(i, (0, 2, 1) if i == 3 else (0, 1, 2)))
    return (
        "index 1 is (128, 64, 128) in the palette of masks/00.png and (64, 64, 0) in that of masks/03.png. List the "
        "colours in labelmap.txt (name:r,g,b::), or set data.options.palette = false"
    )


def turned_square_images(root, orientation=6, side=12):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in fill(root).glob("*/*.png"):
        with Image.open(path) as image:
            square = image.resize((12, side), Image.Resampling.NEAREST)
        square.save(path, exif=exif if path.parent.name == "images" else Image.Exif())
    return (
        f"and its EXIF orientation is {orientation}, that of the mask 1 (1 = upright), so that the mask may be turned"
    )


def images_upside_down(root):
    return turned_square_images(root, 3, 10)


def other_classes_in_valid(root):
    for part, names in (("train", "0,sky\n1,road\n2,car\n"), ("valid", "0,sky\n1,car\n2,road\n")):
        fill(root / part)
        (root / part / "masks/_classes.csv").write_text(f"Pixel Value,Class\n{names}")
    return "valid/masks/_classes.csv lists sky, car, road; train/masks/_classes.csv lists sky, road, car"


def a_comment_among_names(root):
    (fill(root) / "classes.txt").write_text("# classes\nsky\nroad\n")
    return "classes.txt has the line '# classes', which would name a class; remove the comment"


def all_transparent(root):
    alpha = np.full((HEIGHT, WIDTH), 128, np.uint8)
    fill(root, lambda i: Image.fromarray(np.dstack([*[indices(i)] * 3, alpha])))
    return "5 of 5 images cannot be used: images/00.png has the mask masks/00.png, which is transparent in 120 of 120"


FOLDERS = [
    (a_one_among_two_values, {"void": 255}, {0, 1, 255}),
    (three_names_for_two_values, {"void": 255}, {0, 255}),
    (palettes_in_two_orders, {"palette": False}, {0, 1, 2}),
    (turned_square_images, {"upright_masks": True}, {0, 1, 2}),
    (images_upside_down, {"upright_masks": True}, {0, 1, 2}),
    (other_classes_in_valid, None, None),
    (a_comment_among_names, None, None),
    (all_transparent, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("make", "settled", "values"), FOLDERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_folder_whose_meaning_cannot_be_known_is_refused_or_settled(tmp_path, make, settled, values):
    said = make(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert said in str(caught.value).replace(f"{tmp_path}/", "")
    assert "classes 0 to 0" not in str(caught.value)
    if settled is None:
        return
    split = opened(tmp_path, options=settled)
    targets = [part.target(i) for part in (split.train, split.test) for i in range(len(part))]
    assert set(torch.stack(targets).unique().tolist()) == values
    assert layouts.get("image_masks").describe(Data(source=str(tmp_path), options=settled), None)["refused"] == []


def test_twins_of_folders_that_are_refused(tmp_path):
    """What is usual: 255 beside classes, palettes in one order, photos on their side with upright masks."""
    few = fill(tmp_path / "void", lambda i: two_values(i) if i == 2 else Image.fromarray(indices(i, (0, 1, 255))))
    assert opened(few).classes == ["0", "1"]
    assert opened(fill(tmp_path / "palette", lambda i: palette(i, (0, 2, 1)))).classes == ["0", "1", "2"]
    for part in ("train", "valid"):
        fill(tmp_path / "same" / part)
        (tmp_path / "same" / part / "masks/_classes.csv").write_text("Pixel Value,Class\n0,sky\n1,road\n2,car\n")
    assert opened(tmp_path / "same").classes == ["sky", "road", "car"]
    turned_square_images(tmp_path / "upright", 1)
    assert opened(tmp_path / "upright").size == (12, 12)


def test_few_images_of_a_folder_do_not_decide_what_255_is(tmp_path):
    """Three names: only the masks in use are read, unless they seem to have 255 as the foreground."""
    fill(tmp_path, lambda i: two_values(i) if i < 3 else Image.fromarray(indices(i, (0, 1, 2, 255))), 9)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    for seed in range(4):
        assert len(opened(tmp_path, train_images=2, test_images=2, split_seed=seed).classes) == 3


def notes(root, **options):
    return layouts.get("image_masks").describe(Data(source=str(root), test_part=0.4, options=options), None)["notes"]


def a_holdout_beside_parts(root):
    for part in ("train", "test", "holdout"):
        fill(root / part)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "loose.png")
    return "11 images are not used, in holdout/images (5), holdout/masks (5), . (1); masks are read from train/masks"


def two_folders_of_masks(root):
    shutil.copytree(fill(root) / "masks", root / "labels")
    return "5 images are not used, in labels (5); masks are read from masks"


def a_class_in_the_test_part_alone(root):
    fill(root / "train", lambda i: Image.fromarray(indices(i, (0, 1))))
    fill(root / "test")
    return "1 classes are in test images and in no training image: 2"


def masks_from_1(root):
    (fill(root, lambda i: Image.fromarray(indices(i, (1, 2)))) / "classes.txt").write_text("sky\nroad\ncar\n")
    return "no mask has the value 0, the class 'sky'; if masks count from 1, name a class before it"


def frames_of_two_videos(root):
    for i, path in enumerate(sorted(fill(root, count=8).glob("*/*.png"))):
        path.rename(path.with_name(f"{'ab'[i % 2]}_{path.name}"))
    return "8 images have 2 names but for their numbers, such as 'a_': if they are frames of videos, data.options.group"


@pytest.mark.parametrize(
    "make",
    [a_holdout_beside_parts, two_folders_of_masks, a_class_in_the_test_part_alone, masks_from_1, frames_of_two_videos],
)
def test_what_is_usual_but_may_be_meant_otherwise_is_noted(tmp_path, make):
    said = make(tmp_path / "lie")
    found = notes(tmp_path / "lie")
    assert any(note.startswith(said) for note in found), found
    words = ("not used", "no training image", "value 0", "their numbers")
    assert not any(word in note for note in notes(fill(tmp_path / "twin")) for word in words)


def test_a_class_that_is_not_trained_is_told_to_a_run(tmp_path):
    a_class_in_the_test_part_alone(tmp_path)
    assert opened(tmp_path).cautions[-1] == "1 classes are in test images and in no training image: 2"
    Image.fromarray(indices(0)).save(tmp_path / "train/masks/00.png")  # the twin
    assert not any("no training image" in caution for caution in opened(tmp_path).cautions)


def test_frames_of_one_video_stay_in_one_part(tmp_path):
    frames_of_two_videos(tmp_path)

    def parts(**options):
        split = opened(tmp_path, options=options)
        return split, len(split.train), len(split.test)

    split, n_train, n_test = parts(group="prefix")
    assert (n_train, n_test) == (4, 4)
    assert (set(split.train.groups), set(split.test.groups)) in (({"a_"}, {"b_"}), ({"b_"}, {"a_"}))
    assert not any("numbers" in note for note in notes(tmp_path, group="prefix"))
    split, n_train, n_test = parts()  # the twin
    assert (n_train, n_test, split.train.groups) == (5, 3, None)
    with pytest.raises(UserError, match=r"data\.options\.group: 'folders' is not possible\. Did you mean 'folder'"):
        parts(group="folders")
    with pytest.raises(UserError, match=r"there are images of only 1 group \('images'\)"):
        parts(group="folder")
    for folder in ("images", "masks"):
        for path in sorted((tmp_path / folder).glob("a_*")):
            (tmp_path / folder / "a").mkdir(exist_ok=True)
            path.rename(tmp_path / folder / "a" / path.name)
    split, _, _ = parts(group="folder")
    assert {*split.train.groups, *split.test.groups} == {"a", "images"}


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
