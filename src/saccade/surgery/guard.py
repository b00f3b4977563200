"""Raise an error in the forward pass if a plug or replacement no longer runs, for example after fusion.

The host and each module above a plug or replacement record its path; a forward pre-hook checks that it still runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.hooks import remove_hooks
from saccade.parent_class import ensure_runs_plug
from saccade.surgery.plug_module import ParentState, Plug, plug_of

__all__ = [
    "PLUG_LOST", "PLUG_PATHS", "REPLACEMENT_INFO", "REPLACEMENT_PATHS", "find_lost", "guarding_hook", "raise_if_lost",
    "record_parent_state", "record_path", "recorded_paths", "retain_paths",
]  # fmt: skip

# Pickles contain the values of the next three constants.
PLUG_PATHS = "_saccade_carriers"
"""Attribute with the paths of the parents of plugs, relative to the module that has the attribute."""

REPLACEMENT_PATHS = "_saccade_replaced"
"""Attribute with the paths of replaced convolutions, relative to the module that has the attribute."""

REPLACEMENT_INFO = "_saccade_note"
"""Attribute of a replaced convolution with its ``ReplacementInfo``."""

_CHECK = "_saccade_check"
"""Attribute with the ``_Check`` of a module that records paths."""


class _Check:
    """Check of a module, for PyTorch 2.11, whose ``torch.compile`` passes no module to a constant function.

    Pickles of plugged networks contain this class.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def run(self) -> None:
        """Raise UserError if a plug or replacement below the module no longer runs."""
        raise_if_lost(dict(_lost_below(self.module)))

    # As torch.compiler.assume_constant_result, without importing the compiler: the call adds no node to the graph.
    run._dynamo_marked_constant = True  # type: ignore[attr-defined]


def record_path(host: nn.Module, path: str, attribute: str) -> None:
    """Record ``path`` in ``attribute`` of ``host`` and each module above ``path``; add the guarding hook."""
    names = path.split(".")
    module = host
    for depth in range(len(names)):
        if PLUG_PATHS not in vars(module) and REPLACEMENT_PATHS not in vars(module):
            module.register_forward_pre_hook(guarding_hook, prepend=True)
        # vars() because a host may forbid setattr, or forward it to a wrapped network.
        vars(module)[attribute] = (*vars(module).get(attribute, ()), ".".join(names[depth:]))
        vars(module)[_CHECK] = _Check(module)
        if depth < len(names) - 1:
            module = module.get_submodule(names[depth])


def retain_paths(root: nn.Module, attribute: str, remaining: set[str]) -> None:
    """Delete the paths in ``attribute`` of the modules of ``root`` that are not in ``remaining``."""
    for prefix, module in root.named_modules():
        if attribute not in vars(module):
            continue
        retained = tuple(path for path in vars(module)[attribute] if f"{prefix}.{path}".strip(".") in remaining)
        vars(module)[attribute] = retained
        if not retained:
            del vars(module)[attribute]
            if PLUG_PATHS not in vars(module) and REPLACEMENT_PATHS not in vars(module):
                vars(module).pop(_CHECK, None)  # missing in pickles of earlier versions
                remove_hooks(module._forward_pre_hooks, guarding_hook)


def recorded_paths(root: nn.Module, attribute: str) -> list[str]:
    """Return the paths in ``attribute`` of the modules of ``root``, relative to ``root``."""
    paths = [f"{prefix}.{path}".strip(".") for prefix, m in root.named_modules() for path in vars(m).get(attribute, ())]
    return list(dict.fromkeys(paths))


def record_parent_state(plug: Plug, grandparent: nn.Module | None, parent: nn.Module) -> None:
    """Record whether ``parent`` has a bias and which norm follows it, to detect later that the norm was folded."""
    plug.parent_state = ParentState()
    if isinstance(parent, nn.modules.conv._ConvNd) and not plug.site.entering:
        plug.parent_state = ParentState(bias=parent.bias is not None, norm=_norm_after(grandparent, parent))


def find_lost(root: nn.Module) -> dict[str, str]:
    """Return {path: reason} for each plug or replacement in ``root`` that no longer runs."""
    reasons: dict[str, str] = {}
    for prefix, module in root.named_modules():
        for path, reason in _lost_below(module):
            reasons.setdefault(f"{prefix}.{path}".strip("."), reason)
    return reasons


