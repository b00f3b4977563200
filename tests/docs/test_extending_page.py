"""``docs/extending.md``: its mechanism, task and layout work as new files, with nothing else changed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import saccade

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# ((?:src|tests)/[\w/]+\.py)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with the three files, the test file, and a folder of images."""
    home = tmp_path_factory.mktemp("copy")
    package = Path(saccade.__file__).parent
    shutil.copytree(package, home / "src/saccade", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "recipes", home / "recipes")
    for path, text in FILES.items():
        assert not (REPOSITORY / path).exists()
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text, encoding="utf-8")
    (home / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(30):
        for label, level in {"bright": 128, "dark": 0}.items():
            pixels = generator.integers(level, level + 128, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / f"photos/{label}_{number:02}.png")
    return home


def run(home, *command):
    """Run Python with ``command`` in the copy; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(home / "src")}
    process = subprocess.run(
        [sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_page_has_the_files():
    assert sorted(FILES) == [
        "src/saccade/attention/brightness.py",
        "src/saccade/data/layouts/name_prefix.py",
        "src/saccade/tasks/grade.py",
        "tests/attention/test_brightness.py",
        "tests/data/layouts/test_name_prefix.py",
        "tests/tasks/test_grade.py",
    ]


def test_the_mechanism_is_listed_and_keeps_the_contract(copy):
    assert "brightness" in run(copy, "-m", "saccade", "list")
    assert "0 failed, 0 skipped" in run(copy, "-m", "saccade", "check", "brightness", "--channels", "8")


def test_the_tests_of_the_page_pass(copy):
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib", "-q", "tests"]
    assert "6 passed" in run(copy, "-m", "pytest", *options)


def test_a_study_of_the_mechanism_the_task_and_the_layout(copy):
    settings = ["training.epochs=1", "data.size=16", "training.batch_size=16"]
    study = ["compare", "--data", "photos", "--task", "grade", "--attention", "none,brightness", "--seeds", "1"]
    assert "layout   name_prefix" in run(copy, "-m", "saccade", "data", "photos")
    run(copy, "-m", "saccade", *study, *(part for text in settings for part in ("--set", text)), "--out", "study")
    report = (copy / "study/report.html").read_text(encoding="utf-8")
    assert [word for word in ("MAE", "brightness", "grade") if word not in report] == []
