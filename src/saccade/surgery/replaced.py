"""A convolution of a host that runs a mechanism in its place, and is itself again when that is taken out.

The module stays the object it is: its class is changed, as ``torch.nn.utils.parametrize`` does, and the mechanism is
a child. So its path, its hooks, what the host reads of it (``stride``, ``out_channels``) and, where the mechanism
keeps it, its kernel are what they were. Class and hooks are of this module, so that copies and pickles keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.attachment import base_class, set_class
from saccade.errors import UserError
from saccade.bases import Convolution
from saccade.surgery.guard import NOTE, REPLACED, paths, unwatch, watch
from saccade.surgery.plug_module import held

__all__ = [
    "CHILD",
    "Note",
    "Replaced",
    "Stand",
    "alone",
    "gone",
    "note",
    "original",
    "originals",
    "put",
    "replaced",
    "restore",
]

CHILD = "saccade_conv"
"""The name of a mechanism in the convolution that runs it."""

_KERNEL = ("weight", "bias")


@dataclass
class Note:
    """What is known of one replacement."""

    name: str
    """A name of the catalogue or ``package.module:Class``."""
    options: dict[str, Any]
    """Those it was made with, besides the convolution's own numbers."""
    position: str
    stage: int
    size: tuple[int, int]
    """Height and width of the map it receives, for the picture the host was looked at with."""
    neutral: bool
    """Did it start as the convolution?"""
    kernel: dict[str, nn.Parameter | None] | None = None
    """The convolution's own parameters, put aside where the mechanism has no use for them."""
    known: bool = True
    """Are those put aside the network's own? Not after loading: the file of a replaced network has none."""

    @property
    def discarded(self) -> int:
        """How many of the convolution's weights the network has no more."""
        return sum(p.numel() for p in (self.kernel or {}).values() if p is not None)


class Replaced(nn.Conv2d):
    """An ``nn.Conv2d`` of a host that computes as a :class:`Convolution`, with its own weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), of the size that the convolution would give it."""
        mechanism = getattr(self, CHILD)
        if isinstance(mechanism, Convolution):
            return mechanism.convolve(input, self.weight, self.bias)
        y: Tensor = mechanism(input)  # networks pickled by earlier versions have this class for every mechanism
        return y

    def extra_repr(self) -> str:
        """What the convolution says of itself, and what runs in its place."""
        return f"{nn.Conv2d.extra_repr(self)}, by {note(self).name}"

    def _apply(self, fn: Any, recurse: bool = True) -> Replaced:
        """What is put aside goes where the network goes."""
        with _whole(self):
            nn.Module._apply(self, fn, recurse)
        return self


class Stand(nn.Module):
    """What an ``nn.Conv2d`` of a host is while a mechanism without a use for its kernel runs in its place.

    It has the attributes of the convolution (``stride``, ``out_channels``). It is no ``nn.Conv2d``: whoever asks for
    those, to initialise, prune or count them, expects a weight.
    """

    weight: None
    bias: None

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), of the size that the convolution would give it."""
        y: Tensor = getattr(self, CHILD)(input)
        return y

    extra_repr = Replaced.extra_repr
    _apply = Replaced._apply


def note(convolution: nn.Module) -> Note:
    """What is known of the replacement that ``convolution`` runs."""
    found: Note = convolution.__dict__[NOTE]
    return found


def original(convolution: nn.Module, x: Tensor) -> Tensor:
    """Return what the convolution itself makes of x (B, C, H, W): (B, O, Ho, Wo)."""
    kernel: Any = note(convolution).kernel or convolution._parameters
    c: Any = convolution
    return F.conv2d(x, kernel["weight"], kernel["bias"], c.stride, c.padding, c.dilation, c.groups)


def alone(convolution: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Return what the replacement made of x (B, C, H, W), given what the module returned: its plug not counted."""
    return output if held(convolution) is None else base_class(convolution).forward(convolution, x)


@contextmanager
def _whole(convolution: nn.Module) -> Iterator[None]:
    """``convolution`` with its own parameters, where they were put aside."""
    known = note(convolution)
    if known.kernel is None:
        yield
        return
    convolution._parameters.update(known.kernel)
    try:
        yield
    finally:
        known.kernel = {name: convolution._parameters[name] for name in _KERNEL}
        convolution._parameters.update(dict.fromkeys(_KERNEL))


@contextmanager
def originals(host: nn.Module) -> Iterator[None]:
    """``host`` as if nothing in it were replaced."""
    found = [(module, base_class(module)) for _, module in replaced(host)]
    found = [(module, kind) for module, kind in found if kind in (Replaced, Stand)]
    with ExitStack() as stack:
        for module, _ in found:
            stack.enter_context(_whole(module))
        try:
            for module, _ in found:
                set_class(module, nn.Conv2d)
            yield
        finally:
            for module, kind in found:
                set_class(module, kind)


