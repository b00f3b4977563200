"""``saccade judge``, and its page in docs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from score_files import lightning, table, timm, ultralytics

import saccade
from saccade import UserError
from saccade.cli.judge import command

HOME = Path(__file__).parents[2]
ROWS = "arm,seed,score\n" + "".join(
    f"{arm},{seed},{70 + gain + seed + 0.1 * ((seed * k) % 3)}\n"
    for k, (arm, gain) in enumerate((("none", 0), ("se", 3), ("das", 0)), 1)
    for seed in range(3)
)


def _judge(*args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(ROWS)
    return path


def test_it_prints_the_table_the_verdicts_and_the_notes(scores):
    found = _judge(scores, "--unit", "%")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0].split() == ["arm", "score", "%", "difference", "95", "%", "interval", "verdict"]
    assert [line.split()[0] for line in lines[1:4]] == ["none", "se", "das"]
    assert lines[4].startswith("se: helps. +3.0 points (95 % interval ")
    assert "note: Judged by score: higher is better, by its name; equal is within ±1, the default." in lines
    assert sorted(path.name for path in scores.parent.iterdir()) == ["scores.csv"], "it only prints"


def test_a_host_that_has_learnt_nothing_comes_first(scores):
    lines = _judge(scores, "--unit", "%", "--trivial", "71").output.splitlines()
    assert lines[0].startswith("none scores 71.")
    assert "the host has not learnt the task" in lines[0]
    assert "se: not judged. +3.0 points" in " ".join(lines)


def test_files_and_json(scores, tmp_path):
    found = _judge(scores, "--json", "--out", tmp_path / "out", "--margin", "0.5", "--range", "0", "100")
    said = json.loads(found.stdout)
    assert said == json.loads((tmp_path / "out" / "results.json").read_text())
    assert (said["study"]["margin"], said["metric"]["low"], said["metric"]["high"]) == (0.5, 0.0, 100.0)
    assert f"{tmp_path / 'out' / 'report.html'}" in found.stderr
    assert (tmp_path / "out" / "report.html").exists()


def test_options_reach_the_analysis(scores):
    said = json.loads(_judge(scores, "--baseline", "se", "--controls", "das", "--lower-is-better", "--json").stdout)
    rows = {row["name"]: row for row in said["analysis"]["differences"]}
    assert list(rows) == ["none", "das"]
    assert (rows["none"]["is_control"], rows["das"]["is_control"]) == (False, True)
    assert (
        rows["none"]["difference"]
        > 0
        > json.loads(_judge(scores, "--baseline", "se", "--json").stdout)["analysis"]["differences"][0]["difference"]
    )


def test_mistakes_are_the_user_s(scores, tmp_path):
    assert isinstance(_judge(tmp_path).exception, UserError)
    assert isinstance(_judge(scores, "--out", scores).exception, UserError)
    assert _judge().exit_code == 2


def test_its_help_imports_no_torch():
    code = (
        "import sys; from saccade.cli import judge; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'rich')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(saccade.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def _page():
    return (HOME / "docs" / "judge.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    """Tables come from the page itself, logs are written as their trainers do."""
    blocks = re.findall(r"```csv\n(.*?)```", _page(), re.DOTALL)
    for name, text in zip(("scores.csv", "images.csv"), blocks, strict=True):
        (tmp_path / name).write_text(text)
    for n, (arm, own) in enumerate(table().items()):
        for seed, score in enumerate(own):
            ultralytics(tmp_path / "runs" / f"{arm}-seed{seed}" / "results.csv", [score])
            timm(tmp_path / "output" / f"{arm}-seed{seed}" / "summary.csv", [100 * score])
            lightning(tmp_path / "logs", arm, [score], version=seed)
            ultralytics(tmp_path / f"train{3 * n + seed + 1}" / "results.csv", [score])
    commands = [
        line for block in re.findall(r"```console\n(.*?)```", _page(), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ saccade judge")
    ]  # fmt: skip
    assert len(commands) >= 5
    for line in commands:
        files = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {line.removeprefix('$ saccade judge')}"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        monkeypatch.chdir(tmp_path)
        found = CliRunner().invoke(command, files)
        assert found.exit_code == 0, (line, found.output, found.exception)
        assert "se: " in found.output
