"""Names that saved networks hold: a network that was pickled or saved by an earlier version still loads."""

import importlib
import importlib.util
import pickle
from typing import get_args

import pytest
import torch
from torch import nn

import saccade
from saccade import former_names
from saccade.controls import CONTROLS, ControlName
from saccade.graph.sites import Site

PICKLED = {
    "saccade.attachment": ("_rebuild", "beginning_hook", "catching_hook", "entering_hook", "leaving_hook"),
    "saccade.relay": ("Previous", "Relay"),
    "saccade.surgery.carrying": ("_closing", "_entering", "_guarding", "_leaving", "_loading", "_opening"),
    "saccade.surgery.guard": ("guarding_hook",),
    "saccade.surgery.plug_module": ("Plug", "Seen"),
    "saccade.surgery.replaced": ("Note", "Replaced", "Stand", "_loading"),
    "saccade.surgery.sites": ("Site",),
    "saccade.surgery.trainers": ("_Request",),
    "saccade.cost.latency": ("Spread",),
}
SAVED = {
    "extra": "saccade.surgery.controls.extra:ExtraBottleneck",
    "noise": "saccade.surgery.controls.noise:NoiseGate",
    "shuffled": "saccade.surgery.controls.shuffled:Shuffled",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PICKLED for name in PICKLED[module]])
def test_pickled_names_resolve(module, name):
    assert callable(pickle.loads(f"c{module}\n{name}\n.".encode()))


def test_every_former_module_is_where_it_is_said_to_be():
    for former, now in former_names.MODULES.items():
        if importlib.util.find_spec(former).loader.__class__.__name__ != "_Finder":
            continue  # the file is there
        module = importlib.import_module(former)
        if isinstance(now, str):
            kept = importlib.import_module(now)
            assert [name for name in kept.__all__ if getattr(module, name) is not getattr(kept, name)] == []
        else:
            assert set(now) <= set(vars(module))


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"saccade\.relays"):
        importlib.import_module("saccade.relays")


def test_saved_names_resolve():
    assert {name: control.path for name, control in CONTROLS.items()} == SAVED
    assert get_args(ControlName) == tuple(SAVED)
    for path in SAVED.values():
        module, _, kind = path.partition(":")
        assert issubclass(getattr(importlib.import_module(module), kind), nn.Module)


def _aged(thing, names):
    """``thing`` unpickled from the state that earlier versions wrote, whose attributes had the old ``names``."""
    made = type(thing).__new__(type(thing))
    made.__setstate__({names.get(key, key): value for key, value in vars(thing).items()})
    return made


def test_attributes_with_old_names_are_taken_over():
    host = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
    saccade.plug(host, "emca", where=["0", "1"], input=(3, 16, 12))
    first, last = saccade.plugs(host)
    site = _aged(last.module.site, {"parent": "carrier"})
    assert isinstance(site, Site)
    assert site == last.module.site
    assert site.parent == "1"
    plug = _aged(last.module, {"outputs": "relay", "parent_state": "seen"})
    assert plug.outputs is first.module.outputs is not None
    assert plug.parent_state is last.module.parent_state is not None
    place = _aged(last.module.stage_readers[0], {"outputs": "relay", "sources": "sites"})
    assert place.outputs is first.module.outputs
    assert place.sources == last.module.stage_readers[0].sources != ()
    with place.outputs.call():
        first.module.stage_readers[0](torch.ones(1, 8))
        assert [v.shape for v in place(torch.zeros(1, 8))] == [(1, 8)]
