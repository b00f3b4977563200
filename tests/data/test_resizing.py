"""Images and masks are cropped, padded and stretched alike."""

import numpy as np
import pytest
from PIL import Image

from saccade.data.opening import read_image
from saccade.data.resizing import DEFAULT_SIZE, Frame, common_size, common_square
from saccade.data.samples import VOID


def split(width, height, place=0.5):
    """An image that is dark left of and above a point, bright elsewhere; by columns and by rows."""
    columns, rows = np.zeros((2, height, width), np.uint8)
    columns[:, round(place * width) :] = 200
    rows[round(place * height) :] = 200
    return columns, rows


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(40, 40), (30, 50), (64, 20), (9, 8)])
@pytest.mark.parametrize("source", [(64, 48), (20, 90), (30, 30)])
def test_a_mask_matches_its_image(resize, size, source):
    frame = Frame(*size, resize)
    left, top, width, height = frame.content_box(source)
    inner = np.zeros(size, bool)
    inner[top : top + height, left : left + width] = True
    for axis, pixels in enumerate(split(*source)):
        image = np.asarray(frame.fit_image(Image.fromarray(pixels).convert("RGB")))[..., 0]
        mask = np.asarray(frame.fit_mask(Image.fromarray(pixels)))
        assert image.shape == mask.shape == size
        assert set(np.unique(mask)) <= {0, 200, VOID}
        np.testing.assert_array_equal(mask == VOID, ~inner)
        np.testing.assert_array_equal(image[~inner], 0)
        unlike = ((image > 100) != (mask == 200)) & inner  # a line of pixels at the edge is neither dark nor bright
        assert unlike.any(axis).sum() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_rotated_image_is_decoded_at_the_size_of_an_upright_one(tmp_path, orientation):
    """Fine stripes survive in a frame that needs the whole width: 1/4 of the JPEG would blur them."""
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 4), (1600, 50))
    image = Image.fromarray(stripes).convert("RGB")  # 400 wide, 1600 high
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if orientation == 1 else image.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "0.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "0.jpg", Frame(50, 200))
    assert found.size == (400, 1600)
    assert found.pixels.std() > 80
    assert np.asarray(image.resize((100, 400)).resize((200, 800))).std() < 80  # the twin


def test_a_shifted_mask_differs():
    frame = Frame(40, 40, "stretch")
    image = np.asarray(frame.fit_image(Image.fromarray(split(64, 48)[0]).convert("RGB")))[..., 0]
    mask = np.asarray(frame.fit_mask(Image.fromarray(split(64, 48, place=0.6)[0])))
    assert ((image > 100) != (mask == 200)).any(0).sum() > 1


def test_crop_pad_and_stretch():
    wide = np.zeros((10, 40), np.uint8)
    wide[:, 15:25] = 200
    image = Image.fromarray(wide).convert("RGB")
    np.testing.assert_array_equal(np.asarray(Frame(10, 10, "crop").fit_image(image)), 200)
    padded = np.asarray(Frame(40, 40, "pad", fill=(1, 2, 3)).fit_image(image))
    np.testing.assert_array_equal(padded[15:25, :, 0], wide)
    assert {tuple(colour) for colour in padded[:15].reshape(-1, 3).tolist()} == {(1, 2, 3)}
    assert {tuple(colour) for colour in padded[25:].reshape(-1, 3).tolist()} == {(1, 2, 3)}
    stretched = np.asarray(Frame(20, 20, "stretch").fit_image(image))[..., 0]
    np.testing.assert_array_equal(stretched[:, 8:12], 200)
    np.testing.assert_array_equal(stretched[:, :6], 0)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_an_image_of_the_frames_size_is_unchanged(resize):
    image = Image.fromarray(split(12, 8)[0]).convert("RGB")
    assert Frame(8, 12, resize).fit_image(image) is image
    assert Frame(8, 13, resize).fit_image(image) is not image


def test_a_thin_image_keeps_one_pixel():
    page = np.asarray(Frame(8, 8, "pad").fit_mask(Image.new("L", (1000, 1), 7)))
    assert (page == 7).sum() == 8


def test_common_sizes():
    assert common_square({(20, 20)}) == (20, 20)
    assert common_square({(20, 30)}) == common_square({(20, 20), (21, 21)}) == common_square(()) == DEFAULT_SIZE
    assert common_size({(20, 30)}) == (30, 20)
    assert common_size({(20, 30), (30, 20)}) == common_size({(4000, 30)}) == common_size(()) == DEFAULT_SIZE
