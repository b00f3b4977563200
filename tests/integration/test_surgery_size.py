"""A mechanism that needs the size of the map is told the size of its site; one that does not is told nothing."""

import copy
import importlib
import json
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from saccade import UserError, load, save
from saccade.surgery import plug, plug_control, plugs, sites, unplug

SIZE = (3, 64, 48)
SIZES = [(16, 12), (8, 6), (4, 3), (2, 2)]

MODULE = '''
import torch
from torch import nn

from saccade.bases import Gate

__all__ = ["{name}"]

SPEC = {{"title": "Placed", "kind": "gate", "evidence": "reading"{needs}}}


class {name}(Gate):
    """A gate for each pixel; it sees nothing."""

    def __init__(self, channels: int, size: tuple[int, int] | None = None, power: int = 1) -> None:
        super().__init__()
        if size is None:
            raise ValueError("size is needed: (height, width) of the map")
        if type(size) is not tuple:
            raise ValueError(f"size must be a tuple, got {{size!r}}")
        self.size, self.power = size, power
        self.weight = nn.Parameter(torch.randn(1, 1, *size))

    def gate(self, x):
        return self.weight**self.power
'''


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A module ``placed`` whose SPEC needs the size, and ``unplaced``, the same but for that line."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "placed.py").write_text(MODULE.format(name="Placed", needs=', "needs": ["size"]'))
    (folder / "unplaced.py").write_text(MODULE.format(name="Unplaced", needs=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield sys.modules
        for name in ("placed", "unplaced"):
            sys.modules.pop(name, None)


def _shapes(host):
    return [tuple(row.module.mechanism.weight.shape[2:]) for row in plugs(host)]


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_each_site_gives_its_size(make, stranger, start):
    host = make("torchvision resnet")
    before = sites(host, SIZE)
    plug(host, "placed:Placed", where="stage", start=start, input=SIZE)
    rows = plugs(host)
    assert _shapes(host) == [row.size for row in rows] == SIZES
    assert [row.module.options for row in rows] == [{"size": size} for size in SIZES]
    assert sites(host, SIZE) == before
    assert plugs(unplug(host)) == []


def test_a_class_that_was_imported_is_told_too(make, stranger):
    imported = importlib.import_module("placed").Placed
    assert _shapes(plug(make("torchvision resnet"), imported, where="stage", input=SIZE)) == SIZES


def test_a_size_that_is_given_wins(make, stranger):
    host = plug(make("torchvision resnet"), "placed:Placed", where="stage[0]", size=(1, 12), input=SIZE)
    assert _shapes(host) == [(1, 12)]
    each = [(16, 12), (8, 1), (1, 3), (1, 1)]  # a list is one value per stage
    host = plug(make("torchvision resnet"), "placed:Placed", where="stage", size=each, power=[1, 2, 3, 4], input=SIZE)
    assert _shapes(host) == each
    assert [row.module.mechanism.power for row in plugs(host)] == [1, 2, 3, 4]
    host = plug(make("torchvision resnet"), "placed:Placed", where="stage[0]", size=None, input=SIZE)
    assert _shapes(host) == [(16, 12)]


def test_without_the_need_none_is_passed(make, stranger):
    host = make("torchvision resnet")
    with pytest.raises(UserError, match=r"at layer1: unplaced:Unplaced with channels=64, \{\}: size is needed"):
        plug(host, "unplaced:Unplaced", where="stage", input=SIZE)
    plug(host, "unplaced:Unplaced", where="stage[0]", size=(16, 12), input=SIZE)
    assert [row.module.options for row in plugs(host)] == [{"size": (16, 12)}]


def test_the_pictures_to_come_decide_where_no_input_is_given(stranger):
    """A survey by itself narrows the picture, to tell maps from square matrices; what is built must fit what comes."""
    with torch.device("meta"):
        host = resnet18(weights=None)
    host = host.to_empty(device="cpu").eval()
    assert [site.size for site in sites(host) if site.path == "layer2"] == [(28, 24)]
    plug(host, "placed:Placed", where="layer2")
    assert _shapes(host) == [(28, 28)]
    plug(unplug(host), "se", where="layer2")
    assert plugs(host)[0].size == (28, 24)


def test_other_sizes_are_refused_by_the_mechanism_and_the_host_rolls_back(make, stranger):
    host = make("torchvision resnet")
    with pytest.raises(UserError, match="does not run with placed:Placed plugged"):
        plug(host, "placed:Placed", where="layer1", size=(5, 5), input=SIZE)
    assert plugs(host) == []


@pytest.mark.parametrize("control", [None, "extra", "noise", "shuffled"])
def test_saved_networks_and_controls_know_the_size(make, stranger, tmp_path, control):
    host = make("torchvision resnet").eval()
    bare = copy.deepcopy(host)
    if control is None:
        plug(host, "placed:Placed", where="stage", start="paper", input=SIZE)
    else:
        plug_control(host, control, "placed:Placed", where="stage", start="paper", input=SIZE)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for row in plugs(host):
            for parameter in row.module.parameters():
                parameter.uniform_(0.5, 1.5)
    save(host, tmp_path, input=SIZE)
    stated = [row["options"] for row in json.loads((tmp_path / "config.json").read_text())["plugs"]]
    sizes = [list(size) for size in SIZES]
    if control is None:
        assert stated == [{"size": size} for size in sizes]
    if control == "shuffled":
        assert stated == [{"mechanism": "placed:Placed", "options": {"size": size}} for size in sizes]
    again = load(tmp_path, host=bare, trust="placed:Placed")
    torch.testing.assert_close(again(x), host(x), rtol=0, atol=0)
    with torch.no_grad():  # the twin: another network
        again.fc.weight.mul_(1.01)
    assert not torch.equal(again(x), host(x))
    assert [row for row in plugs(again) if not isinstance(row.module, nn.Module)] == []
