"""Redraw new mechanisms whose ReLUs are inactive for too many images to learn.

The only bottleneck unit of ``se`` on 16 channels is inactive for every image in half of the draws.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saccade.graph.states import training_copy
from saccade.graph.trace import Arguments, run
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.plug_module import Plug, plug_of

__all__ = ["redraw_dead_relus"]

_MIN_ACTIVE_FRACTION = 0.75
"""Fraction of the images for which a ReLU must have an active unit.

In 46 runs of ``se`` on the digits data, units were dead after training in 1 of 30 runs that began with a fraction above
0.75, in 3 of 5 between 0.25 and 0.75, and in 5 of 11 below.
"""
_MAX_REDRAWS = 20
"""Maximum number of redraws; then the first draw with an active unit for any image is used."""
_SMALL_BATCH = 8
"""Number of images below which a batch does not represent the data."""

_LOG = logging.getLogger("saccade")


def redraw_dead_relus(
    host: nn.Module, new_plugs: list[Plug], arguments: Arguments, build: Callable[[int], nn.Module]
) -> bool:
    """Redraw the mechanisms in ``new_plugs`` until each of their ReLUs has an active unit for most images.

    Return whether all of them ran in training mode.

    Mechanisms are tested in a training-mode copy of ``host``, or in ``host`` in eval mode if the copy fails or does not
    run them. Statistics and random state are left unchanged. ``build(n)`` returns a new mechanism for ``new_plugs[n]``.
    """
    seeds = torch.randint(2**62, (len(new_plugs),), device="cpu").tolist()
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    modes = [plug.training for plug in new_plugs]
    pending = set(range(len(new_plugs)))
    redrawn: set[int] = set()

    def add_hook(n: int, hooked_plug: Plug) -> torch.utils.hooks.RemovableHandle:
        def redraw_if_dead(module: nn.Module, args: tuple[Any, ...]) -> None:
            if n in pending:
                mechanism = _redraw(hooked_plug, args[0], partial(build, n), generators[n])
                pending.remove(n)
                if mechanism is not None:
                    # Set the current mode, because ``new_plugs[n]`` may be the plug that is running.
                    _set_mechanism(new_plugs[n], mechanism.train(hooked_plug.training))
                    redrawn.add(n)

        return hooked_plug.register_forward_pre_hook(only_in_this_thread(redraw_if_dead))

    try:
        with training_copy(host) as host_copy:
            for n, plug in enumerate(new_plugs):
                copied_plug = plug_of(host_copy.get_submodule(plug.site.parent))
                assert copied_plug is not None
                add_hook(n, copied_plug)
            host_copy(*arguments[0], **arguments[1])
    except Exception as error:  # a network may raise anything if it is not given its training inputs
        _LOG.debug("%s could not be run in training mode: %s: %s", type(host).__name__, type(error).__name__, error)
    ran_in_training = not pending
    if pending:
        with temporary_hooks() as handles:
            handles += [add_hook(n, new_plugs[n]) for n in pending]
            run(host, arguments)
    for n in redrawn:
        new_plugs[n].mechanism.train(modes[n])
    return ran_in_training


def _redraw(
    hooked_plug: Plug, f: Tensor, build: Callable[[], nn.Module], generator: torch.Generator
) -> nn.Module | None:
    """Return the first draw whose ReLUs are active for enough images of f (B, C, H, W).

    Otherwise, return the first with an active unit for any image. None keeps the initial mechanism; a copy of any other
    draw is put into ``hooked_plug``.
    """
    floats = (tensor for tensor in chain(hooked_plug.parameters(), [f]) if tensor.is_floating_point())
    reference = next(floats, f)  # for device and dtype
    initial = installed = hooked_plug.mechanism
    result: nn.Module | None = None
    fallback: tuple[nn.Module | None, nn.Module] | None = None
    for redraws_left in reversed(range(_MAX_REDRAWS + 1)):
        fraction = _active_fraction(hooked_plug.mechanism, f)
        if fraction >= _MIN_ACTIVE_FRACTION:
            return result
        if fraction > 0 and fallback is None:
            fallback = result, installed
        if not redraws_left:
            break
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            result = build().to(reference.device, reference.dtype)
            generator.set_state(torch.get_rng_state())
        installed = copy.deepcopy(result).train(hooked_plug.training)
        _set_mechanism(hooked_plug, installed)
    result, installed = fallback or (None, initial)
    _set_mechanism(hooked_plug, installed)
    return result


def _set_mechanism(plug: Plug, mechanism: nn.Module) -> None:
    plug.mechanism = mechanism
    if plug.outputs is not None:
        plug.connect(plug.outputs)


def _active_fraction(mechanism: nn.Module, f: Tensor) -> float:
    """Return the smallest of the ReLUs' fractions of images with an active unit; 1 without a ReLU.

    A small batch f (B, C, H, W) is also tested four times with its channels rescaled at random. The lowest result is
    ignored, unless it is that of f itself.
    """
    by_batch = [_active_fractions(mechanism, f)]
    if by_batch[0] and len(f) < _SMALL_BATCH:
        generator = torch.Generator("cpu").manual_seed(0)
        factors = [1 + torch.randn(f.shape[1], 1, 1, generator=generator, device="cpu") for _ in range(4)]
        by_batch += [_active_fractions(mechanism, f * factor.to(f)) for factor in factors]
    by_relu = zip(*by_batch, strict=False)
    return min((min(fractions[0], _second_smallest(fractions)) for fractions in by_relu), default=1.0)


def _second_smallest(numbers: tuple[float, ...]) -> float:
    return sorted(numbers)[min(1, len(numbers) - 1)]


def _active_fractions(mechanism: nn.Module, f: Tensor) -> list[float]:
    """Return the fraction of images in f (B, C, H, W) for which a unit is active, by ReLU."""
    with _ReluRecorder(mechanism) as recorder:
        mechanism(f)
    return recorder.active_fractions()


class _ReluRecorder(TorchFunctionMode):
    """Records, for each ReLU that runs, the images for which a unit is active.

    ReLU calls that follow the same layer count as one, because each gives it gradients. A ReLU whose input is all zeros
    counts as active, because that says nothing about its weights.
    """

    def __init__(self, mechanism: nn.Module) -> None:
        super().__init__()
        self._layers = [module for module in mechanism.modules() if module._parameters]
        self._active: dict[object, Tensor] = {}
        """Maps (latest layer, shape) to a mask of images (B,)."""
        self._latest_layer: object = None
        """Latest layer since the previous ReLU."""
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def active_fractions(self) -> list[float]:
        """Return the fraction of images by ReLU, in the order of their first calls."""
        return [float(active.float().mean()) for active in self._active.values()]

    def __enter__(self) -> Self:
        def record_layer(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._latest_layer = module

        self._handles = [layer.register_forward_hook(record_layer) for layer in self._layers]
        super().__enter__()
        return self

    def __exit__(self, exc_type: Any, error: Any, traceback: Any) -> None:
        super().__exit__(exc_type, error, traceback)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_relu = getattr(func, "__name__", "") in ("relu", "relu_")
        # Check the input before the call, which may overwrite it.
        is_input_zero = is_relu and not (*args, *(kwargs or {}).values())[0].any()
        output = func(*args, **(kwargs or {}))
        if is_relu:
            active = (output > 0).flatten(1).any(1) if output.ndim > 1 else (output > 0).any()
            if is_input_zero:
                active = torch.ones_like(active)
            key = (object() if self._latest_layer is None else self._latest_layer, active.shape)
            self._active[key] = active | self._active.get(key, active)
            self._latest_layer = None
        return output
