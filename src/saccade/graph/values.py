"""The records of a trace: module calls, tensor values, additions and convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

__all__ = ["Addition", "ConvolutionCall", "ModuleCall", "Value", "ValueKey", "is_within"]

ValueKey = tuple[int, int]
"""Identity of a value: the serial number of its tensor and the tensor's version."""


@dataclass(eq=False)
class ModuleCall:
    """One call of one module; ticks are readings of the trace's clock."""

    path: str
    module: nn.Module
    parent: ModuleCall | None
    entry_tick: int
    first_input: ValueKey | None
    """Key of the first positional argument, if it is a tensor."""
    inputs: tuple[ValueKey, ...]
    runs_under_autocast: bool
    """True if the host's own code runs the call under autocast."""
    exit_tick: int = -1
    single_output: ValueKey | None = None
    """Key of the output, if it is one tensor."""
    outputs: tuple[ValueKey, ...] = ()
    """Keys of all output tensors, nested ones included."""


@dataclass(eq=False)
class Value:
    """Metadata of one tensor value."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    tick: int
    call: ModuleCall | None
    """Innermost module call that computed the value."""
    parents: tuple[ValueKey, ...]
    is_fixed_size: bool
    """True if height and width do not scale with the image: a globally pooled value or a constant."""
    is_matrix: bool
    """True for a matrix product, whose last dimensions are not height and width."""
    users: list[ModuleCall | None] = field(default_factory=list)
    """Innermost module call of each use of the value."""


@dataclass(eq=False)
class Addition:
    """Sum ``left + right`` of two maps of one shape."""

    call: ModuleCall
    tick: int
    left: ValueKey
    right: ValueKey


@dataclass(frozen=True)
class ConvolutionCall:
    """A call of a convolution on the map ``source``."""

    source: ValueKey
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    call: ModuleCall
    """Innermost module call around the convolution."""

    @property
    def is_spatial(self) -> bool:
        """True if the kernel is larger than 1×1."""
        return max(self.kernel) > 1

    @property
    def is_depthwise(self) -> bool:
        """True if every input channel forms a group."""
        return self.groups == self.in_channels > 1


def is_within(call: ModuleCall | None, path: str) -> bool:
    """Return True if ``call`` is a call of the module at ``path`` or was made inside one."""
    return call is not None and (call.path == path or is_within(call.parent, path))
