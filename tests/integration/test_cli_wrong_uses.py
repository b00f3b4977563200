"""Wrong uses end in one message and exit code 2, without a traceback, and write nothing."""

import shutil
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from saccade.cli import main
from saccade.errors import UserError, explain_missing_packages


def _photos(folder, classes=("cat", "dog"), parts=("train", "test"), count=3):
    for part in parts:
        for k, name in enumerate(classes):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (12, 12), (80 * k, 20 * i, 40)).save(place / f"{i}.png")
    return folder


def _head(width, height):
    """Return a PNG file whose header has this size, without pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Working folder with good photographs and several kinds of bad files."""
    _photos(tmp_path / "photos")
    _photos(tmp_path / "broken")
    (tmp_path / "broken/train/cat/0.png").write_bytes(b"no image at all")
    _photos(tmp_path / "hollow")
    shutil.rmtree(tmp_path / "hollow/train/dog")
    (tmp_path / "hollow/train/dog").mkdir()
    _photos(tmp_path / "lopsided")
    shutil.rmtree(tmp_path / "lopsided/test/dog")
    _photos(tmp_path / "single", classes=("cat",))
    _photos(tmp_path / "huge")
    (tmp_path / "huge/train/cat/0.png").write_bytes(_head(40_000, 40_000))
    (tmp_path / "void").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/data_batch_1").write_bytes(b"\x80\x04")
    (tmp_path / "bad.toml").write_text("[training\nepochs = 3")
    (tmp_path / "odd.toml").write_text("[trainig]\nepochs = 3")
    (tmp_path / "a_file").write_text("here")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "halfrun").mkdir()
    (tmp_path / "halfrun/model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = {
    "misspelt verb": ("compair", "no command 'compair'. Did you mean 'compare'?"),
    "misspelt mechanism, show": ("show cbma", "no mechanism and no architecture is called 'cbma'. Did you mean 'cbam'"),
    "misspelt mechanism, compare": (
        "compare --attention se,cbma --out new",
        "no mechanism is called 'cbma'. Did you mean 'cbam'",
    ),
    "misspelt option of a mechanism": ("compare --attention das:alpah=0.1 --out new", "Did you mean 'alpha'"),
    "value of the wrong type": ("compare --attention se:rd_ratio=wide --out new", "rd_ratio"),
    "a number that is none": ("check gc:rd_ratio=nan", "rd_ratio needs a finite number, found 'nan'"),
    "an infinite number": (
        "measure resnet10_small --attention gc:rd_ratio=1e999",
        "gc: the option rd_ratio needs a finite number, found inf; its default is 0.0625",
    ),
    "a word for a whole number": ("check triplet:kernel_size=big", "kernel_size needs a whole number, found 'big'"),
    "half a pixel": ("check bam:dilation=2.5", "bam: the option dilation needs a whole number, found 2.5"),
    "a word where the default is none": ("check sa:groups=many", "groups needs a whole number, found 'many'"),
    "one value per stage, and no stages": ("check sa:groups=[8,16]", "groups = [8, 16] gives one value per stage"),
    "more pixels than memory": (
        "measure resnet10_small --attention se --input 3,999999,999999",
        "1×3×999999×999999 pixels, 12,000.0 GB, do not fit into the memory of cpu",
    ),
    "an empty position": ("measure resnet10_small --attention se --where=", "where contains an empty string"),
    "option out of its limits": ("train --set attention.mechanism=eca:kernel_size=4 --out new", "kernel_size"),
    "zero seeds": ("compare --seeds 0 --out new", "seed"),
    "seeds that are no number": ("compare --seeds many --out new", "many"),
    "misspelt control": ("compare --controls noize --out new", "no control 'noize'. Did you mean 'noise'?"),
    "misspelt control of a mechanism": ("compare --controls shufled:das --out new", "Did you mean 'shuffled'?"),
    "control of a misspelt mechanism": ("compare --controls noise:dsa --out new", "Did you mean 'das'"),
    "control of what cannot have it": ("compare --attention sa --controls shuffled --out new", "'sa', a transform"),
    "control of nothing": (
        "compare --set attention.control=noise --out new",
        "attention.mechanism is 'none'; name one",
    ),
    "control of nothing, train": ("train --set attention.control=noise --out new", "attention.mechanism is 'none'"),
    "control as the base of a study": (
        "compare --set attention.mechanism=se --set attention.control=noise --out new",
        "in a study a control is an arm of its own: remove the key, and add --controls noise",
    ),
    "a gate of another image in batches of one": (
        "compare --attention se --controls shuffled --set training.batch_size=1 --out new",
        "training.batch_size is 1, at least 2 is needed",
    ),
    "misspelt control, train": (
        "train --set attention.mechanism=se --set attention.control=shufled --out new",
        "attention.control = 'shufled': input should be 'extra', 'noise' or 'shuffled'. Did you mean 'shuffled'?",
    ),
    "misspelt mechanism, train": ("train --set attention.mechanism=cbma --out new", "Did you mean 'cbam'"),
    "misspelt mechanism, measure": ("measure resnet10_small --attention cbma", "Did you mean 'cbam'"),
    "missing folder of images": ("compare --data photoz --out new", "photoz"),
    "a folder without images": ("compare --data void --out new", "void"),
    "a broken image": ("train --set data.source=broken --out new", "0.png"),
    "an empty class": (
        "compare --data hollow --attention se --seeds 2 --out new",
        "train/cat holds images (none in dog); at least 2 classes are needed",
    ),
    "a class in one part only": ("train --set data.source=lopsided --out new", "dog"),
    "one class only": ("compare --data single --attention se --seeds 2 --out new", "class"),
    "a pickled data set": ("compare --data pickled --attention se --seeds 2 --out new", "pickle"),
    "zero epochs": ("train --set training.epochs=0 --out new", "training.epochs = 0"),
    "misspelt key of a recipe": ("train --set training.epoch=3 --out new", "Did you mean 'epochs'?"),
    "a recipe that is no TOML": ("train bad.toml --out new", "bad.toml is not valid TOML"),
    "a recipe with an unknown part": ("train odd.toml --out new", "Did you mean 'training'?"),
    "a recipe that is not there": ("train absent.toml --out new", "absent.toml"),
    "output that is a file": ("train --out a_file", "a_file"),
    "output inside a file": ("compare --out a_file/study", "a_file"),
    "a device that is not there": ("train --device cuda:97 --out new", "cuda:97"),
    "misspelt host": ("measure resnet5O", "Did you mean"),
    "half a checkpoint as host": ("train --set model.checkpoint=half.safetensors --out new", "half.safetensors"),
    "half a saved network": ("sites halfrun", "halfrun"),
    "a model without blocks of maps": ("sites vit_tiny_patch16_224 --where block", "no site at 'block'"),
    "a position that matches nothing": ("measure resnet10_small --attention se --where nothing.*", "nothing.*"),
    "a study that is not there": ("report nowhere", "nowhere"),
    "a folder that is no study": ("report photos", "photos"),
    "a class that is not there": ("check json:Dekoder", "Dekoder"),
    "a part of a file name for data": ("data digitz --show x.png", "digitz"),
    "a folder called as a recipe, train": ("train photos --set training.epoch=3", "no key 'training.epoch'"),
    "a folder called as a recipe, compare": (
        "compare --recipe photos --set training.epoch=3",
        "no key 'training.epoch'",
    ),
    "a host for other sizes": (
        "train --set model.name=vit_tiny_patch16_224 --set model.options={} --set data.size=40 --out new",
        "vit_tiny_patch16_224 on images of 1×40×40",
    ),
    "a host too deep for small images": (
        "train --set model.name=inception_v3 --set model.options={} --out new",
        "inception_v3 on images of",
    ),
    "a host that does not classify": (
        "train --set model.options.features_only=True --out new",
        "gives a list of 5; one tensor of logits of shape (2, 10) is needed",
    ),
    "misspelt task": ("train --set task.name=clasify --out new", "no task 'clasify'. Did you mean 'classify'?"),
    "a task for other targets": (
        "compare --data photos --task segment --attention se --out new",
        "the task segment learns from targets of the kind 'mask'; ",
    ),
    "misspelt metric": (
        "train --set task.metric=top-2 --out new",
        "task.metric = 'top-2': there is no such metric. Did you mean 'top-",
    ),
    "a margin beyond the metric": ("compare --margin 101 --out new", "margin = 101: it must be at most 100 points"),
    "misspelt layout": ("train --set data.layout=class_folder --out new", "no layout 'class_folder'. Did you mean"),
    "an arm without a name": ("compare --arm model.options.width=32 --out new", "write a name and what differs"),
    "a misspelt key of an arm": ("compare --arm=a:model.nme=resnet18 --out new", "Did you mean 'name'?"),
    "an arm of other images": (
        "compare --arm=a:data.source=photos --out new",
        "data.source must be the same for all arms",
    ),
    "a key of an arm twice": ("compare --arm=a:model=a,model=b --out new", "--arm a: model.name is given twice"),
    "a host of an arm that is not there": (
        "compare --arm=a:model=resnet5O,model.options={} --out new",
        "Did you mean",
    ),
    "an endless margin": ("compare --margin inf --out new", "margin = inf"),
    "a margin that is no number": ("compare --margin nan --out new", "margin = nan"),
    "None as an option": ("train --set model.options.drop_rate=None --out new", "drop_rate is None"),
    "an option TOML cannot hold": ("train --set model.options.layers={1,2} --out new", "layers is a set"),
    "a seed beyond 64 bits": ("train --set training.seed=9223372036854775808 --out new", "training.seed = "),
    "a seed beyond 64 bits, compare": (
        "compare --seeds 9223372036854775808,1 --out new",
        "at most 9223372036854775807",
    ),
    "more seeds than can be": ("compare --seeds 20231105 --out new", "write '20231105,'"),
    "a run to export that is not there": ("export runs/absent", "'runs/absent' is neither a folder nor a timm model"),
    "a folder to export that holds no run": ("export void", "void holds no saved network: config.json is missing"),
    "half a run to export": ("export halfrun", "the weights are there: saving did not finish"),
    "an unknown format of a file": ("export resnet10_small --format onxn", "onxn"),
    "a file in a folder that is not there": (
        "export resnet10_small --out new/net.onnx",
        "there is no folder new to write net.onnx into",
    ),
    "a file inside a file": ("export resnet10_small --out a_file/net.onnx", "there is no folder a_file"),
    "a file called as a folder": ("export resnet10_small --out void", "void is a folder; name the file"),
    "misspelt mechanism, export": ("export resnet10_small --attention cbma", "no mechanism is called 'cbma'"),
    "a size that is none, export": ("export resnet10_small --input 3,64", "--input is three positive integers"),
    "a size the network does not take": (
        "export resnet10_small --input 1,64,64 --out net.onnx",
        "ResNetSmall does not run on 2×1×64×64",
    ),
    "a picture too huge to open": (
        "train --set data.source=huge --out new",
        "train/cat/0.png",
    ),
}


def _tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_ends_in_one_message(name, desk, capfd, monkeypatch):
    words, needed = WRONG[name]
    before = _tree(desk)
    monkeypatch.setattr("sys.argv", ["saccade", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capfd.readouterr()
    assert end.value.code == 2, streams
    assert needed in streams.err
    assert "Traceback" not in streams.err + streams.out
    assert len([line for line in streams.err.splitlines() if line.startswith(("saccade:", "Error:"))]) == 1
    assert _tree(desk) == before


def test_a_package_of_the_study_that_is_missing_is_named(tmp_path):
    code = (
        "import sys; sys.modules['lightning'] = None; sys.argv = ['saccade', 'train']\n"
        "from saccade.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "saccade: lightning is not installed: pip install 'saccade-attention[study]'\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_of_somebody_else_is_not_hidden():
    with pytest.raises(UserError, match="sklearn is not installed"), explain_missing_packages():
        raise ModuleNotFoundError("No module named 'sklearn.base'", name="sklearn.base")
    with pytest.raises(ModuleNotFoundError, match="theirs"), explain_missing_packages():
        raise ModuleNotFoundError("theirs", name="theirs")


def test_there_are_twenty_and_more():
    assert len(WRONG) >= 20
