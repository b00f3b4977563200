"""Convolutions of a host that run a mechanism instead, and can be restored.

The module object stays; its class changes, and the mechanism becomes its child.
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
from saccade.surgery.guard import REPLACEMENT_INFO, REPLACEMENT_PATHS, record_path, recorded_paths, retain_paths
from saccade.surgery.plug_module import plug_of

# Note, Replaced and Stand are names in networks pickled by earlier versions.
__all__ = [
    "CHILD", "KernellessConvolution", "Note", "Replaced", "ReplacedConvolution", "ReplacementInfo", "Stand",
    "insert_at", "keep_replacements", "lost_replacements", "original_output", "output_without_plug",
    "replaced_convolutions", "replacement_info", "restore", "restored",
]  # fmt: skip

CHILD = "saccade_conv"
"""Name of a mechanism in the convolution that runs it; not ``parent_class.CHILD``."""

_PARAMETER_NAMES = ("weight", "bias")
"""Names of the parameters of a convolution."""


@dataclass
class ReplacementInfo:
    """Metadata of one replacement."""

    name: str
    """Catalogue name, or ``package.module:Class``."""
    options: dict[str, Any]
    """Options the mechanism was built with, without the geometry of the convolution."""
    position: str
    stage: int
    size: tuple[int, int]
    """Height and width of the convolution's input map."""
    neutral: bool
    """Whether the mechanism initially computed the convolution's output."""
    kernel: dict[str, nn.Parameter | None] | None = None
    """Unused weight and bias of the convolution; None if the mechanism uses them."""
    has_original_kernel: bool = True
    """Whether ``kernel`` has the original values; False after loading a file without them."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        new_names = {"known": "has_original_kernel"}  # of attributes in pickles of earlier versions
        vars(self).update({new_names.get(key, key): value for key, value in state.items()})

    @property
    def discarded(self) -> int:
        """Return the number of the convolution's weights that are not used."""
        return sum(p.numel() for p in (self.kernel or {}).values() if p is not None)


class ReplacedConvolution(nn.Conv2d):
    """An nn.Conv2d that runs a kernel-keeping mechanism on its own weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), the shape of the convolution's output."""
        mechanism = getattr(self, CHILD)
        if isinstance(mechanism, Convolution):
            return mechanism.convolve(input, self.weight, self.bias)
        y: Tensor = mechanism(input)  # networks pickled by earlier versions have this class for every mechanism
        return y

    def extra_repr(self) -> str:
        """Return the geometry of the convolution and the name of the mechanism."""
        return f"{nn.Conv2d.extra_repr(self)}, by {replacement_info(self).name}"

    def _apply(self, fn: Any, recurse: bool = True) -> ReplacedConvolution:
        """Apply ``fn`` to a stored kernel too, so that it moves with the network."""
        with _original_parameters(self):
            nn.Module._apply(self, fn, recurse)
        return self


class KernellessConvolution(nn.Module):
    """A convolution replaced by a mechanism that does not use its kernel.

    It is not an ``nn.Conv2d``, because tools that initialise, prune or count convolutions expect a weight.
    """

    weight: None
    bias: None

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, Ho, Wo), the shape of the convolution's output."""
        y: Tensor = getattr(self, CHILD)(input)
        return y

    extra_repr = ReplacedConvolution.extra_repr
    _apply = ReplacedConvolution._apply


_CLASSES = (ReplacedConvolution, KernellessConvolution)


def replacement_info(convolution: nn.Module) -> ReplacementInfo:
    """Return the metadata of the replacement of ``convolution``."""
    info: ReplacementInfo = convolution.__dict__[REPLACEMENT_INFO]
    return info


def original_output(convolution: nn.Module, x: Tensor) -> Tensor:
    """Return the output (B, O, Ho, Wo) that the original convolution has for x (B, C, H, W)."""
    kernel: Any = replacement_info(convolution).kernel or convolution._parameters
    c: Any = convolution
    return F.conv2d(x, kernel["weight"], kernel["bias"], c.stride, c.padding, c.dilation, c.groups)


