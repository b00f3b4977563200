"""Draw a mechanism again whose ReLUs are off: a ReLU that is off for every image passes no gradient.

On thin maps this is common. The bottleneck of ``se`` on 16 channels is one unit, and its paper's initialisation leaves
that unit off one time in two.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saccade.surgery.checking import training_twin
from saccade.surgery.plug_module import Plug, held
from saccade.surgery.threads import of_this_thread
from saccade.surgery.trace import Arguments, run

__all__ = ["redraw_dead_relus"]

_SHARE = 1 / 3
"""Of the images and places that a ReLU sees, the share for which its most active unit must be on.

A bottleneck that is on for less is likely to die in training. A larger share would reject good draws: behind a norm a
unit is on for about half, and for 0.37 where the map is as skewed as those behind a ReLU.
"""
_DRAWS = 50
"""The last of so many draws is kept, whatever it is."""
_FEW = 8
"""Images that are too few to stand for others."""

_LOG = logging.getLogger("saccade")


def redraw_dead_relus(
    host: nn.Module, new: list[Plug], arguments: Arguments, again: Callable[[int], nn.Module]
) -> None:
    """Replace the mechanisms in ``new`` by fresh draws until each of their ReLUs is on often enough.

    A mechanism is judged on the map that it receives in a forward of a copy of ``host`` in training mode; where that
    forward fails or does not reach the plug, in a forward of ``host`` in eval mode. The plugs are judged in the order
    in which they run, so that each receives what the redrawn ones before it make. The host, the running statistics of
    the mechanisms that are kept, and the global random state stay as they are.

    Args:
        host: the network that carries ``new``.
        new: the plugs.
        arguments: what ``host`` is called with.
        again: draws the mechanism of ``new[n]`` anew, from the same initialisation. Each plug has a random stream of
            its own: how often one is redrawn does not change the others.
    """
    seeds = torch.randint(2**62, (len(new),), device="cpu").tolist()
    streams = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    modes = [made.training for made in new]
    pending = set(range(len(new)))

    def judge(n: int, running: Plug) -> torch.utils.hooks.RemovableHandle:
        def starts(module: nn.Module, args: tuple[Any, ...]) -> None:
            if n in pending:
                pending.remove(n)
                fresh = _first_that_is_on(running, args[0], partial(again, n), streams[n])
                if fresh is not None:
                    _put(new[n], fresh.train(modes[n]))

        return running.register_forward_pre_hook(of_this_thread(starts))

    try:
        with training_twin(host) as twin:
            for n, made in enumerate(new):
                copied = held(twin.get_submodule(made.site.carrier))
                assert copied is not None
                judge(n, copied)
            twin(*arguments[0], **arguments[1])
    except Exception as error:  # a network may raise anything where it is not given what it is trained on
        _LOG.debug("%s was not tried in training mode: %s: %s", type(host).__name__, type(error).__name__, error)
    if pending:
        handles = [judge(n, new[n]) for n in pending]
        try:
            run(host, arguments)
        finally:
            for handle in handles:
                handle.remove()


def _first_that_is_on(
    running: Plug, f: Tensor, again: Callable[[], nn.Module], stream: torch.Generator
) -> nn.Module | None:
    """Return the first draw that is on for f (B, C, H, W) in ``running``, which gets a copy; None for the one there."""
    like = next((tensor for tensor in chain(running.parameters(), [f]) if tensor.is_floating_point()), f)
    fresh = None
    for _ in range(_DRAWS):
        if _is_on(running.mechanism, f):
            break
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(stream.get_state())
            fresh = again().to(like.device, like.dtype)
            stream.set_state(torch.get_rng_state())
        _put(running, copy.deepcopy(fresh).train(running.training))
    return fresh


def _put(plug: Plug, mechanism: nn.Module) -> None:
    plug.mechanism = mechanism
    if plug.relay is not None:
        plug.join(plug.relay)


def _is_on(mechanism: nn.Module, f: Tensor) -> bool:
    """Return whether each ReLU of the mechanism is on often enough for f (B, C, H, W).

    Few images say little of those to come: each ReLU must then also be on for three of four maps that are f with its
    channels at other strengths, as other images have them.
    """
    views = [f]
    if len(f) < _FEW:
        draw = torch.Generator("cpu").manual_seed(0)
        strengths = [1 + torch.randn(f.shape[1], 1, 1, generator=draw, device="cpu") for _ in range(4)]
        views += [f * strength.to(f) for strength in strengths]
    counted: list[list[bool]] = []  # by view, then by ReLU
    for view in views:
        with _Rectified() as seen:
            mechanism(view)
        counted.append([share >= _SHARE for share in seen.shares])
    return all(on[0] and sum(on) >= 0.8 * len(on) for on in zip(*counted, strict=False))


class _Rectified(TorchFunctionMode):
    """Record of each ReLU that runs for which share of images and places its most active unit is on.

    1 where it receives zeros alone, which say nothing of the draw: a norm whose weight starts at zero makes such maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rectifies = getattr(func, "__name__", "") in ("relu", "relu_")
        silent = rectifies and not (*args, *(kwargs or {}).values())[0].any()
        output = func(*args, **(kwargs or {}))
        if rectifies:
            on = torch.atleast_1d(output > 0).float()
            units = on.transpose(1, -1) if on.ndim == 4 else on  # of a map (B, C, H, W) the channels, else the last
            self.shares.append(1.0 if silent else float(units.reshape(-1, units.shape[-1]).mean(0).max()))
        return output
