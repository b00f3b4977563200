"""The cache of decoded images: reused, rewritten if corrupt, shared by processes, limited in size."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import image_cache, open_data, opening
from saccade.data.opening import LazyImages
from saccade.errors import UserError
from saccade.events import ImagesNotCached
from saccade.recipe import Data

TRAILER = image_cache._TRAILER


@pytest.fixture
def pets(tmp_path):
    """Sixteen images of four sizes, half of them JPEG."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 3)):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + 4 * (i % 2), 30 + i % 2, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.{'jpg' if i % 2 else 'png'}")
    return tmp_path / "pets"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "home" / "pictures"))
    return tmp_path / "home" / "pictures"


@pytest.fixture
def read(monkeypatch):
    """The files that were decoded, in order."""
    paths, read_image = [], opening.read_image
    monkeypatch.setattr(opening, "read_image", lambda path, *how: paths.append(path) or read_image(path, *how))
    return paths


def look(pets, told=None, **fields):
    return open_data(Data(source=str(pets), **{"size": 16, **fields}), "label", None if told is None else told.append)


def facts(split):
    sets = (split.train, split.test)
    pixels = [images.raw_image(i).numpy().tobytes() for images in sets for i in range(len(images))]
    return pixels, split.mean, split.std, split.fingerprint, split.description, split.cautions, split.left_out


def without_disk(monkeypatch, pets, **fields):
    with monkeypatch.context() as patch:
        patch.setenv("SACCADE_CACHE", "off")
        return facts(look(pets, **fields))


def only(home):
    (place,) = home.glob("*.pictures")
    return place


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_second_opening_decodes_nothing_and_gives_the_same(pets, home, read, monkeypatch, resize):
    plain = without_disk(monkeypatch, pets, resize=resize)
    assert len(read) == 16
    read.clear()
    assert facts(look(pets, resize=resize)) == plain
    assert len(read) == 16
    read.clear()
    assert facts(look(pets, resize=resize)) == plain
    assert read == []
    assert home.stat().st_mode & 0o077 == 0, "a user's pictures"


def test_it_works_without_an_image_of_the_source_left_to_read(pets, home, monkeypatch):
    plain = facts(look(pets))
    monkeypatch.setattr(opening, "open_image", None)
    assert facts(look(pets)) == plain


def test_images_are_mapped_copy_on_write(pets, home):
    look(pets)
    before = only(home).read_bytes()
    split = look(pets)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(only(home)) in maps.read_text()
    split.train.raw_image(0).zero_()
    assert only(home).read_bytes() == before
    assert not split.train.raw_image(0).any()
    assert look(pets).train.raw_image(0).any()


