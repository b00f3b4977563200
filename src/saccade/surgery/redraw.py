"""Draw a mechanism again whose ReLUs are off: a ReLU that is off for every image passes no gradient.

On thin maps this is common: of ``se`` on 16 channels, the one unit of the bottleneck starts off one time in two.
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
from saccade.hooks import of_this_thread, temporary_hooks
from saccade.surgery.plug_module import Plug, plug_of

__all__ = ["redraw_dead_relus"]

_SHARE = 0.75
"""Share of the images for which a ReLU must have a unit that is on.

In 46 runs of ``se`` on the digits, a bottleneck of one unit that began on for more than 0.75 of the images ended dead
in 1 of 30 cases; on for 0.25 to 0.75 in 3 of 5; on for less in 5 of 11.
"""
_DRAWS = 20
"""Draws after which one that is on at all is kept: behind a norm, a single unit is on for half of the images."""
_FEW = 8
"""Images that are too few to stand for others."""

_LOG = logging.getLogger("saccade")


def redraw_dead_relus(
    host: nn.Module, new: list[Plug], arguments: Arguments, again: Callable[[int], nn.Module]
) -> None:
    """Replace the mechanisms in ``new`` by fresh draws until each of their ReLUs has a unit on for most images.

    Each is judged in the order of execution, on the map it receives in a forward of a copy of ``host`` in training
    mode, or, if that fails or does not reach it, of ``host`` in eval mode. Host, statistics and random state stay as
    they are.

    Args:
        host: the network that carries ``new``.
        new: the plugs.
        arguments: what ``host`` is called with.
        again: draws the mechanism of ``new[n]`` anew. Each plug has a random stream of its own.
    """
    seeds = torch.randint(2**62, (len(new),), device="cpu").tolist()
    streams = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    modes = [made.training for made in new]
    pending = set(range(len(new)))
    redrawn: set[int] = set()

    def judge(n: int, running: Plug) -> torch.utils.hooks.RemovableHandle:
        def starts(module: nn.Module, args: tuple[Any, ...]) -> None:
            if n in pending:
                fresh = _draw(running, args[0], partial(again, n), streams[n])
                pending.remove(n)
                if fresh is not None:  # in the mode of this forward: it may be part of it
                    _put(new[n], fresh.train(running.training))
                    redrawn.add(n)

        return running.register_forward_pre_hook(of_this_thread(starts))

    try:
        with training_copy(host) as twin:
            for n, made in enumerate(new):
                copied = plug_of(twin.get_submodule(made.site.parent))
                assert copied is not None
                judge(n, copied)
            twin(*arguments[0], **arguments[1])
    except Exception as error:  # a network may raise anything where it is not given what it is trained on
        _LOG.debug("%s was not tried in training mode: %s: %s", type(host).__name__, type(error).__name__, error)
    if pending:
        with temporary_hooks() as handles:
            handles += [judge(n, new[n]) for n in pending]
            run(host, arguments)
    for n in redrawn:
        new[n].mechanism.train(modes[n])


def _draw(running: Plug, f: Tensor, again: Callable[[], nn.Module], stream: torch.Generator) -> nn.Module | None:
    """Return the first draw that is on often enough for f (B, C, H, W), else the first that is on at all.

    None for the one in ``running``, which gets a copy of what is returned. The best of many draws would no longer be a
    draw of the paper's initialisation.
    """
    like = next((tensor for tensor in chain(running.parameters(), [f]) if tensor.is_floating_point()), f)
    first: tuple[nn.Module | None, nn.Module] = (None, running.mechanism)
    fresh, some = first, None
    for left in reversed(range(_DRAWS + 1)):
        share = _share(running.mechanism, f)
        if share >= _SHARE:
            return fresh[0]
        if share > 0 and some is None:
            some = fresh
        if not left:
            break
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(stream.get_state())
            drawn = again().to(like.device, like.dtype)
            stream.set_state(torch.get_rng_state())
        fresh = drawn, copy.deepcopy(drawn).train(running.training)
        _put(running, fresh[1])
    kept, copied = some or first
    _put(running, copied)
    return kept


def _put(plug: Plug, mechanism: nn.Module) -> None:
    plug.mechanism = mechanism
    if plug.outputs is not None:
        plug.join(plug.outputs)


def _share(mechanism: nn.Module, f: Tensor) -> float:
    """Return the least share of images, over the ReLUs of the mechanism, for which a unit is on; 1 without a ReLU.

    For few images in f (B, C, H, W) the share must also hold for three of four maps that are f with its channels at
    other strengths.
    """
    found = [_shares(mechanism, f)]  # by view, then by ReLU
    if found[0] and len(f) < _FEW:
        draw = torch.Generator("cpu").manual_seed(0)
        strengths = [1 + torch.randn(f.shape[1], 1, 1, generator=draw, device="cpu") for _ in range(4)]
        found += [_shares(mechanism, f * strength.to(f)) for strength in strengths]
    return min((min(of[0], sorted(of)[len(of) > 1]) for of in zip(*found, strict=False)), default=1.0)


def _shares(mechanism: nn.Module, f: Tensor) -> list[float]:
    """Return the share of images in f (B, C, H, W) for which a unit is on, by ReLU in order of execution."""
    with _Rectified(mechanism) as seen:
        mechanism(f)
    return seen.shares()


class _Rectified(TorchFunctionMode):
    """Record of which images each ReLU that runs is on for.

    A layer that runs several times, as that of ``cbam``, has one ReLU: it learns from each call. A ReLU that receives
    zeros alone counts as on: they say nothing of the draw.
    """

    def __init__(self, mechanism: nn.Module) -> None:
        super().__init__()
        self._layers = [module for module in mechanism.modules() if module._parameters]
        self._on: dict[object, Tensor] = {}
        self._last: object = None
        """The layer that ran since the last ReLU."""
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def shares(self) -> list[float]:
        """Return the share of the images by ReLU, in the order of the first calls."""
        return [float(on.float().mean()) for on in self._on.values()]

    def __enter__(self) -> Self:
        def ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._last = module

        self._handles = [layer.register_forward_hook(ran) for layer in self._layers]
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, at: Any) -> None:
        super().__exit__(kind, error, at)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rectifies = getattr(func, "__name__", "") in ("relu", "relu_")
        silent = rectifies and not (*args, *(kwargs or {}).values())[0].any()
        output = func(*args, **(kwargs or {}))
        if rectifies:
            on = (output > 0).flatten(1).any(1) if output.ndim > 1 else (output > 0).any()
            if silent:
                on = torch.ones_like(on)
            behind = (object() if self._last is None else self._last, on.shape)
            self._on[behind] = on | self._on.get(behind, on)
            self._last = None
        return output
