"""RT-DETR of transformers on any timm encoder, or with the backbone of its own configuration.

    encoder     feature maps at strides s, 2s, 4s                       (B, C_k, H/s_k, W/s_k)
    neck        self-attention on the coarsest map, then FPN and PAN    (B, d, H/s_k, W/s_k)
    decoder     Q queries, each a box and K logits                      (B, Q, 4), (B, Q, K)

Images are zero-padded at the right and bottom to a multiple of the coarsest stride. Norms and other layers start as in
PyTorch and the authors' code; transformers draws them from N(0, 0.01²).

Source: Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024, arXiv:2304.08069.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, is_model, list_models, register_model
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["DEFAULT_ENCODER", "RTDetr", "options_as_saved", "rt_detr"]

DEFAULT_ENCODER = "resnet18"
"""Encoder if neither the option ``encoder`` nor ``config`` is given."""
_MODEL_TYPE = "rt_detr"
_FIXED_SIZES = ("eval_size", "anchor_image_size")
"""Settings that fix the size of the image, which the wrapper leaves free."""
_DRAWN_BY_TRANSFORMERS = frozenset({"class_embed", "enc_score_head", "enc_bbox_head", "value_proj", "output_proj"})
"""Layers with an initialisation of their own in transformers; those that start at 0 are not listed."""
_RENAMED_KEYS = (
    (r"\bout_proj\b", "o_proj"),
    (r"\blayers\.(\d+)\.fc", r"layers.\1.mlp.fc"),
    (r"\bencoder\.encoder\.", "encoder.aifi."),
)
"""Patterns of the keys that transformers writes into files, and what its modules are called."""
_LOSSES = ("vfl", "bbox", "giou")
"""Losses of transformers: varifocal loss of the classes, L1 and generalised IoU of the boxes."""

_HEADS = tuple(
    f"network.model.{name}"
    for name in (
        "encoder_input_proj", "encoder", "enc_output", "enc_score_head", "enc_bbox_head", "decoder_input_proj",
        "decoder.class_embed", "denoising_class_embed", "weight_embedding",
    )
)  # fmt: skip
"""Paths of the parts beside the backbone; the last two depend on the settings."""

default_cfgs = generate_default_cfgs(
    {
        "rt_detr.untrained": {
            "url": "",
            "num_classes": 81,
            "input_size": (3, 640, 640),
            "classifier": _HEADS,
            "notes": ("detector",),
        }
    }
)


class RTDetr(nn.Module):
    """Detector with the interface of torchvision's.

    Args:
        encoder: name of a timm network; None for the backbone of ``config``, without that ``DEFAULT_ENCODER``.
        encoder_options: options for ``timm.create_model``.
        config: path of a ``config.json`` of transformers, or of its folder, or its content.
        num_classes: number of classes, with the background.
        in_chans: number of image channels C.
        levels: number of feature maps of a timm encoder, from the coarsest.
        detections: maximum number of detections per image.
        pretrained_encoder: True to load timm's weights.
        **options: settings of ``transformers.RTDetrConfig``, such as ``d_model``; they override ``config``.

    Raises:
        UserError: transformers is missing or cannot build the network, or the encoder's strides do not double.
    """

    def __init__(
        self,
        encoder: str | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        config: str | Mapping[str, Any] | None = None,
        num_classes: int = 81,
        in_chans: int = 3,
        levels: int = 3,
        detections: int = 100,
        pretrained_encoder: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        library = _library()
        known = library.RTDetrConfig.__annotations__.keys() - {*_FIXED_SIZES, "backbone_config"}
        for key in options:
            if key not in known:
                suggestion = did_you_mean(key, [*known, "encoder", "encoder_options", "config", "levels", "detections"])
                raise UserError(f"RTDetrConfig has no option {key!r}.{suggestion}")
        settings = {**({} if config is None else _read_config(config)), **options, "num_labels": num_classes - 1}
        timm_network = None
        if encoder is not None or config is None:
            encoder = encoder or DEFAULT_ENCODER
            timm_network = _timm_encoder(encoder, dict(encoder_options or {}), in_chans, levels, pretrained_encoder)
            settings |= _settings_for(timm_network, settings, encoder)
        elif pretrained_encoder or encoder_options:
            found = "pretrained = true" if pretrained_encoder else "encoder_options"
            raise UserError(f"{found} needs the name of a timm network: set the option encoder")
        else:
            backbone = {"model_type": "rt_detr_resnet", "out_indices": [2, 3, 4], **settings.get("backbone_config", {})}
            settings["backbone_config"] = {**backbone, "num_channels": in_chans}
        try:
            network: Any = library.RTDetrForObjectDetection(library.RTDetrConfig(**settings))
        except Exception as error:  # transformers checks few settings: a wrong one may raise anything
            raise UserError(
                f"transformers could not build RTDetrForObjectDetection with the options {brief(options, 400)}: "
                f"{type(error).__name__}: {brief(error, 400)}"
            ) from error
        _reset_parameters(network)
        if timm_network is not None:
            widths = timm_network.feature_info.channels()
            network.model.backbone = _Backbone(timm_network)
            network.model.encoder_input_proj = _projections(widths, network.config.encoder_hidden_dim)
        self.num_classes = num_classes
        self.detections = detections
        self.network = network
        self.multiple: int = max(network.config.feat_strides)
        """Height and width are padded to a multiple of this number of pixels."""
        paths = {path for path, _ in self.named_modules()}
        self.pretrained_cfg = {
            "architecture": "rt_detr",
            "classifier": tuple(path for path in _HEADS if path in paths),
            "input_size": (in_chans, *default_cfgs["rt_detr"].default.input_size[1:]),
        }
        self.default_cfg = self.pretrained_cfg

    def convert_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights that transformers saved, under the keys of this network; others unchanged."""
        if not any(key.startswith("model.decoder.") for key in weights):
            return dict(weights)
        converted = {}
        for saved_key, value in weights.items():
            key = saved_key
            for pattern, replacement in _RENAMED_KEYS:
                key = re.sub(pattern, replacement, key)
            # Old releases also saved the heads of the decoder under a second key.
            if not key.startswith(("class_embed.", "bbox_embed.")):
                converted[f"network.{key}"] = value
        return converted

    def forward(self, x: Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Return detections, or in training mode with ``targets`` the losses.

        Args:
            x: images (B, C, H, W).
            targets: B dictionaries of ``boxes`` (n, 4), XYXY in pixels, and ``labels`` (n,) from 1.

        Returns:
            B dictionaries of ``boxes``, ``labels`` and ``scores`` (n,), the best first; or weighted losses by name,
            each summed over the layers of the decoder.

        Raises:
            UserError: the feature maps have fewer positions than the decoder has queries.
        """
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        self._check_positions(x)
        size = torch.tensor([x.shape[3], x.shape[2]] * 2, dtype=torch.float32, device=x.device)
        if targets is None or not self.training:
            outputs = self.network(x)
            return self._detections(outputs.logits.float(), outputs.pred_boxes.float() * size, (height, width))
        labels = [
            {
                "boxes": box_convert(target["boxes"].float(), "xyxy", "cxcywh") / size,
                "class_labels": target["labels"] - 1,
            }
            for target in targets
        ]
        losses = self.network(x, labels=labels).loss_dict
        return {
            name: torch.stack([loss for key, loss in losses.items() if key.startswith(f"loss_{name}")]).sum()
            for name in _LOSSES
        }

    def _check_positions(self, x: Tensor) -> None:
        config = self.network.config
        height, width = x.shape[2:]
        n_positions = sum((height // stride) * (width // stride) for stride in config.feat_strides)
        if n_positions < config.num_queries:
            raise UserError(
                f"num_queries = {config.num_queries} is more than the {n_positions} positions of the feature maps of "
                f"an image of {height}×{width} pixels; set model.options.num_queries or a larger data.size"
            )

    def _detections(self, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Return the best detections for logits (B, Q, K) and boxes (B, Q, 4), CXCYWH in pixels."""
        config = self.network.config
        scores = logits.sigmoid() if config.use_focal_loss else logits.softmax(-1)
        best, indices = scores.flatten(1).topk(min(self.detections, scores[0].numel()))
        n_classes = scores.shape[-1]
        # box_convert would make tensors (B, Q), which the search for necks takes for vectors of the image.
        centres, halves = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([centres - halves, centres + halves], -1)
        corners = corners.gather(1, (indices // n_classes)[..., None].expand(-1, -1, 4))
        clipped = clip_boxes_to_image(corners, size)
        inside = (clipped[..., 2:] > clipped[..., :2]).all(-1)
        return [
            {"boxes": clipped[b, kept], "labels": indices[b, kept] % n_classes + 1, "scores": best[b, kept]}
            for b, kept in enumerate(inside)
        ]


class _Backbone(nn.Module):
    """Backbone of transformers' network, from timm."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, None]]:
        """Return the feature maps (B, C_k, H/s_k, W/s_k), without masks, which are not read."""
        return [(features, None) for features in self.model(pixel_values)]


def _library() -> Any:
    """Return transformers; raise UserError if it is missing or too old."""
    try:
        import scipy.optimize  # noqa: F401 (the loss needs it)
        import transformers

        transformers.RTDetrForObjectDetection  # noqa: B018 (transformers imports its classes on access)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"rt_detr is a network of transformers, which cannot be imported ({error}); install it with "
            'pip install "saccade-attention[detect]"'
        ) from None
    return transformers


def _read_config(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``RTDetrConfig`` in ``config`` that differ from their defaults.

    Raises:
        UserError: the file is unreadable, or describes another network.
    """
    if isinstance(config, Mapping):
        content, subject = dict(config), "the option config"
    else:
        path = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
        subject = f"the option config: {path}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{subject} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"{subject} is not JSON: {error}") from None
    model_type = content.get("model_type", _MODEL_TYPE) if isinstance(content, dict) else None
    if model_type != _MODEL_TYPE:
        raise UserError(f"{subject} has the model_type {brief(model_type)!r}; {_MODEL_TYPE!r} is needed")
    if content.get("backbone") is not None:
        raise UserError(f"{subject} names the backbone {brief(content['backbone'])!r}; give a timm name as encoder")
    library = _library()
    settings = _changed_settings(library.RTDetrConfig, content)
    for key in _FIXED_SIZES:
        settings.pop(key, None)
    if (backbone := content.get("backbone_config")) is not None:
        kind = backbone.get("model_type", "rt_detr_resnet")
        if kind not in library.CONFIG_MAPPING:
            raise UserError(f"{subject}: transformers has no backbone {brief(kind)!r}.")
        inner = _changed_settings(library.CONFIG_MAPPING[kind], backbone)
        indices = {"out_indices": backbone["out_indices"]} if backbone.get("out_indices") else {}
        settings["backbone_config"] = {"model_type": kind, **indices, **inner}
    return settings


def _changed_settings(config_class: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values in ``content`` of the class's own settings, without defaults."""
    own = {field.name: field.default for field in dataclasses.fields(config_class)}
    return {
        key: value
        for key, value in content.items()
        if key in config_class.__annotations__ and value is not None and value != _as_list(own.get(key))
    }


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _timm_encoder(name: str, options: dict[str, Any], in_chans: int, levels: int, pretrained: bool) -> Any:
    """Return the timm network whose feature maps enter the neck; raise UserError if timm cannot build it."""
    if not is_model(name.partition(".")[0]):
        raise UserError(f"timm has no network {name!r}.{did_you_mean(name, list_models())}")
    if levels < 1:
        raise UserError(f"levels = {levels}: at least 1 feature map is needed")
    try:
        network: Any = timm.create_model(
            name, pretrained=pretrained, features_only=True, in_chans=in_chans, out_indices=levels, **options
        )
    except IndexError:
        raise UserError(f"levels = {levels}: the encoder {name} has fewer feature maps") from None
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(f"timm could not build the encoder {name} with options {options}: {error}") from error
    return network


def _settings_for(network: Any, settings: Mapping[str, Any], encoder: str) -> dict[str, Any]:
    """Return the settings of ``RTDetrConfig`` that follow from a timm encoder, with a small backbone to be replaced.

    Raises:
        UserError: the strides of the feature maps do not double.
    """
    strides, n = network.feature_info.reduction(), len(network.feature_info.reduction())
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(
            f"the encoder {encoder} has feature maps at strides {', '.join(map(str, strides))}; each must be twice the "
            "one before"
        )
    hidden = settings.get("encoder_hidden_dim", settings.get("d_model", 256))
    stand_in = {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8] * n, "depths": [1] * n}
    return {
        "backbone_config": {**stand_in, "layer_type": "basic", "out_indices": [*range(1, n + 1)]},
        "freeze_backbone_batch_norms": False,
        "encoder_hidden_dim": hidden,
        "encoder_in_channels": network.feature_info.channels(),
        "decoder_in_channels": [hidden] * n,
        "feat_strides": strides,
        "num_feature_levels": n,
        "encode_proj_layers": [n - 1],
    }


def _projections(widths: Sequence[int], hidden: int) -> nn.ModuleList:
    """Return the projections of maps of ``widths`` channels to ``hidden`` channels."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)) for width in widths
    )


def _reset_parameters(network: nn.Module) -> None:
    """Draw the layers as PyTorch does, except those that transformers draws in a way of their own."""
    for name, module in network.named_modules():
        if name.startswith("model.backbone.") or not _DRAWN_BY_TRANSFORMERS.isdisjoint(name.split(".")):
            continue
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            starts_at_zero = not module.weight.is_meta and not bool(module.weight.any())
            if not starts_at_zero:
                module.reset_parameters()


def options_as_saved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the content of the file ``config``."""
    return {**options, "config": _read_config(options["config"])} if "config" in options else dict(options)


@register_model
def rt_detr(pretrained: bool = False, encoder: str | None = None, **options: Any) -> nn.Module:
    """Build :class:`RTDetr`, registered with timm as ``rt_detr``."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(key, None)
    return RTDetr(encoder, pretrained_encoder=pretrained, **options)
