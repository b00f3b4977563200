"""Normalisation and resizing by a recipe equal those of timm's transform."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform

from saccade.data import open_data
from saccade.data.normalisation import describe_settings, normalisation
from saccade.data.resizing import Frame
from saccade.data.samples import channel_statistics
from saccade.recipe import Data

SIZES = [(300, 200), (97, 260), (224, 224), (64, 64), (51, 40)]
CONFIGS = {
    "mobilenetv2_100": {
        "size": 224, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "crop_pct": 0.875,
    },
    "resnet18": {
        "size": 160, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear",
        "crop_pct": 0.95,
    },
    "whole": {"size": 96, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "lanczos", "crop_pct": 1.0},
}  # fmt: skip


def photograph(width, height, seed):
    """Smooth colours with edges and fine grain."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    pixels = np.asarray(coarse).astype(int) + draw.integers(-20, 20, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = draw.integers(0, 256, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for part in ("train", "test"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            for n, size in enumerate(SIZES):
                photograph(*size, 10 * n + len(part + label)).save(root / part / label / f"{n}.png")
    return root


def transformed(path, config):
    transform = create_transform(
        config["size"], is_training=False, mean=config["mean"], std=config["std"],
        interpolation=config["interpolation"], crop_pct=config["crop_pct"],
    )  # fmt: skip
    with Image.open(path) as image:
        return transform(image.convert("RGB"))


@pytest.mark.parametrize("name", CONFIGS)
def test_images_equal_those_of_timms_transform(folder, name):
    split = open_data(Data(source=str(folder), **CONFIGS[name]), "label")
    for n in range(2 * len(SIZES)):
        path = folder / "test" / "ab"[n // len(SIZES)] / f"{n % len(SIZES)}.png"
        expected = transformed(path, CONFIGS[name])
        torch.testing.assert_close(split.test[n][0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(split.train[n][0].shape, expected.shape)


def test_a_large_jpeg_differs_by_decoder_rounding_only(tmp_path):
    """It is decoded at a half; timm decodes it whole."""
    config = CONFIGS["mobilenetv2_100"]
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            photograph(1200, 1100, 5).save(tmp_path / part / label / "0.jpg", quality=95)
    split = open_data(Data(source=str(tmp_path), **config), "label")
    apart = (split.test[0][0] - transformed(tmp_path / "test" / "a" / "0.jpg", config)).abs() * 255 * 0.5
    assert 0 < apart.mean() < 2  # of 255 levels


def test_another_interpolation_or_crop_differs(folder):
    for change in ({"interpolation": "bilinear"}, {"crop_pct": 0.9}, {"crop_pct": None}, {"mean": (0.5, 0.5, 0.4)}):
        split = open_data(Data(source=str(folder), **CONFIGS["mobilenetv2_100"] | change), "label")
        expected = transformed(folder / "test" / "a" / "0.png", CONFIGS["mobilenetv2_100"])
        assert (split.test[0][0] - expected).abs().max() > 0.05, change


def test_the_default_transform_is_unchanged(folder):
    split = open_data(Data(source=str(folder), size=80), "label")
    for n in range(len(SIZES)):
        with Image.open(folder / "test" / "a" / f"{n}.png") as image:
            expected = np.asarray(ImageOps.fit(image, (80, 80), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(split.test.raw_image(n).permute(1, 2, 0).numpy(), expected)
    assert (split.mean, split.std) == channel_statistics([split.train.raw_image(i) for i in range(len(split.train))])
    assert "shown with" not in split.description


def test_settings_are_described_and_the_rest_is_measured(folder):
    plain = open_data(Data(source=str(folder), size=80), "label")
    split = open_data(Data(source=str(folder), size=80, mean=[0.25]), "label")
    assert split.mean == (0.25,) * 3
    assert split.std == plain.std
    assert split.description.endswith("; shown with mean 0.25")
    assert describe_settings(Data(std=(0.5, 0.25, 0.5), interpolation="box", crop_pct=0.9)) == (
        "; shown with std 0.5 0.25 0.5, box interpolation, the middle 90 % of the short side"
    )


def test_a_mask_is_cropped_like_its_image(tmp_path):
    values = np.zeros((90, 120), np.uint8)
    values[30:60, 40:80] = 1
    for part in ("train", "test"):
        for kind, pixels in (("images", values * 200), ("masks", values)):
            (tmp_path / part / kind).mkdir(parents=True)
            for n in range(2):
                Image.fromarray(pixels).save(tmp_path / part / kind / f"{n}.png")
    split = open_data(Data(source=str(tmp_path), size=64, crop_pct=0.8, mean=[0.0], std=[1.0]), "mask")
    image, mask = split.test[0]
    unlike = (image[0] > 100 / 255) != (mask == 1)
    assert unlike.any(0).sum() <= 2
    assert unlike.any(1).sum() <= 2
    whole = open_data(Data(source=str(tmp_path), size=64), "mask").test[0][1]
    assert (mask == 1).sum() > 1.3 * (whole == 1).sum()


def test_grey_images_use_the_average_of_three_channels():
    split = open_data(
        Data(size=24, train_images=20, test_images=20, mean=(0.3, 0.4, 0.5), std=(0.5, 0.5, 0.2), crop_pct=0.5), "label"
    )
    assert split.mean == pytest.approx([0.4])
    assert split.std == pytest.approx([0.4])
    plain = open_data(Data(size=24, train_images=20, test_images=20), "label")
    torch.testing.assert_close(split.test.raw_image(3), plain.test.raw_image(3), rtol=0, atol=0)
    assert normalisation(Data(), 1, lambda: ((0.1,), (0.2,))) == ((0.1,), (0.2,))


@pytest.mark.parametrize(
    ("resize", "crop_pct"), [("crop", None), ("crop", 0.7), ("crop", 1.0), ("pad", None), ("stretch", None)]
)
@pytest.mark.parametrize("size", [(60, 60), (48, 70)])
@pytest.mark.parametrize("source", [(160, 120), (70, 200)])
def test_image_to_frame_maps_points_like_pixels(resize, crop_pct, size, source):
    frame = Frame(*size, resize, crop_pct=crop_pct)
    width, height = source
    box = (width // 2 - 14, height // 2 - 10, width // 2 + 6, height // 2 + 15)
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    shown = np.asarray(frame.fit_image(Image.fromarray(pixels).convert("RGB")))[..., 0] / 255
    (across, left), (down, top) = frame.image_to_frame(source)
    for axis, scale, shift, (low, high) in ((0, across, left, box[::2]), (1, down, top, box[1::2])):
        line = shown.max(axis)
        middle = (line * (np.arange(len(line)) + 0.5)).sum() / line.sum()
        assert middle == pytest.approx(scale * (low + high) / 2 + shift, abs=0.6)
        assert line.sum() == pytest.approx(scale * (high - low), abs=1.1)
