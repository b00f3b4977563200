"""``saccade list``, and unknown commands and options."""

import json
import re
from pathlib import Path

import pytest
import timm

import saccade
from saccade import catalog


def test_list_has_a_line_for_each(run):
    code, out, _ = run("list")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(catalog.list_mechanisms())]] == catalog.list_mechanisms()
    assert "2018" in next(line for line in lines if line.startswith("cbam"))


def test_list_as_json(run):
    _, out, _ = run("list", "--json")
    assert json.loads(out)["das"]["position"] == {"default": "stage"}


@pytest.fixture
def few(monkeypatch):
    """Limit the catalogue to a gate, a replacement and a mechanism that the host refuses."""
    names = ["dcn2", "eca", "se"]
    monkeypatch.setattr(catalog, "list_mechanisms", lambda verb=None: names)
    return names


def test_list_on_a_network_says_what_each_costs(run, few):
    code, out, _ = run("list", "--on", "resnet10_small", "--input", "3,40,32", "--batch", "2")
    lines = out.splitlines()
    assert code == 0
    host = saccade.measure(timm.create_model("resnet10_small", num_classes=1000), (3, 40, 32), runs=1)
    assert lines[0].startswith(f"resnet10_small on 3×40×32, cpu, 1 thread: {host.parameters / 1e6:.3f} M parameters, ")
    assert [line.split()[0] for line in lines[2:]] == ["name", *few]
    cells = {line.split()[0]: line.split() for line in lines[3:]}
    assert cells["se"][1:3] == ["4", "residual"]
    plugged = saccade.plug(
        timm.create_model("resnet10_small", num_classes=1000), "se", start="paper", input=(3, 40, 32)
    )
    added = sum(p.numel() for p in plugged.parameters()) - host.parameters
    assert cells["se"][3] == f"+{added / 1e6:.3f}"
    ratios = [cell for name in few for cell in cells[name][-3:]]
    assert [cell for cell in ratios if not re.fullmatch(r"\d+\.\d\d×", cell)] == []
    assert float(cells["dcn2"][-1][:-1]) > 1


def test_list_on_a_network_as_json_with_what_is_refused(run, few):
    _, out, _ = run("list", "--on", "mobilenetv2_035", "--input", "3,32,32", "--json")
    rows = {row["mechanism"]: row for row in json.loads(out)}
    assert list(rows) == few
    assert "channels * rd_ratio must be at least 1, got 8 * 0.0625" in rows["se"]["refused"]
    assert rows["eca"]["parameters"] - rows["eca"]["plain"]["parameters"] == 17 * 3
    assert rows["eca"]["title"] == catalog.spec("eca").title
    assert rows["eca"]["sites"] == 17


@pytest.mark.usefixtures("few")
def test_a_network_that_does_not_take_the_pictures_is_told_once(run):
    code, out, err = run("list", "--on", "vit_tiny_patch16_224", "--input", "3,32,32")
    assert (code, out) == (2, "")
    assert "VisionTransformer does not run on the input 8×3×32×32: AssertionError: Input height (32)" in err


@pytest.mark.parametrize("option", [("--input", "3,8,8"), ("--batch", "2")])
def test_sizes_mean_nothing_without_a_network(run, option):
    code, out, err = run("list", *option)
    assert (code, out) == (2, "")
    assert f"{option[0]} needs --on MODEL" in err


def test_the_evidence_is_said_with_the_code_that_it_rests_on(run):
    listed = run("list")[1]
    words = {line.split()[0]: line.split()[3] for line in listed.partition("\n\n")[0].splitlines()}
    assert "tasks: classify, detect, multilabel, saliency, salient_objects, segment\n" in listed
    assert re.search("data layouts: .*class_folders.*image_masks", listed)
    folder = Path(saccade.__file__).parent / "models"
    architectures = ", ".join(sorted(path.stem for path in folder.glob("[!_]*.py")))
    assert f"architectures: {architectures}\n" in listed
    assert (words["eca"], words["se"], words["sk"], words["das"]) == ("oracle", "port", "paper", "reading")
    assert re.search(r"^equal to code of +BangguWu/ECANet$", run("show", "eca")[1], re.MULTILINE)
    assert "implus/PytorchInsight (variant='fair')" in run("show", "sk")[1]
    assert re.search(r"^equal to code of +–$", run("show", "das")[1], re.MULTILINE)


def test_architectures_are_listed_with_titles(run):
    _, out, _ = run("list", "--architectures")
    assert re.search(r"^resnet10_small +ResNets for small images", out, re.MULTILINE)
    _, out, _ = run("list", "--architectures", "--json")
    assert set(json.loads(out)) >= {"fcn", "fcos", "resnet10_small", "retinanet", "rt_detr"}
    assert run("list", "--architectures", "--on", "resnet18")[0] == 2
