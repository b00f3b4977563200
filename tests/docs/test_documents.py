"""The documents: links lead to files, Python runs, commands parse, the site builds without warnings."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from saccade import catalog
from saccade.cli import saccade as command_line
from saccade.errors import UserError
from saccade.recipe import Recipe

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")
EACH_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))


def missing_targets(document):
    """Return the relative links and images of a document that lead to no file."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [link.partition("#")[0] for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    return [target for target in targets if not (document.parent / target).exists()]


@EACH_DOCUMENT
def test_relative_links_lead_to_files(document):
    assert missing_targets(document) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").touch()
    text = '[a](there.md) [b](there.md#part) [c](#here) [d](https://example.org/x) ![e](gone.png) [f](gone.md "title")'
    text += "\n```\ncalls[0](x)\n```\n"
    (tmp_path / "page.md").write_text(text)
    assert missing_targets(tmp_path / "page.md") == ["gone.png", "gone.md"]


def test_the_readme_claims_no_more_mechanisms_than_there_are():
    count = re.search(r"\| (\d+) mechanisms,", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    sources = (REPOSITORY / "docs/zoo.md").read_text(encoding="utf-8").partition("## Sources")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", sources, re.MULTILINE)
    assert int(count[1]) == len(listed) == len(set(listed))
    assert sorted(set(listed) - set(catalog.list_mechanisms())) == []  # a new file need not be measured yet


def test_the_glossary_is_short():
    assert len((REPOSITORY / "docs/glossary.md").read_text(encoding="utf-8").splitlines()) <= 25


PRINTED = {
    "README.md": ["layer4"],
    "architectures.md": ["torch.Size([2, 10])", "'vt.1.tokenizer': (2, 16, 16, 12)"],
    "judge.md": ["helps"],
    "looking.md": ["sfd 0.436, mean 0.479", "pointing game 1"],
    "trainers.md": ["['encoder.layer1', 'encoder.layer2', 'encoder.layer3', 'encoder.layer4']"],
    "tuning.md": ["runs"],
    "your-network.md": [
        "['up.8', 'down.16', 'down.32']",
        "['up.16.leave.2', 'up.8.leave.2'",
        "at heads.0: se: ",
        "['none', 'se']",
    ],
}
FRAGMENTS = {"export.md", "extending.md", "mechanisms.md"}
"""Pages with Python that other tests run, or that is one line of the reader's own script."""


def pages_with_python():
    return [path for path in DOCUMENTS if "```python" in path.read_text("utf-8") and path.name not in FRAGMENTS]


@pytest.fixture
def run_script(warm_python):
    """Function that runs a script with warnings as errors and returns what it printed."""
    lightning = "ignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning"  # raised inside Lightning

    def run(script, folder):
        process = warm_python([script], folder, filters=["error", lightning])
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def write_page(text, folder):
    """Write the Python of a page as one script, except blocks that start with a file's name; return its path."""
    script = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (folder / name[1]).write_text(block, encoding="utf-8")
        else:
            script.append(block)
    (folder / "page.py").write_text("".join(script), encoding="utf-8")
    return folder / "page.py"


@pytest.mark.parametrize("document", pages_with_python(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_python_of_the_documents_runs(document, tmp_path, run_script):
    printed = run_script(write_page(document.read_text(encoding="utf-8"), tmp_path), tmp_path)
    assert [line for line in PRINTED[document.name] if line not in printed] == []


def test_a_page_that_does_not_run_is_noticed(tmp_path, run_script):
    page = write_page("```python\n# one.py\nx = 1\n```\n```python\nfrom one import x\nprint(x)\n```", tmp_path)
    assert run_script(page, tmp_path) == "1\n"
    for last, error in (("1 / x", "ZeroDivisionError"), ("torch.ones(x)", "NameError"), ("saccade", "NameError")):
        page = write_page(f"```python\nx = 0\n```\n```python\n{last}\n```", tmp_path)
        with pytest.raises(AssertionError, match=error):
            run_script(page, tmp_path)
    warned = write_page("```python\nimport warnings\nwarnings.warn('old')\n```", tmp_path)
    with pytest.raises(AssertionError, match="UserWarning: old"):
        run_script(warned, tmp_path)


EXAMPLES = {
    "plug_and_fine_tune.py": ["largest change of a logit by plugging: 0.0", "same logits True"],
    "compare_on_digits.py": ["| se |", "report.html"],
    "own_mechanism.py": ["ContrastGate: 5 of 29", "RepairedContrastGate: 0 of 29", "same logits: True"],
}


def test_every_example_is_run():
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, run_script):
    printed = run_script(REPOSITORY / "examples" / name, tmp_path)
    assert [line for line in EXAMPLES[name] if line not in printed] == []


def commands(text):
    """Return the ``saccade`` commands in the code blocks of a page, without comments."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                words = words[2:] if words[:2] == ["uv", "run"] else words
                if words[:1] == ["saccade"]:
                    found.append(words[1:])
    return found


def parse(words):
    """Parse one command as the command line does; check mechanisms and settings too.

    Raises:
        UserError, click.ClickException: it has an unknown verb, option, mechanism or key, or a wrong value.
    """
    name, verb, rest = command_line.resolve_command(click.Context(command_line), list(words))
    context = verb.make_context(name, rest)
    values = context.params
    for text in catalog.split_list(values.get("attention") or ""):
        if "my" not in text.partition(":")[0]:
            parts = [part for part in text.split(":") if not part.startswith("where=")]
            if parts != ["none"]:
                catalog.parse(":".join(parts))
    if values.get("settings"):
        Recipe().with_overrides(values["settings"])


@EACH_DOCUMENT
def test_the_commands_parse(document):
    for words in commands(document.read_text(encoding="utf-8")):
        parse(words)


def test_the_documents_have_commands():
    assert sum(len(commands(document.read_text(encoding="utf-8"))) for document in DOCUMENTS) >= 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compair", "Did you mean 'compare'"),
        ("compare --atention se", "No such option"),
        ("compare --attention dass", "Did you mean 'das'"),
        ("compare --set training.epoch=3", "Did you mean 'epochs'"),
        ("compare --slots few", "not a valid"),
    ],
)
def test_a_wrong_command_is_noticed(line, message):
    (words,) = commands(f"```console\n$ saccade {line}\n```")
    with pytest.raises((UserError, click.ClickException), match=message):
        parse(words)


@pytest.mark.parametrize("line", ["list", "show das", "sites resnet18"])
def test_the_quick_commands_run(line):
    assert any(line in document.read_text(encoding="utf-8") for document in DOCUMENTS)
    result = CliRunner().invoke(command_line, line.split())
    assert result.exit_code == 0, result.output


def test_the_site_builds_without_warnings(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    for page in ("index.html", "mechanisms/das.html", "recipe.html", "api.html", "changelog.html"):
        assert (tmp_path / page).stat().st_size > 2000, page
    text = (tmp_path / "api.html").read_text(encoding="utf-8")
    import saccade

    assert [name for name in saccade.__all__ if f'id="saccade.{name}"' not in text] == []
    linked = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', text)
    assert linked == []  # nothing is loaded from elsewhere
