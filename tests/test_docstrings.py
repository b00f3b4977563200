"""Docstrings say what a caller needs: shapes, units, errors, source; in a first line that is no question."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import saccade

SOURCE = Path(saccade.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
WORDS_PER_LINE = 1.5
RIDDLE = re.compile(r"(What|Which|Whose|How|Why|Who|Where|When|Nothing|As :)\b")
SHAPE = re.compile(
    r"\((?:[^()]*,[^()]*|[A-Z])\)|scalar|any shape|same shape|shape of|one number|each tensor|tensors?, as"
)
UNIT = {
    "seconds": r"second|\bs\b",
    "timeout": r"second|\bs\b",
    "latency": r"\bms\b|millisecond",
    "memory": r"byte|\bMB\b|MiB",
    "bytes": r"byte",
    "lr": r"learning rate|rate",
}
ERROR = re.compile(r"\b[Rr]aise|\bUserError|\bValueError|\bTypeError|\b[Rr]efuse")
SOURCES = re.compile(r"arXiv|doi|CVPR|ICCV|ECCV|NeurIPS|ICML|ICLR|BMVC|20\d\d|19\d\d")


def definitions(tree, public=True):
    """Classes and functions at module level, and methods, with the class they are in."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if public and node.name.startswith("_"):
                continue
            yield node, None
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not (public and inner.name.startswith("_")):
                        yield inner, node


def text_of(node, owner):
    """The docstring of a definition with that of its class."""
    return (ast.get_docstring(node) or "") + "\n" + ((ast.get_docstring(owner) or "") if owner else "")


def riddles(tree):
    """First lines that ask, or that start with a word that hides the subject."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split("\n\n")[0]
            if "?" in first or RIDDLE.match(first):
                yield getattr(node, "name", "module"), first


def without_shape(tree):
    """Public functions of tensors whose docstring, its class's or its module's included, states no shape."""
    module = ast.get_docstring(tree) or ""
    for node, owner in definitions(tree):
        if isinstance(node, ast.ClassDef) or not ast.get_docstring(node):
            continue
        types = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs]] + [node.returns]
        tensors = any(isinstance(t, ast.Name) and t.id == "Tensor" for t in types)
        if tensors and not SHAPE.search(text_of(node, owner) + module):
            yield node.name


def without_unit(tree):
    """Public functions with an argument that is a duration, a size in memory or a rate, and no unit for it."""
    for node, owner in definitions(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                wanted = UNIT.get(argument.arg)
                if wanted and not re.search(wanted, text_of(node, owner)):
                    yield f"{node.name}({argument.arg})"


def without_error(tree):
    """Public functions that raise UserError, ValueError or TypeError themselves and do not say so."""
    for node, owner in definitions(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            raised = [
                n.exc.func.id
                for n in ast.walk(node)
                if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call) and isinstance(n.exc.func, ast.Name)
            ]
            if {"UserError", "ValueError", "TypeError"} & set(raised) and not ERROR.search(text_of(node, owner)):
                yield node.name


CHECKS = [riddles, without_shape, without_unit, without_error]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert {check.__name__: found for check in CHECKS if (found := list(check(tree)))} == {}


MECHANISMS = sorted((SOURCE / "attention").glob("[!_]*.py"))


@pytest.mark.parametrize("path", MECHANISMS, ids=lambda path: path.stem)
def test_a_mechanism_names_its_source(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert SOURCES.search(text), text
    assert SHAPE.search(text), text


def words(text):
    """Words of the docstrings and comments of a file."""
    docs = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return sum(len(part.split()) for part in [*docs, *comments])


def test_the_prose_of_the_source_is_short():
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    found = sum(map(words, texts)) / sum(len(text.splitlines()) for text in texts)
    assert found <= WORDS_PER_LINE, f"{found:.2f} words of prose a line of source, {WORDS_PER_LINE} allowed"


BAD = '''
"""What is it?"""
def scale(x: Tensor) -> Tensor:
    """Scale it."""
def wait(seconds: float) -> None:
    """Wait."""
def refuse(x: int) -> None:
    """Look at ``x``."""
    if x:
        raise UserError("x")
'''
GOOD = '''
"""A module."""
def scale(x: Tensor) -> Tensor:
    """Scale ``x`` (B, C)."""
def wait(seconds: float) -> None:
    """Wait so many seconds."""
def refuse(x: int) -> None:
    """Raise UserError unless ``x`` is 0."""
    if x:
        raise UserError("x")
'''


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_check_finds_what_it_looks_for(check):
    assert len(list(check(ast.parse(BAD)))) == 1
    assert list(check(ast.parse(GOOD))) == []


def test_words_are_counted():
    assert words('"""One two."""\nx = 1  # three\n') == 3
