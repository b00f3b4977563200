"""One forward, recorded: which module returned which tensor, and what each tensor was made of.

A tensor changed in place is another value of the same object, so a value is named by its object and its version.
Hooks record the modules, a ``TorchFunctionMode`` what happens between them.
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
from saccade.graph.hosts import check_host, check_maps
from saccade.graph.inputs import example_input
from saccade.graph.states import devices, inference_only
from saccade.graph.values import Addition, ConvolutionCall, Key, ModuleCall, Value
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.tensors import tensors_in

__all__ = ["Arguments", "Trace", "run", "trace"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a forward."""

_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm"}
_ADDS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_CONVOLUTIONS = {"conv2d", "deform_conv2d"}
_RECTIFIERS = ("elu", "silu", "mish", "swish")
"""Parts of the names of activations inside networks; sigmoid, tanh and softmax may also end one."""


class Trace:
    """The record of one forward."""

    def __init__(self, host: nn.Module, hidden: Callable[[nn.Module], bool]) -> None:
        self.host = host
        self.calls: list[ModuleCall] = []
        """In the order in which they returned."""
        self.values: dict[Key, Value] = {}
        self.additions: list[Addition] = []
        self.convolutions: dict[Key, ConvolutionCall] = {}
        """By what they returned."""
        self.rectified: set[Key] = set()
        """The values that entered an activation such as a ReLU."""
        self.picture: tuple[int, int] | None = None
        """Height and width of the largest picture given."""
        self.hidden = hidden
        self._devices = devices(host)
        self._serials = WeakIdKeyDictionary()
        self._count = 0
        self._clock = 0
        self._stack: list[ModuleCall] = []
        self._same: dict[Key, Key] = {}
        self._latest: dict[int, Key] = {}

    def by_path(self) -> dict[str, list[ModuleCall]]:
        """Return the calls of each module, in the order in which they returned."""
        found: dict[str, list[ModuleCall]] = {}
        for call in self.calls:
            found.setdefault(call.path, []).append(call)
        return found

    def key(self, tensor: Tensor) -> Key:
        """Return the name of the value that ``tensor`` holds now."""
        if tensor not in self._serials:
            self._count += 1
            self._serials[tensor] = self._count
        key = (self._serials[tensor], 0 if tensor.is_inference() else tensor._version)
        return self._same.get(key, key)

    def tick(self) -> int:
        """Advance the clock."""
        self._clock += 1
        return self._clock

    def give(self, arguments: Any) -> None:
        """Record the pictures, which have no parents."""
        for tensor in tensors_in(arguments):
            key = self.key(tensor)
            self.values[key] = _value(tensor, self.tick(), None, (), fixed=False, matrix=False)
            self._latest[key[0]] = key
            if tensor.ndim in (3, 4):
                height, width = tensor.shape[-2:]
                if self.picture is None or height * width > self.picture[0] * self.picture[1]:
                    self.picture = (height, width)

    def note(self, tensor: Tensor, parents: Sequence[Key], name: str) -> None:
        """Record that the function ``name`` made ``tensor`` of ``parents``."""
        key = self.key(tensor)
        if key in self.values:
            return
        known = tuple(dict.fromkeys(p for p in map(self._known, parents) if p is not None and p != key))
        fixed = tensor.ndim < 3 or all(self.values[p].fixed for p in known) or self._pools(tensor, known, name)
        live = [self.values[p] for p in known if not self.values[p].fixed]
        matrix = name in _PRODUCTS or (bool(live) and all(v.matrix and v.shape[-2:] == tensor.shape[-2:] for v in live))
        call = self._stack[-1] if self._stack else None
        self.values[key] = _value(tensor, self.tick(), call, known, fixed, matrix)
        self._latest[key[0]] = key

    def use(self, keys: Sequence[Key]) -> None:
        """Record that a function reads ``keys``."""
        if self._stack and self.hidden(self._stack[-1].module):
            return
        for key in keys:
            if key in self.values:
                self.values[key].users.append(self._stack[-1] if self._stack else None)

    def rectify(self, keys: Sequence[Key]) -> None:
        """Record that ``keys`` enter an activation."""
        if not (self._stack and self.hidden(self._stack[-1].module)):
            self.rectified.update(keys)

    def add(self, left: Key, right: Key) -> None:
        """Record the sum of two maps."""
        if not self._stack or self.hidden(self._stack[-1].module):
            return
        a, b = self.values.get(left), self.values.get(right)
        if a is not None and b is not None and left != right and a.shape == b.shape and len(a.shape) == 4:
            self.additions.append(Addition(self._stack[-1], self._clock, left, right))

    def convolve(self, source: Tensor, weight: Tensor, output: Tensor) -> None:
        """Record the convolution of the map ``source`` with ``weight`` (outputs, inputs / groups, ...)."""
        if self._stack and not self.hidden(self._stack[-1].module):
            inputs, kernel = source.shape[-3], tuple(weight.shape[2:])
            self.convolutions[self.key(output)] = ConvolutionCall(
                self.key(source), inputs, weight.shape[0], inputs // weight.shape[1], kernel, self._stack[-1]
            )

    def enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record that a module is called."""
        first = self.key(args[0]) if args and isinstance(args[0], Tensor) else None
        given = list(tensors_in((args, kwargs)))
        received = tuple(self.key(t) for t in given)
        for tensor, key in zip(given, received, strict=True):
            if key[0] in self._latest:  # changed through a view since, or known already
                self.note(tensor, (key,), "")
        parent = self._stack[-1] if self._stack else None
        autocast = any(map(torch.is_autocast_enabled, self._devices))
        self._stack.append(ModuleCall(path, module, parent, self.tick(), first, received, autocast))

    def leave(self, module: nn.Module, output: Any) -> None:
        """Record that a module has returned; forget calls inside it that never did."""
        while self._stack and self._stack[-1].module is not module:
            self._stack.pop()
        call = self._stack.pop()
        for tensor in tensors_in(output):
            self.note(tensor, call.received, "")
        call.outputs = tuple(self.key(t) for t in tensors_in(output))
        if isinstance(output, Tensor):
            call.returned = self.key(output)
        if self.hidden(module) and call.returned is not None and call.first is not None:
            # What a plug returns stands for what it received: the host is seen as if it carried none.
            self._same[call.returned] = call.first
            return
        call.left = self.tick()
        self.calls.append(call)

    def _known(self, key: Key) -> Key | None:
        """Return the value itself, else the last known of the object, which was then changed through a view."""
        return key if key in self.values else self._latest.get(key[0])

    def _pools(self, tensor: Tensor, parents: Sequence[Key], name: str) -> bool:
        if "adaptive" in name:
            return True
        if tensor.ndim != 4 or tuple(tensor.shape[2:]) != (1, 1):
            return False
        before = [self.values[p].shape for p in parents if not self.values[p].fixed and len(self.values[p].shape) == 4]
        reduces = name in {"mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp"}
        return any(reduces or ("pool" in name and min(shape[2:]) > 4) for shape in before if shape[2:] != (1, 1))


class _Functions(TorchFunctionMode):
    """Report to a trace every torch function that Python calls."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = list(tensors_in((args, kwargs)))
        keys = [self.trace.key(t) for t in given]
        output = func(*args, **kwargs)
        made = list(tensors_in(output))
        made += [t for t, key in zip(given, keys, strict=True) if self.trace.key(t) != key]  # changed in place
        if made:  # asking for a shape is no use
            self.trace.use(keys)
            if name in _ADDS and len(args) == 2 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
                self.trace.add(keys[0], keys[1])
            if name in _CONVOLUTIONS and len(given) > 1 and isinstance(output, Tensor):
                self.trace.convolve(given[0], given[1], output)
            if any(part in name for part in _RECTIFIERS):
                self.trace.rectify(keys)
            for tensor in made:
                self.trace.note(tensor, keys, name)
        return output


