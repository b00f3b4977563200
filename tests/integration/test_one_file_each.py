"""A task, a data layout, a section of the report, a mechanism and an architecture are one new file each.

Five toys are put as files into a copy of the package, and nothing else of it is changed. The task is unlike those of
the package: no labels, ragged rows, lower is better, no upper bound, and an arm whose loss is not a number.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import saccade

TOYS = Path(__file__).parents[1] / "toys"
PLACES = {
    "task": "tasks/toy.py",
    "layout": "data/layouts/flat.py",
    "section": "study/report/sections/toy.py",
    "mechanism": "attention/tilt.py",
    "architecture": "models/toy_net.py",
}
STUDY = [
    "compare", "--task", "toy", "--model", "toy_net", "--attention", "none,tilt", "--controls", "noise",
    "--arm", "wild: training.lr=1e30", "--seeds", "2", "--device", "cpu",
    "--set", "training.epochs=1", "--set", "training.batch_size=16", "--set", "data.size=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the package with the toys in it, and a flat folder of images."""
    home = tmp_path_factory.mktemp("copy")
    package = Path(saccade.__file__).parent
    shutil.copytree(package, home / "saccade", ignore=shutil.ignore_patterns("__pycache__"))
    recipes = package / "recipes"
    shutil.copytree(recipes if recipes.is_dir() else package.parents[1] / "recipes", home / "saccade" / "recipes")
    for toy, place in PLACES.items():
        assert not (home / "saccade" / place).exists()
        shutil.copy(TOYS / f"{toy}.py", home / "saccade" / place)
    images = home / "images"
    images.mkdir()
    (images / "flat").touch()
    random = np.random.default_rng(0)
    for n in range(60):
        Image.fromarray(random.integers(0, 64 + 3 * n, (16, 16, 3), dtype=np.uint8)).save(images / f"{n:02}.png")
    return home


def _saccade(home, *arguments):
    return [sys.executable, "-m", "saccade", *arguments], {
        "cwd": home, "env": {**os.environ, "PYTHONPATH": str(home)}, "text": True,
    }  # fmt: skip


def _run(home, *arguments):
    command, options = _saccade(home, *arguments)
    done = subprocess.run(command, capture_output=True, check=False, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_study_of_toys(home):
    """One test, so that no second process makes the study again."""
    _run(home, *STUDY, "--data", "images", "--out", "whole")
    study = json.loads((home / "whole/results.json").read_text())
    _every_arm_is_judged_but_the_one_without_a_number(study)
    _the_page_has_the_section_and_the_words_of_the_metric(home)
    _rows_are_ragged_and_the_network_is_loaded_again(home)
    _a_study_without_one_of_its_runs_goes_on_and_ends_the_same(home, study)


def _every_arm_is_judged_but_the_one_without_a_number(study):
    assert study["task"] == "toy"
    assert (study["metric"]["name"], study["metric"]["high"], study["metric"]["higher_is_better"]) == (
        "MAE",
        None,
        False,
    )
    rows = {row["name"]: row for row in study["analysis"]["differences"]}
    assert rows.keys() == {"tilt", "noise for tilt", "wild"}
    assert rows["wild"]["difference"] is None
    assert {row["status"] for row in study["runs"] if row["arm"] == "wild"} == {"diverged"}
    scores = {name: arm["scores"] for name, arm in study["arms"].items()}
    for name in ("tilt", "noise for tilt"):
        raw = [plain - own for plain, own in zip(scores["none"], scores[name], strict=True)]
        assert rows[name]["raw"] == pytest.approx(raw)  # + is better
        assert rows[name]["low"] < rows[name]["difference"] < rows[name]["high"]
    assert study["analysis"]["images"] == 12
    assert study["trivial"]["answer"] == "the mean of all images"
    assert study["study"]["margin"] == 0.1
    assert study["references"]["the brightest pixel"]["MAE"] != study["trivial"]["score"]


def _the_page_has_the_section_and_the_words_of_the_metric(home):
    page = (home / "whole/report.html").read_text()
    assert "How many arms" in page
    assert "Counted: 4 arms." in page
    assert "MAE" in page
    assert "top-1" not in page
    assert page.count("<title>the middle</title>") == 6 * 4
    assert "the brightest pixel, for comparison" in page
    table = (home / "whole/table.md").read_text()
    assert "MAE" in table
    assert "| the brightest pixel (for comparison) |" in table


def _rows_are_ragged_and_the_network_is_loaded_again(home):
    run = home / "whole/tilt/seed0"
    rows = load_file(run / "rows.safetensors")
    assert len(set(np.diff(rows["bright/offsets"]))) > 2
    assert rows["bright/offsets"][-1] == len(rows["bright/error"])
    code = (
        "import saccade, torch\n"
        f"network = saccade.load({str(run)!r})\n"
        "print(tuple(network(torch.zeros(2, 3, 16, 16)).shape), [p.mechanism for p in saccade.plugs(network)])"
    )
    _, options = _saccade(home)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120, **options)
    assert done.stdout.startswith("(2, 1) ['tilt'")


def _a_study_without_one_of_its_runs_goes_on_and_ends_the_same(home, study):
    shutil.copytree(home / "whole", home / "again")
    shutil.rmtree(home / "again/tilt/seed1")
    (home / "again/results.json").unlink()
    _run(home, *STUDY, "--data", "images", "--out", "again")
    again = json.loads((home / "again/results.json").read_text())
    assert [row["scores"] for row in again["runs"]] == [row["scores"] for row in study["runs"]]
    assert again["analysis"] == study["analysis"]


def test_the_toys_are_listed_and_a_misspelt_one_is_named(home):
    listed = _run(home, "list")
    assert "tilt" in listed
    command, options = _saccade(home, "compare", "--task", "toi", "--data", "images")
    done = subprocess.run(command, capture_output=True, check=False, timeout=120, **options)
    assert done.returncode == 2
    assert "Did you mean 'toy'?" in done.stderr


def test_the_package_itself_has_no_toy():
    package = Path(saccade.__file__).parent
    assert [place for place in PLACES.values() if (package / place).exists()] == []
