"""What the documents say is so: their links lead somewhere, and the code of the README and of the pages runs."""

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
    links = LINK.findall(re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL))
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    return [file for file in files if not (document.parent / file).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_relative_links_lead_somewhere(document):
    assert missing(document) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").touch()
    text = '[a](there.md) [b](there.md#part) [c](#here) [d](https://example.org/x) ![e](gone.png) [f](gone.md "title")'
    text += "\n```\ncalls[0](x)\n```\n"
    (tmp_path / "page.md").write_text(text)
    assert missing(tmp_path / "page.md") == ["gone.png", "gone.md"]


def test_the_readme_lists_every_mechanism():
    rows = re.findall(r"^\| `(\w+)` \|", (HOME / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == list_mechanisms()


PRINTED = {
    "README.md": ["layer4"],
    "trainers.md": ["['encoder.layer1', 'encoder.layer2', 'encoder.layer3', 'encoder.layer4']"],
    "your-network.md": [
        "['up.8', 'down.16', 'down.32']",
        "['up.16.leave.2', 'up.8.leave.2'",
        "at heads.0: se: ",
        "['none', 'se', 'das']",
    ],
}


def pages():
    """The documents with Python in them."""
    return [path for path in DOCUMENTS if "```python" in path.read_text(encoding="utf-8")]


def run_page(text, folder):
    """What the Python of a page printed: its blocks are one script, but for those that start with a file's name."""
    script = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (folder / name[1]).write_text(block, encoding="utf-8")
        else:
            script.append(block)
    (folder / "page.py").write_text("".join(script), encoding="utf-8")
    lightning = "ignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning"  # its own, of torch's
    command = [sys.executable, "-W", "error", "-W", lightning, "page.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", pages(), ids=lambda path: str(path.relative_to(HOME)))
def test_the_python_of_the_documents_runs(document, tmp_path):
    printed = run_page(document.read_text(encoding="utf-8"), tmp_path)
    assert [line for line in PRINTED.get(document.name, []) if line not in printed] == []


def test_a_page_that_does_not_run_is_noticed(tmp_path):
    assert run_page("```python\n# one.py\nx = 1\n```\n```python\nfrom one import x\nprint(x)\n```", tmp_path) == "1\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_page("```python\nx = 0\n```\n```python\n1 / x\n```", tmp_path)
