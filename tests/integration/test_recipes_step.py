"""Each recipe that comes with Saccade parses, says where its numbers come from, and takes one step."""

import csv
import json
import math
import re
import runpy
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import timm
import torchvision
from PIL import Image
from scipy.io import savemat

import saccade
from saccade.cli import saccade as command_line
from saccade.cost.call import ForwardCall
from saccade.cost.thop import thop_counts
from saccade.data import open_data
from saccade.events import TrainingBegan
from saccade.recipe import Recipe, builtin_recipe
from saccade.training.module import train_only
from saccade.training.schedules import lr_factor
from tiny_runs import Killed, after, listener

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "recipes").glob("*.toml"))
EACH_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
SIZE, BATCH = 64, 4
MULTILABEL_TESTS = 60
"""Number of test images of which at least one label has enough with it and without it to be scored."""
FINDINGS = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]  # fmt: skip
CAMVID = [
    "sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist",
    "void",
]  # fmt: skip

STUFF_MISSING = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}  # fmt: skip
"""Labels of COCO-Stuff that are in no mask, by index."""

read_head = runpy.run_path(str(REPOSITORY / "docs/hooks/recipe_heads.py"))["read_head"]

IMAGENET = {  # train_imagenet.py of landskape-ai/triplet-attention, whose settings the DAS paper takes over
    "data.size": 224,
    "data.crop_pct": 224 / 256,
    "data.mean": (0.485, 0.456, 0.406),
    "data.std": (0.229, 0.224, 0.225),
    "data.augment": ("resized_crop", "flip"),
    "training.momentum": 0.9,
    "training.nesterov": False,
}
SGD = {"training.optimizer": "sgd", "training.warmup_epochs": 0.0, "training.label_smoothing": 0.0}
PUBLISHED = {
    "imagenet-das": IMAGENET
    | SGD
    | {  # DAS, arXiv:2311.12091, section 4.1
        "model.name": "resnet50",
        "attention.mechanism": "das",
        "training.epochs": 100,
        "training.batch_size": 256,
        "training.lr": 0.1,
        "training.weight_decay": 1e-4,
    },
    "mobilenetv2-das": IMAGENET
    | SGD
    | {  # section 4.1; epochs and dropout are those of triplet attention's script and MODELS/mobilenet.py
        "model.name": "mobilenetv2_100",
        "model.options": {"drop_rate": 0.25},
        "attention.mechanism": "das",
        "training.epochs": 400,
        "training.batch_size": 96,
        "training.lr": 0.045,
        "training.weight_decay": 4e-5,
    },
    "cifar100-das": SGD
    | {  # section 4.1
        "attention.mechanism": "das",
        "training.epochs": 300,
        "training.batch_size": 128,
        "training.lr": 0.1,
        "training.weight_decay": 5e-4,
    },
    "stanford-dogs-das": SGD
    | {  # section 4.1
        "data.layout": "class_list",
        "data.augment": ("crop", "flip"),
        "attention.mechanism": "das",
        "training.epochs": 300,
        "training.batch_size": 32,
        "training.lr": 0.1,
        "training.weight_decay": 1e-4,
        "training.schedule": "cosine",
    },
    "imagenet-se": SGD
    | {  # SENet, arXiv:1709.01507, section 5.1
        "data.size": 224,
        "data.crop_pct": 224 / 256,
        "data.augment": ("resized_crop", "flip"),
        "model.name": "resnet50",
        "attention.mechanism": "se",
        "training.epochs": 100,
        "training.batch_size": 1024,
        "training.lr": 0.6,
        "training.momentum": 0.9,
        "training.weight_decay": Recipe().training.weight_decay,  # not stated
    },
    "imagenet-vt": SGD
    | {  # VT, arXiv:2006.03677, plain training
        "data.size": 224,
        "model.name": "vt_resnet18",
        "training.epochs": 90,
        "training.batch_size": 256,
        "training.lr": 0.1,
        "training.momentum": 0.9,
        "training.weight_decay": 4e-5,
    },
    "imagenet-vt-advanced": {  # VT, arXiv:2006.03677, advanced training; lr is 0.16 after 5 epochs
        "data.size": 224,
        "data.augment": ("resized_crop", "flip", "autoaugment"),
        "model.name": "vt_resnet18",
        "model.options": {"drop_rate": 0.2, "drop_path_rate": pytest.approx(1 - 0.9)},
        "training.optimizer": "rmsprop",
        "training.epochs": 400,
        "training.batch_size": 2048,
        "training.lr": pytest.approx(0.16 / 0.9875**5),
        "training.warmup_epochs": 5,
        "training.ema_decay": 0.99985,
        "training.teacher": "fbnetv3_g",
        "training.distill_alpha": 0.8,
    },
    "imagenet-sasa": {  # SASA, arXiv:1906.05909, section 4.1
        "data.size": 224,
        "model.name": "sasa_resnet50",
        "model.options": {"bn_momentum": 0.0001},
        "attention.mechanism": "none",
        "training.optimizer": "sgd",
        "training.nesterov": True,
        "training.epochs": 130,
        "training.batch_size": 4096,
        "training.lr": 1.6,
        "training.warmup_epochs": 10,
        "training.schedule": "cosine",
        "training.ema_decay": 0.9999,
    },
    "coco-faster-rcnn-das": {  # DAS, section 4.1; the rest from configs/_base_ of MMDetection
        "data.size": (800, 1344),
        "data.mean": IMAGENET["data.mean"],
        "data.std": IMAGENET["data.std"],
        "data.augment": ("flip",),
        "model.name": "faster_rcnn",
        "attention.mechanism": "das",
        "training.optimizer": "sgd",
        "training.batch_size": 16,
        "training.lr": 0.02,
        "training.momentum": 0.9,
        "training.weight_decay": 1e-4,
        "training.freeze": "norm",  # norm_eval
        "training.warmup_epochs": round(500 * 16 / 117_266, 3),  # images with objects
    },
    "coco-stuff": {  # VT, arXiv:2006.03677; the rest from Base-RCNN-FPN.yaml and config/defaults.py of detectron2
        "data.size": (800, 1216),
        "data.augment": ("flip",),
        "model.name": "semantic_fpn",
        "training.optimizer": "sgd",
        "training.batch_size": 32,
        "training.lr": 0.04,
        "training.momentum": 0.9,
        "training.weight_decay": 1e-4,
        "training.epochs": 90_000 * 16 // 118_287,
        "training.warmup_epochs": round(1000 * 32 / 118_287, 2),
    },
    "lip": {  # VT, arXiv:2006.03677; epochs from run.sh of liutinglt/CE2P
        "data.size": 473,
        "data.augment": (),
        "model.name": "semantic_fpn",
        "training.optimizer": "sgd",
        "training.batch_size": 96,
        "training.lr": 0.01,
        "training.weight_decay": 5e-4,
        "training.epochs": 150,
    },
}
"""Settings by recipe, as its source states them."""
PUBLISHED |= {f"{name}-vtfpn": PUBLISHED[name] | {"model.name": "vt_fpn"} for name in ("coco-stuff", "lip")}
RATES = {
    "coco-faster-rcnn-das": {1: 0.02, 7: 0.02, 8: 0.002, 10: 0.002, 11: 2e-4},  # ×0.1 at 8 and 11
    "coco-stuff": {1: 0.04, 7: 0.04, 8: 0.004, 10: 0.004, 11: 4e-4},  # ×0.1 after 2/3 and 8/9, in whole epochs
    "lip": {0: 0.01, 75: 0.005},  # cosine
    "imagenet-das": {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001, 90: 1e-4, 99: 1e-4},  # ×0.1 at 30, 60, 90
    "mobilenetv2-das": {0: 0.045, 1: 0.0441, 399: 0.045 * 0.98**399},  # ×0.98 per epoch
    "cifar100-das": {69: 0.1, 70: 0.02, 130: 0.004, 200: 8e-4, 260: 1.6e-4, 299: 1.6e-4},  # ×0.2 at 70, 130, 200, 260
    "stanford-dogs-das": {0: 0.1, 150: 0.05},  # cosine
    "imagenet-sasa": {5: 1.6 * 36 / 70, 10: 1.6, 70: 0.8},  # the 36th of 70 steps of warm-up; cosine
    "imagenet-se": {29: 0.6, 30: 0.06, 60: 0.006, 90: 6e-4},  # ×0.1 every 30 epochs
    "imagenet-vt": {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001},  # ×0.1 every 30 epochs
    "imagenet-vt-advanced": {5: 0.16, 6: 0.158, 399: 0.16 * 0.9875**394},  # ×0.9875 per epoch after the warm-up
}
"""Learning rate at the start of epochs, counted from 0."""
RATES |= {f"{name}-vtfpn": RATES[name] for name in ("coco-stuff", "lip")}


