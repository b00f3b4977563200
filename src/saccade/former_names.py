"""Former names under which renamed modules can still be imported, to unpickle networks of earlier versions.

A pickle stores the module of each class and hook. A finder at the end of ``sys.meta_path`` resolves the former module
names; the rest of the package never imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MODULES", "install"]

_ATTENTION = {
    "a2": "double_attention", "bam": "bottleneck_attention", "cc": "criss_cross", "coord": "coordinate_attention",
    "danet": "dual_attention", "dra": "dual_relation", "emattn": "efficient_multiscale", "gc": "global_context",
    "ge": "gather_excite", "lka": "large_kernel", "mpm": "mixed_pooling", "nl": "non_local",
    "ran": "residual_attention", "sa": "shuffle", "se": "squeeze_excite", "sge": "spatial_group_enhance",
    "sk": "selective_kernel", "spm": "strip_pooling", "srm": "style_recalibration", "stn": "spatial_transformer",
    "vt": "visual_transformer",
}  # fmt: skip
_PARENT_CLASS, _ATTACHMENT = "saccade.parent_class", "saccade.surgery.attachment"
MODULES: dict[str, str | dict[str, str]] = {
    **{f"saccade.attention.{short}": f"saccade.attention.{long}" for short, long in _ATTENTION.items()},
    "saccade.attachment": {
        "_rebuild": f"{_PARENT_CLASS}:rebuild", "beginning_hook": f"{_PARENT_CLASS}:beginning_hook",
        "catching_hook": f"{_PARENT_CLASS}:catching_hook", "entering_hook": f"{_PARENT_CLASS}:entering_hook",
        "leaving_hook": f"{_PARENT_CLASS}:leaving_hook",
    },
    "saccade.form": "saccade.bases",
    "saccade.relay": {
        "Previous": "saccade.stage_outputs:PreviousStage", "Relay": "saccade.stage_outputs:StageOutputs",
    },
    "saccade.surgery.carrying": {
        "_closing": f"{_ATTACHMENT}:close_call", "_loading": f"{_ATTACHMENT}:keep_plugs",
        "_opening": f"{_ATTACHMENT}:open_call",
        "_entering": f"{_PARENT_CLASS}:entering_hook", "_guarding": "saccade.surgery.guard:guarding_hook",
        "_leaving": f"{_PARENT_CLASS}:leaving_hook",
    },
}  # fmt: skip
"""Maps a former module to its replacement, or to a dict from former name to ``module:name``."""


class _Finder:
    """Import finder and loader of the former modules."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the import spec of a former module, or None."""
        return ModuleSpec(name, _Finder()) if name in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python creates the module object."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill ``module`` with the contents of its replacement."""
        replacement = MODULES[module.__name__]
        if isinstance(replacement, str):
            contents = vars(import_module(replacement))
            vars(module).update({name: value for name, value in contents.items() if not name.startswith("__")})
            return
        for former_name, target in replacement.items():
            target_module, _, name = target.partition(":")
            setattr(module, former_name, getattr(import_module(target_module), name))


def install() -> None:
    """Register the finder, unless it is registered already."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
