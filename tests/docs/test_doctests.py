"""The ``>>>`` examples in the docstrings of the package give what they print."""

import doctest
import importlib
from pathlib import Path

import pytest

import saccade

SOURCE = Path(saccade.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if ">>>" in path.read_text(encoding="utf-8"))


def run_doctests(module):
    """Run the examples of a module; return how many there are and what the wrong ones gave."""
    failures = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={**vars(module), "saccade": saccade}):
        runner.run(test, out=failures.append)
    return runner.tries, "".join(failures)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_hold(path):
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    tries, failures = run_doctests(importlib.import_module(name))
    assert failures == ""
    assert tries > 0 or "+SKIP" in path.read_text(encoding="utf-8")


def test_a_wrong_example_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "wrong_example.py").write_text('"""\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    tries, failures = run_doctests(importlib.import_module("wrong_example"))
    assert tries == 1
    assert "Expected:\n    3\nGot:\n    2" in failures