@EACH_FILE
def test_the_comment_at_the_head_has_every_key_and_its_commands_parse(path):
    head = read_head(path)
    assert all(head.values.values())
    for line in head.values["command"].splitlines():
        program, *words = shlex.split(line)
        assert program == "saccade"
        name, verb, rest = command_line.resolve_command(click.Context(command_line), words)
        given = verb.make_context(name, rest).params
        named = given.get("recipe") or given.get("recipe_file")
        assert named in (None, path.stem, f"recipes/{path.name}")
    if path.stem in PUBLISHED:
        assert "arXiv:" in head.values["numbers"]


@pytest.mark.parametrize("key", ["command", "hardware", "time", "numbers", "run"])
def test_a_comment_without_a_key_is_noticed(tmp_path, key):
    lines = (REPOSITORY / "recipes/digits.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "digits.toml").write_text("".join(line for line in lines if not line.startswith(f"# {key} ")))
    with pytest.raises(ValueError, match=f"has no {key}$"):
        read_head(tmp_path / "digits.toml")


def different(recipe, expected):
    """Return the settings of a recipe that are not as expected."""
    values = recipe.model_dump()
    found = {key: values[key.split(".")[0]][key.split(".")[1]] for key in expected}
    return {key: (value, expected[key]) for key, value in found.items() if value != expected[key]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_source(name):
    recipe = builtin_recipe(name)
    assert different(recipe, PUBLISHED[name]) == {}
    assert list(different(recipe.with_overrides({"training.lr": 0.3}), PUBLISHED[name])) == ["training.lr"]
    rates = {
        epoch: recipe.training.lr * lr_factor(7 * epoch, 7, recipe.training.epochs, recipe.training)
        for epoch in RATES[name]
    }
    assert rates == pytest.approx(RATES[name])


def write_image(path, seed):
    """Write a picture of 48×40 pixels that depends on ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)).save(path)


def write_classes(root):
    """Write class folders for training and testing."""
    for n in range(16):
        write_image(root / ("train" if n < 8 else "test") / f"class {n % 2}" / f"{n}.png", n)


def write_lists(root):
    """Write the folders of Stanford Dogs, and the lists by the script in the comment of the recipe."""
    classes = "n02085620-Chihuahua", "n02085782-Japanese_spaniel"
    for n in range(16):
        write_image(root / "Images" / classes[n % 2] / f"{n}.jpg", n)
    for part, numbers in (("train", range(8)), ("test", range(8, 16))):
        names = np.array([[f"{classes[n % 2]}/{n}.jpg"] for n in numbers], dtype=object)
        savemat(root / f"{part}_list.mat", {"file_list": names, "labels": [[n % 2 + 1] for n in numbers]})
    run_script_of("stanford-dogs-das", root)


def write_findings(root):
    """Write films and the table of ChestX-ray14, one film per patient."""
    header = [
        "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
        "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", "",
    ]  # fmt: skip
    with (root / "Data_Entry_2017.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for n in range(40 + MULTILABEL_TESTS):
            write_image(root / "images" / f"{n:08}_000.png", n)
            found = {FINDINGS[n // 2 % 14], *FINDINGS[3 : 3 + n % 2]} if n % 8 else {"No Finding"}
            labels = "|".join(sorted(found))
            view = ("PA", "AP")[n % 2]
            table.writerow([f"{n:08}_000.png", labels, 0, n + 1, 50, "F", view, 2048, 2048, 0.171, 0.171, ""])
    for name, numbers in (("train_val_list", range(40)), ("test_list", range(40, 40 + MULTILABEL_TESTS))):
        (root / f"{name}.txt").write_text("".join(f"{n:08}_000.png\n" for n in numbers))


def write_masks(root):
    """Write images and index masks in the form of CamVid."""
    for n in range(12):
        part = ("train", "val", "test")[n % 3]
        write_image(root / part / f"{n}.png", n)
        (root / f"{part}annot").mkdir(exist_ok=True)
        rows = np.arange(40)[:, None] * len(CAMVID) // 40
        Image.fromarray(np.repeat(rows, 48, 1).astype(np.uint8)).save(root / f"{part}annot" / f"{n}.png")
    (root / "classes.txt").write_text("\n".join(CAMVID))


def write_mask(path, values):
    """Write a grey mask of 48×40 pixels whose rows hold ``values``, from top to bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.array(values)[np.arange(40) * len(values) // 40]
    Image.fromarray(np.repeat(rows[:, None], 48, 1).astype(np.uint8)).save(path)


def write_coco_stuff(root):
    """Write COCO-Stuff as it is unpacked, then run the script in the comment of the recipe."""
    for n in range(12):
        part = ("train2017", "val2017")[n % 2]
        write_image(root / "images" / part / f"{n:012}.jpg", n)
        write_mask(root / "annotations" / part / f"{n:012}.png", [0, 12, 181, 255])
    missing = iter(STUFF_MISSING.values())
    labels = ["unlabeled", *(next(missing) if n in STUFF_MISSING else f"label {n}" for n in range(1, 183))]
    (root / "labels.txt").write_text("".join(f"{n}: {label}\n" for n, label in enumerate(labels)))
    run_script_of("coco-stuff", root)


def write_lip(root):
    """Write LIP as it is unpacked, then run the script in the comment of the recipe."""
    for n in range(12):
        part = ("train", "val")[n % 2]
        write_image(root / "TrainVal_images/TrainVal_images" / f"{part}_images" / f"{n}.jpg", n)
        write_mask(root / "TrainVal_parsing_annotations" / f"{part}_segmentations" / f"{n}.png", range(20))
    run_script_of("lip", root)


def write_coco(root):
    """Write COCO 2017 as it is unpacked: images with two boxes each, the classes 1 and 3."""
    for part in ("train2017", "val2017"):
        for n in range(8):
            write_image(root / part / f"{n:012}.jpg", n)
        boxes = [
            {"id": 2 * n + k, "image_id": n, "category_id": 1 + 2 * k, "bbox": [4 + n, 3 + 9 * k, 24, 18], "iscrowd": 0}
            for n in range(8)
            for k in range(2)
        ]
        images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 48, "height": 40} for n in range(8)]
        coco = {"images": images, "annotations": boxes, "categories": [{"id": n, "name": f"c{n}"} for n in (1, 3)]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco))


