"""What a trace records: calls of modules, values of tensors, sums and convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

__all__ = ["Addition", "ConvolutionCall", "Key", "ModuleCall", "Value", "within"]

Key = tuple[int, int]
"""The serial number of a tensor object, and the object's version."""


@dataclass(eq=False)
class ModuleCall:
    """One call of one module; ``entered`` and ``left`` are ticks of the trace's clock."""

    path: str
    module: nn.Module
    parent: ModuleCall | None
    entered: int
    first: Key | None
    """The first positional argument, where it is a tensor."""
    received: tuple[Key, ...]
    autocast: bool
    """Whether the host, by itself, runs it under autocast."""
    left: int = -1
    returned: Key | None = None
    """The value returned, where it is one tensor."""
    outputs: tuple[Key, ...] = ()
    """Every value returned, in nested tuples, lists, mappings and dataclasses too."""


@dataclass(eq=False)
class Value:
    """What is known of one value."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    born: int
    call: ModuleCall | None
    """The innermost running module."""
    parents: tuple[Key, ...]
    fixed: bool
    """Height and width do not follow the picture's: it was pooled globally, or holds no picture."""
    matrix: bool
    """It is a product of matrices, so that its last dimensions are no height and width."""
    users: list[ModuleCall | None] = field(default_factory=list)
    """The innermost running modules when it was used."""


@dataclass(eq=False)
class Addition:
    """``left + right`` of two maps of one shape."""

    call: ModuleCall
    tick: int
    left: Key
    right: Key


@dataclass(frozen=True)
class ConvolutionCall:
    """A convolution of the map ``source``."""

    source: Key
    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    call: ModuleCall
    """The innermost running module."""

    @property
    def spatial(self) -> bool:
        """Whether it looks at more than one pixel."""
        return max(self.kernel) > 1

    @property
    def depthwise(self) -> bool:
        """Whether it keeps each channel to itself."""
        return self.groups == self.inputs > 1


def within(call: ModuleCall | None, path: str) -> bool:
    """Return whether ``call`` is a call of the module at ``path``, or ran inside one."""
    return call is not None and (call.path == path or within(call.parent, path))
