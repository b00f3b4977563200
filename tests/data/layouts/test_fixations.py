"""Images and a table of fixations: read, moved with their images, and every way in which rows are wrong."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.data.resizing import Frame
from saccade.data.samples import collate
from saccade.errors import UserError
from saccade.recipe import Data

SIZE = (40, 30)  # width, height
SPOT = 5


def fill(root, count=6, size=SIZE, header="image,viewer,x,y,order", rows=None):
    """Images with one bright spot, which two viewers look at."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = [header]
    for i in range(count):
        x, y = 6 + 4 * i, 7 + 3 * i
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[y - SPOT // 2 : y + SPOT // 2 + 1, x - SPOT // 2 : x + SPOT // 2 + 1] = 255
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        lines += [f"{i}.png,{viewer},{x + 0.5},{y + 0.5},{1 - k}" for viewer in "ba" for k in range(2)]
    (root / "fixations.csv").write_text("\n".join(rows(lines) if rows else lines))
    return root


def opened(root, **fields):
    return open_data(Data(source=str(root), **fields), "fixations")


def test_points_and_viewers(tmp_path):
    fill(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "fixations"
    split = opened(tmp_path)
    assert (split.target, split.classes, split.size) == ("fixations", [], (30, 40))
    assert (len(split.train), len(split.test)) == (5, 1)
    target = split.train.target(0)
    assert target["points"].shape == (4, 2)
    assert target["points"].canvas_size == (30, 40)
    assert target["viewers"].tolist() == [0, 0, 1, 1]
    assert isinstance(collate([split.train[0], split.train[1]])[1], list)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(30, 40), (60, 40), (24, 64), (15, 20)])
@pytest.mark.parametrize("augment", [(), ("flip", "crop")])
def test_points_move_with_their_images(tmp_path, resize, size, augment):
    """The middle of the bright spot is where people look, whatever is done to the image."""
    split = opened(fill(tmp_path), size=size, resize=resize, augment=augment)
    margin = SPOT * max(scale for scale, _ in Frame(*size, resize).image_to_frame(SIZE))
    checked = 0
    for i in range(len(split.train)):
        for epoch in range(4):
            image, target = split.train[(0, epoch, i) if augment else i]
            points = target["points"].as_subclass(torch.Tensor)
            ends = torch.tensor([size[1], size[0]]) - points
            if len(points) < 4 or torch.cat([points, ends]).min() < margin:
                continue  # the spot may be cut off
            bright = image[0] > 0.6 * image[0].max()
            y, x = (places.float() + 0.5 for places in bright.nonzero(as_tuple=True))
            assert (points - torch.stack([x.mean(), y.mean()])).abs().max() < 1
            checked += 1
    assert checked


def test_what_lies_outside_the_frame_is_not_a_target(tmp_path):
    whole, cut = (opened(fill(tmp_path), size=(30, side)) for side in (40, 12))
    count = [sum(len(split.train.target(i)["points"]) for i in range(5)) for split in (whole, cut)]
    assert 0 < count[1] < count[0] == 20


def test_fixations_that_a_crop_cuts_off_are_counted(tmp_path):
    split = opened(fill(tmp_path), size=(30, 12), test_part=0.5)
    n_points = sum(len(split.test.target(i)["points"]) for i in range(3))
    assert n_points < 12
    sentence = f"Cropping to 30×12 pixels cuts off {12 - n_points} of 12 fixations on test images; "
    assert split.cautions[0].startswith(sentence)
    assert opened(tmp_path, size=(30, 12), test_part=0.5, resize="pad").cautions == []
    assert opened(tmp_path, test_part=0.5).cautions == []


def test_columns_by_other_names_and_a_split(tmp_path):
    def rows(lines):
        parts = ["split", *["train"] * 8, *["test"] * 8, *["val"] * 8]
        return [f"{line},{part}" for line, part in zip(lines, parts, strict=True)]

    split = opened(fill(tmp_path, header="stimulus;Subject;fix_x;fix_y;n".replace(";", ","), rows=rows))
    assert (len(split.train), len(split.test), len(split.val)) == (2, 2, 2)


def test_scenes_are_groups(tmp_path):
    def rows(lines):
        return [lines[0] + ",scene", *(f"{line},s{int(line[0]) // 2}" for line in lines[1:])]

    split = opened(fill(tmp_path, rows=rows))
    assert (len(split.train), len(set(split.test.groups))) == (4, 1)


def test_patients_are_groups(tmp_path):
    def rows(lines):
        return [lines[0] + ",patient", *(f"{line},p{int(line[0]) // 2}" for line in lines[1:])]

    split = opened(fill(tmp_path, rows=rows))
    assert (len(split.train), len(set(split.test.groups))) == (4, 1)


def test_viewers_without_a_name_are_unknown(tmp_path):
    def rows(lines):
        return [line.replace(",a,", ",7,").replace(",b,", ",,").replace("1.png,7", "1.png,07") for line in lines]

    split = opened(fill(tmp_path, rows=rows))
    for part in (split.train, split.test):
        for i in range(len(part)):
            assert part.target(i)["viewers"].tolist() == [-1, -1, 0, 0]
    facts = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).stdout)
    assert "24 fixations on 6 images by 1 viewers" in facts["notes"]


