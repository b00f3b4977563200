"""A running average of a network's weights, by timm's ``ModelEmaV3``."""

from __future__ import annotations

from collections.abc import Mapping

from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """The exponential moving average of the weights and floating-point buffers of a network.

    At step n, from 1, it keeps the share min(decay, 1 - n^(-2/3)) of what it was: in a short run it forgets the first
    weights, which a constant decay would not. The share is a function of n: no counter needs saving.

    Args:
        network: a copy of it is the average at first.
        decay: the largest share.
        state: of the average after an epoch before, if any.
    """

    def __init__(self, network: nn.Module, decay: float, state: Mapping[str, Tensor] | None = None) -> None:
        self._ema = ModelEmaV3(network, decay=decay, use_warmup=True)
        if state is not None:
            self.network.load_state_dict(state)

    @property
    def network(self) -> nn.Module:
        """The averaged network, in eval mode."""
        network: nn.Module = self._ema.module
        return network

    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights of ``network`` after step ``step``, from 1."""
        self._ema.update(network, step=step)
