"""The name to install is not the name to import: ``saccade`` on PyPI belongs to someone else."""

import re
import tomllib
from pathlib import Path

import pytest

import saccade

ROOT = Path(__file__).parents[1]
INSTALL = re.compile(r"(?:pip install|uv add|uv pip install)[^`\n]*?[\s\"']saccade(?!-attention)\b")
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *(path for folder in ("src", "benchmarks", "recipes") for path in (ROOT / folder).rglob("*") if path.is_file()),
]


def test_the_distribution_is_called_saccade_attention():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "saccade-attention"
    extras = [line for lines in project["optional-dependencies"].values() for line in lines if "saccade" in line]
    assert extras
    assert all(line.startswith("saccade-attention[") for line in extras)
    assert project["scripts"] == {"saccade": "saccade.cli:main"}


def test_every_install_line_names_it():
    lines = [
        (path.relative_to(ROOT), line)
        for path in TEXTS
        if path.suffix in (".md", ".py", ".toml", ".html", ".j2")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert sum("saccade-attention" in line for _, line in lines) >= 6
    assert [found for found in lines if INSTALL.search(found[1])] == []


@pytest.mark.parametrize("line", ["pip install {}", "pip install '{}[ray]'", 'uv add "{}[study]"'])
def test_the_wrong_name_is_seen(line):
    assert INSTALL.search(line.format("saccade"))
    assert not INSTALL.search(line.format("saccade-attention"))


def test_the_version_needs_no_installed_distribution():
    assert re.fullmatch(r"\d+\.\d+\.\d+", saccade.__version__)