def _value(
    tensor: Tensor, tick: int, call: ModuleCall | None, parents: tuple[Key, ...], fixed: bool, matrix: bool
) -> Value:
    return Value(tuple(tensor.shape), tensor.dtype, tensor.device, tick, call, parents, fixed, matrix)


def _attempts(host: nn.Module, input: Any) -> list[Arguments]:
    """Return the arguments to try in turn; by default a picture that is not square comes first."""
    if isinstance(input, Mapping):
        return [((), dict(input))]
    arguments = example_input(host, input)
    if input is not None:
        return [(arguments, {})]
    picture = arguments[0]
    width = picture.shape[-1]
    narrow = width - 32 if width > 64 else width * 3 // 4
    return [((picture[..., :narrow].contiguous(),), {}), (arguments, {})]


@contextmanager
def _without_checkpointing(host: nn.Module) -> Iterator[None]:
    """Switch off timm's gradient checkpointing, which calls the children of a stage in its place."""
    on = [module for module in host.modules() if getattr(module, "grad_checkpointing", None) is True]
    for module in on:
        module.grad_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in on:
            module.grad_checkpointing = True  # type: ignore[assignment]


def run(host: nn.Module, arguments: Arguments, within: AbstractContextManager[object] | None = None) -> Any:
    """Run one forward in eval mode, without gradients and side effects, inside ``within``; return its result."""
    with inference_only(host), within or nullcontext():
        return host(*arguments[0], **arguments[1])


def trace(host: nn.Module, input: Any, hidden: Callable[[nn.Module], bool]) -> tuple[Trace, Arguments]:
    """Record one forward of ``host``; return the record and the arguments.

    Args:
        host: the network.
        input: see :func:`saccade.sites`.
        hidden: whether a module counts as if it returned what it receives; nothing inside it is recorded.

    Raises:
        UserError: the host fails :func:`.hosts.check_host`, or its forward fails.
    """
    check_host(host)
    failure: Exception | None = None
    with torch.inference_mode(False):  # the pictures must count their versions
        attempts = _attempts(host, input)
    for arguments in attempts:
        record = Trace(host, hidden)
        try:
            with _watched(host, record), _without_checkpointing(host):
                record.give(arguments)
                run(host, arguments, _Functions(record))
        except Exception as error:
            failure = error
        else:
            return record, arguments
    check_maps(host)
    size = "the input given" if input is not None else f"a picture of {'×'.join(map(str, arguments[0][0].shape[1:]))}"
    raise UserError(
        f"{type(host).__name__} does not run on {size}: {type(failure).__name__}: {failure}. "
        "Say what it takes by input=: a size (C, H, W), a tensor, or a tuple or dict of its arguments."
    ) from failure


@contextmanager
def _watched(host: nn.Module, record: Trace) -> Iterator[None]:
    """Record every call of a module of ``host`` in this thread."""

    def watch(path: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            record.enter(path, module, args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            record.leave(module, output)

        handles.append(module.register_forward_pre_hook(only_in_this_thread(before), with_kwargs=True))
        handles.append(module.register_forward_hook(only_in_this_thread(after)))

    inside: list[str] = []
    with temporary_hooks() as handles:
        for path, module in host.named_modules():
            if not any(path.startswith(prefix) for prefix in inside):
                watch(path, module)
                if record.hidden(module):
                    inside.append(path + ".")
        yield