def write_voc(root):
    """Write BCCD's form: images with two boxes each, in Pascal VOC's folders."""
    for part, start in (("train", 0), ("test", 8)):
        names = [f"cell{n}" for n in range(start, start + 8)]
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{part}.txt").write_text("\n".join(names))
        for n, name in enumerate(names, start):
            write_image(root / "JPEGImages" / f"{name}.jpg", n)
            objects = "".join(
                f"<object><name>{cell}</name><bndbox><xmin>{4 + n}</xmin><ymin>{3 + 9 * k}</ymin><xmax>{28 + n}</xmax>"
                f"<ymax>{21 + 9 * k}</ymax></bndbox></object>"
                for k, cell in enumerate(("RBC", "WBC"))
            )
            (root / "Annotations").mkdir(exist_ok=True)
            (root / f"Annotations/{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename><size><width>48</width><height>40</height></size>{objects}"
                "</annotation>"
            )


def write_fixations(root):
    """Write images and fixations of two viewers in the form of OSIE."""
    rows = ["image,viewer,x,y,order"]
    for n in range(16):
        write_image(root / "images" / f"{1001 + n}.jpg", n)
        rows += [f"{1001 + n}.jpg,{viewer},{20 + n + 3 * viewer},{12 + n},0" for viewer in range(2)]
    (root / "fixations.csv").write_text("\n".join(rows))


