"""Exponential moving average of a network's weights, by timm's ``ModelEmaV3``."""

from __future__ import annotations

from collections.abc import Mapping

from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of the weights and floating-point buffers of ``network``.

    At step n (from 1) the decay is min(decay, 1 - n^(-2/3)), so that initial weights fade even in a short run.
    ``state`` is the state dict of the averaged network at an earlier step; None starts from a copy of ``network``.
    """

    def __init__(self, network: nn.Module, decay: float, state: Mapping[str, Tensor] | None = None) -> None:
        self._ema = ModelEmaV3(network, decay=decay, use_warmup=True)
        if state is not None:
            self.network.load_state_dict(state)

    @property
    def network(self) -> nn.Module:
        """Averaged network, in eval mode."""
        network: nn.Module = self._ema.module
        return network

    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights of ``network`` after step ``step`` (from 1)."""
        self._ema.update(network, step=step)