def test_a_changed_point_changes_the_fingerprint(tmp_path):
    before = opened(fill(tmp_path)).fingerprint
    assert opened(tmp_path).fingerprint == before
    fill(tmp_path, rows=lambda lines: [*lines[:-1], lines[-1].replace(".5,", ".6,", 1)])
    assert opened(tmp_path).fingerprint != before


def changed(number, old, new):
    return lambda lines: [line.replace(old, new) if n == number else line for n, line in enumerate(lines, 1)]


def scaled(lines):
    cells = [line.split(",") for line in lines[1:]]
    return [lines[0], *(f"{a},{b},{float(x) / 40},{float(y) / 30},{n}" for a, b, x, y, n in cells)]


def off_screen(lines):
    return [line.replace(",b,", ",b,1") if n % 3 == 0 else line for n, line in enumerate(scaled(lines))]


def far(lines):
    cells = [line.split(",") for line in lines[1:]]
    return [lines[0], *(f"{a},{b},{float(x) + 900 * (a == '3.png')},{y},{n}" for a, b, x, y, n in cells)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (changed(3, "6.5", "nan"), "line 3 of fixations.csv has 'nan' in the column 'x'; a number is needed"),
        (changed(4, "7.5", ""), "line 4 of fixations.csv has a blank in the column 'y'; a number is needed"),
        (changed(4, "7.5", "7·5"), "line 4 of fixations.csv has '7·5' in the column 'y'; a number is needed"),
        (changed(2, "0.png", "zero.png"), "zero.png does not exist; line 2 of fixations.csv names it"),
        (changed(5, ",0", ""), "line 5 of fixations.csv has 4 cells; the header has 5"),
        (
            scaled,
            "24 of 24 fixations of fixations.csv lie between 0 and 1; pixels are needed: multiply 'x' by the width",
        ),
        (off_screen, "20 of 24 fixations of fixations.csv lie between 0 and 1; pixels are needed"),
        (far, "3.png has no fixation inside its 40×30 pixels; the first of 4 is at (918.5, 16.5), in line"),
    ],
    ids=["nan", "blank", "no number", "no image", "short", "shares", "some off the screen", "outside"],
)
def test_each_lie_is_refused_by_name(tmp_path, rows, said):
    opened(fill(tmp_path))  # the twin
    with pytest.raises(UserError) as caught:
        opened(fill(tmp_path, rows=rows))
    assert said in str(caught.value)


def test_points_outside_are_dropped_and_counted(tmp_path):
    def rows(lines):
        return changed(3, "6.5,7.5", "-3,7.5")(changed(9, ",10.5", ",31")(lines))

    facts = json.loads(CliRunner().invoke(command, [str(fill(tmp_path, rows=rows)), "--json"]).stdout)
    assert facts["refused"] == []
    assert "22 fixations on 6 images by 2 viewers" in facts["notes"]
    said = (
        "2 fixations lie outside their images and are dropped: the first at (-3, 7.5) of 0.png, which is 40×30, in line"
    )
    assert any(note.startswith(said) for note in facts["notes"])


def test_a_table_with_boxes_is_none(tmp_path):
    header = "image,x,y,w,h"
    fill(tmp_path, header=header)
    assert layouts.get("fixations").check_source(str(tmp_path)) == "it has no .csv with the columns image, x and y"
    (tmp_path / "fixations.csv").write_text("image,x,y\nno.png,1,2\n")
    reason = layouts.get("fixations").check_source(str(tmp_path))
    assert reason == "no column of fixations.csv names an image of the folder"


def test_one_point_for_each_image_of_class_folders(tmp_path):
    fill(tmp_path)
    for i, path in enumerate(sorted((tmp_path / "images").iterdir())):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        path.rename(tmp_path / "ab"[i % 2] / path.name)
    (tmp_path / "images").rmdir()
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "fixations"  # several for each
    (tmp_path / "fixations.csv").write_text("image,x,y\n" + "".join(f"{i}.png,{i},{i}\n" for i in range(6)))
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    reason = layouts.get("fixations").check_source(str(tmp_path))
    assert reason.startswith("it has class folders, and fixations.csv has one row per image")
    assert layouts.find_layout(Data(source=str(tmp_path), layout="fixations")).name == "fixations"


def test_a_sheet_shows_where_people_looked(tmp_path):
    cells = layouts.get("fixations").read_cells(Data(source=str(fill(tmp_path)), size=(30, 40)), "train", 2)
    assert cells[0].caption == "4 fixations"
    assert cells[0].image[0][torch.from_numpy(cells[0].masks[0])].min() == 255


def test_real_fixations(real_data):
    split = open_data(Data(source=f"{real_data}/osie", size=(48, 64), train_images=20, test_images=10), "fixations")
    assert (len(split.train), len(split.test)) == (20, 10)
    targets = [split.train.target(i) for i in range(20)]
    assert min(len(target["points"]) for target in targets) > 50
    assert {len(target["viewers"].unique()) for target in targets} == {15}
