"""Unusual file names: system files, look-alikes, control characters, names outside UTF-8."""

import json
import os
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import open_data
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.recipe import Data


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    return path


def fill(root, *classes, count=4):
    for n, name in enumerate(classes):
        for i in range(count):
            draw(root / name / f"{i}.png", 100 * n + i)
    return root


def page(root, *words):
    done = CliRunner().invoke(command, [str(root), *words])
    if isinstance(done.exception, UserError):
        raise done.exception
    return done.stdout


def notes(root):
    return json.loads(page(root, "--json"))["notes"]


FOLDERS = [
    *("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX"),
    *("__pycache__", ".ipynb_checkpoints"),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_a_system_keeps_is_no_class_and_holds_no_image(tmp_path, name):
    fill(tmp_path, "a", "b")
    plain = open_data(Data(source=str(tmp_path)), "label")
    draw(tmp_path / name / "S-1-5" / "x.png")
    draw(tmp_path / "a" / name / "0.png" / "THUMB.png")
    found = open_data(Data(source=str(tmp_path)), "label")
    assert (found.classes, found.fingerprint) == (["a", "b"], plain.fingerprint)
    assert any(note.endswith(f"files of operating systems: {name} (2)") for note in notes(tmp_path))


def test_an_empty_folder_of_a_system_is_no_empty_class(tmp_path):
    fill(tmp_path, "a", "b")
    (tmp_path / "lost+found").mkdir()
    assert "refused" not in page(tmp_path)
    (tmp_path / "lost and found").mkdir()  # the twin
    assert "class 'lost and found' in" in page(tmp_path)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "Icon\r"])
def test_a_file_that_a_system_keeps_is_neither_image_nor_stranger(tmp_path, name):
    fill(tmp_path, "a", "b")
    assert notes(tmp_path) == ["20% of each class held back with seed 0"]
    (tmp_path / "a" / name).write_bytes(b"0")
    (note,) = notes(tmp_path)[1:]
    shown = "._*" if name.startswith("._") else brief(name)
    assert note == f"ignored 1 hidden files and files of operating systems: {shown} (1)"


def test_skipped_entries_are_counted_once(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part, "a", "b")
        (tmp_path / part / ".DS_Store").touch()
    (tmp_path / ".DS_Store").touch()
    assert any(note.endswith(": .DS_Store (3)") for note in notes(tmp_path))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_a_composed_and_a_decomposed_name_are_one_class(tmp_path):
    fill(tmp_path / "train", COMPOSED, "b")
    fill(tmp_path / "test", DECOMPOSED, "b")
    split = open_data(Data(source=str(tmp_path)), "label")
    assert split.classes == ["b", COMPOSED]
    assert len(split.test) == 8
    assert [note for note in notes(tmp_path) if "are the class" in note] == []


def test_folders_whose_names_normalise_alike_are_merged_with_a_note(tmp_path):
    fill(tmp_path, COMPOSED, DECOMPOSED, "b")
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system keeps one of the two names")
    split = open_data(Data(source=str(tmp_path)), "label")
    assert split.classes == ["b", COMPOSED]
    assert len(split.train) + len(split.test) == 12
    assert f"2 folders are the class {COMPOSED!r}: their names differ in how accents are stored" in notes(tmp_path)


def test_a_single_decomposed_class_is_opened_where_it_lies(tmp_path):
    fill(tmp_path / DECOMPOSED, "x", "y")  # a folder too many
    with pytest.raises(UserError, match=f"Did you mean {tmp_path / DECOMPOSED}"):
        open_data(Data(source=str(tmp_path)), "label")


def test_names_that_differ_in_capitals_are_a_note(tmp_path):
    fill(tmp_path, "cat", "dog")
    assert [note for note in notes(tmp_path) if "capital" in note] == []
    fill(tmp_path, "Cat")
    assert any(note.startswith("the classes 'Cat' and 'cat' differ in capital letters") for note in notes(tmp_path))


def not_utf8(folder):
    """A name below ``folder`` that is Latin-1; skips where the file system takes none."""
    path = Path(os.fsdecode(bytes(folder) + b"/caf\xe9"))
    try:
        path.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return path


def test_a_class_that_is_not_named_in_utf8_is_refused(tmp_path):
    fill(tmp_path, "a", "b")
    draw(not_utf8(tmp_path) / "0.png")
    with pytest.raises(UserError, match=r"the class caf\\xe9 in .* has a name that is not valid UTF-8.*rename it"):
        open_data(Data(source=str(tmp_path)), "label")
    assert "caf\\xe9  " in page(tmp_path)


def test_a_root_that_is_not_named_in_utf8_is_refused(tmp_path):
    root = fill(not_utf8(tmp_path), "a", "b")
    with pytest.raises(ValueError, match=r"bytes that are not UTF-8"):
        open_data(Data(source=str(root)), "label")


