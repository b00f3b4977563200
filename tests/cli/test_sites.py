"""``saccade sites``: hosts by name or folder, positions, sizes and wrong uses."""

import json

import pytest
import timm

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import plug, save
from saccade.cli import main
from saccade.graph.positions import POSITIONS


@pytest.fixture
def run(capsys, monkeypatch):
    def of(*arguments):
        monkeypatch.setattr("sys.argv", ["saccade", "sites", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return of


def test_a_table(run):
    code, out, _ = run("resnet10_small", "--where", "stage", "--input", "3,32,24")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["site", "parent", "channels", "size", "stage", "calls", "module", "positions"]
    assert lines[1] == ["layer1", "layer1.0", "16", "32×24", "0", "1", "Sequential", "stage"]
    assert lines[4] == ["layer4", "layer4.0", "128", "4×3", "3", "1", "Sequential", "stage"]
    found = "stage: 4, decoder: 0, skip: 0, neck: 0, block: 4, residual: 4, conv3x3: 4, activated: 4, expanded: 0"
    assert out.splitlines()[-1] == f"4 sites, found with an image of 3×32×24; {found}, conv_stem: 1"


def test_what_enters_a_module_is_a_row_of_its_own(run):
    arguments = ("torchvision:resnet18", "--input", "3,64,48")
    _, out, _ = run(*arguments)
    rows = [line.split("  ") for line in out.splitlines() if line.startswith("layer2.0.conv2 ")]
    assert [[cell.strip() for cell in row if cell][1:] for row in rows] == [
        ["into =", "128", "8×6", "1", "1", "Conv2d", "activated"],
        ["=", "128", "8×6", "1", "1", "Conv2d", "conv3x3"],
    ]
    assert "activated: 8, expanded: 0, conv_stem: 1" in out.splitlines()[-1]
    _, chosen, _ = run(*arguments, "--where", "activated[last]", "--json")
    assert [(row["path"], row["entering"], row["positions"]) for row in json.loads(chosen)] == [
        (f"layer{n}.1.conv2", True, ["activated"]) for n in (1, 2, 3, 4)
    ]
    _, everything, _ = run(*arguments, "--json")
    assert len(json.loads(everything)) == len(out.splitlines()) - 3


def test_as_json(run):
    code, out, _ = run("torchvision:resnet18", "--where", "layer4.*.bn2", "--input", "3x64x48", "--json")
    assert code == 0
    assert [(row["path"], row["channels"], row["size"], row["calls"]) for row in json.loads(out)] == [
        ("layer4.0.bn2", 512, [2, 2], 1),
        ("layer4.1.bn2", 512, [2, 2], 1),
    ]


def test_a_saved_network(run, tmp_path):
    save(plug(timm.create_model("resnet10_small", num_classes=3), "se", input=(3, 32, 24)), tmp_path)
    code, out, _ = run(str(tmp_path), "--where", "residual", "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == [f"layer{n}.0.bn2" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnt10_small",), "neither a folder nor a timm model. Did you mean 'resnet10_small'"),
        (("torchvision:resnet19",), "torchvision has no network 'resnet19'. Did you mean"),
        (("resnet10_small", "--where", "stages"), "'stages' is neither a position nor a site. Did you mean 'stage'"),
        (("resnet10_small", "--input", "3,32"), "--input is three positive integers"),
        (("resnet10_small", "--input", "4,32,32"), "does not run on the given input"),
    ],
)
def test_wrong_words(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("saccade: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_network_of_ones_own_by_the_function_that_makes_it(run, tmp_path, monkeypatch):
    (tmp_path / "own_network_of_sites.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))\n\n"
        "def number():\n    return 3\n\n"
        "def fails():\n    raise KeyError('weights')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = run("own_network_of_sites:make", "--where", "neck", "--input", "3,32,24", "--json")
    assert code == 0
    assert [(row["path"], row["channels"], row["positions"]) for row in json.loads(out)] == [
        ("1", 8, ["stage", "neck"])
    ]
    for name, said in {
        "own_network_of_sites:number": "is a int; a torch.nn.Module is needed",
        "own_network_of_sites:fails": "KeyError: 'weights'",
        "own_network_of_sites:mak": "has no attribute 'mak'",
        "no_such_package_of_sites:make": "No module named 'no_such_package_of_sites'",
    }.items():
        code, out, err = run(name)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_the_help_and_the_refusal_name_every_position(run):
    _, out, _ = run("--help")
    for word in POSITIONS[1:]:
        assert f"  {word}  " in out
    code, _, err = run("resnet10_small", "--input", "3,32,24", "--where", "neck")
    assert code == 2
    assert "no site at 'neck'" in err
    assert "stage[-1]" in err
