"""Networks of segmentation_models_pytorch (U-Net, FPN and others) on any timm encoder that has the strides they need.

    encoder    maps at strides 1, 2, 4, …, 2^depth                        (B, C_k, H/2^k, W/2^k)
    decoder    combines them, from the coarsest to the finest
    head       a convolution, and an upsampling where the decoder ends at a lower resolution   (B, K, H, W)

Modules and keys are those of the library's networks with a ``tu-`` encoder, so its weights can be loaded. Images are
zero-padded at the right and bottom to the multiples that an architecture needs; the output is cropped.

Source: https://github.com/qubvel-org/segmentation_models.pytorch, which names the paper of each architecture. U-Net:
Ronneberger et al., 2015, arXiv:1505.04597. FPN: Lin et al., 2017, arXiv:1612.03144.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs, is_model, list_models, register_model
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["ARCHITECTURES", "EncoderDecoder"]

ARCHITECTURES = (
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet",
    "segformer", "dpt",
)  # fmt: skip
"""Names of the library's architectures."""
_DEFAULT_ENCODERS = dict.fromkeys(ARCHITECTURES, "resnet34") | {"dpt": "vit_base_patch16_224"}
"""The library's defaults."""
_OWN_ARGUMENTS = frozenset(
    {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs"}
)
"""Arguments that are no options: they follow from the data or would change the output."""

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "url": "",
            "num_classes": 21,
            "input_size": (3, 224, 224),
            "classifier": ("decoder", "segmentation_head"),
            "notes": ("dense",),
        }
        for name in ARCHITECTURES
    }
)


class EncoderDecoder(nn.Module):
    """Network that maps images (B, C, H, W) to logits (B, K, H, W).

    Args:
        architecture: one of ``ARCHITECTURES``.
        encoder: name of a timm network that supports ``features_only``.
        encoder_options: options for ``timm.create_model``.
        num_classes: number of classes K.
        in_chans: number of image channels C.
        pretrained_encoder: True to load timm's weights.
        **options: any other option of the library's class, such as ``decoder_channels``.

    Raises:
        UserError: the library is not installed, has no such option, or cannot build the network.
    """

    def __init__(
        self,
        architecture: str = "unet",
        encoder: str = "resnet34",
        encoder_options: Mapping[str, Any] | None = None,
        num_classes: int = 21,
        in_chans: int = 3,
        pretrained_encoder: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        library_class = _library_class(architecture)
        known = inspect.signature(library_class.__init__).parameters.keys() - _OWN_ARGUMENTS
        for key in options:
            if key not in known:
                suggestion = did_you_mean(key, [*known, "encoder", "encoder_options"])
                raise UserError(f"{library_class.__name__} has no option {key!r}.{suggestion}")
        if not is_model(encoder.partition(".")[0]):
            raise UserError(f"timm has no network {encoder!r}.{did_you_mean(encoder, list_models())}")
        try:
            network = library_class(
                encoder_name=f"tu-{encoder}",
                encoder_weights=True if pretrained_encoder else None,
                in_channels=in_chans,
                classes=num_classes,
                **options,
                **(encoder_options or {}),
            )
        except Exception as error:  # neither library checks all options: a wrong one may raise anything
            described = f"the encoder {encoder} {dict(encoder_options or {})} and the options {options}"
            raise UserError(
                f"segmentation_models_pytorch could not build {library_class.__name__} with {described}: "
                f"{type(error).__name__}: {brief(error, 400)}"
            ) from error
        self.num_classes = num_classes
        self.encoder, self.decoder = network.encoder, network.decoder
        self.segmentation_head = network.segmentation_head
        self.multiple: int = network.encoder.output_stride if network.requires_divisible_input_shape else 1
        """Height and width are padded to a multiple of this number of pixels."""
        if architecture == "dpt":  # its decoder halves the maps of the transformer once more
            self.multiple *= 2
        config = default_cfgs[architecture].default
        self.pretrained_cfg = {
            "architecture": architecture,
            "classifier": config.classifier,
            "input_size": (in_chans, *config.input_size[1:]),
        }
        self.default_cfg = self.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K, H, W) for images x (B, C, H, W)."""
        height, width = x.shape[2:]
        if self.multiple > 1:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = self.encoder(x)
        # The encoder of DPT returns its maps and its prefix tokens.
        combined = self.decoder(*maps) if isinstance(maps, tuple) else self.decoder(maps)
        logits: Tensor = self.segmentation_head(combined)
        return logits[:, :, :height, :width]


def _library_class(architecture: str) -> Any:
    """Return the library's class; raise UserError if the library is missing or too old."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise UserError(
            f"{architecture} is a network of segmentation_models_pytorch, which cannot be imported ({error}); "
            'install it with pip install "saccade-attention[segment]"'
        ) from None
    classes: Mapping[str, Any] = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture not in classes:
        suggestion = did_you_mean(architecture, classes)
        raise UserError(f"segmentation_models_pytorch {smp.__version__} has no {architecture}.{suggestion}")
    return classes[architecture]


def _entry_point(architecture: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls to build ``architecture``."""

    def build(
        pretrained: bool = False, encoder: str = _DEFAULT_ENCODERS[architecture], **options: Any
    ) -> EncoderDecoder:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        return EncoderDecoder(architecture, encoder, pretrained_encoder=pretrained, **options)

    build.__name__ = build.__qualname__ = architecture
    build.__doc__ = f"Build :class:`EncoderDecoder`, registered with timm as ``{architecture}``."
    return build


for _architecture in ARCHITECTURES:
    globals()[_architecture] = register_model(_entry_point(_architecture))
