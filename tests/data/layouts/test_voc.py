"""Pascal VOC as VOC, LabelImg, Roboflow and CVAT write it, boxes and masks, and XML that lies."""

import json
import re
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saccade import imagefiles
from saccade.cli.data import command
from saccade.data import layouts, open_data
from saccade.data.samples import VOID
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import choose_task

SIZE = (40, 20)  # width, height
BOX = ("10", "5", "30", "15")


def image(path, n=0, size=SIZE, orientation=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (n % 256, n // 256, 90)).save(path, exif=exif)


def thing(name="cat", box=BOX, difficult="0", extra=""):
    corners = "".join(
        f"\t\t\t<{tag}>{value}</{tag}>\n" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>{difficult}</difficult>\n\t\t<bndbox>\n{corners}\t\t</bndbox>\n{extra}\t</object>\n"
    )


def xml(*things, size=SIZE, head="", name="x.jpg"):
    """As LabelImg writes it."""
    return (
        f"{head}<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{name}</filename>\n\t<path>C:\\pics\\{name}</path>\n"
        "\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{''.join(things)}</annotation>\n"
    )


def write(path, text, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **{"encoding": "utf-8", **options})


def pair(images, annotations, n, *things, name=None):
    stem = name or f"2008_{n:06}"
    image(images / f"{stem}.jpg", 9 * n)
    write(annotations / f"{stem}.xml", xml(*(things or (thing("dog" if n % 2 else "cat"),)), name=f"{stem}.jpg"))


def lists(root, kind="Main", **parts):
    for part, numbers in parts.items():
        write(root / f"ImageSets/{kind}/{part}.txt", "".join(f"2008_{n:06}\n" for n in numbers))


def voc(root, **parts):
    for n in range(10):
        pair(root / "JPEGImages", root / "Annotations", n)
    lists(root, **(parts or {"train": range(6), "val": range(6, 8), "test": range(8, 10), "trainval": range(8)}))
    return root


def roboflow(root):
    for part, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        for n in numbers:
            pair(root / part, root / part, n, name=f"pic_{n}_jpg.rf.0a1b{n}")
    return root


def nested(root):
    for part, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        for n in numbers:
            pair(root / part / "images", root / part / "annotations", n)
    return root


def labelimg(root):
    for n in range(10):
        pair(root / "images", root / "annotations", n)
    return root


def cvat(root):
    """Pascal VOC 1.1 of CVAT: ``labelmap.txt``, one list of all."""
    voc(root, default=range(10))
    write(
        root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:61,61,245::\ncat:250,50,83::\n"
    )
    return root


def opened(root, target="objects", **fields):
    return open_data(Data(source=str(root), **fields), target)


def described(root, name="voc", **fields):
    return layouts.get(name).describe(Data(source=str(root), **fields), None)


@pytest.mark.parametrize(
    ("make", "parts", "classes"),
    [
        (voc, [6, 2, 2], ["cat", "dog"]),
        (roboflow, [6, 2, 2], ["cat", "dog"]),
        (nested, [6, 2, 2], ["cat", "dog"]),
        (labelimg, [8, 2, 0], ["cat", "dog"]),
        (cvat, [8, 2, 0], ["dog", "cat"]),
    ],
)
def test_a_set_is_opened_as_its_tool_writes_it(tmp_path, make, parts, classes):
    make(tmp_path)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "voc"
    split = opened(tmp_path, size=(20, 40))
    assert [len(part) if part else 0 for part in (split.train, split.test, split.val)] == parts
    assert (split.target, split.classes) == ("objects", classes)
    target = split.train.target(0)
    assert target["boxes"].tolist() == [[10, 5, 30, 15]]
    assert target["labels"].tolist() == [
        classes.index("cat" if split.train.raw_image(0)[0, 0, 0] // 9 % 2 == 0 else "dog")
    ]
    assert "masks" not in target


def test_trainval_is_trained_on_where_train_is_not_listed(tmp_path):
    split = opened(voc(tmp_path, trainval=range(7), test=range(7, 10)))
    assert (len(split.train), len(split.test), split.val) == (7, 3, None)


def test_val_within_trainval_is_not_taken_for_a_part_of_its_own(tmp_path):
    split = opened(voc(tmp_path, trainval=range(8), val=range(6, 8), test=range(8, 10)))
    assert (len(split.train), len(split.test), split.val) == (8, 2, None)


def test_lists_of_one_class_are_no_parts(tmp_path):
    voc(tmp_path)
    write(tmp_path / "ImageSets/Main/cat_train.txt", "2008_000000  1\n2008_000001 -1\n")
    assert len(opened(tmp_path).train) == 6


def test_lists_with_signs_behind_the_names(tmp_path):
    voc(tmp_path)
    write(tmp_path / "ImageSets/Main/train.txt", "2008_000000  1\n2008_000001 -1\n2008_000002  0\n")
    assert len(opened(tmp_path).train) == 3


@pytest.mark.parametrize("name", ["my photo (1)", "Ünï çødé", "🐈.v2", "photo 1"])
def test_names_with_blanks_and_letters_of_all_kinds(tmp_path, name):
    voc(tmp_path)
    pair(tmp_path / "JPEGImages", tmp_path / "Annotations", 30, thing("große Katze 🐈"), name=name)
    path = tmp_path / "ImageSets/Main/train.txt"
    write(path, f"\ufeff{name}\r\n" + path.read_text().replace("\n", "\r\n"), newline="")
    split = opened(tmp_path)
    assert len(split.train) == 7
    assert split.classes == ["cat", "dog", "große Katze 🐈"]


@pytest.mark.parametrize("head", ['<?xml version="1.0" encoding="utf-8"?>\n', '\ufeff<?xml version="1.0"?>\r\n', ""])
def test_xml_of_other_writers(tmp_path, head):
    voc(tmp_path)
    extra = (
        "\t\t<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>\n"
    )
    one = thing(" cat ", ("10.5", " 5 ", "3e1", "15.0"), extra=extra)
    write(tmp_path / "Annotations/2008_000000.xml", xml(one, head=head, name="another.png"), newline="")
    target = opened(tmp_path, size=(20, 40)).train.target(0)
    assert target["boxes"].tolist() == [[10.5, 5, 30, 15]]


def test_an_image_without_objects_is_background(tmp_path):
    voc(tmp_path)
    write(tmp_path / "Annotations/2008_000000.xml", xml())
    assert opened(tmp_path).train.target(0)["labels"].tolist() == []


def test_difficult_objects_are_taken_and_said(tmp_path):
    voc(tmp_path)
    write(tmp_path / "Annotations/2008_000000.xml", xml(thing(), thing("dog", difficult="1")))
    assert opened(tmp_path).train.target(0)["labels"].tolist() == [0, 1]
    said = "1 objects are marked difficult and are used like the others (Annotations/2008_000000.xml, obj"
    assert any(note.startswith(said) for note in described(tmp_path)["notes"])


def test_a_photograph_that_lies_on_its_side(tmp_path):
    """Boxes on the stored pixels, as LabelImg draws them, are turned with the picture."""
    voc(tmp_path)
    image(tmp_path / "JPEGImages/2008_000000.jpg", orientation=6)
    target = opened(tmp_path, size=(40, 20)).train.target(0)
    assert target["boxes"].tolist() == [[5, 10, 15, 30]]
    write(tmp_path / "Annotations/2008_000000.xml", xml(thing(box=("1", "2", "3", "39")), size=SIZE[::-1]))
    assert opened(tmp_path, size=(40, 20)).train.target(0)["boxes"].tolist() == [[1, 2, 3, 39]]


# What lies in XML: its image is refused by name; with skip_bad that image alone is left out.

BOMB = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n'
LIES = {
    "inverted": (xml(thing(box=("30", "5", "10", "15"))), "object 1 of XML has a box whose x runs from 30 to 10"),
    "upside down": (xml(thing(), thing(box=("1", "15", "10", "5"))), "object 2 of XML has a box whose y runs from"),
    "outside": (xml(thing(box=("45", "5", "60", "15"))), "has a box 45 5 60 15 .*outside its image of 40×20 pixels"),
    "half outside": (xml(thing(box=("30", "5", "50", "15"))), "outside its image"),
    "not a number": (xml(thing(box=("nan", "5", "30", "15"))), "object 1 of XML has the xmin nan; a finite number"),
    "a word": (xml(thing(box=("ten", "5", "30", "15"))), "has the xmin 'ten'; a number is needed"),
    "no number": (xml(thing(box=("10", "", "30", "15"))), "has the ymin ''; a number is needed"),
    "no name": (xml(thing(name="")), "object 1 of XML has no class name"),
    "no box": (re.sub(r"<bndbox>.*</bndbox>", "", xml(thing()), flags=re.DOTALL), "object 1 of XML has no bndbox"),
    "another size": (xml(thing(), size=(41, 20)), r"is 40×20 pixels; Annotations/2008_000002\.xml states 41×20"),
    "sides exchanged": (xml(thing(box=("1", "1", "9", "9")), size=(20, 40)), "is 40×20 pixels; .* states 20×40"),
    "cut": (xml(thing())[:-40], "which cannot be read: (no element found|unclosed token): line"),
    "empty": ("", "which cannot be read: no element found"),
    "a DOCTYPE": (BOMB + xml(thing(name="&b;")), "which has a DOCTYPE, which is not read; remove it"),
    "of CVAT": ("<annotations><version>1.1</version></annotations>", "begins with <annotations>; <annotation> is"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_xml_that_lies(tmp_path, kind):
    text, why = LIES[kind]
    why = why.replace("XML", r"Annotations/2008_000002\.xml")
    voc(tmp_path)
    write(tmp_path / "Annotations/2008_000002.xml", text)
    with pytest.raises(UserError, match=rf"1 of 10 images cannot be used: .*2008_000002\.jpg .*{why}"):
        opened(tmp_path)
    assert len(described(tmp_path)["refused"]) == 1
    split = opened(tmp_path, skip_bad=True)
    assert (len(split.train), split.left_out) == (5, {"train": {"": 1}})


def test_a_doctype_in_another_encoding(tmp_path):
    voc(tmp_path)
    text = BOMB.replace('"1.0"', '"1.0" encoding="utf-16"') + xml(thing(name="&b;"))
    (tmp_path / "Annotations/2008_000002.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match="which has a DOCTYPE"):
        opened(tmp_path)


def test_a_bomb_costs_nothing(tmp_path):
    """A billion laughs: each entity is ten of the one before it."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{entities}]>'
    voc(tmp_path)
    write(tmp_path / "Annotations/2008_000002.xml", bomb + xml(thing(name="&l11;")))
    used = time.process_time()
    with pytest.raises(UserError, match="DOCTYPE"):
        opened(tmp_path)
    assert time.process_time() - used < 20


CLEANED = {
    "no area": (
        xml(thing(), thing(box=("10", "5", "10", "15"))),
        "1 objects without area are left out (Ann",
    ),
    "twice": (xml(thing(), thing()), "1 objects are exact duplicates and are counted once"),
    "overhang": (xml(thing(box=("30", "0", "42", "21"))), "1 boxes extend a little beyond their image"),
    "no size": (xml(thing(), size=(0, 0)), "the parts 'train', 'test' and 'val'"),
}


@pytest.mark.parametrize("kind", CLEANED)
def test_xml_that_is_cleaned_and_counted(tmp_path, kind):
    text, said = CLEANED[kind]
    voc(tmp_path)
    write(tmp_path / "Annotations/2008_000002.xml", text)
    facts = described(tmp_path)
    assert facts["refused"] == []
    assert any(note.startswith(said) for note in facts["notes"]), facts["notes"]
    target = opened(tmp_path, size=(20, 40)).train.target(2)
    assert len(target["labels"]) == 1
    assert target["boxes"].max() <= 40


def test_files_without_their_other_half(tmp_path):
    voc(tmp_path)
    (tmp_path / "Annotations/2008_000002.xml").unlink()
    (tmp_path / "JPEGImages/2008_000003.jpg").unlink()
    write(tmp_path / "Annotations/stray.xml", xml(thing()))
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    said = str(caught.value)
    assert re.search(
        r"2008_000002\.jpg has no Annotations/2008_000002\.xml; for an image without objects, write one", said
    )
    assert re.search(r"JPEGImages/2008_000003\.jpg cannot be read: No such file", said)
    assert "2 XML files have no image of their name" in described(tmp_path)["notes"]
    assert len(opened(tmp_path, skip_bad=True).train) == 4


def test_two_images_of_one_name(tmp_path):
    voc(tmp_path)
    image(tmp_path / "JPEGImages/2008_000002.png")
    with pytest.raises(UserError, match=r"2008_000002\.jpg and .*2008_000002\.png differ only in their suffix"):
        opened(tmp_path)


def test_lists_that_lie(tmp_path):
    voc(tmp_path, train=[0, 1, 2, 2], val=[6])
    with pytest.raises(UserError, match=r"ImageSets/Main/train\.txt lists '2008_000002' twice"):
        opened(tmp_path)
    lists(tmp_path, train=[0, 1, 2], val=[2, 6])
    with pytest.raises(UserError, match=r"2008_000002\.jpg and .*2008_000002\.jpg are the same file in two splits"):
        opened(tmp_path)
    write(tmp_path / "ImageSets/Main/val.txt", "../../elsewhere/2008_000006\n")
    with pytest.raises(UserError, match=r"ImageSets/Main/val\.txt names .*which contains '\.\.'"):
        opened(tmp_path)


def test_a_class_that_the_label_map_does_not_name(tmp_path):
    cvat(tmp_path)
    write(tmp_path / "Annotations/2008_000002.xml", xml(thing(), thing("cow")))
    with pytest.raises(
        UserError, match=r"2 of Annotations/2008_000002\.xml is of the class 'cow'\..* There are dog, cat"
    ):
        opened(tmp_path)
    split = opened(tmp_path, skip_bad=True)
    assert len(split.train) + len(split.test) == 9


@pytest.mark.parametrize(
    ("line", "why"),
    [("cow", "has the line 'cow'; name:r,g,b:: or r g b name"), ("dog:1,2,3::", "has the name dog 2 times")],
)
def test_a_label_map_that_lies(tmp_path, line, why):
    cvat(tmp_path)
    path = tmp_path / "labelmap.txt"
    write(path, f"{path.read_text()}{line}\n")
    with pytest.raises(UserError, match=why):
        opened(tmp_path)


def test_a_changed_file_changes_fingerprint_and_stamp(tmp_path):
    layout, spec = layouts.get("voc"), Data(source=str(voc(tmp_path)))
    before, stamp = opened(tmp_path).fingerprint, layout.stamp(spec)
    assert (opened(tmp_path).fingerprint, layout.stamp(spec)) == (before, stamp)
    write(tmp_path / "Annotations/2008_000002.xml", xml(thing(box=("11", "5", "30", "15"))))
    assert opened(tmp_path).fingerprint != before
    assert layout.stamp(spec) != stamp


def masks(root, count=6, listed=True):
    """Masks with a palette, 255 where no class is, as VOC publishes them."""
    for n in range(count):
        pixels = np.zeros(SIZE[::-1], np.uint8)
        pixels[5:15, 10:30] = 1 + n % 2
        pixels[4, 10:30] = VOID
        mask = Image.fromarray(pixels)
        palette = Image.frombytes("P", mask.size, mask.tobytes())
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224, 224, 192] * 253)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        palette.save(root / f"SegmentationClass/2008_{n:06}.png")
    if listed:
        lists(root, "Segmentation", train=range(4), val=range(4, count))
    return root


def test_masks_are_read_where_they_are_asked_for(tmp_path):
    masks(voc(tmp_path))
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "voc"
    assert layouts.find_layout(Data(source=str(tmp_path)), "mask").name == "voc_masks"
    split = opened(tmp_path, "mask", size=(20, 40))
    assert (len(split.train), len(split.test), split.classes) == (4, 2, ["0", "1", "2"])
    mask = split.train.target(1)
    assert mask.unique().tolist() == [0, 2, VOID]
    assert (mask == 2).sum() == 200
    assert len(opened(tmp_path).train) == 6  # the twin: boxes
    segment = Recipe().with_overrides({"data.source": str(tmp_path), "task.name": "segment"})
    assert choose_task(segment) == "segment"
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "detect"


def test_masks_alone_are_the_natural_target(tmp_path):
    masks(voc(tmp_path), listed=False)
    for path in (tmp_path / "Annotations").iterdir():
        path.unlink()
    (tmp_path / "Annotations").rmdir()
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "voc_masks"
    assert described(tmp_path, "voc_masks")["parts"][0]["images"] == 6
    assert choose_task(Recipe().with_overrides({"data.source": str(tmp_path)})) == "segment"


def test_names_of_masks(tmp_path):
    masks(cvat(tmp_path))
    assert opened(tmp_path, "mask").classes == ["background", "dog", "cat"]
    (tmp_path / "labelmap.txt").unlink()
    write(tmp_path / "ImageSets/Main/aeroplane_train.txt", "2008_000000 -1\n")
    assert opened(tmp_path, "mask").classes[:3] == ["background", "aeroplane", "bicycle"]
    assert len(opened(tmp_path, "mask").classes) == 21


def test_masks_in_the_colours_of_cvat(tmp_path):
    """Segmentation mask 1.1 of CVAT: pictures in the colours of ``labelmap.txt``."""
    masks(cvat(tmp_path))
    colours = np.array([(0, 0, 0), (61, 61, 245), (250, 50, 83)], np.uint8)
    for n in range(6):
        pixels = np.zeros(SIZE[::-1], np.uint8)
        pixels[5:15, 10:30] = 1 + n % 2
        Image.fromarray(colours[pixels]).save(tmp_path / f"SegmentationClass/2008_{n:06}.png")
    split = opened(tmp_path, "mask", size=(20, 40))
    assert split.classes == ["background", "dog", "cat"]
    assert (split.train.target(1) == 2).sum() == 200
    colours[1] = 7, 8, 9
    Image.fromarray(colours[pixels - pixels // 2]).save(tmp_path / "SegmentationClass/2008_000001.png")
    with pytest.raises(UserError, match=r"000001\.jpg has the mask .*has the colour \(7, 8, 9\)"):
        opened(tmp_path, "mask")


def test_a_mask_that_is_missing_or_of_another_size(tmp_path):
    masks(voc(tmp_path))
    (tmp_path / "SegmentationClass/2008_000001.png").unlink()
    Image.new("L", (20, 20)).save(tmp_path / "SegmentationClass/2008_000002.png")
    with pytest.raises(
        UserError, match=r"000001\.jpg has no mask.*000002\.jpg has the mask .*20×20 pixels; its image is 40"
    ):
        opened(tmp_path, "mask")


def test_a_folder_is_recognised_by_its_names_and_heads_of_xml(tmp_path, monkeypatch):
    masks(voc(tmp_path))
    monkeypatch.setattr(imagefiles, "_read_header", None)
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "voc"
    assert layouts.find_layout(Data(source=str(tmp_path)), "mask").name == "voc_masks"
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path)  # the twin


def test_the_verb_describes(tmp_path):
    done = CliRunner().invoke(command, [str(voc(tmp_path)), "--json"])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert facts["layout"] == "voc"
    assert facts["parts"][0] == {"name": "train", "images": 6, "classes": {"cat": 3, "dog": 3}}


def test_real_blood_cells(real_data):
    """BCCD: boxes of three classes on 364 photographs; two boxes have no area."""
    facts = described(f"{real_data}/bccd")
    assert facts["refused"] == []
    assert facts["used"] == {"train": 205, "test": 72, "val": 87}
    assert list(facts["parts"][0]["classes"]) == ["Platelets", "RBC", "WBC"]
    assert any(note.startswith("2 objects without area are left out") for note in facts["notes"])
    split = opened(f"{real_data}/bccd", size=(240, 320), train_images=20, test_images=10)
    labels = [label for i in range(20) for label in split.train.target(i)["labels"].tolist()]
    assert labels.count(1) > labels.count(2) > 0  # red cells outnumber white ones


def test_two_classes_called_like_the_folders_of_voc(tmp_path):
    for place in ("JPEGImages", "SegmentationClass"):
        for n in range(3):
            image(tmp_path / place / f"{place}{n}.png", n + len(place))
    assert layouts.find_layout(Data(source=str(tmp_path))).name == "class_folders"
    reason = layouts.get("voc_masks").check_source(str(tmp_path))
    assert reason == "no image in JPEGImages has a mask of its name in SegmentationClass"
