"""Raise an error before a call of a host whose plug or replacement no longer runs.

Tools exchange modules, delete them or fold one into another, and the network would compute without its attention. The
host and every module on the way to a plug keep the paths below them, which a pre-hook walks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from saccade.errors import UserError
from saccade.hooks import remove_hooks
from saccade.parent_class import runs_plug
from saccade.surgery.plug_module import Plug, Seen, plug_of

__all__ = [
    "NOTE", "NOT_RUN", "PLUGS", "REPLACED", "guarding_hook", "lost", "note_norm", "paths", "raise_if_lost", "unwatch",
    "watch",
]  # fmt: skip

PLUGS = "_saccade_carriers"
"""Attribute with the paths of the parents of plugs, relative to the module that has it."""

REPLACED = "_saccade_replaced"
"""The same of replaced convolutions."""


NOTE = "_saccade_note"
"""Attribute of a replaced convolution with what is known of it."""


def watch(host: nn.Module, path: str, kind: str) -> None:
    """Note on ``host`` and the modules on the way to ``path`` what lies there: ``kind`` is PLUGS or REPLACED."""
    names = path.split(".")
    module = host
    for depth in range(len(names)):
        if PLUGS not in vars(module) and REPLACED not in vars(module):
            module.register_forward_pre_hook(guarding_hook, prepend=True)
        # Not by setattr: a host may refuse attributes, or answer with those of a network that it wraps.
        vars(module)[kind] = (*vars(module).get(kind, ()), ".".join(names[depth:]))
        if depth < len(names) - 1:
            module = module.get_submodule(names[depth])


def unwatch(root: nn.Module, kind: str, left: set[str]) -> None:
    """Forget the paths of ``kind`` that do not lead to ``left``, paths from ``root``."""
    for prefix, module in root.named_modules():
        if kind not in vars(module):
            continue
        kept = tuple(path for path in vars(module)[kind] if f"{prefix}.{path}".strip(".") in left)
        vars(module)[kind] = kept
        if not kept:
            del vars(module)[kind]
            if PLUGS not in vars(module) and REPLACED not in vars(module):
                remove_hooks(module._forward_pre_hooks, guarding_hook)


def paths(root: nn.Module, kind: str) -> list[str]:
    """Return the paths, from ``root``, that modules inside it keep."""
    found = [f"{prefix}.{path}".strip(".") for prefix, m in root.named_modules() for path in vars(m).get(kind, ())]
    return list(dict.fromkeys(found))


def note_norm(plug: Plug, container: nn.Module | None, parent: nn.Module) -> None:
    """Note on ``plug`` what would change if a norm were folded into ``parent``, a child of ``container``.

    Of a norm that is not the next child, a bias that appears is the only sign.
    """
    plug.seen = Seen()
    if isinstance(parent, nn.modules.conv._ConvNd) and not plug.site.entering:
        plug.seen = Seen(bias=parent.bias is not None, norm=_norm_behind(container, parent))


def lost(root: nn.Module) -> dict[str, str]:
    """Return what no longer runs in ``root``, and why, by path."""
    found: dict[str, str] = {}
    for prefix, module in root.named_modules():
        for path, why in _lost_of(module):
            found.setdefault(f"{prefix}.{path}".strip("."), why)
    return found


def raise_if_lost(found: Mapping[str, str]) -> None:
    """Raise UserError that names what is lost, if anything is."""
    if not found:
        return
    said = []
    for why in dict.fromkeys(found.values()):
        where = [path for path in found if found[path] == why]
        more = f" and {len(where) - 6} more" if len(where) > 6 else ""
        said.append(f"at {', '.join(where[:6])}{more}, {why}")
    raise UserError(
        f"{'; '.join(said)}. Unplug the whole network (saccade.unplug) before a step that fuses, exchanges or converts "
        "modules, or plug it afterwards. To do without these plugs and keep the others: "
        f"saccade.unplug(network, only=[{', '.join(map(repr, list(found)[:2]))}{', …' * (len(found) > 2)}])"
    )


def guarding_hook(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook: raise UserError if a plug or replacement below ``module`` no longer runs."""
    _check(module)


def _check(module: nn.Module) -> None:
    raise_if_lost(dict(_lost_of(module)))


# As torch.compiler.assume_constant_result does, without importing the compiler: the call is made once, while a graph is
# made, and leaves nothing in it.
_check._dynamo_marked_constant = True  # type: ignore[attr-defined]


NOT_RUN = (
    "the plug is lost: its module was fused, replaced, converted or stripped of what runs the plug, or a part of the "
    "network was unplugged by itself"
)
_FOLDED = (
    "the plug is in the wrong place: the norm behind the convolution is gone, or the convolution has gained a bias, as "
    "after folding the norm into it, in front of the plug"
)
_LOST_REPLACEMENT = (
    "the replacement is lost: the convolution was fused, exchanged or re-parametrised, or a part of the network was "
    "unplugged by itself"
)


def _lost_of(module: nn.Module) -> Iterator[tuple[str, str]]:
    for path in vars(module).get(PLUGS, ()):
        *above, last = chain = _chain(module, path)
        whole = len(chain) == 1 + _steps(path)
        parent = last if whole and plug_of(last) is not None else _parent_elsewhere(module, path)
        plug = None if parent is None else plug_of(parent)
        if parent is None or plug is None or not runs_plug(parent):
            yield path, NOT_RUN
        elif _folded(plug, above[-1] if whole and above else None, parent, last):
            yield path, _FOLDED
    for path in vars(module).get(REPLACED, ()):
        chain = _chain(module, path)
        if len(chain) != 1 + _steps(path) or NOTE not in vars(chain[-1]):
            yield path, _LOST_REPLACEMENT


def _steps(path: str) -> int:
    return len(path.split(".")) if path else 0


def _chain(module: nn.Module, path: str) -> list[nn.Module]:
    """Return ``module`` and the modules on ``path`` below it, as far as they exist."""
    chain = [module]
    for name in path.split(".") if path else ():
        below = chain[-1]._modules.get(name)
        if below is None:
            break
        chain.append(below)
    return chain


def _parent_elsewhere(module: nn.Module, path: str) -> nn.Module | None:
    """Return the parent of the plug of ``path`` if it lies inside a wrapper or under a new name."""
    for parent in module.modules():
        plug = plug_of(parent)
        if plug is not None and f".{plug.site.parent}".endswith(f".{path}"):
            return parent
    return None


def _norm_behind(container: nn.Module | None, convolution: nn.Module) -> str | None:
    """Return the name of the norm that follows ``convolution`` in ``container``."""
    children = list((container or nn.Module())._modules.items())
    for (_, child), (name, following) in itertools.pairwise(children):
        if child is convolution and following is not None and _is_norm(following):
            return name
    return None


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) or "norm" in type(module).__name__.lower()


def _folded(plug: Plug, container: nn.Module | None, parent: nn.Module, last: nn.Module) -> bool:
    """Return whether the norm behind ``parent`` is gone from ``container`` and from ``last``, which may wrap both."""
    seen = vars(plug).get("seen")  # plugs that were pickled by earlier versions have none
    if seen is None:
        return False
    if not seen.bias and getattr(parent, "bias", None) is not None:
        return True
    if seen.norm is None or container is None:
        return False
    norm = container._modules.get(seen.norm)
    there = norm is not None and _is_norm(norm)
    return not there and all(_norm_behind(module, parent) is None for module in last.modules())
