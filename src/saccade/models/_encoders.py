"""Encoders of pyramids: a timm network that returns its feature maps at chosen strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import is_model, list_models
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean

__all__ = ["build_encoder"]


def build_encoder(
    encoder: str,
    options: Mapping[str, Any] | None,
    in_chans: int,
    strides: Sequence[int] | None,
    n_maps: int,
    pretrained: bool,
) -> tuple[nn.Module, list[int], list[int]]:
    """Return a network from images (B, C, H, W) to feature maps, their strides and their numbers of channels.

    Args:
        encoder: name of a timm network that supports ``features_only``.
        options: options for ``timm.create_model``.
        in_chans: number of image channels C.
        strides: strides of the maps; None for the last ``n_maps``.
        n_maps: number of maps without ``strides``.
        pretrained: True to load timm's weights.

    Raises:
        UserError: timm cannot build the encoder, or it has no map of one of the strides.
    """
    if not is_model(encoder.partition(".")[0]):
        raise UserError(f"timm has no network {encoder!r}.{did_you_mean(encoder, list_models())}")
    arguments = {"features_only": True, "in_chans": in_chans, **(options or {})}
    try:
        with torch.device("meta"):  # without memory or random numbers
            info: Any = timm.create_model(encoder, **arguments).feature_info
        chosen, indices = _choose_maps(encoder, info, strides, n_maps)
        network: Any = timm.create_model(encoder, pretrained=pretrained, out_indices=indices, **arguments)
    except (AttributeError, RuntimeError, TypeError) as error:
        described = dict(options or {})
        raise UserError(f"timm could not build the encoder {encoder} with options {described}: {error}") from error
    channels = network.feature_info.channels()
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):
        network = _ChannelsFirst(network)
    return network, chosen, channels


class _ChannelsFirst(nn.Module):
    """Encoder that returns maps (B, C, H, W) where timm's returns (B, H, W, C)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        return [y.permute(0, 3, 1, 2) for y in self.network(x)]


def _choose_maps(
    encoder: str, info: Any, strides: Sequence[int] | None, n_maps: int
) -> tuple[list[int], tuple[int, ...]]:
    """Return the strides and timm's indices of the feature maps."""
    indices_by_stride = dict(zip(info.reduction(), info.out_indices, strict=True))  # the last map of each stride
    chosen = sorted(indices_by_stride)[-n_maps:] if strides is None else list(strides)
    if not chosen or sorted(set(chosen)) != chosen or not indices_by_stride.keys() >= set(chosen):
        raise UserError(
            f"strides = {chosen}: the feature maps of {encoder} have the strides "
            f"{', '.join(map(str, sorted(indices_by_stride)))}; give some of these in ascending order"
        )
    return chosen, tuple(indices_by_stride[stride] for stride in chosen)
