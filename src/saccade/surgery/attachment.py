"""Plugs in a host: attached, detached, and the hooks that let the host's own checkpoints load.

All hooks are functions of modules, so that copies and pickles of a host keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from saccade.errors import UserError
from saccade.hooks import remove_hooks
from saccade.parent_class import CHILD, hold, release
from saccade.stage_outputs import StageOutputs
from saccade.surgery.guard import PLUGS, note_norm, paths, unwatch, watch
from saccade.surgery.plug_module import Plug, plugs_in

__all__ = ["attach", "close_call", "detach", "join", "keep_plugs", "one_call", "open_call"]

_OUTPUTS = "_saccade_relays"
"""Attribute of the host: the tuple of the StageOutputs that each call of it opens."""


def keep_plugs(host: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load-state pre-hook of the host: a checkpoint without plugs leaves the plugs as they are.

    If it has some of their keys, torch names those that are missing.
    """
    own = {
        f"{prefix}{path}.{key}": value
        for path, module in host.named_modules(remove_duplicate=False)
        if isinstance(module, Plug)
        for key, value in module.state_dict(keep_vars=True).items()
    }
    if not own.keys() & state.keys():
        state.update(own)


def open_call(host: nn.Module, args: tuple[Any, ...]) -> None:
    """Open a call of each StageOutputs of the host; forward pre-hook."""
    for outputs in host.__dict__[_OUTPUTS]:
        outputs.open()


def close_call(host: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Close the call of each StageOutputs of the host, after an exception too; forward hook."""
    for outputs in host.__dict__[_OUTPUTS]:
        outputs.close()


def attach(host: nn.Module, plug: Plug) -> None:
    """Put ``plug`` into the parent module of its site.

    Raises:
        UserError: there is no such module, or it has a plug or something else called ``saccade``.
    """
    path = plug.site.parent
    try:
        parent = host.get_submodule(path)
    except AttributeError:
        raise UserError(f"{type(host).__name__} has no module {path!r} to hold a plug") from None
    there = parent._modules.get(CHILD)
    if isinstance(there, Plug):
        raise UserError(f"the parent {path!r} has {there.name} already; unplug the host first")
    if hasattr(parent, CHILD):
        raise UserError(f"the module {path!r} has something called {CHILD!r} that is no plug")
    hold(parent, plug.train(parent.training), entering=plug.site.entering)
    note_norm(plug, host.get_submodule(path.rpartition(".")[0]) if path else None, parent)
    if PLUGS not in vars(host):
        host.register_load_state_dict_pre_hook(keep_plugs)
    watch(host, path, PLUGS)


def join(host: nn.Module, plugs: list[Plug]) -> None:
    """Let ``plugs`` of ``host`` read the vectors of each other within each call of it."""
    if not any(plug.previous for plug in plugs):
        return
    outputs = StageOutputs()
    for plug in plugs:
        plug.join(outputs)
    if _OUTPUTS not in host.__dict__:
        host.register_forward_pre_hook(open_call)
        host.register_forward_hook(close_call, always_call=True)
    host.__dict__[_OUTPUTS] = (*host.__dict__.get(_OUTPUTS, ()), outputs)


def detach(host: nn.Module, gone: list[Plug]) -> None:
    """Take the plugs ``gone`` out of ``host``; with the last one, every hook and attribute of ours."""
    before = list(plugs_in(host))
    for _, parent, plug in before:
        if any(plug is one for one in gone):
            release(parent)
    released = {path for path, _, plug in before if any(plug is one for one in gone)}
    left = [(path, plug) for path, _, plug in plugs_in(host)]
    for _, module in host.named_modules():
        if _OUTPUTS in vars(module):
            joined = tuple(o for o in vars(module)[_OUTPUTS] if any(o is plug.outputs for _, plug in left))
            vars(module)[_OUTPUTS] = joined
            if not joined:
                del vars(module)[_OUTPUTS]
                remove_hooks(module._forward_pre_hooks, open_call)
                for key in remove_hooks(module._forward_hooks, close_call):
                    del module._forward_hooks_always_called[key]
    unwatch(host, PLUGS, set(paths(host, PLUGS)) - released)
    for _, module in host.named_modules():
        if PLUGS not in vars(module):
            remove_hooks(module._load_state_dict_pre_hooks, keep_plugs)


@contextmanager
def one_call(model: nn.Module) -> Iterator[None]:
    """Treat the block as one call of the host, for parts of a network that are run by themselves.

    A mechanism that reads the stage before its own (``emca``) needs it in a feature extractor of ``torch.fx``, or if
    stages are run one by one; not in a call of the whole host.

    >>> with saccade.one_call(model):                                                           # doctest: +SKIP
    ...     features = extractor(images)
    """
    joined = {id(plug.outputs): plug.outputs for _, _, plug in plugs_in(model) if plug.outputs is not None}
    with ExitStack() as calls:
        for outputs in joined.values():
            calls.enter_context(outputs.call())
        yield
