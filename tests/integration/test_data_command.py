"""``saccade data``: the page, the sheet, the exit codes."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import sheet
from saccade.data.digits import Scenes
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.layouts.digits import Digits
from saccade.data.selection import select_files
from saccade.errors import UserError
from saccade.recipe import Data


def run(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def photos(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (40 * i, 90, 10)).save(tmp_path / "photos" / part / label / f"{i}.png")
    return tmp_path / "photos"


SMALL = ("--set", "data.train_images=20", "--set", "data.test_images=10")


def test_digits_are_described():
    done = run("digits", *SMALL, "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0
    assert facts["used"] == {"train": 20, "test": 10}
    assert (facts["height"], facts["width"]) == (40, 40)
    assert [part["classes"]["7"] for part in facts["parts"]] == [2, 1]
    assert "1201 handwritten digits for training and from 596 others" in run("digits", *SMALL).stdout


def test_a_folder_is_described(photos):
    done = run(photos)
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()[:4]] == [
        ["class", "train", "test"], ["cat", "4", "2"], ["dog", "4", "2"], ["all", "8", "4"]]  # fmt: skip
    assert "16×16 (12)" in done.stdout
    assert "8 to train, 4 to test" in done.stdout


def test_all_problems_are_listed(photos):
    (photos / "train" / "cat" / "0.png").write_bytes(b"no")
    (photos / "test" / "emu").mkdir()
    done = run(photos, "--json", "--show", photos.parent / "sheet.png")
    facts = json.loads(done.stdout)
    assert done.exit_code == 1
    assert facts["used"] is None
    text = " | ".join(facts["refused"])
    assert "0.png is not an image" in text
    assert "class 'emu' in" in text
    assert "is empty" in text
    assert "but not in" in text
    assert not (photos.parent / "sheet.png").exists()
    assert "refused  " in run(photos).stdout


def test_a_recipe_that_a_folder_cannot_fill(photos):
    done = run(photos, "--set", "data.train_images=2", "--set", "data.options.clutter=1")
    assert done.exit_code == 1
    assert "this layout has no options" in done.stdout


def test_bad_files_are_left_out_and_listed_and_strangers_counted(photos):
    (photos / "train" / "cat" / "0.png").write_bytes(b"no")
    for name in ("a.heic", "b.heic", "notes.txt"):
        (photos / "train" / "cat" / name).write_bytes(b"0")
    done = run(photos, "--skip-bad", "--json", "--show", photos.parent / "sheet.png")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0
    assert facts["used"] == {"train": 7, "test": 4}
    assert facts["refused"] == []
    assert [sentence.rpartition("/")[2] for sentence in facts["left_out"]] == [
        "0.png is not an image in JPEG, PNG, BMP, PPM, TIFF or WEBP"
    ]
    assert facts["parts"][0] == {"name": "train", "images": 7, "classes": {"cat": 3, "dog": 4}}
    assert "3 files have no image suffix and are not read: .heic (2), .txt (1)" in facts["notes"]
    assert (photos.parent / "sheet.png").exists()
    assert "left out " in run(photos, "--skip-bad").stdout
    assert run(photos).exit_code == 1  # the twin


def test_bad_files_that_are_not_selected_are_a_note(photos):
    """Two of the files that it takes are 16 by 16; one that it does not take is broken, another is of another size."""
    words = ("--set", "data.train_images=4", "--json")
    taken = select_files(Data(source=str(photos), train_images=4), ClassFolders().survey(photos)).splits["train"][0]
    beside = sorted(set((photos / "train/cat").iterdir()) - set(taken))
    beside[0].write_bytes(b"no")
    Image.new("RGB", (40, 30)).save(beside[1])
    done = run(photos, *words)
    facts = json.loads(done.stdout)
    assert done.exit_code == 0
    assert facts["used"] == {"train": 4, "test": 4}
    assert (facts["height"], facts["refused"]) == (16, [])
    assert facts["sizes"] == [{"size": [16, 16], "images": 8}]
    assert [
        note
        for note in facts["notes"]
        if note.startswith(f"1 bad files are not among the selected images: {beside[0]}")
    ], facts["notes"]
    whole = json.loads(run(photos, "--json").stdout)  # the twin
    assert whole["height"] == 224
    assert len(whole["refused"]) == 1


def test_images_of_one_colour_are_a_note(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            values = rng.integers(0, 4096, (16, 16), dtype=np.uint16)  # 12 bits
            Image.fromarray(16 * values).save(tmp_path / label / f"{i}.png")
    assert [note for note in json.loads(run(tmp_path, "--json").stdout)["notes"] if "one colour" in note] == []
    Image.fromarray(values).save(tmp_path / "b" / "2.png")
    Image.new("RGB", (16, 16), (9, 99, 200)).save(tmp_path / "a" / "1.png")
    said = run(tmp_path).stdout
    assert "2 of 6 images are of one colour or nearly so" in said
    assert "1 of them are 16-bit greyscale" in said


def test_links_within_a_class_are_a_note(photos):
    (photos / "train/cat/9.png").symlink_to("0.png")
    said = run(photos)
    assert said.exit_code == 0
    assert "1 files are links to images of the same class; each image is used once" in said.stdout


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_a_sheet_is_drawn_whole(tmp_path, photos, source):
    path = tmp_path / "sheet.png"
    done = run(photos if source == "folder" else "digits", *SMALL, "--show", path)
    assert done.exit_code == 0, done.output
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "sheet.png"}
    with Image.open(path) as page:
        assert page.mode == "RGB"
        assert page.size[0] > 1000
        colours = {colour for _, colour in page.getcolors(2**20)}
    assert (sheet._TINTS[0] in colours) == (source == "digits")


def test_boxes_are_drawn_at_their_place():
    scenes = Scenes("train", 1, 40, clutter=0, distractors=0)
    spec = Data(train_images=2, options={"clutter": 0, "distractors": 0})
    cell = Digits().read_cells(spec, "train", 5)[0]
    picture = np.asarray(sheet._draw_cell(cell))
    x1, y1, x2, y2 = (scenes.scene(0).boxes[0] * 4).int().tolist()
    frame = (picture == np.array(sheet._TINTS[0])).all(2)
    assert frame[y1, x1:x2].all()
    assert frame[y2 - 1, x1:x2].all()
    assert frame[y1:y2, x1].all()
    assert frame[y1:y2, x2 - 1].all()
    assert not frame[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].any()


def test_pictures_of_any_size_fit_their_cell():
    for channels, height, width in ((1, 16, 16), (3, 97, 97), (3, 300, 500)):
        cell = sheet.Cell(torch.zeros(channels, height, width, dtype=torch.uint8), "x" * 90)
        assert sheet.contact_sheet([("train", [cell])], "a title " * 30).size[0] == 2 * 28 + 160


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--show", "sheet.gif"), r"\.png, \.jpg or \.webp"),
        (("digits", "--show", "nowhere/sheet.png"), "there is no folder nowhere"),
        (("digits", "--set", "training.epochs=3"), "only keys of the section data"),
        (("digits", "--set", "data.siz=3"), "Did you mean 'size'"),
        (("digits", "--set", "data.augment=('flop',)"), "Did you mean 'flip'"),
        (("digit",), "Did you mean 'digits'"),
    ],
)
def test_wrong_uses(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert isinstance(done.exception, UserError)
    assert done.exception.args
    with pytest.raises(UserError, match=message):
        raise done.exception
    assert not list(tmp_path.iterdir())
