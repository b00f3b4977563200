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
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.form import Convolution

__all__ = ["CHILD", "Note", "Replaced", "gone", "note", "originals", "put", "replaced", "restore"]

CHILD = "saccade_conv"
"""The name of a mechanism in the convolution that runs it."""

_PATHS = "_saccade_replaced"
"""The host's own list of its replaced convolutions: without it one that was exchanged would go unnoticed."""

_NOTE = "_saccade_note"
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
    """An ``nn.Conv2d`` of a host whose place a mechanism takes.

    A :class:`Convolution` works with the weight and bias of this module, any other with its own parameters; these here
    are then None.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), of the size that the convolution would give it."""
        mechanism = getattr(self, CHILD)
        if isinstance(mechanism, Convolution):
            return mechanism.convolve(input, self.weight, self.bias)
        y: Tensor = mechanism(input)
        return y

    def extra_repr(self) -> str:
        """What the convolution says of itself, and what runs in its place."""
        return f"{super().extra_repr()}, by {note(self).name}"

    def _apply(self, fn: Any, recurse: bool = True) -> Replaced:
        """What is put aside goes where the network goes."""
        with _whole(self):
            super()._apply(fn, recurse)
        return self


def note(convolution: nn.Module) -> Note:
    """What is known of the replacement that ``convolution`` runs."""
    found: Note = convolution.__dict__[_NOTE]
    return found


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


def _turn(convolution: nn.Module, into: type[nn.Module]) -> None:
    """Change the class of a convolution, as ``parametrize`` does."""
    convolution.__class__ = into


@contextmanager
def originals(host: nn.Module) -> Iterator[None]:
    """``host`` as if nothing in it were replaced."""
    found = [module for _, module in replaced(host) if type(module) is Replaced]
    with ExitStack() as stack:
        for module in found:
            stack.enter_context(_whole(module))
        try:
            for module in found:
                _turn(module, nn.Conv2d)
            yield
        finally:
            for module in found:
                _turn(module, Replaced)


def put(host: nn.Module, path: str, mechanism: nn.Module, known: Note) -> None:
    """Let the convolution at ``path`` run ``mechanism``; where that keeps the kernel, its own is dropped."""
    convolution = host.get_submodule(path)
    if isinstance(mechanism, Convolution):
        mechanism._parameters.update(dict.fromkeys(_KERNEL))
    else:
        known.kernel = {name: convolution._parameters[name] for name in _KERNEL}
        convolution._parameters.update(dict.fromkeys(_KERNEL))
    convolution.add_module(CHILD, mechanism.train(convolution.training))
    convolution.__dict__[_NOTE] = known
    _turn(convolution, Replaced)
    if _PATHS not in host.__dict__:
        host.register_load_state_dict_pre_hook(_loading)
    host.__dict__[_PATHS] = (*host.__dict__.get(_PATHS, ()), path)


def replaced(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The path of each replaced convolution in ``model``, and the convolution."""
    for path, module in model.named_modules():
        if _NOTE in module.__dict__ and isinstance(module, nn.Conv2d):
            yield path, module


def gone(model: nn.Module) -> list[str]:
    """Paths of convolutions that a host inside ``model`` had replaced and that are something else now."""
    lost = []
    for prefix, host in model.named_modules():
        for path in host.__dict__.get(_PATHS, ()):
            module: nn.Module | None = host
            for name in path.split("."):
                module = module and module._modules.get(name)
            if module is None or type(module) is not Replaced:
                lost.append(f"{prefix}.{path}".strip("."))
    return lost


def restore(host: nn.Module, only: set[str] | None = None) -> None:
    """Make the replaced convolutions of ``host`` themselves again, those at the paths ``only`` or all.

    Raises:
        UserError: one has become something else, or its own kernel is not known; nothing is restored then.
    """
    found = {path: module for path, module in replaced(host) if only is None or path in only}
    changed = [f"{path} is a {type(module).__name__}" for path, module in found.items() if type(module) is not Replaced]
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
        del module._modules[CHILD], module.__dict__[_NOTE]
        _turn(module, nn.Conv2d)
    for _, each in host.named_modules():
        if _PATHS in each.__dict__:
            still = {path for path, _ in replaced(each)}  # a module that was taken out of the host is not there at all
            left = tuple(path for path in each.__dict__[_PATHS] if path in still)
            each.__dict__[_PATHS] = left
            if not left:
                del each.__dict__[_PATHS]
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
        if type(module) is Replaced
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
