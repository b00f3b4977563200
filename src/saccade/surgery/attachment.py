"""Attach plugs to a host and detach them; all hooks are module-level functions, which pickles need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from saccade.errors import UserError
from saccade.hooks import remove_hooks
from saccade.parent_class import CHILD, attach_plug, detach_plug
from saccade.stage_outputs import StageOutputs
from saccade.surgery.guard import PLUG_PATHS, record_parent_state, record_path, recorded_paths, retain_paths
from saccade.surgery.plug_module import Plug, plugs_in

__all__ = ["attach", "close_call", "detach", "keep_plugs", "one_call", "open_call", "share_stage_outputs"]

_STAGE_OUTPUTS = "_saccade_relays"
"""Attribute of the host with its StageOutputs; pickles contain the name."""


def keep_plugs(host: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load-state pre-hook of the host: leave the plugs as they are if the checkpoint has no plug keys."""
    plug_state = {
        f"{prefix}{path}.{key}": value
        for path, module in host.named_modules(remove_duplicate=False)
        if isinstance(module, Plug)
        for key, value in module.state_dict(keep_vars=True).items()
    }
    if not plug_state.keys() & state.keys():
        state.update(plug_state)


def open_call(host: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of the host: tell each of its StageOutputs that a forward pass begins."""
    for outputs in host.__dict__[_STAGE_OUTPUTS]:
        outputs.open()


def close_call(host: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Forward hook of the host, also after an exception: tell each StageOutputs that the forward pass has ended."""
    for outputs in host.__dict__[_STAGE_OUTPUTS]:
        outputs.close()


def attach(host: nn.Module, plug: Plug) -> None:
    """Attach ``plug`` to the parent module of its site.

    Raises:
        UserError: the parent does not exist, or already has a plug or an unrelated attribute ``saccade``.
    """
    path = plug.site.parent
    try:
        parent = host.get_submodule(path)
    except AttributeError:
        raise UserError(f"{type(host).__name__} has no module {path!r} to hold a plug") from None
    child = parent._modules.get(CHILD)
    if isinstance(child, Plug):
        raise UserError(f"the parent {path!r} has {child.name} already; unplug the host first")
    if hasattr(parent, CHILD):
        raise UserError(f"the module {path!r} has an attribute {CHILD!r} that is not a plug; rename it")
    attach_plug(parent, plug.train(parent.training), on_input=plug.site.entering)
    record_parent_state(plug, host.get_submodule(path.rpartition(".")[0]) if path else None, parent)
    if PLUG_PATHS not in vars(host):
        host.register_load_state_dict_pre_hook(keep_plugs)
    record_path(host, path, PLUG_PATHS)


def share_stage_outputs(host: nn.Module, plugs: list[Plug]) -> None:
    """Let ``plugs`` read the pooled channel descriptors that plugs of the previous stage compute."""
    if not any(plug.stage_readers for plug in plugs):
        return
    outputs = StageOutputs()
    for plug in plugs:
        plug.connect(outputs)
    if _STAGE_OUTPUTS not in host.__dict__:
        host.register_forward_pre_hook(open_call)
        host.register_forward_hook(close_call, always_call=True)
    host.__dict__[_STAGE_OUTPUTS] = (*host.__dict__.get(_STAGE_OUTPUTS, ()), outputs)


def detach(host: nn.Module, removed_plugs: list[Plug]) -> None:
    """Detach ``removed_plugs`` from ``host``, with the hooks and attributes that no other plug needs."""
    removed_ids = {id(plug) for plug in removed_plugs}
    plugs_before = list(plugs_in(host))
    for _, parent, plug in plugs_before:
        if id(plug) in removed_ids:
            detach_plug(parent)
    removed_paths = {path for path, _, plug in plugs_before if id(plug) in removed_ids}
    used_outputs = {id(plug.outputs) for _, _, plug in plugs_in(host)}
    for _, module in host.named_modules():
        if _STAGE_OUTPUTS in vars(module):
            remaining = tuple(outputs for outputs in vars(module)[_STAGE_OUTPUTS] if id(outputs) in used_outputs)
            vars(module)[_STAGE_OUTPUTS] = remaining
            if not remaining:
                del vars(module)[_STAGE_OUTPUTS]
                remove_hooks(module._forward_pre_hooks, open_call)
                for key in remove_hooks(module._forward_hooks, close_call):
                    del module._forward_hooks_always_called[key]
    retain_paths(host, PLUG_PATHS, set(recorded_paths(host, PLUG_PATHS)) - removed_paths)
    for _, module in host.named_modules():
        if PLUG_PATHS not in vars(module):
            remove_hooks(module._load_state_dict_pre_hooks, keep_plugs)


@contextmanager
def one_call(model: nn.Module) -> Iterator[None]:
    """Treat the block as one forward pass of ``model``, for running parts of it separately.

    Mechanisms that read the previous stage (``emca``) need this in a feature extractor of ``torch.fx``, for example.

    >>> with saccade.one_call(model):                                                           # doctest: +SKIP
    ...     features = extractor(images)
    """
    connected = {id(plug.outputs): plug.outputs for _, _, plug in plugs_in(model) if plug.outputs is not None}
    with ExitStack() as calls:
        for outputs in connected.values():
            calls.enter_context(outputs.call())
        yield
