"""A convolution of a host that runs a mechanism in its place, and can be itself again.

The module stays the object it is: its class is changed, and the mechanism is a child. So its path, its hooks, its
attributes (``stride``) and a kernel that is kept are what they were, in copies and pickles too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import Convolution
from saccade.errors import UserError
from saccade.hooks import remove_hooks
from saccade.parent_class import base_class, set_class
from saccade.surgery.guard import NOTE, REPLACED, paths, unwatch, watch
from saccade.surgery.plug_module import plug_of

__all__ = [
    "CHILD", "Note", "Replaced", "Stand", "alone", "gone", "insert_at", "note", "original", "originals", "replaced",
    "restore",
]  # fmt: skip

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
    """Height and width of the map it receives, for the picture it was inspected with."""
    neutral: bool
    """Whether it started as the convolution."""
    kernel: dict[str, nn.Parameter | None] | None = None
    """The convolution's own parameters, put aside if the mechanism does not use them."""
    known: bool = True
    """Whether those put aside are the network's own. Not after loading: the file does not hold them."""

    @property
    def discarded(self) -> int:
        """The number of the convolution's weights that are not used."""
        return sum(p.numel() for p in (self.kernel or {}).values() if p is not None)


class Replaced(nn.Conv2d):
    """An ``nn.Conv2d`` that computes as a :class:`Convolution` with its own weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), as the convolution would."""
        mechanism = getattr(self, CHILD)
        if isinstance(mechanism, Convolution):
            return mechanism.convolve(input, self.weight, self.bias)
        y: Tensor = mechanism(input)  # networks pickled by earlier versions have this class for every mechanism
        return y

    def extra_repr(self) -> str:
        """Describe the convolution and what runs in its place."""
        return f"{nn.Conv2d.extra_repr(self)}, by {note(self).name}"

    def _apply(self, fn: Any, recurse: bool = True) -> Replaced:
        """Move what is put aside with the network."""
        with _whole(self):
            nn.Module._apply(self, fn, recurse)
        return self


class Stand(nn.Module):
    """An ``nn.Conv2d`` while a mechanism without a use for its kernel runs in its place.

    It has the attributes of the convolution but is no ``nn.Conv2d``: tools that initialise, prune or count those expect
    a weight.
    """

    weight: None
    bias: None

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), as the convolution would."""
        y: Tensor = getattr(self, CHILD)(input)
        return y

    extra_repr = Replaced.extra_repr
    _apply = Replaced._apply


def note(convolution: nn.Module) -> Note:
    """Return what is known of the replacement that ``convolution`` runs."""
    found: Note = convolution.__dict__[NOTE]
    return found


def original(convolution: nn.Module, x: Tensor) -> Tensor:
    """Return what the convolution itself makes of x (B, C, H, W): (B, O, Ho, Wo)."""
    kernel: Any = note(convolution).kernel or convolution._parameters
    c: Any = convolution
    return F.conv2d(x, kernel["weight"], kernel["bias"], c.stride, c.padding, c.dilation, c.groups)


def alone(convolution: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Return what the replacement made of x (B, C, H, W), without a plug, given the ``output`` of the module."""
    return output if plug_of(convolution) is None else base_class(convolution).forward(convolution, x)


@contextmanager
def _whole(convolution: nn.Module) -> Iterator[None]:
    """Give ``convolution`` its own parameters back inside the block."""
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
    """Make every replaced convolution of ``host`` itself inside the block."""
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


def insert_at(host: nn.Module, path: str, mechanism: nn.Module, known: Note) -> None:
    """Let the convolution at ``path`` run ``mechanism``; one that keeps the kernel loses its own."""
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
    """Yield the path of each replaced convolution in ``model``, and the convolution."""
    for path, module in model.named_modules():
        if NOTE in module.__dict__:
            yield path, module


def gone(model: nn.Module) -> list[str]:
    """Return the paths in ``model`` that were replaced and are something else now."""
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
            remove_hooks(each._load_state_dict_pre_hooks, _loading)


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
    """Load-state pre-hook of the host: a checkpoint without replacements leaves the mechanisms as they are.

    Its kernels are put aside if the mechanisms do not use them, for ``unplug``. If the checkpoint has some keys of the
    mechanisms, torch names those that are missing.
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
