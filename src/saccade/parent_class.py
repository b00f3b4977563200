"""Run a plug inside its parent module, by changing the parent's class.

The new class is a subclass whose forward passes the output of the old forward through the plug. So forward hooks,
``torch.fx``, ``torch.export`` and ``torch.jit.trace`` see the output of the plug. ``torch.fx`` and operator fusion drop
hooks, so these serve only for classes that cannot be subclassed and plugs on the parent's input.
"""

from __future__ import annotations

import functools
from abc import ABCMeta
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn

from saccade.errors import UserError
from saccade.hooks import remove_hooks

__all__ = [
    "CHILD", "attach_plug", "base_class", "beginning_hook", "catching_hook", "detach_plug", "ensure_runs_plug",
    "entering_hook", "leaving_hook", "mark_plug_pending", "rebuild", "recreate", "run_plug_if_pending",
    "run_plug_on_input", "run_plug_on_output", "set_class",
]  # fmt: skip

CHILD = "saccade"
"""Name of a plug in its parent module."""

_BASE = "_saccade_base"
"""Name of the attribute of a plugged class that holds its base class."""

_ON_INPUT = "_saccade_on_input"
"""Name of the attribute of a plugged class that is True if the plug runs on the parent's input."""

_PLUG_RAN = "_saccade_ran"
"""Name of an attribute, True if the plug ran in the current call, of parents with an instance ``forward``."""

_PLUGGED_CLASSES: WeakValueDictionary[tuple[type[nn.Module], bool], type[nn.Module]] = WeakValueDictionary()
"""Maps (base class, True if the plug runs on the input) to the plugged class."""


