"""Recorded forward passes: the outputs of modules, and the tensors from which each was computed.

A value is one version of a tensor, because in-place changes make new values. Hooks record modules; a
``TorchFunctionMode`` records the functions between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from saccade.errors import UserError
from saccade.graph.hosts import check_traceable, check_two_dimensional
from saccade.graph.inputs import example_input
from saccade.graph.states import device_types, without_gradients
from saccade.graph.values import Addition, ConvolutionCall, ModuleCall, Value, ValueKey
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.tensors import tensors_in

__all__ = ["Arguments", "Trace", "run", "trace"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward pass."""

_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm"}
_ADDS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_CONVOLUTIONS = {"conv2d", "deform_conv2d"}
_CONCATENATIONS = {"cat", "concat", "concatenate"}
_ACTIVATIONS = ("elu", "silu", "mish", "swish")
"""Parts of the names of activations used between layers; sigmoid, tanh and softmax may also end a network."""


class Trace:
    """The record of one forward pass."""

    def __init__(self, host: nn.Module, is_hidden: Callable[[nn.Module], bool]) -> None:
        self.host = host
        self.calls: list[ModuleCall] = []
        """Module calls in the order of their returns."""
        self.values: dict[ValueKey, Value] = {}
        self.additions: list[Addition] = []
        self.convolutions: dict[ValueKey, ConvolutionCall] = {}
        """Maps the key of an output to its convolution."""
        self.concatenations: dict[ValueKey, tuple[ValueKey, ...]] = {}
        """Maps the key of maps concatenated along the channels to the keys of its parts, in order."""
        self.activation_inputs: set[ValueKey] = set()
        """Keys of the values that entered an activation such as a ReLU."""
        self.image_size: tuple[int, int] | None = None
        """Height and width of the largest input image."""
        self.is_hidden = is_hidden
        self._device_types = device_types(host)
        self._serials = WeakIdKeyDictionary()
        self._n_tensors = 0
        self._clock = 0
        self._stack: list[ModuleCall] = []
        self._aliases: dict[ValueKey, ValueKey] = {}
        self._latest_keys: dict[int, ValueKey] = {}

    def calls_by_path(self) -> dict[str, list[ModuleCall]]:
        """Return the calls of each module by path, in the order of their returns."""
        calls: dict[str, list[ModuleCall]] = {}
        for call in self.calls:
            calls.setdefault(call.path, []).append(call)
        return calls

    def key_of(self, tensor: Tensor) -> ValueKey:
        """Return the key of the current value of ``tensor`` (any shape)."""
        if tensor not in self._serials:
            self._n_tensors += 1
            self._serials[tensor] = self._n_tensors
        key = (self._serials[tensor], 0 if tensor.is_inference() else tensor._version)
        return self._aliases.get(key, key)

    def advance_clock(self) -> int:
        """Advance the clock and return its tick."""
        self._clock += 1
        return self._clock

    def record_inputs(self, arguments: Any) -> None:
        """Record the tensors in ``arguments`` as values without parents."""
        for tensor in tensors_in(arguments):
            key = self.key_of(tensor)
            self.values[key] = _value(tensor, self.advance_clock(), None, (), is_fixed_size=False, is_matrix=False)
            self._latest_keys[key[0]] = key
            if tensor.ndim in (3, 4):
                height, width = tensor.shape[-2:]
                if self.image_size is None or height * width > self.image_size[0] * self.image_size[1]:
                    self.image_size = (height, width)

    def record_value(self, tensor: Tensor, parents: Sequence[ValueKey], name: str) -> None:
        """Record that the function ``name`` computed ``tensor`` (any shape) from ``parents``."""
        key = self.key_of(tensor)
        if key in self.values:
            return
        known_parents = tuple(dict.fromkeys(p for p in map(self._resolve, parents) if p is not None and p != key))
        is_fixed_size = (
            tensor.ndim < 3
            or all(self.values[p].is_fixed_size for p in known_parents)
            or self._is_global_pool(tensor, known_parents, name)
        )
        variable_size_parents = [self.values[p] for p in known_parents if not self.values[p].is_fixed_size]
        is_matrix = name in _PRODUCTS or (
            bool(variable_size_parents)
            and all(v.is_matrix and v.shape[-2:] == tensor.shape[-2:] for v in variable_size_parents)
        )
        call = self._stack[-1] if self._stack else None
        self.values[key] = _value(tensor, self.advance_clock(), call, known_parents, is_fixed_size, is_matrix)
        self._latest_keys[key[0]] = key

    def record_use(self, keys: Sequence[ValueKey]) -> None:
        """Record that a function reads the values at ``keys``."""
        if self._stack and self.is_hidden(self._stack[-1].module):
            return
        for key in keys:
            if key in self.values:
                self.values[key].users.append(self._stack[-1] if self._stack else None)

    def record_activation(self, keys: Sequence[ValueKey]) -> None:
        """Record that the values at ``keys`` enter an activation."""
        if not (self._stack and self.is_hidden(self._stack[-1].module)):
            self.activation_inputs.update(keys)

    def record_addition(self, left: ValueKey, right: ValueKey) -> None:
        """Record the sum of two maps of one shape."""
        if not self._stack or self.is_hidden(self._stack[-1].module):
            return
        a, b = self.values.get(left), self.values.get(right)
        if a is not None and b is not None and left != right and a.shape == b.shape and len(a.shape) == 4:
            self.additions.append(Addition(self._stack[-1], self._clock, left, right))

    def record_convolution(self, source: Tensor, weight: Tensor, output: Tensor) -> None:
        """Record a convolution of the map ``source`` with ``weight`` (outputs, inputs / groups, …)."""
        if self._stack and not self.is_hidden(self._stack[-1].module):
            in_channels, kernel = source.shape[-3], tuple(weight.shape[2:])
            self.convolutions[self.key_of(output)] = ConvolutionCall(
                self.key_of(source),
                in_channels,
                weight.shape[0],
                in_channels // weight.shape[1],
                kernel,
                self._stack[-1],
            )

    def record_concatenation(self, parts: Sequence[ValueKey], output: Tensor) -> None:
        """Record that maps (B, C, H, W) were concatenated along the channels."""
        known_parts = tuple(key for key in map(self._resolve, parts) if key is not None)
        if len(known_parts) == len(parts) and not (self._stack and self.is_hidden(self._stack[-1].module)):
            self.concatenations[self.key_of(output)] = known_parts

    def enter_module(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record the start of a module call."""
        first_input = self.key_of(args[0]) if args and isinstance(args[0], Tensor) else None
        tensors = list(tensors_in((args, kwargs)))
        inputs = tuple(self.key_of(t) for t in tensors)
        for tensor, key in zip(tensors, inputs, strict=True):
            if key[0] in self._latest_keys:  # the tensor may have changed in place through a view
                self.record_value(tensor, (key,), "")
        parent = self._stack[-1] if self._stack else None
        runs_under_autocast = any(map(torch.is_autocast_enabled, self._device_types))
        self._stack.append(
            ModuleCall(path, module, parent, self.advance_clock(), first_input, inputs, runs_under_autocast)
        )

    def leave_module(self, module: nn.Module, output: Any) -> None:
        """Record the end of a module call; drop inner calls that did not return."""
        while self._stack and self._stack[-1].module is not module:
            self._stack.pop()
        call = self._stack.pop()
        for tensor in tensors_in(output):
            self.record_value(tensor, call.inputs, "")
        call.outputs = tuple(self.key_of(t) for t in tensors_in(output))
        if isinstance(output, Tensor):
            call.single_output = self.key_of(output)
        if self.is_hidden(module) and call.single_output is not None and call.first_input is not None:
            # A plug counts as an identity, so that the host is traced as if unplugged.
            self._aliases[call.single_output] = call.first_input
            return
        call.exit_tick = self.advance_clock()
        self.calls.append(call)

    def _resolve(self, key: ValueKey) -> ValueKey | None:
        """Return ``key`` if recorded, else the last recorded key of the tensor, changed in place through a view."""
        return key if key in self.values else self._latest_keys.get(key[0])

    def _is_global_pool(self, tensor: Tensor, parents: Sequence[ValueKey], name: str) -> bool:
        """Return True if the function ``name`` pools ``parents`` to ``tensor`` of a fixed size."""
        if "adaptive" in name:
            return True
        if tensor.ndim != 4 or tuple(tensor.shape[2:]) != (1, 1):
            return False
        shapes = [
            self.values[p].shape for p in parents if not self.values[p].is_fixed_size and len(self.values[p].shape) == 4
        ]
        is_reduction = name in {"mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp"}
        return any(is_reduction or ("pool" in name and min(shape[2:]) > 4) for shape in shapes if shape[2:] != (1, 1))


class _FunctionRecorder(TorchFunctionMode):
    """A mode that reports every torch function called from Python to a trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        inputs = list(tensors_in((args, kwargs)))
        keys = [self.trace.key_of(t) for t in inputs]
        output = func(*args, **kwargs)
        outputs = list(tensors_in(output))
        outputs += [
            t for t, key in zip(inputs, keys, strict=True) if self.trace.key_of(t) != key
        ]  # inputs changed in place
        if outputs:  # reading a shape does not count as a use
            self.trace.record_use(keys)
            if name in _ADDS and len(args) == 2 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
                self.trace.record_addition(keys[0], keys[1])
            if name in _CONVOLUTIONS and len(inputs) > 1 and isinstance(output, Tensor):
                self.trace.record_convolution(inputs[0], inputs[1], output)
            if name in _CONCATENATIONS and isinstance(output, Tensor) and output.ndim == 4:
                dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
                if dim in (1, -3):
                    tensors = args[0] if args else kwargs["tensors"]
                    self.trace.record_concatenation([self.trace.key_of(t) for t in tensors_in(tensors)], output)
            if any(activation in name for activation in _ACTIVATIONS):
                self.trace.record_activation(keys)
            for tensor in outputs:
                self.trace.record_value(tensor, keys, name)
        return output


def _value(
    tensor: Tensor,
    tick: int,
    call: ModuleCall | None,
    parents: tuple[ValueKey, ...],
    is_fixed_size: bool,
    is_matrix: bool,
) -> Value:
    return Value(tuple(tensor.shape), tensor.dtype, tensor.device, tick, call, parents, is_fixed_size, is_matrix)


def _attempts(host: nn.Module, input: Any) -> list[Arguments]:
    """Return the arguments to try, in order; without ``input``, a non-square image is tried first."""
    if isinstance(input, Mapping):
        return [((), dict(input))]
    arguments = example_input(host, input)
    if input is not None:
        return [(arguments, {})]
    image = arguments[0]
    width = image.shape[-1]
    narrow_width = width - 32 if width > 64 else width * 3 // 4
    return [((image[..., :narrow_width].contiguous(),), {}), (arguments, {})]


@contextmanager
def _without_checkpointing(host: nn.Module) -> Iterator[None]:
    """Switch off timm's gradient checkpointing, which bypasses a stage's call."""
    checkpointed = [module for module in host.modules() if getattr(module, "grad_checkpointing", None) is True]
    for module in checkpointed:
        module.grad_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in checkpointed:
            module.grad_checkpointing = True  # type: ignore[assignment]


def run(host: nn.Module, arguments: Arguments, context: AbstractContextManager[object] | None = None) -> Any:
    """Run one forward pass in eval mode inside ``context``, without gradients or side effects; return the output."""
    with without_gradients(host), context or nullcontext():
        return host(*arguments[0], **arguments[1])


def trace(host: nn.Module, input: Any, is_hidden: Callable[[nn.Module], bool]) -> tuple[Trace, Arguments]:
    """Record one forward pass of ``host``; return the trace and the arguments.

    Args:
        host: the network.
        input: as for :func:`.inputs.example_input`, or a dict of keyword arguments.
        is_hidden: function that returns True for modules to treat as identities; nothing inside them is recorded.

    Raises:
        UserError: the host fails :func:`.hosts.check_traceable`, or its forward pass fails.
    """
    check_traceable(host)
    last_error: Exception | None = None
    with torch.inference_mode(False):  # inference tensors have no version counter
        attempts = _attempts(host, input)
    for arguments in attempts:
        host_trace = Trace(host, is_hidden)
        try:
            with _hooked_modules(host, host_trace), _without_checkpointing(host):
                host_trace.record_inputs(arguments)
                run(host, arguments, _FunctionRecorder(host_trace))
        except Exception as error:
            last_error = error
        else:
            return host_trace, arguments
    check_two_dimensional(host)
    tried_input = (
        "the given input" if input is not None else f"an image of {'×'.join(map(str, arguments[0][0].shape[1:]))}"
    )
    raise UserError(
        f"{type(host).__name__} does not run on {tried_input}: {type(last_error).__name__}: {last_error}. "
        "Pass input=: a size (C, H, W), a tensor, or a tuple or dict of the network's arguments."
    ) from last_error


@contextmanager
def _hooked_modules(host: nn.Module, host_trace: Trace) -> Iterator[None]:
    """Record every module call of ``host`` in this thread."""

    def add_hooks(path: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            host_trace.enter_module(path, module, args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            host_trace.leave_module(module, output)

        handles.append(module.register_forward_pre_hook(only_in_this_thread(before), with_kwargs=True))
        handles.append(module.register_forward_hook(only_in_this_thread(after)))

    hidden_prefixes: list[str] = []
    with temporary_hooks() as handles:
        for path, module in host.named_modules():
            if not any(path.startswith(prefix) for prefix in hidden_prefixes):
                add_hooks(path, module)
                if host_trace.is_hidden(module):
                    hidden_prefixes.append(path + ".")
        yield
