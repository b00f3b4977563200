"""Layouts are found by their file names, and each source is read by the layout that recognises it."""

import ast
import inspect
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from saccade.data import layouts, open_data
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
def test_layout_reads_its_own_source(tmp_path, make):
    make(tmp_path)
    layout = layouts.find_layout(Data(source=str(tmp_path)))
    assert layout.name == make.__name__
    split = open_data(Data(source=str(tmp_path)), layout.targets[0])
    assert split.target == layout.targets[0]
    assert layout.stamp(Data(source=str(tmp_path)))
    assert open_data(Data(source=str(tmp_path)), "none").train[0][1] is None
    assert layout.resolve_source(str(tmp_path / "." / "..") + f"/{tmp_path.name}") == str(tmp_path)
    assert (layout.n_seeds, layout.caveat, dict(layout.residual_sd)) == (5, None, {})
    assert layout.suggest_recipe(str(tmp_path)) == ("small_images", {"data.size": 16})


def test_digits_are_found_by_name():
    layout = layouts.find_layout(Data())
    assert layout.name == "digits"
    assert (layout.n_seeds, layout.residual_sd["top-1"]) == (3, 0.74)
    assert layout.caveat.startswith("This is a smoke test.")
    assert layout.resolve_source("digits") == "digits"
    assert layout.suggest_recipe("digits") == ("digits", {})
    assert layout.stamp(Data()) == ()


def test_ranks_are_unique():
    every_layout = [layouts.get(name) for name in layouts.names()]
    ranks = [layout.rank for layout in every_layout]
    assert ranks == sorted(set(ranks))
    for layout in every_layout:
        source = inspect.getfile(type(layout))
        assert Path(source).stem == layout.name
        assert getattr(type(layout), "__final__", False)


def test_unreadable_source_is_refused_with_the_reason_of_each_layout(tmp_path):
    picture(tmp_path / "set" / "JPEGImages" / "1.png")
    (tmp_path / "set" / "labels.csv").touch()
    with pytest.raises(UserError) as caught:
        layouts.find_layout(Data(source=str(tmp_path / "set")))
    message = str(caught.value)
    assert "which holds JPEGImages, labels.csv: " in message
    assert [name for name in layouts.names() if f" {name}: " not in message] == []
    assert "JPEGImages holds images; at least 2 classes are needed" in message


def test_recipe_names_a_layout(tmp_path):
    image_masks(tmp_path)
    spec = Data(source=str(tmp_path), layout="class_folders")
    assert open_data(spec, "label").classes == ["images", "masks"]
    with pytest.raises(UserError, match=r"Did you mean 'class_folders'\?"):
        open_data(Data(source=str(tmp_path), layout="class_folder"), "label")
    with pytest.raises(UserError, match=r"cannot be read as class_list: it has no train\.txt"):
        open_data(Data(source=str(tmp_path), layout="class_list"), "label")


def test_missing_target_is_refused(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(UserError, match=r"class_folders gives label; mask is needed: .*image_masks: it has no"):
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
    def check_source(self, source): return None if source == "noise" else "it is not the word noise"
    def resolve_source(self, source): return source
    def read(self, spec, target, notify): return "read"
    def describe(self, spec, notify): return {}
    def stamp(self, spec): return ()
    def suggest_recipe(self, source): return "digits", {}
    def read_cells(self, spec, part, count): return []
"""


def test_new_file_adds_a_layout(tmp_path, monkeypatch):
    assert "noise" not in layouts.names()
    for name in layouts.names():
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "noise.py").write_text(TOY)
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path)])
    monkeypatch.setattr(layouts._REGISTRY, "folder", tmp_path)
    assert layouts.names()[1] == "noise"
    assert open_data(Data(source="noise"), "label") == "read"
    with pytest.raises(UserError, match=r"Did you mean 'noise'\? data\.source must be digits, noise or a folder"):
        layouts.find_layout(Data(source="noize"))
    (tmp_path / "hollow.py").write_text("noise = 0")
    with pytest.raises(TypeError, match="hollow defines 0 subclasses of Layout"):  # no file is skipped
        layouts.names()


def test_every_layout_names_itself_its_rank_and_its_targets():
    by_name = {name: layouts.get(name) for name in layouts.names()}
    own = {name: {"name", "rank"} - set(vars(type(layout))) for name, layout in by_name.items()}
    assert {name: missing for name, missing in own.items() if missing} == {}
    assert [name for name, layout in by_name.items() if not layout.targets] == []
    assert len({layout.rank for layout in by_name.values()}) == len(by_name)


def test_no_import_cycle():
    """The files of data/ do not import each other in a cycle."""
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
