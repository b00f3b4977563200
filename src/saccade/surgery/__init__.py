"""Insert attention mechanisms into a network, list them, record their gates and remove them."""

from saccade.graph.sites import Site as Site
from saccade.surgery.attachment import one_call as one_call
from saccade.surgery.controls import plug_control as plug_control
from saccade.surgery.fold import Folded as Folded
from saccade.surgery.fold import fold as fold
from saccade.surgery.groups import parameter_groups as parameter_groups
from saccade.surgery.hold import held as held
from saccade.surgery.hold import mean_gates as mean_gates
from saccade.surgery.plug import plug as plug
from saccade.surgery.plug_module import Plug as Plug
from saccade.surgery.plugs import plugs as plugs
from saccade.surgery.plugs import unplug as unplug
from saccade.surgery.record import record as record
from saccade.surgery.replace import Replacement as Replacement
from saccade.surgery.replace import replace as replace
from saccade.surgery.replace import replacements as replacements
from saccade.surgery.sites import sites as sites
from saccade.surgery.trainers import plugged_trainer as plugged_trainer

__all__ = [
    "Folded", "Plug", "Replacement", "Site", "fold", "held", "mean_gates", "one_call", "parameter_groups", "plug",
    "plug_control", "plugged_trainer", "plugs", "record", "replace", "replacements", "sites", "unplug",
]  # fmt: skip
