"""Annotations that no layout reads are named, with the converter that writes what one reads."""

import json
import shlex

import pytest
from PIL import Image

from saccade.data import layouts
from saccade.errors import UserError
from saccade.recipe import Data


def image(path, n=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (n, n, n)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def labelme(root, indent=2):
    for n in range(3):
        image(root / f"{n}.png", n)
        shape = {
            "label": "cat",
            "points": [[1, 2], [3, 4], [5, 6]],
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        content = {
            "version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": f"{n}.png", "imageData": "A" * 10**5,
            "imageHeight": 10, "imageWidth": 20,
        }  # fmt: skip
        write(root / f"{n}.json", json.dumps(content, indent=indent))


def labelme_in_a_folder(root):
    labelme(root / "shots")


def cvat(root):
    image(root / "images" / "0.png")
    write(
        root / "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><job/></meta>\n'
        '  <image id="0" name="0.png" width="20" height="10">\n'
        '    <box label="cat" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"></box>\n  </image>\n'
        "</annotations>\n",
    )


def label_studio(root, indent=None):
    image(root / "images" / "0.png")
    value = {"x": 1.0, "y": 2.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["cat"]}
    result = {"id": "a", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}
    task = {"id": 1, "annotations": [{"id": 2, "result": [result]}], "data": {"image": "/data/upload/1/0.png"}}
    write(root / "project-1-at-2026-01-01-00-00-0a1b.json", json.dumps([task], indent=indent))


def supervisely(root):
    write(root / "meta.json", {"classes": [{"title": "cat", "shape": "rectangle", "color": "#0F0"}], "tags": []})
    for dataset in ("ds0", "ds1"):
        for n in range(2):
            image(root / dataset / "img" / f"{n}.png", n)
            write(root / dataset / "ann" / f"{n}.png.json", {"size": {"height": 10, "width": 20}, "objects": []})


KNOWN = {
    labelme: ("0.json is Labelme JSON", "labelme2coco {root} writes COCO"),
    labelme_in_a_folder: ("shots/0.json is Labelme JSON", "labelme2coco {root}/shots"),
    cvat: ("annotations.xml is CVAT XML", "datum convert -if cvat -i {root} -f coco -o OUT -- --save-media"),
    label_studio: (
        "project-1-at-2026-01-01-00-00-0a1b.json is a raw export of Label Studio",
        "label-studio-converter export -i {root}/project-1-at-2026-01-01-00-00-0a1b.json -c CONFIG.xml -o OUT -f COCO",
    ),
    supervisely: ("it is a Supervisely project (meta.json and ann)", "'Export to COCO'"),
}


@pytest.mark.parametrize("make", KNOWN)
def test_what_another_program_wrote_is_refused_with_its_converter(tmp_path, make):
    make(tmp_path)
    with pytest.raises(UserError) as caught:
        layouts.find_layout(Data(source=str(tmp_path)))
    said = str(caught.value)
    assert said.startswith(f"no layout reads {tmp_path}: ")
    for words in KNOWN[make]:
        assert words.format(root=tmp_path) in said


def test_a_path_with_blanks_stays_one_word(tmp_path):
    root = tmp_path / "my set"
    labelme(root)
    with pytest.raises(UserError) as caught:
        layouts.find_layout(Data(source=str(root)))
    command = str(caught.value).partition("; ")[2].removesuffix(" writes COCO")
    assert shlex.split(command) == ["labelme2coco", str(root)]


@pytest.mark.parametrize(("make", "indent"), [(labelme, None), (label_studio, 2)])
def test_whatever_its_indentation(tmp_path, make, indent):
    make(tmp_path, indent=indent)
    with pytest.raises(UserError, match=r"Labelme|Label Studio"):
        layouts.find_layout(Data(source=str(tmp_path)))


def test_json_and_xml_of_others_are_none_of_them(tmp_path):
    image(tmp_path / "pics" / "0.png")
    write(tmp_path / "package.json", {"name": "x", "annotations": "none"})
    write(tmp_path / "list.json", [{"name": "x"}])
    write(tmp_path / "pom.xml", "<project></project>")
    with pytest.raises(
        UserError, match=r"no layout reads .*, which holds list\.json, package\.json, pics, pom\.xml: digits"
    ):
        layouts.find_layout(Data(source=str(tmp_path)))


def test_a_project_of_supervisely_is_no_set_of_class_folders(tmp_path):
    """Its datasets look like classes; a recipe that names the layout reads them so."""
    supervisely(tmp_path)
    named = layouts.find_layout(Data(source=str(tmp_path), layout="class_folders"))
    assert named.name == "class_folders"
    (tmp_path / "meta.json").unlink()
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"  # the twin


@pytest.mark.parametrize(
    ("ending", "content", "folders"),
    [("txt", "0 0.5 0.5 0.25 0.25\n", "images and labels"), ("xml", "<annotation/>", "JPEGImages and Annotations")],
)
def test_labels_of_labelimg_among_their_images(tmp_path, ending, content, folders):
    for n in range(3):
        image(tmp_path / f"{n}.png", n)
        write(tmp_path / f"{n}.{ending}", content.replace("/>", ">"))
    said = rf"0\.png and 0\.{ending} are in one folder: move the images and the \.{ending} files into .*, {folders}"
    with pytest.raises(UserError, match=said):
        layouts.find_layout(Data(source=str(tmp_path)))
    for n in range(3):
        write(tmp_path / f"{n}.{ending}", "a caption of 1 image")  # the twin
    with pytest.raises(UserError, match=r"no layout reads .*: digits: "):
        layouts.find_layout(Data(source=str(tmp_path)))


def test_darknet_of_cvat(tmp_path):
    image(tmp_path / "obj_train_data/0.png")
    write(tmp_path / "obj_train_data/0.txt", "0 0.5 0.5 0.25 0.25\n")
    write(tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")
    with pytest.raises(UserError, match=r"it is YOLO 1\.1 from CVAT .*: export the task from CVAT as Ultralytics YOLO"):
        layouts.find_layout(Data(source=str(tmp_path)))
