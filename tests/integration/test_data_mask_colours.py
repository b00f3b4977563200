"""Masks in colours: the files that name them, what becomes void, and every way in which colours are wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import layouts, open_data
from saccade.data.colour_maps import read_class_map
from saccade.errors import UserError
from saccade.recipe import Data

SIZE = (12, 10)  # width, height
COLOURS = np.array([(0, 0, 0), (128, 64, 128), (0, 128, 192)], np.uint8)
MAPS = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:128,64,128::\ncar:0,128,192:wheel,door:\n",
    "class_dict.csv": "name,r,g,b\nsky,0,0,0\nroad,128,64,128\ncar,0,128,192\n",
    "label_colors.txt": "0 0 0\tsky\n128 64 128\t\troad\n0 128 192 car\n",
}


def mask_of(i, values=(0, 1, 2)):
    return np.random.default_rng(i).choice(np.array(values, np.uint8), SIZE[::-1])


def fill(root, save, count=6, values=(0, 1, 2), masks="masks/{:02}.png", images="images/{:02}.png"):
    """Images whose red is the class, and masks as ``save`` makes them of the classes."""
    for i in range(count):
        pixels = mask_of(i, values)
        for text, image in (
            (images, Image.fromarray(np.stack([pixels, 0 * pixels + i, pixels], -1))),
            (masks, save(pixels)),
        ):
            path = root / text.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root


def coloured(pixels):
    return Image.fromarray(COLOURS[pixels])


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "mask")


def agree(split):
    """Whether every mask is the red of its image."""
    images = [(split.train, i) for i in range(len(split.train))] + [(split.test, i) for i in range(len(split.test))]
    return all(torch.equal(of.target(i).as_subclass(torch.Tensor), of.raw_image(i)[0]) for of, i in images)


def palette(pixels, colours=COLOURS):
    image = Image.frombytes("P", SIZE, pixels.tobytes())
    image.putpalette([*colours.ravel().tolist(), *[7] * (768 - colours.size)])
    return image


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_looked_up(tmp_path, name, mode):
    fill(tmp_path, lambda pixels: coloured(pixels).convert(mode))
    with pytest.raises(UserError, match=r"which is in colours \(.*\); labelmap\.txt, class_dict\.csv or"):
        opened(tmp_path)
    (tmp_path / name).write_text(MAPS[name])
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "image_masks"
    split = opened(tmp_path)
    assert split.classes == ["sky", "road", "car"]
    assert agree(split)


def test_a_palette_keeps_its_indices_or_its_colours(tmp_path):
    fill(tmp_path, palette)
    assert agree(opened(tmp_path))
    (tmp_path / "labelmap.txt").write_text("car:0,128,192::\nroad:128,64,128::\nsky:0,0,0::\n")
    split = opened(tmp_path)  # the colours are in the map, in another order
    assert split.classes == ["car", "road", "sky"]
    torch.testing.assert_close(2 - split.train.target(0), split.train.raw_image(0)[0], rtol=0, atol=0)
    fill(tmp_path, lambda pixels: palette(pixels, COLOURS + 1))
    assert agree(opened(tmp_path))  # the colours are in no map: the indices count


def test_a_palette_with_some_colours_of_the_map_is_refused(tmp_path):
    """Its indices would pass for classes: those of a picture that was made a palette keep no order."""
    fill(tmp_path, lambda pixels: palette(pixels, COLOURS + np.array([[0], [0], [1]], np.uint8)))
    assert agree(opened(tmp_path))  # the twin: nothing names colours
    (tmp_path / "labelmap.txt").write_text("car:0,128,192::\nroad:128,64,128::\nsky:0,0,0::\n")
    with pytest.raises(UserError, match=r"has the colour \(1, 129, 193\) in .* not in labelmap\.txt"):
        opened(tmp_path)


def test_index_255_of_a_palette_is_void_whatever_its_colour(tmp_path):
    """As in VOC, whose outlines are (224, 224, 192); the other colours are in the map, in another order."""
    colours = np.full((256, 3), 7, np.uint8)
    colours[:3], colours[255] = COLOURS, (224, 224, 192)
    fill(tmp_path, lambda pixels: palette(pixels, colours), values=(0, 1, 2, 255))
    (tmp_path / "labelmap.txt").write_text("car:0,128,192::\nroad:128,64,128::\nsky:0,0,0::\n")
    split = opened(tmp_path)
    red, found = split.train.raw_image(0)[0], split.train.target(0)
    torch.testing.assert_close(found == 255, red == 255, rtol=0, atol=0)
    torch.testing.assert_close((2 - found)[red < 255], red[red < 255], rtol=0, atol=0)


def test_grey_levels_that_are_no_indices_are_said(tmp_path):
    """128 in a mask may be a grey of three, which makes 129 classes."""

    def notes(values):
        fill(tmp_path, Image.fromarray, values=values)
        return layouts.get("image_masks").describe(Data(source=str(tmp_path)), None)["notes"]

    said = "6 of the classes 0 to 8 are in no mask: grey levels, such as 128, are read as class indices"
    assert any(note.startswith(said) for note in notes((0, 4, 8, 255)))
    assert not any("in no mask" in note for note in notes((0, 1, 3, 255)))  # a class that no image shows
    with pytest.raises(UserError, match="hold 0, 64, 128, which are grey levels: as class indices, 126 of the classes"):
        notes((0, 64, 128, 255))
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(129))))
    assert not any("in no mask" in note for note in notes((0, 64, 128, 255)))


def test_greys_saved_as_rgb_are_indices(tmp_path):
    assert agree(opened(fill(tmp_path, lambda pixels: Image.fromarray(np.stack([pixels] * 3, -1)))))
    split = opened(fill(tmp_path, lambda p: Image.fromarray(np.stack([p] * 3, -1)), values=(0, 255)))
    assert split.classes == ["background", "foreground"]


def test_the_order_of_the_map_is_in_the_fingerprint(tmp_path):
    fill(tmp_path, coloured)

    def printed(text):
        (tmp_path / "labelmap.txt").write_text(text)
        return opened(tmp_path).fingerprint

    plain, other = MAPS["labelmap.txt"], "road:0,0,0::\nsky:128,64,128::\ncar:0,128,192::\n"
    assert printed(plain) == printed(plain)
    assert printed(plain) == printed(other)  # names alone
    assert printed(plain) != printed("sky:128,64,128::\nroad:0,0,0::\ncar:0,128,192::\n")


def test_roboflow_semantic(tmp_path):
    for part in ("train", "valid", "test"):
        fill(tmp_path / part, Image.fromarray, 3, masks="a b{:02}_mask.png", images="a b{:02}.png")
        (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n")
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "image_masks"
    split = opened(tmp_path)
    assert split.classes == ["background", "road", "car"]
    assert [len(part) for part in (split.train, split.test, split.val)] == [3, 3, 3]
    assert agree(split)


@pytest.mark.parametrize("word", ["void", "Void", "ignore", "Unlabelled", "unlabeled"])
def test_void_by_its_name(tmp_path, word):
    fill(tmp_path, coloured)
    (tmp_path / "labelmap.txt").write_text(MAPS["labelmap.txt"].replace("road", word))
    split = opened(tmp_path)
    assert split.classes == ["sky", "car"]
    red, mask = split.train.raw_image(0)[0], split.train.target(0)
    torch.testing.assert_close(mask == 255, red == 1, rtol=0, atol=0)
    torch.testing.assert_close(mask == 1, red == 2, rtol=0, atol=0)
    kept = opened(tmp_path, options={"void": False})
    assert kept.classes == ["sky", word, "car"]
    assert agree(kept)


def test_void_by_an_option(tmp_path):
    fill(tmp_path, Image.fromarray)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    assert opened(tmp_path).classes == ["sky", "road", "car"]
    assert opened(tmp_path, options={"void": "road"}).classes == ["sky", "car"]
    assert opened(tmp_path, options={"void": "road, sky"}).classes == ["car"]
    with pytest.raises(UserError, match=r"data\.options\.void: there is no class 'raod'\. Did you mean 'road'\?"):
        opened(tmp_path, options={"void": "raod"})
    with pytest.raises(UserError, match=r"image_masks has no option 'voids'\. Did you mean 'void'\?"):
        opened(tmp_path, options={"voids": "road"})


def strange(root):
    pixels = COLOURS[mask_of(2)]
    pixels[4, 5:8] = 120, 60, 130
    Image.fromarray(pixels).save(root / "masks" / "02.png")
    return (
        "images/02.png has the mask masks/02.png, which has the colour (120, 60, 130) in 3 of 120 pixels, not in "
        "labelmap.txt; the nearest is road (128, 64, 128)"
    )


def smeared(root):
    coloured(mask_of(2)).resize((30, 30), Image.Resampling.BICUBIC).resize(SIZE).save(root / "masks" / "02.png")
    return "other colours, not in labelmap.txt; the nearest is "


def smoothed(root):
    coloured(mask_of(2)).resize((30, 30), Image.Resampling.BICUBIC).resize(SIZE).save(root / "masks" / "02.png")
    return "; that many colours indicate smoothing: resize masks by nearest neighbour"


def compressed(root):
    (root / "masks" / "02.png").unlink()
    coloured(mask_of(2)).save(root / "masks" / "02.jpg")
    return "masks/02.jpg, which is a JPEG, whose compression changes class indices and colours; write PNG"


def transparent(root):
    Image.new("LA", SIZE).save(root / "masks" / "02.png")
    return "masks/02.png, which is of mode LA; class indices (mode L or P) or colours (mode RGB) are needed"


def beyond(root):
    Image.fromarray(mask_of(2, (0, 7))).save(root / "masks" / "02.png")
    return "masks/02.png, which has the value 7; 3 classes are 0 to 2"


@pytest.mark.parametrize("wrong", [strange, smeared, smoothed, compressed, transparent, beyond])
def test_a_mask_that_cannot_be_used_is_refused_by_name(tmp_path, wrong):
    fill(tmp_path, coloured)
    (tmp_path / "labelmap.txt").write_text(MAPS["labelmap.txt"])
    opened(tmp_path)
    said = wrong(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert said in str(caught.value)
    split = opened(tmp_path, skip_bad=True)
    assert len(split.train) + len(split.test) == 5
    assert agree(split)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labelmap.txt", "sky:0,0,0::\nroad 1,2,3\n", "has the line 'road 1,2,3'; name:r,g,b:: or r g b name is"),
        ("labelmap.txt", "sky:0,0,0::\nroad:0,0,256::\n", "has the line 'road:0,0,256::'; red, green and blue are"),
        ("labelmap.txt", "sky:0,0,0::\nroad:0,0,0::\n", "has the colour (0, 0, 0) 2 times"),
        ("labelmap.txt", "sky:0,0,0::\nsky:1,0,0::\n", "has the name sky 2 times"),
        ("labelmap.txt", "# nothing\n", "names no class"),
        ("class_dict.csv", "name,red,green,blue\nsky,0,0,0\n", "columns name, red, green, blue; name, r, g, b are"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,x\n", "has the line 'sky,0,0,x'; red, green and blue are 0 to 255"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0\n", "line 2 of class_dict.csv has 3 cells; the header has 4"),
        ("_classes.csv", "Value,Class\n0,sky\n", "has the columns Value, Class; Pixel Value, Class are needed"),
        ("_classes.csv", "Pixel Value,Class\n0,sky\n2,car\n", "has no pixel value 1; the values must be 0 to 1"),
    ],
)  # fmt: skip
def test_a_map_that_cannot_be_read(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_class_map(path)
    assert said in str(caught.value)
    good = MAPS.get(name, "Pixel Value,Class\n0,sky\n1,road\n2,car\n")  # the twin
    path.write_text(good)
    assert read_class_map(path).names == ("sky", "road", "car")
