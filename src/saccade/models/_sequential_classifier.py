"""Base of classifiers whose layers run one after another, with timm's interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.models import checkpoint, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.ops.eager import is_captured

__all__ = ["SequentialClassifier", "check_stages", "check_stem", "init_convolutions"]


class SequentialClassifier(nn.Module):
    """Named layers in sequence, global pooling, dropout and a linear layer: (B, in_chans, H, W) -> (B, num_classes).

    Args:
        layers: the layers by name.
        feature_info: timm's description of the feature maps; ``module`` is the name of a layer.
        num_classes, in_chans, global_pool, drop_rate: as in timm's networks.
        smallest_side: smallest height and width of an image.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        feature_info: Sequence[Mapping[str, Any]],
        num_classes: int,
        in_chans: int,
        global_pool: str,
        drop_rate: float,
        smallest_side: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.smallest_side = smallest_side
        self.grad_checkpointing = False
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.layer_names = tuple(layers)
        self.feature_info = [dict(info) for info in feature_info]
        self.num_features: int = self.feature_info[-1]["num_chs"]
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (B, num_features, h, w).

        Raises:
            UserError: an image is smaller than ``smallest_side``.
        """
        self._check_size(x)
        for name in self.layer_names:
            x = self._run(name, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the last feature map and the maps (B, C, h, w) of ``feature_info`` at ``indices``, as timm's ResNet.

        Raises:
            ValueError: ``output_fmt`` is not ``NCHW``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        self._check_size(x)
        take, last = feature_take_indices(len(self.feature_info), indices)
        wanted = {self.feature_info[i]["module"] for i in take}
        maps: list[Tensor] = []
        for name in self.layer_names:
            x = self._run(name, x)
            if name in wanted:
                maps.append(x)
            if stop_early and name == self.feature_info[last]["module"]:
                break
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Delete the layers after the last feature map at ``indices``; return the indices, counted from 0."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        n_kept = 1 + self.layer_names.index(self.feature_info[last]["module"])
        for name in self.layer_names[n_kept:]:
            delattr(self, name)
        if prune_head or n_kept < len(self.layer_names):
            self.num_features = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        self.layer_names = self.layer_names[:n_kept]
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes), or pooled features, of a feature map (B, num_features, h, w)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.last_linear(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images x (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.last_linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer, and the pooling unless ``global_pool`` is None."""
        pool_type: Any = self.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        self.num_classes = num_classes
        pool, linear = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, device=like.device, dtype=like.dtype
        )
        self.global_pool: Any = pool.train(self.training)
        self.last_linear: nn.Module = linear.train(self.training)
        self.head_hidden_size: int = self.num_features * self.global_pool.feat_mult()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass if ``enable``, which saves memory."""
        self.grad_checkpointing = enable

    def _run(self, name: str, x: Tensor) -> Tensor:
        layer = getattr(self, name)
        if self.grad_checkpointing and self.training and name != self.layer_names[0]:
            return checkpoint_seq(layer, x) if isinstance(layer, nn.Sequential) else checkpoint(layer, x)
        return layer(x)

    def _check_size(self, x: Tensor) -> None:
        if isinstance(x, Tensor) and not is_captured() and min(x.shape[2:]) < self.smallest_side:
            raise UserError(
                f"the images have {x.shape[2]}×{x.shape[3]} pixels; with this stem the network needs at least "
                f"{self.smallest_side}×{self.smallest_side}"
            )


def init_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions by He's rule for the fan-out, as timm's ResNets do."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_stem(stem_stride: int, width: float) -> None:
    """Raise UserError unless ``stem_stride`` is 1, 2 or 4 and ``width`` positive."""
    if stem_stride not in (1, 2, 4):
        raise UserError(f"stem_stride must be 1, 2 or 4, got {stem_stride}")
    if not width > 0:
        raise UserError(f"width must be above 0, got {width}")


def check_stages(name: str, stages: Collection[int], known: Collection[int]) -> None:
    """Raise UserError unless all ``stages`` are ``known``."""
    if unknown := sorted(set(stages) - set(known)):
        raise UserError(f"{name} may contain {', '.join(map(str, known))}, got {', '.join(map(str, unknown))}")