def raise_if_lost(reasons: Mapping[str, str]) -> None:
    """Raise UserError with the paths and reasons, unless ``reasons`` is empty."""
    if not reasons:
        return
    sentences = []
    for reason in dict.fromkeys(reasons.values()):
        paths = [path for path in reasons if reasons[path] == reason]
        more = f" and {len(paths) - 6} more" if len(paths) > 6 else ""
        sentences.append(f"at {', '.join(paths[:6])}{more}, {reason}")
    raise UserError(
        f"{'; '.join(sentences)}. Unplug the whole network (saccade.unplug) before a step that fuses, exchanges or "
        "converts modules, or plug it afterwards. To remove only these plugs: "
        f"saccade.unplug(network, only=[{', '.join(map(repr, list(reasons)[:2]))}{', …' * (len(reasons) > 2)}])"
    )


def guarding_hook(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook: raise UserError if a plug or replacement below ``module`` no longer runs."""
    check = getattr(module, _CHECK, None)
    if check is not None and torch.compiler.is_compiling():
        check.run()
    else:  # a shallow copy of a module has the check of the original
        raise_if_lost(dict(_lost_below(module)))


PLUG_LOST = (
    "the plug is lost: its module was fused, replaced, converted or given another class, or only a part of the "
    "network was unplugged"
)
_NORM_FOLDED = (
    "the plug is in the wrong place: the norm after the convolution is gone, or the convolution has gained a bias, as "
    "after folding the norm into it; the plug now runs after the norm"
)
_REPLACEMENT_LOST = (
    "the replacement is lost: the convolution was fused, exchanged or re-parametrised, or only a part of the "
    "network was unplugged"
)


def _lost_below(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the path and the reason of each plug or replacement below ``module`` that no longer runs."""
    for path in vars(module).get(PLUG_PATHS, ()):
        *ancestors, module_at_path = chain = _modules_along(module, path)
        path_exists = len(chain) == 1 + _depth(path)
        is_parent = path_exists and plug_of(module_at_path) is not None
        parent = module_at_path if is_parent else _find_moved_parent(module, path)
        plug = None if parent is None else plug_of(parent)
        if parent is None or plug is None or not ensure_runs_plug(parent):
            yield path, PLUG_LOST
        elif _is_norm_folded(plug, ancestors[-1] if path_exists and ancestors else None, parent, module_at_path):
            yield path, _NORM_FOLDED
    for path in vars(module).get(REPLACEMENT_PATHS, ()):
        chain = _modules_along(module, path)
        if len(chain) != 1 + _depth(path) or REPLACEMENT_INFO not in vars(chain[-1]):
            yield path, _REPLACEMENT_LOST


def _depth(path: str) -> int:
    return len(path.split(".")) if path else 0


def _modules_along(module: nn.Module, path: str) -> list[nn.Module]:
    """Return ``module`` and the modules on ``path`` below it, as far as they exist."""
    chain = [module]
    for name in path.split(".") if path else ():
        child = chain[-1]._modules.get(name)
        if child is None:
            break
        chain.append(child)
    return chain


def _find_moved_parent(module: nn.Module, path: str) -> nn.Module | None:
    """Return the parent that had ``path`` before it was wrapped or renamed, or None."""
    for parent in module.modules():
        plug = plug_of(parent)
        if plug is not None and f".{plug.site.parent}".endswith(f".{path}"):
            return parent
    return None


def _norm_after(container: nn.Module | None, convolution: nn.Module) -> str | None:
    """Return the name of the norm that follows ``convolution`` in ``container``, or None."""
    children = list((container or nn.Module())._modules.items())
    for (_, child), (name, successor) in itertools.pairwise(children):
        if child is convolution and successor is not None and _is_norm(successor):
            return name
    return None


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) or "norm" in type(module).__name__.lower()


def _is_norm_folded(plug: Plug, grandparent: nn.Module | None, parent: nn.Module, module_at_path: nn.Module) -> bool:
    """Return True if ``parent`` has a new bias, or its norm is neither in ``grandparent`` nor in ``module_at_path``."""
    state = vars(plug).get("parent_state")  # missing in pickles of earlier versions
    if state is None:
        return False
    if not state.bias and getattr(parent, "bias", None) is not None:
        return True
    if state.norm is None or grandparent is None:
        return False
    norm = grandparent._modules.get(state.norm)
    norm_remains = norm is not None and _is_norm(norm)
    return not norm_remains and all(_norm_after(module, parent) is None for module in module_at_path.modules())
