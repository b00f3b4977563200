"""Uploaded pictures in memory."""

import io

import pytest
from PIL import Image

from saccade.errors import UserError
from saccade.web import pictures
from saccade.web.pictures import Pictures


def png(size=(30, 20), colour=(200, 10, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_a_picture_comes_back_upright_and_reduced():
    image = Image.new("RGB", (2000, 500), (200, 10, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    kept = Pictures()
    picture = kept.get(kept.add(file.getvalue()))
    assert (picture.size, picture.mode) == ((256, 1024), "RGB")
    assert picture.getpixel((100, 100)) == pytest.approx((200, 10, 30), abs=4)


def test_the_oldest_picture_makes_room(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PICTURES", 2)
    kept = Pictures()
    first, second = kept.add(png()), kept.add(png())
    kept.get(first)
    third = kept.add(png())
    assert [kept.get(name).size for name in (first, third)] == [(30, 20)] * 2
    with pytest.raises(UserError, match="upload it again"):
        kept.get(second)


def test_other_files_are_refused_in_a_sentence():
    for content in (b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png()[:40]):
        with pytest.raises(UserError, match=r"^The file .*\.$"):
            Pictures().add(content)
