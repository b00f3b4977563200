"""Saccade: put any visual-attention mechanism into any CNN, train it, and test whether it helped.

Importing this package does not import torch: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saccade import former_names

if TYPE_CHECKING:
    from saccade.catalog import create as create
    from saccade.catalog import list_mechanisms as list_mechanisms
    from saccade.catalog import spec as spec
    from saccade.comparison import compare as compare
    from saccade.comparison import forecast as forecast
    from saccade.contract import check as check
    from saccade.cost import measure as measure
    from saccade.errors import UserError as UserError
    from saccade.explanation.explain import explain as explain
    from saccade.exporting import export as export
    from saccade.one_run import train as train
    from saccade.recipe import Recipe as Recipe
    from saccade.saving import load as load
    from saccade.saving import save as save
    from saccade.study.judging import judge as judge
    from saccade.surgery.attachment import one_call as one_call
    from saccade.surgery.fold import fold as fold
    from saccade.surgery.groups import parameter_groups as parameter_groups
    from saccade.surgery.plug import plug as plug
    from saccade.surgery.plug_module import Plug as Plug
    from saccade.surgery.plugs import plugs as plugs
    from saccade.surgery.plugs import unplug as unplug
    from saccade.surgery.record import record as record
    from saccade.surgery.replace import replace as replace
    from saccade.surgery.replace import replacements as replacements
    from saccade.surgery.sites import sites as sites
    from saccade.surgery.trainers import plugged_trainer as plugged_trainer

former_names.install()

__version__ = "0.2.0"

_MODULES = {
    "Plug": "saccade.surgery",
    "Recipe": "saccade.recipe",
    "UserError": "saccade.errors",
    "check": "saccade.contract",
    "compare": "saccade.comparison",
    "create": "saccade.catalog",
    "explain": "saccade.explanation.explain",
    "export": "saccade.exporting",
    "fold": "saccade.surgery",
    "forecast": "saccade.comparison",
    "judge": "saccade.study.judging",
    "list_mechanisms": "saccade.catalog",
    "load": "saccade.saving",
    "measure": "saccade.cost",
    "one_call": "saccade.surgery",
    "parameter_groups": "saccade.surgery",
    "plug": "saccade.surgery",
    "plugged_trainer": "saccade.surgery",
    "plugs": "saccade.surgery",
    "record": "saccade.surgery",
    "replace": "saccade.surgery",
    "replacements": "saccade.surgery",
    "save": "saccade.saving",
    "sites": "saccade.surgery",
    "spec": "saccade.catalog",
    "train": "saccade.one_run",
    "unplug": "saccade.surgery",
}
"""Maps each public name to its module."""
__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
