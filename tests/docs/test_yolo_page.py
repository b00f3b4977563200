"""``docs/yolo.md``: its first script writes the boxes that Saccade reads, and its scores give the answer it prints."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from score_files import ultralytics

from saccade.cli import saccade as command_line
from saccade.data import open_data
from saccade.recipe import Data

PAGE = (Path(__file__).parents[2] / "docs/yolo.md").read_text(encoding="utf-8")
CLASSES = ("Platelets", "RBC", "WBC")


def write_bccd(root, empty):
    """Write images and XML files in the form of BCCD; with ``empty``, one box of an image has no area."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for n, part in enumerate(("train", "train", "val", "test")):
        pixels = np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{n}.jpg")
        corners = [(3 + n, 5, 20 + 2 * n, 40), (10, 7, 10, 7) if empty and n == 3 else (30, 8 + n, 61, 31)]
        boxes = "".join(
            f"<object><name>{CLASSES[(n + k) % 3]}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for k, (a, b, c, d) in enumerate(corners)
        )
        size = "<size><width>64</width><height>48</height></size>"
        (root / "Annotations" / f"{n}.xml").write_text(f"<annotation>{size}{boxes}</annotation>")
        with (root / "ImageSets/Main" / f"{part}.txt").open("a") as file:
            file.write(f"{n}\n")


def targets(folder, layout):
    """Return the boxes and class names of all images, in pixels of the image."""
    splits = open_data(Data(source=str(folder), layout=layout, size=(48, 64)), "objects")
    found = {}
    for part in ("train", "val", "test"):
        images = getattr(splits, part)
        for i in range(len(images)):
            names = [splits.classes[label] for label in images.target(i)["labels"].tolist()]
            found[part, i] = names, images.target(i)["boxes"].as_subclass(torch.Tensor)
    return found


@pytest.mark.parametrize("empty", [True, False])
def test_its_script_writes_the_boxes_of_bccd(tmp_path, monkeypatch, capsys, empty):
    write_bccd(tmp_path / "BCCD", empty)
    (script,) = re.findall(r"`bccd_to_yolo.py`:\n\n```py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "bccd_to_yolo.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("bccd_to_yolo.py")
    assert capsys.readouterr().out == ("test/3: object 2 (RBC) is empty and left out\n" if empty else "")
    written, read = targets("bccd-yolo", "yolo"), targets("BCCD", "voc")
    assert [len(names) for names, _ in read.values()] == [2, 2, 2, 1 if empty else 2]
    assert list(written) == list(read)
    for key, (names, boxes) in read.items():
        assert written[key][0] == names, key
        torch.testing.assert_close(written[key][1], boxes, rtol=0, atol=64e-6, msg=str(key))  # six decimals of a side


@pytest.mark.parametrize("change", [0.0, 0.05])
def test_the_scores_on_the_page_give_the_answer_on_the_page(tmp_path, monkeypatch, change):
    """Another score gives another answer."""
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert list(table) == ["none", "cbam"]
    for arm, cells in table.items():
        for seed, score in enumerate(map(float, cells.split(" | "))):
            changed = score + change * (arm == "cbam" and seed == 1)
            ultralytics(tmp_path / "runs/detect" / f"{arm}-seed{seed}" / "results.csv", [0.1, changed])
    monkeypatch.chdir(tmp_path)
    files = sorted(map(str, Path().glob("runs/detect/*/results.csv")))
    printed = CliRunner().invoke(command_line, ["judge", *files]).stdout
    (answer,) = re.findall(r"\$ saccade judge [^\n]*\n```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    lines, printed_lines = ([line.split() for line in text.splitlines()] for text in (answer, printed))
    missing = [line for line in lines if line not in printed_lines]
    assert [line[0] for line in lines] == ["arm", "none", "cbam", "cbam:"]
    assert [line[0] for line in missing] == ([] if change == 0 else ["cbam", "cbam:"])