def run_plug_on_output(parent: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: pass the output (B, C, H, W) of ``parent`` through its plug."""
    plugged_output: Tensor = getattr(parent, CHILD)(output)
    return plugged_output


def run_plug_on_input(parent: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: pass the first argument of ``parent`` through its plug.

    Raises:
        UserError: ``parent`` is called with keyword arguments only.
    """
    if not args:
        raise UserError(
            f"a {type(parent).__name__} with a plug on its input is called with keyword arguments only: pass the "
            "feature map as first positional argument"
        )
    return (getattr(parent, CHILD)(args[0]), *args[1:])


def mark_plug_pending(parent: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook: record that the plug has not run in this call of ``parent``."""
    vars(parent)[_PLUG_RAN] = False


def run_plug_if_pending(parent: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: run the plug on the output (B, C, H, W), unless it has run in this call of ``parent``."""
    return output if vars(parent).get(_PLUG_RAN) else run_plug_on_output(parent, args, output)


def attach_plug(parent: nn.Module, plug: nn.Module, *, on_input: bool) -> None:
    """Make ``plug`` a child of ``parent`` that runs on each output of ``parent``, or on its first argument."""
    parent.add_module(CHILD, plug)
    base = base_class(parent)
    is_subclassed = False
    if not _runs_code_when_subclassed(base):
        try:
            parent.__class__ = _plugged_class(base, on_input)
            is_subclassed = True
        except TypeError:  # a final class, a class with slots, or a metaclass with required arguments
            pass
    if on_input:
        parent.register_forward_pre_hook(run_plug_on_input, prepend=True)
    elif not is_subclassed:
        parent.register_forward_hook(run_plug_on_output, prepend=True)
    else:
        _add_hooks_for_instance_forward(parent)


def _add_hooks_for_instance_forward(parent: nn.Module) -> None:
    """Register hooks that run the plug if ``parent`` has an instance ``forward``, which bypasses that of its class."""
    if "forward" in vars(parent) and run_plug_if_pending not in parent._forward_hooks.values():
        parent.register_forward_pre_hook(mark_plug_pending, prepend=True)
        parent.register_forward_hook(run_plug_if_pending, prepend=True)


def detach_plug(parent: nn.Module) -> None:
    """Undo ``attach_plug``."""
    del parent._modules[CHILD]
    parent.__class__ = base_class(parent)
    vars(parent).pop(_PLUG_RAN, None)
    plug_hooks = (run_plug_on_output, run_plug_if_pending, run_plug_on_input, mark_plug_pending)
    remove_hooks(parent._forward_hooks, *plug_hooks)
    remove_hooks(parent._forward_pre_hooks, *plug_hooks)


def ensure_runs_plug(parent: nn.Module) -> bool:
    """Restore the hooks of ``parent`` that other tools changed; return True if a call of ``parent`` runs its plug.

    Remove duplicated hooks, and add hooks if ``forward`` was set on the instance.
    """
    if _remove_duplicates(parent._forward_hooks, run_plug_on_output):
        return True
    if _remove_duplicates(parent._forward_pre_hooks, run_plug_on_input):
        return True
    if getattr(type(parent), _ON_INPUT, None) is not False:
        return False
    _remove_duplicates(parent._forward_hooks, run_plug_if_pending)
    _add_hooks_for_instance_forward(parent)
    return True


def _remove_duplicates(hooks: dict[int, Any], function: Callable[..., Any]) -> bool:
    """Remove all but the first ``function`` from ``hooks``; return True if ``hooks`` holds ``function``."""
    keys = [key for key, hook in hooks.items() if hook is function]
    for key in keys[1:]:
        del hooks[key]
    return bool(keys)


def base_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of ``module`` before a plug was attached."""
    return _unplugged_class(type(module))


def set_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class of ``module`` to ``cls``, or to its plugged subclass if ``module`` has a plug."""
    on_input = getattr(type(module), _ON_INPUT, None)
    module.__class__ = cls if on_input is None else _plugged_class(cls, on_input)


@functools.cache
def _metaclass_comparing_by_base(metaclass: type) -> type:
    """Return a subclass of ``metaclass`` that equates a plugged class with its base, for tools such as thop."""
    base_hash: Any = metaclass.__hash__

    def equal(cls: Any, other: object) -> bool:
        return other is cls or other is vars(cls).get(_BASE, cls)

    def hashed(cls: Any) -> int:
        # A class that a tool derived from a plugged class equals only itself.
        return hash(vars(cls)[_BASE]) if _BASE in vars(cls) else int(base_hash(cls))

    return type(f"Equal{metaclass.__name__}", (metaclass,), {"__eq__": equal, "__hash__": hashed})


def _plugged_class(base: type[nn.Module], on_input: bool) -> type[nn.Module]:
    """Return the subclass of ``base`` for modules with a plug."""
    plugged = _PLUGGED_CLASSES.get((base, on_input))
    if plugged is not None:
        return plugged

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        y = base.forward(self, *args, **kwargs)
        plug = self._modules.get(CHILD)
        if plug is None:  # peft creates new modules of the plugged class, without a plug
            return y
        if _PLUG_RAN in vars(self):
            vars(self)[_PLUG_RAN] = True
        return plug(y)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # Pickle cannot import the plugged class by name, so it is derived again from its base.
        reduced: Any = base.__reduce_ex__(self, protocol)
        function, args, *state = reduced
        function, *args = (base if part is plugged else part for part in (function, *args))
        return (recreate, (on_input, function, tuple(args)), *state)

    members: dict[str, Any] = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,  # torch.fx treats modules of torch.nn as leaves by this name
        "__qualname__": f"{base.__qualname__} with a saccade plug",  # shown by tools that reject the class
        "__reduce_ex__": reduce,
        _BASE: base,
        _ON_INPUT: on_input,
    }
    if not on_input:
        members["forward"] = forward
    base_metaclass: Any = type(base)
    metaclass: Any = _metaclass_comparing_by_base(base_metaclass)
    plugged = metaclass(base.__name__, (base,), members)
    _PLUGGED_CLASSES[base, on_input] = plugged
    return plugged


def recreate(on_input: bool, function: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    """Return a plugged module without its state, for ``copy`` and ``pickle``."""
    module = function(*args)
    module.__class__ = _plugged_class(base_class(module), on_input)
    return module


def _unplugged_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return ``cls`` with plugged classes replaced by their bases."""
    if _BASE in vars(cls):
        base: type[nn.Module] = vars(cls)[_BASE]
        return base
    if not hasattr(cls, _BASE):
        return cls
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    metaclass: Any = type(cls)
    unplugged: type[nn.Module] = metaclass(cls.__name__, tuple(map(_unplugged_class, cls.__bases__)), members)
    return unplugged


def _runs_code_when_subclassed(base: type) -> bool:
    """Return True if subclassing ``base`` runs code, for example to register the class."""
    metaclass: Any = type(base)
    metaclasses = [c for c in metaclass.__mro__ if c not in (type, ABCMeta, object)]
    return any("__new__" in vars(c) or "__init__" in vars(c) for c in metaclasses) or any(
        "__init_subclass__" in vars(c) for c in base.__mro__ if c.__module__ not in ("builtins", "typing")
    )


# Names in networks pickled by earlier versions.
leaving_hook, entering_hook = run_plug_on_output, run_plug_on_input
beginning_hook, catching_hook = mark_plug_pending, run_plug_if_pending
rebuild = recreate