def put(host: nn.Module, path: str, mechanism: nn.Module, known: Note) -> None:
    """Let the convolution at ``path`` run ``mechanism``; where that keeps the kernel, its own is dropped."""
    convolution = host.get_submodule(path)
    keeps = isinstance(mechanism, Convolution)
    if keeps:
        mechanism._parameters.update(dict.fromkeys(_KERNEL))
    else:
        known.kernel = {name: convolution._parameters[name] for name in _KERNEL}
        convolution._parameters.update(dict.fromkeys(_KERNEL))
    convolution.add_module(CHILD, mechanism.train(convolution.training))
    convolution.__dict__[NOTE] = known
    # torch.fx and what is built on it keep a module of torch.nn whole.
    convolution.__dict__["__module__"] = "torch.nn"
    set_class(convolution, Replaced if keeps else Stand)
    if REPLACED not in vars(host):
        host.register_load_state_dict_pre_hook(_loading)
    watch(host, path, REPLACED)


def replaced(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The path of each replaced convolution in ``model``, and the convolution."""
    for path, module in model.named_modules():
        if NOTE in module.__dict__:
            yield path, module


def gone(model: nn.Module) -> list[str]:
    """Paths of convolutions that a host inside ``model`` had replaced and that are something else now."""
    modules = dict(model.named_modules())
    return [path for path in paths(model, REPLACED) if _kind(modules.get(path)) not in (Replaced, Stand)]


def _kind(module: nn.Module | None) -> type[nn.Module] | None:
    return None if module is None else base_class(module)


def restore(host: nn.Module, only: set[str] | None = None) -> None:
    """Make the replaced convolutions of ``host`` themselves again, those at the paths ``only`` or all.

    Raises:
        UserError: one has become something else, or its own kernel is not known; nothing is restored then.
    """
    found = {path: module for path, module in replaced(host) if only is None or path in only}
    changed = [
        f"{path} is a {type(module).__name__}" for path, module in found.items()
        if base_class(module) not in (Replaced, Stand)
    ]  # fmt: skip
    if changed:
        raise UserError(
            f"{', '.join(changed)}: a replaced convolution was re-parametrised since; undo that before unplug"
        )
    unknown = [path for path, module in found.items() if note(module).kernel and not note(module).known]
    if unknown:
        raise UserError(
            f"the kernel of {', '.join(unknown[:4])}{' …' * (len(unknown) > 4)} is in no file: the network was saved "
            f"after {note(found[unknown[0]]).name} had replaced it. Make the host anew instead of unplugging it"
        )
    for module in found.values():
        known = note(module)
        if known.kernel is not None:
            module._parameters.update(known.kernel)
        del module._modules[CHILD], module.__dict__[NOTE]
        module.__dict__.pop("__module__", None)
        set_class(module, nn.Conv2d)
    unwatch(host, REPLACED, {path for path, _ in replaced(host)})
    for _, each in host.named_modules():
        if REPLACED not in vars(each):
            for key, hook in list(each._load_state_dict_pre_hooks.items()):
                if getattr(hook, "hook", hook) is _loading:
                    del each._load_state_dict_pre_hooks[key]


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
    """Load-state pre-hook of the host: a checkpoint that knows no replacement leaves the mechanisms as they are.

    Kernels that the network has no use for are put aside, so that ``unplug`` gives back the network of the checkpoint.
    A checkpoint that has some keys of the mechanisms and not all is left to torch, which names those that are missing.
    """
    found = [
        (f"{prefix}{path}.", module)
        for path, module in host.named_modules(remove_duplicate=False)
        if base_class(module) in (Replaced, Stand)
    ]
    own = {
        f"{path}{CHILD}.{key}": value
        for path, module in found
        for key, value in getattr(module, CHILD).state_dict(keep_vars=True).items()
    }
    kernels = {f"{path}{name}" for path, module in found for name in note(module).kernel or {}}
    if own.keys() & state.keys() or not (own or kernels & state.keys()):  # a mechanism may have nothing to save
        return
    state.update(own)
    for path, module in found:
        for name, kept in (note(module).kernel or {}).items():
            value = state.pop(path + name, None)
            if value is None:
                if kept is not None:
                    missing.append(path + name)
            elif kept is None:
                unexpected.append(path + name)
            elif kept.shape != value.shape:
                errors.append(f"size mismatch for {path}{name}: {tuple(value.shape)} for {tuple(kept.shape)}")
            else:
                with torch.no_grad():
                    kept.copy_(value)
                note(module).known = True
