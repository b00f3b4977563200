"""Build a network on the meta device, before memory is allocated."""

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

__all__ = ["Limits", "TooLargeError", "call_on_meta_device", "copy_on_meta_device"]

_RANGE_FUNCTIONS = (torch.arange, torch.linspace, torch.tensor)
_MAX_RANGE = 2**20
"""Number of values up to which a range or list is allocated on the CPU instead of the meta device."""


class TooLargeError(UserError):
    """A file describes a network with more values or modules than its weights account for."""


class Limits:
    """Bounds on the network that a file describes, enforced while it is built.

    Generous, because constructors create more than they keep; keys and shapes are compared exactly afterwards.

    Args:
        shapes: maps key to the shape of a tensor in the file.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.values_in_file = sum(_product(shape) for shape in shapes.values())
        self.largest = max(65_536, *(side for shape in shapes.values() for side in shape), 0)
        """Largest integer allowed in an option."""
        self.values = 16 * self.values_in_file + 2**26
        self.modules = 8 * len(shapes) + 10_000


class _RangesOnCpu(TorchFunctionMode):
    """Creates ranges on the CPU, because constructors compute widths and depths from their values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RANGE_FUNCTIONS and "device" not in kwargs:
            with torch._C.DisableTorchFunction():
                length = func(*args, **kwargs, device="meta").numel()
            kwargs["device"] = "cpu" if length <= _MAX_RANGE else "meta"
        return func(*args, **kwargs)


def call_on_meta_device(build: Callable[[], nn.Module], limits: Limits, owner: str) -> nn.Module:
    """Return the network that ``build`` builds, on the meta device; ``owner`` is the file that describes it.

    Raises:
        TooLargeError: the limits are exceeded.
        Exception: any exception of ``build``.
    """
    try:
        with _enforce(limits, owner), torch.device("meta"):
            return build()
    except Exception as error:
        # The constructor may have read values of a tensor, which meta tensors lack; the catalogue wraps the
        # RuntimeError in a UserError. Retry with real ranges.
        if not isinstance(error.__cause__ if isinstance(error, UserError) else error, RuntimeError):
            raise
        with _enforce(limits, owner), torch.device("meta"), _RangesOnCpu():
            return build()


@contextmanager
def _enforce(limits: Limits, owner: str) -> Iterator[None]:
    n_values = n_modules = 0
    thread = threading.get_ident()  # the hooks are called for the networks of all threads

    def count_values(module: nn.Module, name: str, new: Tensor | None) -> None:
        nonlocal n_values
        if threading.get_ident() != thread:
            return
        n_values += new.numel() if new is not None and not nn.parameter.is_lazy(new) else 0
        if n_values > limits.values:
            raise TooLargeError(
                f"{owner} describes a network of more than {limits.values:,} values; model.safetensors holds "
                f"{limits.values_in_file:,}"
            )

    def count_modules(module: nn.Module, name: str, new: nn.Module | None) -> None:
        nonlocal n_modules
        n_modules += threading.get_ident() == thread
        if n_modules > limits.modules:
            raise TooLargeError(
                f"{owner} describes a network of more than {limits.modules:,} modules, too many for the tensors of "
                "model.safetensors"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count_values),
        registration.register_module_buffer_registration_hook(count_values),
        registration.register_module_module_registration_hook(count_modules),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_on_meta_device(network: nn.Module) -> nn.Module | None:
    """Return a copy of ``network`` on the meta device, or None if it cannot be copied."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    try:
        return copy.deepcopy(network, memo)
    except Exception:  # a network may contain anything, such as a weight computed from others
        return None


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