def test_a_replaced_image_of_the_same_size_and_mtime_is_decoded_again(pets, home, read):
    first = facts(look(pets))
    path, other = pets / "train/cat/0.png", pets / "train/cat/2.png"
    before = path.stat()
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other.with_suffix(".tmp"), "png")
    data = other.with_suffix(".tmp").read_bytes()
    other.with_suffix(".tmp").unlink()
    path.write_bytes(data[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    read.clear()
    assert facts(look(pets)) != first
    assert len(read) == 16


@pytest.mark.parametrize(
    "fields", [{"size": 17}, {"resize": "pad"}, {"train_images": 4}, {"size": (16, 17)}], ids=lambda f: next(iter(f))
)
def test_another_frame_or_selection_has_its_own_cache_file(pets, home, read, fields):
    look(pets)
    read.clear()
    look(pets, **fields)
    assert read
    assert len(list(home.glob("*.pictures"))) == 2


def test_exact_decoding_has_its_own_cache_file(pets, home):
    paths = sorted(pets.rglob("*.*"))
    frame = opening.Frame(16, 16)
    assert image_cache.cache_path(paths, frame, True) != image_cache.cache_path(paths, frame, False)
    assert image_cache.cache_path(paths, frame, False) == image_cache.cache_path(paths, frame, False)


def flip(place, offset):
    content = bytearray(place.read_bytes())
    content[offset] ^= 1
    place.write_bytes(content)


def forge(place, **changes):
    """A table with another content and a right checksum."""
    content = place.read_bytes()
    magic, length, _ = TRAILER.unpack(content[-TRAILER.size :])
    end = len(content) - TRAILER.size
    table = json.dumps(json.loads(content[end - length : end]) | changes).encode()
    place.write_bytes(content[: end - length] + table + TRAILER.pack(magic, len(table), zlib.crc32(table)))


DAMAGES = {
    "a pixel": lambda place: flip(place, 1000),
    "the table": lambda place: flip(place, -TRAILER.size - 5),
    "the trailer": lambda place: flip(place, -1),
    "the magic": lambda place: flip(place, -TRAILER.size),
    "its end": lambda place: place.write_bytes(place.read_bytes()[:-100]),
    "its beginning": lambda place: place.write_bytes(place.read_bytes()[768:]),
    "all of it": lambda place: place.write_bytes(b""),
    "a length beyond it": lambda place: place.write_bytes(struct.pack("<8sQI", b"saccade1", 2**60, 0)),
    "another file's name": lambda place: forge(place, name="other.pictures"),
    "fewer files": lambda place: forge(place, files=[]),
    "wrong facts": lambda place: forge(place, files=[["a", "b"]] * 16),
    "no list": lambda place: forge(place, files=7),
    "nested": lambda place: forge(place, files=[[[]]] * 16),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_corrupt_cache_file_is_written_again(pets, home, read, damage):
    plain = facts(look(pets))
    whole = only(home).read_bytes()
    damage(only(home))
    assert only(home).read_bytes() != whole
    read.clear()
    assert facts(look(pets)) == plain
    assert len(read) == 16
    assert only(home).read_bytes() == whole


def test_a_rewritten_cache_file_with_the_same_bytes_is_used(pets, home, read):
    """The twin of the damages: the same bytes written again."""
    plain = facts(look(pets))
    forge(only(home))
    read.clear()
    assert facts(look(pets)) == plain
    assert read == []


def test_errors_of_broken_images_are_cached(pets, home, read):
    (pets / "train/cat/0.png").write_bytes(b"BM")
    with pytest.raises(UserError, match=r"0\.png is not an image") as first:
        look(pets)
    read.clear()
    with pytest.raises(UserError) as second:
        look(pets)
    assert str(first.value) == str(second.value)
    assert read == []
    left = look(pets, skip_bad=True)
    assert left.left_out == {"train": {"cat": 1}}
    assert len(left.train) == 9
    assert read == []


@pytest.mark.parametrize("word", ["off", "", "0", "OFF"])
def test_it_can_be_turned_off(pets, home, read, monkeypatch, word):
    monkeypatch.setenv("SACCADE_CACHE", word)
    told = []
    look(pets, told)
    look(pets, told)
    assert len(read) == 32
    assert not home.exists()
    assert [event for event in told if isinstance(event, ImagesNotCached)] == []


def test_an_unwritable_folder_is_reported_and_changes_nothing(pets, home, monkeypatch):
    plain = without_disk(monkeypatch, pets)
    home.parent.mkdir()
    home.write_bytes(b"a file")
    told = []
    assert facts(look(pets, told)) == plain
    (event,) = (event for event in told if isinstance(event, ImagesNotCached))
    assert str(home) in event.reason


def test_a_full_disk_is_reported_and_changes_nothing(pets, home, monkeypatch):
    plain = without_disk(monkeypatch, pets)
    told = []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache, "_write", full)
    assert facts(look(pets, told)) == plain
    assert "No space left" in next(event for event in told if isinstance(event, ImagesNotCached)).reason
    assert not list(home.glob("*.pictures"))


def test_a_failed_write_leaves_no_cache_file(pets, home, monkeypatch):
    read_image, left = opening.read_image, list(range(9))
    with monkeypatch.context() as patch:
        patch.setattr(opening, "read_image", lambda *how: left.pop() and read_image(*how))
        with pytest.raises((IndexError, AttributeError)):
            look(pets)
    assert list(home.iterdir()) == []
    look(pets)
    assert [path.suffix for path in home.iterdir()] == [".pictures"], "neither lock nor temporary file stays"


def test_too_large_a_set_is_reported_before_decoding(pets, home, read, monkeypatch):
    monkeypatch.setattr(image_cache, "MAX_CACHE_BYTES", 16 * 3 * 16 * 16 - 1)
    told = []
    split = look(pets, told)
    assert "at most" in next(event for event in told if isinstance(event, ImagesNotCached)).reason
    assert len(read) == 16
    assert isinstance(split.train.images, torch.Tensor)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2 * 16 * 3 * 16 * 16 - 1))
    monkeypatch.setattr(image_cache, "MAX_CACHE_BYTES", 2**30)
    told.clear()
    look(pets, told)
    assert "free" in next(event for event in told if isinstance(event, ImagesNotCached)).reason
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2 * 16 * 3 * 16 * 16))
    told.clear()
    look(pets, told)
    assert [event for event in told if isinstance(event, ImagesNotCached)] == []