def writer_of(recipe):
    """Return the function that writes the images of a recipe; None for built-in images."""
    task, layout, source = recipe.task.name, recipe.data.layout, recipe.data.source
    if source == "digits":
        return None
    if source in OWN_WRITERS:
        return OWN_WRITERS[source]
    if task == "saliency":
        return write_fixations
    if task == "segment" or layout in ("image_masks", "voc_masks"):
        return write_masks
    if task == "multilabel" or layout in ("csv", "chestxray14"):
        return write_findings
    return write_lists if layout == "class_list" else write_classes


OWN_WRITERS = {"bccd": write_voc, "coco": write_coco, "coco-stuff": write_coco_stuff, "lip": write_lip}
"""Writers of data sets that only one recipe reads, by ``data.source``."""


def run_script_of(name, folder, **names):
    """Run the Python in the comment of a recipe, in ``folder``."""
    notes = read_head(REPOSITORY / "recipes" / f"{name}.toml").notes
    (script,) = re.findall(r"^(  from pathlib .*?)\n(?!  )", f"{notes}\n\n", re.MULTILINE | re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(re.sub("^  ", "", script, flags=re.MULTILINE), dict(names))


@EACH_FILE
def test_it_takes_one_step(path, tmp_path):
    """The recipe as it is, on a few small images, until the first epoch ends; no weights are loaded."""
    recipe = Recipe.load(path)
    write = writer_of(recipe)
    settings = {
        "data.train_images": BATCH,
        "data.test_images": MULTILABEL_TESTS if recipe.task.name == "multilabel" else BATCH,
        "training.batch_size": BATCH,
        "training.workers": 0,
        "model.pretrained": False,
        "model.checkpoint": None,
        "training.precision": "32",  # "auto" would time both
        "training.memory_format": "contiguous",
    }
    if recipe.training.teacher is not None:
        settings |= dict.fromkeys(("training.teacher", "training.distill_alpha", "training.distill_temperature"))
    if "encoder_weights" in recipe.model.options:
        settings["model.options"] = recipe.model.options | {"encoder_weights": False}
    if write is not None:
        write(tmp_path)
        settings["data.size"] = min(SIZE, *(recipe.data.height_width or [SIZE]))

    heard, listen = listener(after(epoch=1))
    data = None if write is None else tmp_path
    with pytest.raises(Killed):
        saccade.train(path, data=data, settings=settings, out=tmp_path / "run", device="cpu", notify=listen)
    began = next(event for event in heard if isinstance(event, TrainingBegan))
    assert (began.steps, began.epochs) == (1, recipe.training.epochs)
    losses = heard[-1].row["losses"]
    assert losses
    assert {name: loss for name, loss in losses.items() if not 0 < loss < math.inf} == {}


def test_images_of_every_kind_are_read(tmp_path):
    """What is written for recipes of masks and of findings can be read, with all classes."""
    for write, target, classes in ((write_masks, "mask", set(CAMVID[:-1])), (write_findings, "vector", set(FINDINGS))):
        root = tmp_path / target
        root.mkdir()
        write(root)
        split = open_data(Recipe().with_overrides({"data.source": str(root), "data.size": 32}).data, target)
        assert (split.target, set(split.classes)) == (target, classes)
        assert min(len(split.train), len(split.test)) >= BATCH


def test_official_folders_of_masks_have_their_classes(tmp_path):
    """171 of the 182 labels of COCO-Stuff; 255 and no other value becomes void."""
    for name, n_classes, values in (("coco-stuff", 171, {0, 11, 170, 255}), ("lip", 20, {*range(20)})):
        root = tmp_path / name
        root.mkdir()
        OWN_WRITERS[name](root)
        data = builtin_recipe(name).with_overrides({"data.source": str(root), "data.size": [40, 48]}).data
        split = open_data(data, "mask")
        assert (len(split.classes), len(split.train), len(split.test)) == (n_classes, 6, 6), name
        assert set(split.train.target(0).unique().tolist()) == values, name
        assert "eye glasses" not in split.classes, name


def test_the_script_that_writes_cifar100_makes_class_folders(tmp_path, monkeypatch):
    class Pictures(list):
        classes = ("apple", "bowl")

    def download(folder, train, download):
        assert (folder, download) == ("downloads", True)
        return Pictures((Image.new("RGB", (32, 32), (n, 10 * train, 0)), n % 2) for n in range(6 if train else 4))

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", download)
    run_script_of("cifar100-das", tmp_path)
    data = builtin_recipe("cifar100-das").with_overrides({"data.source": str(tmp_path / "cifar100")}).data
    split = open_data(data, "label")
    assert split.classes == ["apple", "bowl"]
    for images, mark, count in ((split.train, 10, 6), (split.test, 0, 4)):
        seen = [(*images.raw_image(i)[:2, 0, 0].tolist(), images.target(i)) for i in range(len(images))]
        assert sorted(seen) == [(n, mark, n % 2) for n in range(count)]


def test_gates_of_mobilenetv2_end_its_seven_stages():
    recipe = builtin_recipe("mobilenetv2-das")
    host = timm.create_model(recipe.model.name)
    saccade.plug(host, recipe.attention.mechanism, where=recipe.attention.where, input=(3, 64, 64))
    assert [plug.site for plug in saccade.plugs(host)] == [f"blocks.{n}" for n in range(7)]
    assert [plug.channels for plug in saccade.plugs(host)] == [16, 24, 32, 64, 96, 160, 320]
    ends = [f"features.{n}" for n in (1, 3, 6, 10, 13, 16, 17)]
    for where, macs in ((ends, 0.35), (ends[:1], 0.34)):  # 0.35 as printed in the paper
        same = torchvision.models.mobilenet_v2()
        saccade.plug(same, recipe.attention.mechanism, where=where, input=(3, 64, 64))
        assert round(thop_counts(ForwardCall.build(same, (3, 224, 224), batch=1))[1] / 1e9, 2) == macs


def test_phases_of_faster_rcnn_freeze_the_first_stage_but_not_its_gate():
    """As ``frozen_stages = 1`` of MMDetection; first the backbone, then all, then 12 epochs."""
    recipe = builtin_recipe("coco-faster-rcnn-das")
    host = timm.create_model(recipe.model.name, **recipe.model.options)
    saccade.plug(host, recipe.attention.mechanism, where=recipe.attention.where, input=(3, 64, 64))
    backbone, every, last = recipe.training.phases
    assert (last.epochs, last.trainable) == (12, every.trainable)
    for phase, heads in ((backbone, False), (every, True)):
        with train_only(host, phase):
            trained = {name for name, parameter in host.named_parameters() if parameter.requires_grad}
        for name, is_trained in (
            ("backbone.encoder.conv1.weight", False),
            ("backbone.encoder.layer1.2.bn3.weight", False),
            ("backbone.encoder.layer1.0.downsample.0.weight", False),
            ("backbone.encoder.layer1.2.saccade.mechanism.depthwise.weight", True),
            ("backbone.encoder.layer2.0.conv1.weight", True),
            ("backbone.fpn.inner_blocks.0.0.weight", heads),
            ("roi_heads.box_predictor.cls_score.weight", heads),
        ):
            assert name in dict(host.named_parameters())
            assert (name in trained) == is_trained, (phase.name, name)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(saccade.UserError, match="Did you mean 'imagenet-das'"):
        builtin_recipe("imagenet_das")
