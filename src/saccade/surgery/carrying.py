"""What sits in a carrier: the plug, the hook that runs it, and the hook that lets a host's own checkpoint load.

All hooks are functions of this module, so that copies and pickles of a host keep them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.form import blended
from saccade.relay import Previous, Relay

if TYPE_CHECKING:
    from saccade.surgery.sites import Site

__all__ = ["CHILD", "Plug", "attach", "carried", "detach", "hooked", "join", "missing", "said_lost"]

CHILD = "saccade"
"""The name of a plug in its carrier."""

_RELAYS = "_saccade_relays"
"""The host's own tuple of the relays that each call of it opens."""

_CARRIERS = "_saccade_carriers"
"""The host's own list of its carriers: without it a carrier that was replaced would go unnoticed."""


class Plug(nn.Module):
    """A mechanism in a host: y = f + (a·(m(f) − f)).to(f.dtype), or y = m(f) where there is no ``a``.

    With a = 0 it returns what it received, bit for bit wherever the mechanism's own output is finite: a mechanism that
    overflows, as one of squares or unscaled logits may in float16, is not hidden. With a = 1 it is the mechanism.

    Args:
        mechanism: m, maps (B, C, H, W) to the same shape.
        site: where it is plugged.
        name: what the mechanism is called: a name of the catalogue or ``package.module:Class``.
        options: those it was made with.
        position: the position that chose the site.
        neutral: whether there is an ``a``, a parameter of shape (1,) that starts at zero.
        reads: the carriers whose plugs' vectors a mechanism reads that needs the stage before its own.
    """

    a: nn.Parameter | None

    def __init__(
        self,
        mechanism: nn.Module,
        *,
        site: Site,
        name: str,
        options: dict[str, Any],
        position: str,
        neutral: bool,
        reads: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.site, self.name, self.options, self.position = site, name, options, position
        self.mechanism = mechanism
        self.register_parameter("a", nn.Parameter(torch.zeros(1)) if neutral else None)
        self.reads = reads if self.previous else ()
        self.relay: Relay | None = None

    @property
    def previous(self) -> list[Previous]:
        """Where the mechanism reads the stage before its own; [] of one that does not."""
        return [module for module in self.mechanism.modules() if isinstance(module, Previous)]

    def join(self, relay: Relay) -> None:
        """The mechanism, also one put in its place since, tells and reads by ``relay``."""
        self.relay = relay
        for place in self.previous:
            place.join(relay, self.site.carrier, self.reads)

    def forward(self, f: Tensor) -> Tensor:
        """Map f (B, C, H, W) to (B, C, H, W), in the dtype of f."""
        changed: Tensor = self.mechanism(f)
        if self.a is None:
            return changed
        return blended(f, changed, self.a)

    def extra_repr(self) -> str:
        """The mechanism's name and the site."""
        return f"{self.name} at {self.site.path}"


def _leaving(carrier: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: the carrier's output goes through the plug."""
    changed: Tensor = getattr(carrier, CHILD)(output)
    return changed


def _entering(carrier: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: what enters the carrier goes through the plug."""
    return (getattr(carrier, CHILD)(args[0]), *args[1:])


def _loading(
    host: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Load-state pre-hook of the host: a checkpoint that knows no plug leaves the plugs as they are.

    A checkpoint that has some keys of the plugs and not all is left to torch, which names those that are missing.
    """
    own = {
        f"{prefix}{path}.{key}": value
        for path, module in host.named_modules(remove_duplicate=False)
        if isinstance(module, Plug)
        for key, value in module.state_dict(keep_vars=True).items()
    }
    if not own.keys() & state.keys():
        state.update(own)


def _guarding(host: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of the host: a plug that nobody runs any more is an error.

    ``SyncBatchNorm.convert_sync_batchnorm``, for one, makes new modules that take the children of the old and not
    their hooks.
    """
    if torch.compiler.is_compiling():
        return
    lost = []
    for path in host.__dict__[_CARRIERS]:
        module: nn.Module | None = host
        for name in path.split(".") if path else ():
            module = module and module._modules.get(name)
        if module is not None and CHILD in module._modules and not hooked(module):
            lost.append(path)
    if lost:
        raise UserError(said_lost(lost))


def _opening(host: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of the host: a call begins, and what an interrupted one left is dropped."""
    for relay in host.__dict__[_RELAYS]:
        if not torch.compiler.is_compiling() and relay.running and _outermost(host):
            relay.drop()
        relay.open()


def _outermost(host: nn.Module) -> bool:
    """Is this call of ``host`` inside no other?

    The stack tells. After an exception torch calls ``_closing``, but not after Ctrl-C: what is open may be of a call
    that is over.
    """
    frame, calls = inspect.currentframe(), 0
    while frame is not None:
        calls += frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is host
        frame = frame.f_back
    return calls < 2


def _closing(host: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Forward hook of the host, after an exception too: the call has ended, and what was told in it is dropped."""
    for relay in host.__dict__[_RELAYS]:
        relay.close()


def said_lost(paths: list[str]) -> str:
    """What to say of carriers whose plugs do not run."""
    return (
        f"the plug of {', '.join(paths)} is lost: its module was fused, replaced, converted or stripped of its hooks, "
        "or a part of the network was unplugged by itself; unplug the whole network before such a step, or plug it "
        "afterwards"
    )


def attach(host: nn.Module, plug: Plug) -> None:
    """Put ``plug`` into the carrier of its site.

    Raises:
        UserError: there is no such module, or it has a plug already, or something else that is called ``saccade``.
    """
    try:
        carrier = host.get_submodule(plug.site.carrier)
    except AttributeError:
        raise UserError(f"{type(host).__name__} has no module {plug.site.carrier!r} to carry a plug") from None
    there = carrier._modules.get(CHILD)
    if isinstance(there, Plug):
        raise UserError(f"the carrier {plug.site.carrier!r} carries {there.name} already; unplug the host first")
    if hasattr(carrier, CHILD):
        raise UserError(f"the module {plug.site.carrier!r} has something called {CHILD!r} that is no plug")
    carrier.add_module(CHILD, plug.train(carrier.training))
    if plug.site.entering:
        carrier.register_forward_pre_hook(_entering)
    else:
        carrier.register_forward_hook(_leaving)
    if _CARRIERS not in host.__dict__:
        host.register_load_state_dict_pre_hook(_loading)
        host.register_forward_pre_hook(_guarding)
    # Not by setattr: a host may refuse attributes, or answer with those of a network that it wraps.
    host.__dict__[_CARRIERS] = (*host.__dict__.get(_CARRIERS, ()), plug.site.carrier)


def join(host: nn.Module, plugs: list[Plug]) -> None:
    """Let ``plugs`` of ``host`` read each other within each call of it, where they read any."""
    if not any(plug.previous for plug in plugs):
        return
    relay = Relay()
    for plug in plugs:
        plug.join(relay)
    if _RELAYS not in host.__dict__:
        host.register_forward_pre_hook(_opening)
        host.register_forward_hook(_closing, always_call=True)
    host.__dict__[_RELAYS] = (*host.__dict__.get(_RELAYS, ()), relay)


def carried(model: nn.Module) -> Iterator[tuple[str, nn.Module, Plug]]:
    """The path of each carrier in ``model``, the carrier, and its plug."""
    for path, module in model.named_modules():
        plug = module._modules.get(CHILD)
        if isinstance(plug, Plug):
            yield path, module, plug


def hooked(carrier: nn.Module) -> bool:
    """Does the carrier still run its plug?"""
    return _leaving in carrier._forward_hooks.values() or _entering in carrier._forward_pre_hooks.values()


def missing(model: nn.Module) -> list[str]:
    """Paths of carriers that a host inside ``model`` was given and has no more."""
    lost = []
    for prefix, host in model.named_modules():
        for carrier in host.__dict__.get(_CARRIERS, ()):
            path = f"{prefix}.{carrier}".strip(".")
            try:
                found = model.get_submodule(path)
            except AttributeError:
                found = None
            if found is None or not isinstance(found._modules.get(CHILD), Plug):
                lost.append(path)
    return lost


def detach(host: nn.Module, gone: list[Plug]) -> None:
    """Take the plugs ``gone`` out of ``host`` with their hooks; once the last is out, nothing of ours is left."""
    for _, carrier, plug in list(carried(host)):
        if any(plug is one for one in gone):
            del carrier._modules[CHILD]
            _remove(carrier._forward_hooks, _leaving)
            _remove(carrier._forward_pre_hooks, _entering)
    used = [plug.relay for _, _, plug in carried(host)]
    for prefix, module in host.named_modules():
        if _RELAYS in module.__dict__:
            joined = tuple(relay for relay in module.__dict__[_RELAYS] if any(relay is one for one in used))
            module.__dict__[_RELAYS] = joined
            if not joined:
                del module.__dict__[_RELAYS]
                _remove(module._forward_pre_hooks, _opening)
                for key in _remove(module._forward_hooks, _closing):
                    del module._forward_hooks_always_called[key]
        if _CARRIERS in module.__dict__:
            left = {path for path, _, _ in carried(host)}
            kept = tuple(c for c in module.__dict__[_CARRIERS] if f"{prefix}.{c}".strip(".") in left)
            module.__dict__[_CARRIERS] = kept
            if not kept:
                del module.__dict__[_CARRIERS]
                _remove(module._load_state_dict_pre_hooks, _loading)
                _remove(module._forward_pre_hooks, _guarding)


def _remove(hooks: dict[int, Any], wanted: Any) -> list[int]:
    """Remove the hooks that are ``wanted``; returns the keys they had."""
    gone = [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is wanted]
    for key in gone:
        del hooks[key]
    return gone
