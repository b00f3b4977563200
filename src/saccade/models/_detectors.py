"""Parts of the detector hosts: an encoder of timm with a feature pyramid, and padding of the images.

Modules and keys are torchvision's, with the encoder at ``backbone.encoder``. Unlike torchvision's, the hosts neither
resize nor normalise images. Pyramid: Lin et al., CVPR 2017, arXiv:1612.03144.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, get_pretrained_cfg
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from saccade.builders import is_builder
from saccade.errors import UserError, did_you_mean
from saccade.models._encoders import build_encoder

__all__ = [
    "DEFAULT_DETECTOR", "NORM_GROUPS", "Padding", "Pyramid", "check_normalised_width", "check_options", "declare",
    "detector_config", "is_detector",
]  # fmt: skip

NORM_GROUPS = 32
"""Groups of the normalisation in torchvision's heads."""

DEFAULT_DETECTOR = "fcos"
"""Detector whose encoder a network of timm becomes if the recipe names no detector."""
_OWN_ARGUMENTS = frozenset(
    {
        "self", "backbone", "num_classes", "min_size", "max_size", "image_mean", "image_std", "kwargs",
        "anchor_generator", "rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor", "head",
        "proposal_matcher",
    }
)  # fmt: skip
"""Arguments of torchvision's classes that follow from the data or are modules."""
_PYRAMID_PATHS = ("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")


class Pyramid(nn.Module):
    """Encoder of timm and a feature pyramid.

    Args:
        encoder: name of a timm network that supports ``features_only``.
        encoder_options: options for ``timm.create_model``.
        in_chans: number of image channels C.
        strides: strides of the maps that enter the pyramid; None for the last ``n_maps``.
        n_maps: number of maps without ``strides``.
        channels: channels of the pyramid.
        extra_levels: module that adds coarser levels, or None.
        pretrained: True to load timm's weights.

    Raises:
        UserError: timm cannot build the encoder, or it has no map of one of the strides.
    """

    def __init__(
        self,
        encoder: str,
        encoder_options: Mapping[str, Any] | None,
        in_chans: int,
        strides: Sequence[int] | None,
        n_maps: int,
        channels: int,
        extra_levels: ExtraFPNBlock | None,
        pretrained: bool,
    ) -> None:
        super().__init__()
        network, self.strides, widths = build_encoder(encoder, encoder_options, in_chans, strides, n_maps, pretrained)
        self.encoder: nn.Module = network
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_levels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the levels by name, each (B, channels, H/stride, W/stride), for images x (B, C, H, W)."""
        maps: Sequence[Tensor] = self.encoder(x)
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(n), level) for n, level in enumerate(maps)))
        # Float32, because torchvision computes anchors in the dtype of the maps, too coarse in bfloat16.
        return {name: level.float() for name, level in levels.items()}


class Padding(nn.Module):
    """Zero-padding at the right and bottom to multiples of ``multiple`` pixels, in place of torchvision's transform."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, images: Any, targets: Any = None) -> tuple[ImageList, Any]:
        """Return images (B, C, H, W), or a list of (C, H, W), padded and with their sizes, and ``targets``."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (-(-max(side) // self.multiple) * self.multiple for side in zip(*sizes, strict=True))
        if isinstance(images, Tensor):
            padded = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        else:
            padded = torch.stack([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in images])
        return ImageList(padded, sizes), targets

    def postprocess(self, detections: Any, image_sizes: Any, original_sizes: Any) -> Any:
        """Return ``detections``, whose boxes are in pixels of the images."""
        return detections


def is_detector(name: str) -> bool:
    """Return True for a user function, or a network of timm whose configuration has the note ``detector``."""
    if is_builder(name):
        return True
    config = get_pretrained_cfg(name.partition(".")[0])
    return config is not None and "detector" in (config.notes or ())


def detector_config(name: str, head_paths: Sequence[str]) -> Any:
    """Return timm's configuration of the detector ``name``; its heads are the pyramid and ``head_paths``."""
    return generate_default_cfgs(
        {
            f"{name}.untrained": {
                "url": "",
                "num_classes": 91,
                "input_size": (3, 320, 320),
                "classifier": (*_PYRAMID_PATHS, *head_paths),
                "notes": ("detector",),
            }
        }
    )


def declare(network: Any, predictors: Iterable[nn.Module], config: Any, num_classes: int, in_chans: int) -> nn.Module:
    """Return ``network`` of torchvision with timm's attributes; ``predictors`` output box offsets and logits."""
    network.transform = Padding(max(network.backbone.strides))
    for module in predictors:
        module.register_forward_hook(_to_float32)
    network.num_classes = num_classes
    network.pretrained_cfg = {
        "architecture": config.default.architecture,
        "classifier": config.default.classifier,
        "input_size": (in_chans, *config.default.input_size[1:]),
    }
    network.default_cfg = network.pretrained_cfg
    detector: nn.Module = network
    return detector


def _to_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Return ``outputs`` in float32, because torchvision computes boxes in the dtype of their offsets."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {key: _to_float32(module, inputs, value) for key, value in outputs.items()}
    return type(outputs)(_to_float32(module, inputs, value) for value in outputs)


def check_normalised_width(channels: int) -> None:
    """Raise UserError unless ``channels`` can be normalised in ``NORM_GROUPS`` groups."""
    # A group of one channel cannot be normalised in a map of one pixel.
    if channels % NORM_GROUPS or channels < 2 * NORM_GROUPS:
        raise UserError(f"fpn_channels must be a multiple of {NORM_GROUPS}, at least {2 * NORM_GROUPS}, got {channels}")


def check_options(library_class: type, options: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """Return ``options`` without timm's keywords; raise UserError for names that ``library_class`` does not have.

    Messages also suggest the ``own`` options.
    """
    chosen = {
        key: value
        for key, value in options.items()
        if key not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    }
    known = {*inspect.signature(library_class).parameters, *own} - _OWN_ARGUMENTS | {*own}
    for key in chosen:
        if key not in known:
            raise UserError(f"{library_class.__name__} has no option {key!r}.{did_you_mean(key, known)}")
    return chosen
