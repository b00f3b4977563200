"""Builders are named, registered and sent to another process."""

import subprocess
import sys
import threading
from collections import OrderedDict
from functools import partial

import pytest

from saccade import UserError, builders
from saccade.builders import find_builder, find_registered, identify, is_builder, pickle_registered, register_pickled


def module_function(num_classes):
    return num_classes


@pytest.fixture
def forget(monkeypatch):
    """No function that another test registered, and none of this one's afterwards."""
    monkeypatch.setattr(builders, "_registered", {})


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("my.nets:build", True), ("__main__:build", True), ("m:f.<locals>.<lambda>", True), ("resnet18", False),
        ("resnet18.a1_in1k", False), ("hf-hub:timm/resnet18", False), ("C:/nets", True), ("a b:c", False),
    ],
)  # fmt: skip
def test_builder_names(name, is_one):
    assert is_builder(name) is is_one


def test_importable_builders_are_not_registered(forget):
    name, code = identify(OrderedDict)
    assert name == "collections:OrderedDict"
    assert find_registered((name, code)) is None
    assert find_builder((name, code)) is OrderedDict
    assert pickle_registered([(name, code)]) == b""


def test_other_builders_are_registered_by_name_and_code(forget):
    def make(n):
        return lambda k: (k, n)

    keys = [identify(make(n)) for n in (1, 2)]
    assert keys[0][0] == keys[1][0]
    assert keys[0][0].endswith("make.<locals>.<lambda>")
    assert [find_builder(key)(0) for key in keys] == [(0, 1), (0, 2)]
    key = identify(partial(module_function, num_classes=3))
    assert key[0] == f"{__name__}:module_function"
    assert find_builder(key)() == 3


def test_a_registered_builder_reaches_another_process(forget):
    width = 4
    key = identify(lambda k: (k, width))
    sent = pickle_registered([key, key, ("resnet18", None)])
    code = (
        "import sys\nfrom saccade import builders\nbuilders.register_pickled(sys.stdin.buffer.read())\n"
        f"print(builders.find_builder({key!r})(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=False)
    assert done.stdout == b"(3, 4)\n", done.stderr


def test_builders_that_cannot_be_pickled_are_refused(forget):
    lock = threading.Lock()
    key = identify(lambda: lock)
    with pytest.raises(UserError, match=r"cannot be sent to the training processes \(.*lock.*put it into a file"):
        pickle_registered([key])
    with pytest.raises(UserError, match="cannot be loaded in this process"):
        register_pickled(b"nonsense")
    register_pickled(b"")


def test_missing_and_changed_builders_are_refused(forget, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be imported by name; pass the function itself"):
        find_builder(("__main__:build", "0" * 16))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "net_that_changes.py").write_text("def build(k):\n    return k\n")
    name, code = identify("net_that_changes:build")
    assert find_builder((name, code))(3) == 3
    (tmp_path / "net_that_changes.py").write_text("def build(k):\n    return k + 1\n")
    with pytest.raises(UserError, match=rf"the code of net_that_changes:build has changed.*model.code says {code}"):
        find_builder((name, code))
    with pytest.raises(UserError, match=r"no function or class 'biuld'. Did you mean 'build'"):
        identify("net_that_changes:biuld")
