"""Wrong uses: each ends in one clear message and exit code 2, without a traceback, with nothing written."""

import shutil

import pytest
from PIL import Image

from saccade.cli import main


def _photos(folder, classes=("cat", "dog"), parts=("train", "test"), count=3):
    for part in parts:
        for k, name in enumerate(classes):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (12, 12), (80 * k, 20 * i, 40)).save(place / f"{i}.png")
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with good photographs and several things that are wrong."""
    _photos(tmp_path / "photos")
    _photos(tmp_path / "broken")
    (tmp_path / "broken/train/cat/0.png").write_bytes(b"no image at all")
    _photos(tmp_path / "hollow")
    shutil.rmtree(tmp_path / "hollow/train/dog")
    (tmp_path / "hollow/train/dog").mkdir()
    _photos(tmp_path / "lopsided")
    shutil.rmtree(tmp_path / "lopsided/test/dog")
    _photos(tmp_path / "single", classes=("cat",))
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
    "misspelt verb": ("compair", "no verb 'compair'. Did you mean 'compare'?"),
    "misspelt mechanism, show": ("show cbma", "no mechanism is called 'cbma'. Did you mean 'cbam'"),
    "misspelt mechanism, compare": ("compare --attention se,cbma --out new", "no mechanism is called 'cbma'"),
    "misspelt option of a mechanism": ("compare --attention das:alpah=0.1 --out new", "Did you mean 'alpha'"),
    "value of the wrong type": ("compare --attention se:rd_ratio=wide --out new", "rd_ratio"),
    "option out of its limits": ("compare --attention eca:kernel_size=4 --out new", "kernel_size"),
    "zero seeds": ("compare --seeds 0 --out new", "seed"),
    "seeds that are no number": ("compare --seeds many --out new", "many"),
    "unknown control": ("compare --controls noize --out new", "noize"),
    "missing folder of images": ("compare --data photoz --out new", "photoz"),
    "a folder without images": ("compare --data void --out new", "void"),
    "a broken image": ("compare --data broken --attention se --seeds 2 --out new", "0.png"),
    "an empty class": ("compare --data hollow --attention se --seeds 2 --out new", "dog"),
    "a class in one part only": ("compare --data lopsided --attention se --seeds 2 --out new", "dog"),
    "one class only": ("compare --data single --attention se --seeds 2 --out new", "class"),
    "a pickled data set": ("compare --data pickled --attention se --seeds 2 --out new", "pickle"),
    "zero epochs": ("train --set training.epochs=0 --out new", "training.epochs = 0"),
    "misspelt key of a recipe": ("train --set training.epoch=3 --out new", "Did you mean 'epochs' or 'warmup_epochs'?"),
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


def test_there_are_twenty_and_more():
    assert len(WRONG) >= 20
