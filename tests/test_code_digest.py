"""The digest of a function changes with the code that it references, and with nothing else."""

import functools
import importlib
import subprocess
import sys
from itertools import count

import pytest

from saccade.code_digest import code_digest

MODULE = '''
"""A network of two parts."""
import functools
from torch import nn
import parts

WIDTHS = [8, 16]


def double(x):
    return 2 * x


class Base(nn.Module):
    scale = 1.0

    def forward(self, x):  # what it computes
        return self.scale * double(self.body(x))


class Net(Base):
    def __init__(self, num_classes):
        """Build it."""
        super().__init__()
        self.body = nn.Sequential(*(parts.layer(a, b) for a, b in zip(WIDTHS, WIDTHS[1:])))


def build(num_classes):
    return Net(num_classes)


def unrelated():
    return 3
'''
PARTS = "from torch import nn\ndef layer(a, b):\n    return nn.Conv2d(a, b, 3)\ndef other():\n    return 1\n"

NUMBERS = count()
"""Of modules, which a process imports once."""


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """``digest(changes of the module, changes of its part)`` -> the digest of ``build`` in a new module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(change=(), part=()):
        name = f"changed_{next(NUMBERS)}"
        text = MODULE.replace(*change) if change else MODULE
        assert not change or text != MODULE
        (tmp_path / f"parts_of_{name}.py").write_text(PARTS.replace(*part) if part else PARTS)
        (tmp_path / f"{name}.py").write_text(text.replace("import parts", f"import parts_of_{name} as parts"))
        importlib.invalidate_caches()
        return code_digest(importlib.import_module(name).build)

    return call


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("2 * x", "3 * x"), ()),
        (("[8, 16]", "[8, 32]"), ()),
        (("scale = 1.0", "scale = 2.0"), ()),
        (("return Net(num_classes)", "return Net(num_classes).eval()"), ()),
        (("self.scale * double", "double"), ()),
        ((), ("a, b, 3", "a, b, 5")),
    ],
)
def test_it_changes_with_all_references_of_the_function(digest, change, part):
    assert digest(change, part) != digest()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("# what it computes", "# it"), ()),
        (('"""Build it."""', '"""Make it."""'), ()),
        (("\n\n\ndef", "\n\n\n\n\ndef"), ()),
        (("return 3", "return 4"), ()),
        (("2 * x", "2*x"), ()),
        ((), ("return 1", "return 2")),
    ],
)
def test_it_does_not_change_with_anything_else(digest, change, part):
    assert digest(change, part) == digest()


def test_closures_and_defaults_count():
    def make(width, module=None):
        return lambda num_classes: (width, num_classes, module)

    assert code_digest(make(3)) == code_digest(make(3)) != code_digest(make(4))
    assert code_digest(make([1, {"a": 2}])) != code_digest(make([1, {"a": 3}]))

    def default(width):
        def build(num_classes, width=width):
            return width

        return build

    assert code_digest(default(1)) == code_digest(default(1)) != code_digest(default(2))


def test_the_weights_of_a_network_in_a_closure_count():
    from torch import nn

    def make(net):
        return lambda: net

    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    assert code_digest(make(one)) == code_digest(make(one)) != code_digest(make(two))


def test_recursive_and_raising_objects_terminate():
    class Raises:
        def __getattr__(self, name):
            raise RuntimeError(name)

    loop, raising = [len], Raises()
    loop.append(loop)
    assert code_digest(lambda: (loop, raising)) == code_digest(lambda: (loop, raising))


def test_a_cache_does_not_hide_the_function():
    def make(value):
        return functools.lru_cache(lambda num_classes: value)

    assert code_digest(make(1)) == code_digest(make(1)) != code_digest(make(2))


def test_it_is_the_same_in_every_process():
    code = (
        "from saccade.code_digest import code_digest\nS = {'a', 'b', 'c', 'd'}\ndef f(x):\n    return x in S or "
        "x in {'e', 'f', 'g'}\nprint(code_digest(f), code_digest(lambda: f))"
    )
    found = {subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True,
                            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}).stdout
             for seed in ("1", "2", "3")}  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().split()) == 2
