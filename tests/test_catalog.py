"""The folder is the table; wrong names and options name their neighbours."""

import sys

import pytest
import torch

import saccade
from saccade import catalog
from saccade.errors import UserError

NAMES = ["cbam", "das", "eca", "se"]
STRANGER = '''
"""A stranger's gate."""
import torch
class Halve(torch.nn.Module):
    def __init__(self, channels, factor=0.5, *, shift=1 / 4):
        super().__init__()
        self.factor = factor
    def forward(self, x):
        return x * self.factor
'''


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text(STRANGER)
    (tmp_path / "strange_specced.py").write_text(
        STRANGER + 'SPEC = {"title": "H", "kind": "transform", "evidence": "reading", "params": "0"}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "strange_module:Halve"
    for name in ("strange_module", "strange_specced"):
        sys.modules.pop(name, None)


def test_names():
    assert saccade.list_mechanisms() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_file_tells_its_whole_story(name):
    text, spec = catalog.summary(name), saccade.spec(name)
    assert "y " in text
    assert "Source:" in text
    assert spec.paper is not None
    assert spec.paper.arxiv in text
    assert spec.paper.title in " ".join(text.split())
    assert str(spec.paper.year) in text


@pytest.mark.parametrize("name", NAMES)
def test_options_read_from_source_are_those_of_the_class(name):
    import inspect

    signature = inspect.signature(catalog.load(name))
    assert catalog.options(name) == {k: p.default for k, p in list(signature.parameters.items())[1:]}


def test_create_passes_options():
    assert saccade.create("se", 32, rd_ratio=0.25, bias=False).squeeze.weight.shape == (8, 32)
    assert saccade.create("eca", 256).conv.kernel_size == (5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saccade.create("cmab", 64), "no mechanism is called 'cmab'. Did you mean"),
        (lambda: saccade.create("se", 64, rd_ration=2), "se has no option 'rd_ration'. Did you mean 'rd_ratio'?"),
        (lambda: saccade.create("se", 8), "se: Squeeze-and-Excitation needs channels * rd_ratio >= 1; found"),
        (lambda: saccade.create("eca", 8, kernel_size=4), "kernel_size = 4"),
        (lambda: saccade.create("se", 64, rd_ratio="x"), "se"),
        (lambda: saccade.spec("nowhere.at.all:Class"), "nowhere"),
        (lambda: saccade.spec("json:Decoder"), "the module defines no class 'Decoder'"),
        (lambda: catalog.parse("se:rd_ratio"), "no option; write name:option=value"),
        (lambda: catalog.parse("eca:kernel=3"), "eca has no option 'kernel'. Did you mean 'kernel_size'?"),
    ],
)
def test_wrong_words(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)


def test_a_stranger_needs_no_registration(stranger):
    assert saccade.spec(stranger).kind == "transform"
    assert catalog.options(stranger) == {"factor": 0.5, "shift": 0.25}
    assert saccade.spec("strange_specced:Halve").params == "0"
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(saccade.create(stranger, 3, factor=0.25)(x), x * 0.25)
    assert catalog.parse(f"{stranger}:factor=2") == (stranger, {"factor": 2})
    with pytest.raises(UserError, match="no class 'Halv'"):
        saccade.spec("strange_module:Halv")


def test_lists_split_outside_brackets_only():
    text = "none, se:rd_ratio=0.25,eca:kernel_size=[3,5,5,7]"
    assert catalog.split(text) == ["none", "se:rd_ratio=0.25", "eca:kernel_size=[3,5,5,7]"]
    assert catalog.parse("eca:kernel_size=3:gamma=1.5") == ("eca", {"kernel_size": 3, "gamma": 1.5})
    assert catalog.split(" , ") == []