def output_without_plug(convolution: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Return the output of the replacement for x (B, C, H, W) before any plug."""
    return output if plug_of(convolution) is None else base_class(convolution).forward(convolution, x)


@contextmanager
def _original_parameters(convolution: nn.Module) -> Iterator[None]:
    """Put the stored kernel back into ``convolution`` for the duration of the block."""
    info = replacement_info(convolution)
    if info.kernel is None:
        yield
        return
    convolution._parameters.update(info.kernel)
    try:
        yield
    finally:
        info.kernel = {name: convolution._parameters[name] for name in _PARAMETER_NAMES}
        convolution._parameters.update(dict.fromkeys(_PARAMETER_NAMES))


@contextmanager
def restored(host: nn.Module) -> Iterator[None]:
    """Restore the replaced convolutions of ``host`` for the duration of the block."""
    modules = [(module, base_class(module)) for _, module in replaced_convolutions(host)]
    modules = [(module, cls) for module, cls in modules if cls in _CLASSES]
    with ExitStack() as stack:
        for module, _ in modules:
            stack.enter_context(_original_parameters(module))
        try:
            for module, _ in modules:
                set_class(module, nn.Conv2d)
            yield
        finally:
            for module, cls in modules:
                set_class(module, cls)


def insert_at(host: nn.Module, path: str, mechanism: nn.Module, info: ReplacementInfo) -> None:
    """Replace the convolution at ``path`` by ``mechanism``, and store an unused kernel in ``info``."""
    convolution = host.get_submodule(path)
    keeps_kernel = isinstance(mechanism, Convolution)
    if keeps_kernel:
        mechanism._parameters.update(dict.fromkeys(_PARAMETER_NAMES))
    else:
        info.kernel = {name: convolution._parameters[name] for name in _PARAMETER_NAMES}
        convolution._parameters.update(dict.fromkeys(_PARAMETER_NAMES))
    convolution.add_module(CHILD, mechanism.train(convolution.training))
    convolution.__dict__[REPLACEMENT_INFO] = info
    # torch.fx treats modules of torch.nn as leaves.
    convolution.__dict__["__module__"] = "torch.nn"
    set_class(convolution, ReplacedConvolution if keeps_kernel else KernellessConvolution)
    if REPLACEMENT_PATHS not in vars(host):
        host.register_load_state_dict_pre_hook(keep_replacements)
    record_path(host, path, REPLACEMENT_PATHS)


def replaced_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path of each replaced convolution in ``model``, and the convolution."""
    for path, module in model.named_modules():
        if REPLACEMENT_INFO in module.__dict__:
            yield path, module


def lost_replacements(model: nn.Module) -> list[str]:
    """Return the recorded paths in ``model`` whose module is no longer a replaced convolution."""
    modules = dict(model.named_modules())
    return [
        path for path in recorded_paths(model, REPLACEMENT_PATHS)
        if path not in modules or base_class(modules[path]) not in _CLASSES
    ]  # fmt: skip


def restore(host: nn.Module, only: set[str] | None = None) -> None:
    """Restore the replaced convolutions of ``host``: those at the paths ``only``, or all.

    Raises:
        UserError: a convolution was re-parametrised, or its original kernel is unknown. Nothing is restored then.
    """
    modules = {path: module for path, module in replaced_convolutions(host) if only is None or path in only}
    reparametrised = [
        f"{path} is a {type(module).__name__}" for path, module in modules.items()
        if base_class(module) not in _CLASSES
    ]  # fmt: skip
    if reparametrised:
        raise UserError(
            f"{', '.join(reparametrised)}: a replaced convolution was re-parametrised since; undo that before unplug"
        )
    infos = {path: replacement_info(module) for path, module in modules.items()}
    unknown = [path for path, info in infos.items() if info.kernel and not info.has_original_kernel]
    if unknown:
        raise UserError(
            f"the kernel of {', '.join(unknown[:4])}{' …' * (len(unknown) > 4)} was not saved: the network was saved "
            f"after {infos[unknown[0]].name} had replaced it. Build the host again instead of unplugging it"
        )
    for path, module in modules.items():
        kernel = infos[path].kernel
        if kernel is not None:
            module._parameters.update(kernel)
        del module._modules[CHILD], module.__dict__[REPLACEMENT_INFO]
        module.__dict__.pop("__module__", None)
        set_class(module, nn.Conv2d)
    retain_paths(host, REPLACEMENT_PATHS, {path for path, _ in replaced_convolutions(host)})
    for _, module in host.named_modules():
        if REPLACEMENT_PATHS not in vars(module):
            remove_hooks(module._load_state_dict_pre_hooks, keep_replacements)


def keep_replacements(
    host: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    errors: list[str],
) -> None:
    """Load-state pre-hook of the host: leave the mechanisms as they are if the checkpoint has no keys of theirs.

    Kernels in such a checkpoint that the mechanisms do not use are stored for ``unplug``.
    """
    modules = [
        (f"{prefix}{path}.", module)
        for path, module in host.named_modules(remove_duplicate=False)
        if base_class(module) in _CLASSES
    ]
    mechanism_state = {
        f"{path}{CHILD}.{key}": value
        for path, module in modules
        for key, value in getattr(module, CHILD).state_dict(keep_vars=True).items()
    }
    kernel_keys = {f"{path}{name}" for path, module in modules for name in replacement_info(module).kernel or {}}
    if mechanism_state.keys() & state.keys():
        return
    if not (mechanism_state or kernel_keys & state.keys()):  # a mechanism may have nothing to save
        return
    state.update(mechanism_state)
    for path, module in modules:
        info = replacement_info(module)
        for name, stored in (info.kernel or {}).items():
            value = state.pop(path + name, None)
            if value is None:
                if stored is not None:
                    missing_keys.append(path + name)
            elif stored is None:
                unexpected_keys.append(path + name)
            elif stored.shape != value.shape:
                errors.append(f"size mismatch for {path}{name}: {tuple(value.shape)} for {tuple(stored.shape)}")
            else:
                with torch.no_grad():
                    stored.copy_(value)
                info.has_original_kernel = True


Note, Replaced, Stand, _loading = ReplacementInfo, ReplacedConvolution, KernellessConvolution, keep_replacements