def test_the_least_recently_used_files_are_removed(pets, home, read, monkeypatch):
    def age(seconds, **fields):
        look(pets, **fields)
        (new,) = (place for place in home.glob("*.pictures") if place not in places)
        os.utime(new, (seconds, seconds))
        places.append(new)

    places = []
    for seconds, side in ((100, 16), (200, 17), (300, 18)):
        age(seconds, size=side)
    look(pets, size=16)  # used last now
    assert places[0].stat().st_mtime > 300
    stale, fresh = home / ".a.pictures.1.part", home / ".a.pictures.2.part"
    for part in (stale, fresh):
        part.touch()
    os.utime(stale, (1, 1))
    monkeypatch.setattr(image_cache, "MAX_CACHE_BYTES", sum(place.stat().st_size for place in places) + 100)
    look(pets, size=15)
    assert [place.exists() for place in places] == [True, False, True]
    assert (stale.exists(), fresh.exists()) == (False, True), "another process may be writing the fresh one"


def test_two_concurrent_openings_decode_once(pets, home, read, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    load = image_cache.read_cache

    def meet(*arguments):
        found = load(*arguments)
        if not met.pop(threading.get_ident(), None):
            met[threading.get_ident()] = True
            both.wait()  # neither has found the file when it goes on
        return found

    met = {}
    monkeypatch.setattr(opening, "read_cache", meet)
    monkeypatch.setattr(image_cache, "lock", _in_process_lock())
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: facts(look(pets)), range(2))
    assert one == two
    assert len(read) == 16


def _in_process_lock():
    """Return a lock for threads: ``files.lock`` locks processes only."""
    held = threading.Lock()

    class Hold:
        def __init__(self, path, patience):
            assert patience > 1

        def __enter__(self):
            held.acquire()

        def __exit__(self, *_):
            held.release()

    return Hold


def test_a_process_that_holds_the_lock_too_long_is_not_waited_for(pets, home, read, monkeypatch, start):
    place = image_cache.cache_path(opening_paths(pets, monkeypatch, home), opening.Frame(16, 16), False)
    home.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path; from saccade.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = start([sys.executable, "-c", code, str(place.with_suffix(".lock"))], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    monkeypatch.setattr(image_cache, "_LOCK_TIMEOUT", 0.1)
    read.clear()
    told = []
    look(pets, told)
    assert "another process" in next(event for event in told if isinstance(event, ImagesNotCached)).reason
    assert len(read) == 16


def opening_paths(pets, monkeypatch, home):
    """The files in the order in which they are opened."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(opening, "cache_path", lambda paths, frame, exact: seen.extend(paths))
        look(pets)
    return seen


def test_sets_above_the_memory_limit_are_mapped(pets, home, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    assert isinstance(look(pets).train.images, torch.Tensor)
    monkeypatch.setenv("SACCADE_CACHE", "off")
    assert isinstance(look(pets).train.images, LazyImages)


def test_images_of_one_size_and_of_several(pets, home, read, monkeypatch):
    """Without a size said, the first image proposes one that the others may not have."""
    plain = without_disk(monkeypatch, pets, size=None)
    assert facts(look(pets, size=None)) == plain
    read.clear()
    assert facts(look(pets, size=None)) == plain
    assert len(read) < 16, "only what proposes a size is looked at"


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SACCADE_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image_cache.cache_folder() == tmp_path / "saccade"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert image_cache.cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_cache.cache_folder() == tmp_path / ".cache" / "saccade"


def test_a_read_only_cache_is_read(pets, home, read, monkeypatch):
    plain = facts(look(pets))
    read.clear()

    def closed(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", closed)
    assert facts(look(pets)) == plain
    assert read == []
