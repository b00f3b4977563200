"""``saccade gates``: page and numbers of small runs, and what it refuses."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import saccade
from saccade.cli import main
from saccade.cli import saccade as command_line
from saccade.explanation.class_gates import ClassGates, GateSpread
from saccade.study.report.class_gates import render_class_gates

RUNS = {
    "eca": {"model.name": "resnet10_small", "attention.mechanism": "eca"},
    "none": {"model.name": "resnet10_small", "attention.mechanism": "none"},
    "se_resnet18": {
        "model.name": "se_resnet18", "attention.mechanism": "none",
        "model.options": {"width": 0.25, "stem_stride": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one step on two classes."""
    folder = tmp_path_factory.mktemp("runs")
    for part in ("train", "test"):
        for k, name in enumerate("ab"):
            for i in range(6):
                place = folder / "photos" / part / name
                place.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24), (90 * k, 40 * i, 200)).save(place / f"{i}.png")
    for name, settings in RUNS.items():
        fixed = {"training.epochs": 1, "data.size": 24, "training.workers": 0}
        saccade.train(data=folder / "photos", settings=fixed | settings, out=folder / name, device="cpu")
    return folder


@pytest.mark.parametrize(
    ("run", "paths"),
    [
        ("eca", [f"layer{k}.0.bn2" for k in (1, 2, 3, 4)]),
        ("se_resnet18", [f"layer{k}.{i}.se_module" for k in (1, 2, 3, 4) for i in (0, 1)]),
    ],
)
def test_page_and_numbers(runs, run, paths):
    result = CliRunner().invoke(command_line, ["gates", str(runs / run), "--json", "--classes", "b"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["classes"], values["images"]) == (["a", "b"], [6, 6])
    assert [gate["path"] for gate in values["gates"]] == paths
    assert [stage["stage"] for stage in values["stages"]] == sorted({gate["stage"] for gate in values["gates"]})
    page = (runs / run / "gates.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == len(paths)
    assert "1 of 2 classes are drawn" in page


def test_refusals(runs, tmp_path, monkeypatch, capsys):
    shutil.copytree(runs / "eca", tmp_path / "lost")
    recipe = tmp_path / "lost" / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(runs / "photos"), str(tmp_path / "gone")))
    many = ",".join("abcdefgh")
    for arguments, message in (
        ([runs / "none"], "has no gates"),
        ([tmp_path], "holds no finished run"),
        ([tmp_path / "nothing"], "is not a folder"),
        ([tmp_path / "lost"], "gone"),
        ([runs / "eca", "--classes", "cat"], "no class is named 'cat'"),
        ([runs / "eca", "--classes", many], "from 1 to 7 classes can be drawn, got 8"),
    ):
        monkeypatch.setattr("sys.argv", ["saccade", "gates", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def _gate(stage, ratio, mean, saturated):
    return GateSpread(f"layer{stage}", stage, (4, 4), torch.full((2, 3), mean), ratio, 1.0, mean, saturated)


def test_sentences_follow_the_numbers():
    early, late = _gate(1, 0.25, 0.5, 0.0), _gate(2, 2.0, 0.9, 0.125)
    page = render_class_gates(ClassGates("run", "net", "none", ["a", "b"], [1, 1], [early, late]))
    assert "goes from 0.25 to 2.00: the gates of the last stage depend more on the class" in page
    assert "from 0.0\u202f% to 12.5\u202f%" in page
    with pytest.raises(saccade.UserError, match="no test image has the class 'c'"):
        render_class_gates(ClassGates("run", "net", "none", ["a"], [1], [early]), ["c"])
    turned = [replace(late, stage=1), replace(early, stage=2)]
    page = render_class_gates(ClassGates("run", "net", "none", ["a", "b"], [1, 1], turned))
    assert "goes from 2.00 to 0.25: the gates of the last stage depend less on the class" in page
    assert "passing everything is layer2: mean 0.90" in page


def test_the_folder_of_a_study_is_refused_with_one_of_its_runs(run, tmp_path):
    (tmp_path / "se" / "seed0").mkdir(parents=True)
    (tmp_path / "se" / "seed0" / "done.json").write_text("{}")
    code, _, err = run("gates", str(tmp_path))
    assert (code, f"name one of its runs, such as {tmp_path / 'se' / 'seed0'}" in err) == (2, True)
