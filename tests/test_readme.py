"""What the documents say is so: their links lead somewhere, and the code of the README runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from saccade import list_mechanisms

HOME = Path(__file__).parents[1]
DOCUMENTS = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")


def missing(document):
    """The relative links and images of a document that lead nowhere."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    return [file for file in files if not (document.parent / file).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_relative_links_lead_somewhere(document):
    assert missing(document) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").touch()
    text = '[a](there.md) [b](there.md#part) [c](#here) [d](https://example.org/x) ![e](gone.png) [f](gone.md "title")'
    (tmp_path / "page.md").write_text(text)
    assert missing(tmp_path / "page.md") == ["gone.png", "gone.md"]


def test_the_readme_lists_every_mechanism():
    rows = re.findall(r"^\| `(\w+)` \|", (HOME / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == list_mechanisms()


def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "layer4" in done.stdout
