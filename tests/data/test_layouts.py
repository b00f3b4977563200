"""The folder is the table of layouts: each recognises its own, and one that is new needs one file."""

import ast
import inspect
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from saccade.data import layouts, open_data
from saccade.data.layouts.base import Layout
from saccade.errors import UserError
from saccade.recipe import Data


def picture(path, mode="RGB", color=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), color).save(path)


def class_folders(root):
    for name in "ab":
        for i in range(3):
            picture(root / name / f"{i}.png", color=(i, ord(name), 9))


def class_list(root):
    class_folders(root)
    (root / "train.txt").write_text("a/0\na/1\nb/0\nb/1\n")
    (root / "test.txt").write_text("a/2\nb/2\n")


def image_masks(root):
    for i in range(3):
        picture(root / "images" / f"{i}.png", color=(i, 8, 9))
        picture(root / "masks" / f"{i}.png", "L", i)


MAKERS = (class_folders, class_list, image_masks)


@pytest.mark.parametrize("make", MAKERS)
def test_each_is_recognised_and_opened(tmp_path, make):
    make(tmp_path)
    layout = layouts.layout_of(Data(source=str(tmp_path)))
    assert layout.name == make.__name__
    split = open_data(Data(source=str(tmp_path)), layout.targets[0])
    assert split.target == layout.targets[0]
    assert layout.stamp(Data(source=str(tmp_path)))
    assert open_data(Data(source=str(tmp_path)), "none").train[0][1] is None
    assert layout.located(str(tmp_path / "." / "..") + f"/{tmp_path.name}") == str(tmp_path)
    assert (layout.seeds, layout.caveat, dict(layout.residual_sd)) == (5, None, {})
    assert layout.suited(str(tmp_path)) == ("small_images", {"data.size": 16})


def test_the_drawn_digits_are_recognised_by_their_word():
    layout = layouts.layout_of(Data())
    assert layout.name == "digits"
    assert (layout.seeds, layout.residual_sd["top-1"]) == (3, 0.74)
    assert layout.caveat.startswith("This is a smoke test.")
    assert layout.located("digits") == "digits"
    assert layout.suited("digits") == ("digits", {})
    assert layout.stamp(Data()) == ()


def test_ranks_leave_no_quarrel(tmp_path):
    found = [layouts.get(name) for name in layouts.names()]
    assert [layout.rank for layout in found] == sorted({layout.rank for layout in found})
    for layout in found:
        source = inspect.getfile(type(layout))
        assert Path(source).stem == layout.name
        assert getattr(type(layout), "__final__", False)


def test_what_no_layout_reads_is_refused_with_a_reason_of_each(tmp_path):
    picture(tmp_path / "set" / "JPEGImages" / "1.png")
    (tmp_path / "set" / "labels.csv").touch()
    with pytest.raises(UserError) as caught:
        layouts.layout_of(Data(source=str(tmp_path / "set")))
    said = str(caught.value)
    assert "which holds JPEGImages, labels.csv: " in said
    assert all(f"not {name}, for " in said for name in layouts.names())
    assert "JPEGImages holds images; at least 2 classes are needed" in said


def test_a_layout_can_be_named(tmp_path):
    image_masks(tmp_path)
    spec = Data(source=str(tmp_path), layout="class_folders")
    assert open_data(spec, "label").classes == ["images", "masks"]
    with pytest.raises(UserError, match=r"Did you mean 'class_folders'\?"):
        open_data(Data(source=str(tmp_path), layout="class_folder"), "label")
    with pytest.raises(UserError, match=r"is not read as class_list: it has no train\.txt"):
        open_data(Data(source=str(tmp_path), layout="class_list"), "label")


def test_a_target_that_a_layout_does_not_give(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(UserError, match=r"class_folders gives label; mask is needed: .*not image_masks, for it has no"):
        open_data(Data(source=str(tmp_path)), "mask")
    image_masks(tmp_path / "pairs")
    with pytest.raises(UserError, match=r"is needed$"):  # the twin: a recipe that names the layout
        open_data(Data(source=str(tmp_path / "pairs"), layout="class_folders"), "mask")


TOY = """
from typing import final
from saccade.data.layouts.base import Layout

@final
class Noise(Layout):
    name, rank, targets, sources = "noise", 5, ("label",), ("noise",)
    def recognise(self, source): return None if source == "noise" else "it is not the word noise"
    def located(self, source): return source
    def read(self, spec, target, notify): return "read"
    def describe(self, spec, notify): return {}
    def stamp(self, spec): return ()
    def suited(self, source): return "digits", {}
    def cells(self, spec, part, count): return []
"""


def test_one_file_adds_a_layout(tmp_path, monkeypatch):
    assert "noise" not in layouts.names()
    for name in layouts.names():
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "noise.py").write_text(TOY)
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path)])
    monkeypatch.setattr(layouts._TABLE, "home", tmp_path)
    assert layouts.names()[1] == "noise"
    assert open_data(Data(source="noise"), "label") == "read"
    with pytest.raises(UserError, match=r"Did you mean 'noise'\? data\.source is digits, noise or a folder"):
        layouts.layout_of(Data(source="noize"))
    (tmp_path / "hollow.py").write_text("noise = 0")
    with pytest.raises(TypeError, match="hollow defines 0 subclasses of Layout"):  # no file is passed over
        layouts.names()


@pytest.mark.parametrize("name", [name for name in dir(Layout) if not name.startswith("_")])
def test_every_layout_has_the_whole_interface(name):
    for found in map(layouts.get, layouts.names()):
        assert getattr(found, name, found) is not found


def test_no_circle_of_files():
    """Files of data/ import strictly down: a file is below all that it imports."""
    root = Path(layouts.__file__).parent.parent
    below = {}
    for path in root.rglob("*.py"):
        name = ".".join(("saccade.data", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        below[name] = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module.startswith("saccade.data")
        }
        import_module(name)

    def reached(name, seen):
        for other in below.get(name, ()):
            if other not in seen:
                seen.add(other)
                reached(other, seen)
        return seen

    assert len(below) > 15
    reaches = {name: reached(name, set()) for name in below}
    assert not [pair for pair in combinations(below, 2) if pair[0] in reaches[pair[1]] and pair[1] in reaches[pair[0]]]
