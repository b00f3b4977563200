"""How a parent module runs its plug: its class becomes a subclass of itself whose forward ends in the plug.

``torch.nn.utils.parametrize`` changes classes the same way. Forward hooks, ``torch.fx``, ``torch.export`` and
``torch.jit.trace`` see the plugged map; tools that look for an exact class, as fusing does, leave the module alone.
Where no subclass can be made, a forward hook before all others runs the plug. A plug on what the module *receives* is
run by a pre-hook.

Hooks alone do not do: older hooks see the map without the plug, and ``torch.fx`` and fusing lose them.
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
    "CHILD", "base_class", "beginning_hook", "catching_hook", "entering_hook", "hold", "leaving_hook", "rebuild",
    "release", "runs_plug", "set_class",
]  # fmt: skip

CHILD = "saccade"
"""The name of a plug in its parent module."""

_BASE = "_saccade_base"
"""Attribute of the classes made here: the class without a plug."""

_CLASSES: WeakValueDictionary[tuple[type[nn.Module], bool], type[nn.Module]] = WeakValueDictionary()


_RAN = "_saccade_ran"
"""Attribute of a parent with a forward of its own: whether the class's forward ran the plug in this call."""


def leaving_hook(parent: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: pass what ``parent`` returns through its plug."""
    changed: Tensor = getattr(parent, CHILD)(output)
    return changed


def entering_hook(parent: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: pass the first thing that ``parent`` receives through its plug.

    Raises:
        UserError: ``parent`` is called by keyword only.
    """
    if not args:
        raise UserError(
            f"a {type(parent).__name__} with a plug on what it receives is called by keyword; name the map first"
        )
    return (getattr(parent, CHILD)(args[0]), *args[1:])


def beginning_hook(parent: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of a parent with a forward of its own: the plug has not run in this call."""
    vars(parent)[_RAN] = False


def catching_hook(parent: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook of a parent with a forward of its own: run the plug unless it ran in this call."""
    return output if vars(parent).get(_RAN) else leaving_hook(parent, args, output)


def hold(parent: nn.Module, plug: nn.Module, *, entering: bool) -> None:
    """Make ``plug`` a child of ``parent``, run on what it returns from now on, or receives if ``entering``."""
    parent.add_module(CHILD, plug)
    base = base_class(parent)
    made = False
    if not _registers(base):
        try:
            parent.__class__ = _plugged(base, entering)
            made = True
        except TypeError:  # a final class, one with slots, or a metaclass that wants more
            pass
    if entering:
        parent.register_forward_pre_hook(entering_hook, prepend=True)
    elif not made:
        parent.register_forward_hook(leaving_hook, prepend=True)
    else:
        _catch(parent)


def _catch(parent: nn.Module) -> None:
    """Let hooks run the plug if a ``forward`` set on the module itself, as some tools do, bypasses the class."""
    if "forward" in vars(parent) and catching_hook not in parent._forward_hooks.values():
        parent.register_forward_pre_hook(beginning_hook, prepend=True)
        parent.register_forward_hook(catching_hook, prepend=True)


def release(parent: nn.Module) -> None:
    """Undo ``hold``."""
    del parent._modules[CHILD]
    parent.__class__ = base_class(parent)
    vars(parent).pop(_RAN, None)
    ours = (leaving_hook, catching_hook, entering_hook, beginning_hook)
    remove_hooks(parent._forward_hooks, *ours)
    remove_hooks(parent._forward_pre_hooks, *ours)


def runs_plug(parent: nn.Module) -> bool:
    """Return whether a call of ``parent`` runs its plug.

    Repair what tools leave: a ``forward`` set on the module gets hooks, a hook that was copied goes.
    """
    if _once(parent._forward_hooks, leaving_hook) or _once(parent._forward_pre_hooks, entering_hook):
        return True
    entering = getattr(type(parent), "_saccade_entering", None)
    if entering is not False:
        return False
    _once(parent._forward_hooks, catching_hook)
    _catch(parent)
    return True


def _once(hooks: dict[int, Any], ours: Callable[..., Any]) -> bool:
    """Return whether ``ours`` is among ``hooks``, and remove duplicates."""
    keys = [key for key, hook in hooks.items() if hook is ours]
    for key in keys[1:]:
        del hooks[key]
    return bool(keys)


def base_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of ``module`` as it is without a plug."""
    return _without(type(module))


def set_class(module: nn.Module, into: type[nn.Module]) -> None:
    """Change the class of ``module``, which goes on running its plug, if any."""
    entering = getattr(type(module), "_saccade_entering", None)
    module.__class__ = into if entering is None else _plugged(into, entering)


@functools.cache
def _alike(metaclass: type) -> type:
    """Return a subclass of ``metaclass`` whose classes equal the class they were made of.

    thop and ptflops look a module's class up in tables; ``torch.fx`` asks ``type(module) is nn.Conv2d`` and gets the
    truth.
    """
    unbound: Any = metaclass.__hash__

    def equal(cls: Any, other: object) -> bool:
        return other is cls or other is vars(cls).get(_BASE, cls)

    def hashed(cls: Any) -> int:
        # A class that a tool derived from one of these is equal to nothing but itself.
        return hash(vars(cls)[_BASE]) if _BASE in vars(cls) else int(unbound(cls))

    return type(f"Alike{metaclass.__name__}", (metaclass,), {"__eq__": equal, "__hash__": hashed})


def _plugged(base: type[nn.Module], entering: bool) -> type[nn.Module]:
    """Return the subclass of ``base`` for modules that hold a plug; copies share it."""
    made = _CLASSES.get((base, entering))
    if made is not None:
        return made

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        y = base.forward(self, *args, **kwargs)
        plug = self._modules.get(CHILD)
        if plug is None:  # somebody made a new module of the class, as peft does
            return y
        if _RAN in vars(self):
            vars(self)[_RAN] = True
        return plug(y)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # The class has no name to be pickled by; it is made again of its base.
        reduced: Any = base.__reduce_ex__(self, protocol)
        function, args, *rest = reduced
        function, *args = (base if part is made else part for part in (function, *args))
        return (rebuild, (entering, function, tuple(args)), *rest)

    members: dict[str, Any] = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,  # by which torch.fx knows the modules of torch.nn, which it keeps whole
        "__qualname__": f"{base.__qualname__} with a saccade plug",  # shown where a tool refuses the class
        "__reduce_ex__": reduce,
        _BASE: base,
        "_saccade_entering": entering,
    }
    if not entering:
        members["forward"] = forward
    kind: Any = type(base)
    metaclass: Any = _alike(kind)
    made = metaclass(base.__name__, (base,), members)
    _CLASSES[base, entering] = made
    return made


def rebuild(entering: bool, function: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    """Make a module without its state, as copying and unpickling do first."""
    module = function(*args)
    module.__class__ = _plugged(base_class(module), entering)
    return module


def _without(cls: type[nn.Module]) -> type[nn.Module]:
    """Return ``cls`` without the classes made here; tools may have derived one of their own."""
    if _BASE in vars(cls):
        base: type[nn.Module] = vars(cls)[_BASE]
        return base
    if not hasattr(cls, _BASE):
        return cls
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    metaclass: Any = type(cls)
    bare: type[nn.Module] = metaclass(cls.__name__, tuple(map(_without, cls.__bases__)), members)
    return bare


def _registers(base: type) -> bool:
    """Return whether making a subclass runs its author's code, such as a registry."""
    metaclass: Any = type(base)
    kinds = [c for c in metaclass.__mro__ if c not in (type, ABCMeta, object)]
    return any("__new__" in vars(kind) or "__init__" in vars(kind) for kind in kinds) or any(
        "__init_subclass__" in vars(c) for c in base.__mro__ if c.__module__ not in ("builtins", "typing")
    )
