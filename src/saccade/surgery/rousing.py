"""Mechanisms that could not learn are drawn again: a ReLU that is off on every map passes no gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saccade.surgery.plug_module import Plug
from saccade.surgery.trace import plainly

__all__ = ["rouse"]

_DRAWS = 20


def rouse(made: Plug, f: Tensor, told: dict[str, Tensor], again: Callable[[], nn.Module]) -> None:
    """Draw a mechanism ``again`` that could not learn: a ReLU of it is off all over maps like ``f`` (B, C, H, W), which
    it receives in a call of the host in which ``told`` is handed on.

    On thin maps it happens: a bottleneck of two units is off one time in four. While ``a`` is zero this changes nothing
    else.
    """
    for _ in range(_DRAWS):
        with made.relay.call(told) if made.relay is not None else nullcontext():
            if _awake(made.mechanism, f):
                break
        made.mechanism = again().to(f.device, f.dtype).train(made.training)
        if made.relay is not None:
            made.join(made.relay)


def _awake(mechanism: nn.Module, f: Tensor) -> bool:
    """Does each ReLU of the mechanism let something through? A mechanism without one is awake.

    Asked of ``f``, and of four maps with its channels at other strengths, as other pictures have them: one may be off.
    """
    draw = torch.Generator().manual_seed(0)
    with plainly(mechanism), _Rectified() as seen:
        mechanism(f)
        many = len(seen.on)
        for _ in range(4 if many else 0):
            mechanism(f * (1 + torch.randn(f.shape[1], 1, 1, generator=draw, device="cpu")).to(f))
    return all(seen.on[n] and sum(seen.on[n::many]) >= 4 for n in range(many))


class _Rectified(TorchFunctionMode):
    """Notes of each ReLU that runs whether it let anything through."""

    def __init__(self) -> None:
        super().__init__()
        self.on: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("relu", "relu_"):
            self.on.append(bool((output > 0).any()))
        return output