def test_a_file_that_is_not_named_in_utf8_is_read_or_named_in_escapes(tmp_path):
    fill(tmp_path, "a", "b")
    inside = not_utf8(tmp_path / "a")
    draw(inside / "9.png", 9)
    split = open_data(Data(source=str(tmp_path)), "label")
    assert len(split.train) + len(split.test) == 9
    (inside / "9.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a/caf\\xe9/9.png is not an image"):
        open_data(Data(source=str(tmp_path)), "label")
    assert "left out " in page(tmp_path, "--skip-bad")


def test_control_characters_reach_no_terminal(tmp_path):
    fill(tmp_path, "a\x1b[31m\nb", "c")
    (tmp_path / "c" / "\x1b]0;t\x07.png").write_bytes(b"no")
    (tmp_path / "c" / "x.\x1b[5m").touch()
    (tmp_path / "c" / "._\u202ex").touch()
    said = page(tmp_path)
    assert "a\\x1b[31m\\nb" in said
    assert "\\x1b]0;t\\x07.png is not an image" in said
    assert [character for character in said if not (character.isprintable() or character == "\n")] == []
    for root in (tmp_path, tmp_path / "no\x1b[1mne"):
        with pytest.raises(UserError) as caught:
            open_data(Data(source=str(root)), "label")
        assert str(caught.value).isprintable()
    assert (
        "a\\x1b[31m\\nb" in open_data(Data(source=str(fill(tmp_path / "a\x1b[31m\nb", "x", "y"))), "label").description
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫 ٣", "plain é 猫 ٣"),
        ("a\tb\n\x00\x7f", "a\\tb\\n\\x00\\x7f"),
        ("\udcff\u202e", "\\xff\\u202e"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("x" * 400, "x" * 149 + "…" + "x" * 149),
    ],
)
def test_printable(text, shown):
    assert brief(text) == shown


@contextmanager
def nested(folder, name, levels):
    """Work in the innermost of folders in folders, all called ``name``; each is removed from inside the next outer one.

    ``shutil.rmtree``, and so pytest, calls itself for each level.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        for _ in range(levels):
            os.mkdir(name)
            os.chdir(name)
        yield
    finally:
        for path in Path().iterdir():
            path.unlink()
        for _ in range(levels):
            os.chdir("..")
            os.rmdir(name)
        os.chdir(before)


def test_1100_levels_are_read(tmp_path):
    """More levels than Python calls go deep (1000); their path is within the 4096 bytes that Linux takes."""
    fill(tmp_path, "a", "b")
    picture = (tmp_path / "a/0.png").read_bytes()
    with nested(tmp_path / "a", "d", 1100):
        Path("x.png").write_bytes(picture)
        split = open_data(Data(source=str(tmp_path)), "label")
    assert len(split.train) + len(split.test) == 9


def test_a_path_that_is_too_long_is_named_in_short(tmp_path):
    fill(tmp_path, "a", "b")
    with nested(tmp_path / "a", "d" * 100, 60), pytest.raises(UserError) as caught:
        open_data(Data(source=str(tmp_path)), "label")
    assert str(caught.value).startswith(f"cannot read {tmp_path}")
    assert str(caught.value).endswith("ddd: File name too long")
    assert len(str(caught.value)) < 400


def test_links_that_lead_to_themselves(tmp_path):
    fill(tmp_path, "a", "b")
    (tmp_path / "c").symlink_to("c")
    (tmp_path / "a" / "folder").symlink_to("folder")
    whole = open_data(Data(source=str(tmp_path)), "label")
    assert whole.classes == ["a", "b"]
    (tmp_path / "a" / "me.png").symlink_to("me.png")
    with pytest.raises(UserError, match=r"me\.png cannot be read: Too many levels of symbolic links\."):
        open_data(Data(source=str(tmp_path)), "label")
    assert len(open_data(Data(source=str(tmp_path), skip_bad=True), "label").train) > 0


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    closed = fill(tmp_path, "a", "b", count=5) / "a" / "2.png"
    real = Path.open

    def guarded(path, *words, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *words, **options)

    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(UserError, match=r"2\.png cannot be read: Permission denied\."):
        open_data(Data(source=str(tmp_path)), "label")
    split = open_data(Data(source=str(tmp_path), skip_bad=True), "label")
    assert len(split.train) + len(split.test) == 9


def test_a_device_is_no_image(tmp_path):
    fill(tmp_path, "a", "b")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"zero\.png is not a regular file"):
        open_data(Data(source=str(tmp_path)), "label")


def test_an_unknown_home_folder(tmp_path):
    with pytest.raises(UserError, match="cannot read ~nosuchuser/x: the home folder"):
        open_data(Data(source="~nosuchuser/x"), "label")
