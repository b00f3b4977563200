"""``docs/data.md``: each example of its table is built and opened; ``saccade data`` prints what the table says."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.errors import UserError
from saccade.imagefiles import is_image
from saccade.recipe import Data

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| .+? \| \[.+?\]\(#([\w-]+)\) \| `(.+?)` \|$", PAGE, re.MULTILINE)
TREES = dict(re.findall(r"^### (.+?)\n\n```tree\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL))
MASKS = re.compile(r"masks|annot|SegmentationClass|_mask\.png$")


def anchor(heading):
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


BY_ANCHOR = {anchor(heading): tree for heading, tree in TREES.items()}


def build(root, tree):
    """Write the folder that a tree describes: ``folder/ image image``, or a file with its text indented below it."""
    path = None
    for line in tree.splitlines():
        if line.startswith("    "):
            with (root / path).open("a", encoding="utf-8") as file:
                file.write(line[4:] + "\n")
            continue
        path, *images = line.split()
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
            for number, name in enumerate(images):
                (write_mask if MASKS.search(f"{path}{name}") else write_image)(root / path / name, number, tree)
        else:
            (root / path).touch()


def write_image(path, number, tree):
    values = np.random.default_rng([number, *path.as_posix().encode()[-12:]]).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(values).save(path)


def write_mask(path, number, tree):
    values = np.arange(24 * 32).reshape(24, 32) // 256  # 0, 1 and 2
    colours = re.findall(r":(\d+),(\d+),(\d+)::", tree)
    pixels = np.array(colours, np.uint8)[values] if colours else values.astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(("layout", "example", "line"), ROWS, ids=[row[1] for row in ROWS])
def test_each_row_is_opened_and_its_line_is_printed(tmp_path, layout, example, line):
    build(tmp_path, BY_ANCHOR[example])
    done = CliRunner().invoke(command, [str(tmp_path), "--show", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert f"layout   {layout}\n" in done.stdout
    assert line.replace("\\|", "|") in done.stdout
    spec = Data(source=str(tmp_path))
    split = open_data(spec, layouts.get(layout).list_targets(spec)[0])
    assert min(len(split.train), len(split.test)) > 0
    assert split.train[0][0].shape[0] == 3


@pytest.mark.parametrize(("layout", "example", "line"), ROWS, ids=[row[1] for row in ROWS])
def test_no_image_is_opened_to_recognise_a_layout(tmp_path, layout, example, line):
    build(tmp_path, BY_ANCHOR[example])
    for path in filter(is_image, tmp_path.rglob("*")):
        path.write_bytes(b"")
    spec = Data(source=str(tmp_path))
    recognised = layouts.find_layout(spec)
    assert recognised.name == layout
    assert recognised.stamp(spec)
    with pytest.raises(UserError, match="is an empty file"):  # opening does look at them
        open_data(spec, "none")


def test_the_table_has_every_example():
    assert {example for _, example, _ in ROWS} == set(BY_ANCHOR)
    assert len(ROWS) == len(BY_ANCHOR) == 20
    assert {layout for layout, *_ in ROWS} >= {*layouts.names()} - {"digits"}


def test_every_option_of_these_layouts_is_on_the_page():
    options = {option for layout, *_ in ROWS for option in getattr(layouts.get(layout), "options", ())}
    assert options
    assert [option for option in sorted(options) if f"`{option}`" not in PAGE] == []
