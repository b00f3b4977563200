"""A network on the meta device: its keys and shapes without its memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from saccade.errors import UserError

__all__ = ["Limits", "TooLargeError", "clone", "sketched"]

_RANGES = (torch.arange, torch.linspace, torch.tensor)
_LONGEST = 2**20
"""Values of a range, or of a list, that is made for real."""


class TooLargeError(UserError):
    """A file describes a network of more values or modules than its weights account for."""


class Limits:
    """How large the network of a file may become while it is built.

    Generous, for constructors make more than they keep; afterwards, keys and shapes are compared exactly.

    Args:
        shapes: of the tensors in the file, by key.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        held = sum(_product(shape) for shape in shapes.values())
        self.largest = max(65_536, *(side for shape in shapes.values() for side in shape), 0)
        """The largest whole number that an option can mean."""
        self.values = 16 * held + 2**26
        self.modules = 8 * len(shapes) + 10_000
        self.held = held


class _Ranges(TorchFunctionMode):
    """Ranges have values: constructors compute widths and depths from them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RANGES and "device" not in kwargs:
            with torch._C.DisableTorchFunction():
                length = func(*args, **kwargs, device="meta").numel()
            kwargs["device"] = "cpu" if length <= _LONGEST else "meta"
        return func(*args, **kwargs)


def sketched(make: Callable[[], nn.Module], limits: Limits, owner: str) -> nn.Module:
    """Return what ``make`` makes on the meta device.

    Args:
        make: constructs a network.
        limits: for all parameters and modules made meanwhile.
        owner: the file that describes it.

    Raises:
        TooLargeError: more is made than the limits allow.
        Exception: whatever ``make`` raises.
    """
    try:
        with _bounded(limits, owner), torch.device("meta"):
            return make()
    except Exception as error:
        # It may have read values of a tensor, which here has none; the catalogue wraps what a constructor raises.
        if not isinstance(error.__cause__ if isinstance(error, UserError) else error, RuntimeError):
            raise
        with _bounded(limits, owner), torch.device("meta"), _Ranges():
            return make()


@contextmanager
def _bounded(limits: Limits, owner: str) -> Iterator[None]:
    values = modules = 0
    thread = threading.get_ident()  # the hooks are called for the networks of all threads

    def count(module: nn.Module, name: str, new: Tensor | None) -> None:
        nonlocal values
        if threading.get_ident() != thread:
            return
        values += new.numel() if new is not None and not nn.parameter.is_lazy(new) else 0
        if values > limits.values:
            raise TooLargeError(
                f"{owner} describes a network of more than {limits.values:,} values; model.safetensors holds "
                f"{limits.held:,}"
            )

    def count_modules(module: nn.Module, name: str, new: nn.Module | None) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > limits.modules:
            raise TooLargeError(
                f"{owner} describes a network of more than {limits.modules:,} modules, too many for the tensors of "
                "model.safetensors"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count_modules),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def clone(network: nn.Module) -> nn.Module | None:
    """Return a copy of ``network`` on the meta device; None where it cannot be copied."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    try:
        return copy.deepcopy(network, memo)
    except Exception:  # a network may hold anything, such as a weight that is computed from others
        return None


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
