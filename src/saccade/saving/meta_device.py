"""Build a network on the meta device, to check its size without allocating memory."""

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

_RANGE_AND_LIST_FUNCTIONS = (torch.arange, torch.linspace, torch.tensor)
_MAX_CPU_VALUES = 2**20
"""Number of values up to which a range or list is on the CPU instead of the meta device."""


class TooLargeError(UserError):
    """Error about a file whose network is far larger than its weights."""


class Limits:
    """Bounds on the size of a network, enforced while it is built from a file.

    The bounds are generous, because constructors create more tensors than the network keeps.

    Args:
        shapes: maps key to the shape of a tensor in the file.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.values_in_file = sum(_product(shape) for shape in shapes.values())
        self.max_option = max(65_536, *(side for shape in shapes.values() for side in shape), 0)
        """Largest integer allowed in an option."""
        self.max_values = 16 * self.values_in_file + 2**26
        self.max_modules = 8 * len(shapes) + 10_000


class _ValuesOnCpu(TorchFunctionMode):
    """Creates ranges and lists on the CPU, because constructors read their values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RANGE_AND_LIST_FUNCTIONS and "device" not in kwargs:
            with torch._C.DisableTorchFunction():
                length = func(*args, **kwargs, device="meta").numel()
            kwargs["device"] = "cpu" if length <= _MAX_CPU_VALUES else "meta"
        return func(*args, **kwargs)


def call_on_meta_device(build: Callable[[], nn.Module], limits: Limits, subject: str) -> nn.Module:
    """Return the network that ``build`` builds, on the meta device; ``subject`` begins the messages.

    Raises:
        TooLargeError: the limits are exceeded.
        Exception: any exception of ``build``.
    """
    try:
        with _enforce(limits, subject), torch.device("meta"):
            return build()
    except Exception as error:
        # A constructor may read values, which meta tensors lack. The catalogue wraps the RuntimeError in a UserError.
        if not isinstance(error.__cause__ if isinstance(error, UserError) else error, RuntimeError):
            raise
        with _enforce(limits, subject), torch.device("meta"), _ValuesOnCpu():
            return build()


@contextmanager
def _enforce(limits: Limits, subject: str) -> Iterator[None]:
    """Raise TooLargeError once this thread has registered more values or modules than allowed."""
    n_values = n_modules = 0
    thread = threading.get_ident()  # hooks are global

    def count_values(module: nn.Module, name: str, new: Tensor | None) -> None:
        nonlocal n_values
        if threading.get_ident() != thread:
            return
        n_values += new.numel() if new is not None and not nn.parameter.is_lazy(new) else 0
        if n_values > limits.max_values:
            raise TooLargeError(
                f"{subject} describes a network of more than {limits.max_values:,} values; model.safetensors holds "
                f"{limits.values_in_file:,}"
            )

    def count_modules(module: nn.Module, name: str, new: nn.Module | None) -> None:
        nonlocal n_modules
        n_modules += threading.get_ident() == thread
        if n_modules > limits.max_modules:
            raise TooLargeError(
                f"{subject} describes a network of more than {limits.max_modules:,} modules, too many for the tensors "
                "of model.safetensors"
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
    except Exception:  # fails for a weight computed from others, for example
        return None


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
