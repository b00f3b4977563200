r"""VT-ResNets: ResNets whose last stage is replaced by modules of visual tokens.

    stem      timm's, stride 4; or a 3×3 convolution of stride 1 or 2    (B, in_chans, H, W) -> (B, C₁, H/4, W/4)
    stage 1…3 timm's blocks under timm's names                           -> X: (B, C, H/16, W/16)
    module k  T = transformer(tokenizer(X, T)), X = projector(X, T)      -> T: (B, C_T, L), X: (B, C_out, H/16, W/16)
    head      mean of the tokens, linear                                 -> (B, num_classes)

C₁ = 64, C = 256 and C_out = 512 for basic blocks, C = C_out = 1024 for bottlenecks; C_T = 1024, L = 16. The first
module has filters, the others are recurrent; there are 2, 3, 3, 3 modules for depth 18, 34, 50, 101.

``reading="published_size"``: groups and channels were chosen so that depth 18 and 34 have the size of Table 2 (11.6 M
parameters and 1579 M multiply-adds, 21.8 M and 3299 M); this is no evidence of what the authors ran. Text and tables
disagree on C_out. ``reading="equations"``: equations 1 to 5 as printed, C_T = C. No reading gives the printed size of
depth 50 and 101: their token part would have 11 multiply-adds per parameter; a dense layer over 16 tokens has 16.

Source: Wu et al., "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", ICCV 2021,
arXiv:2006.03677.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, make_blocks
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.models._sequential_classifier import check_stem
from saccade.models._visual_tokens import (
    ClusteringTokenizer,
    EquationProjector,
    EquationTransformer,
    FilterTokenizer,
    PoolingTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenGraphConvolution,
    Tokenizer,
    TokenTransformer,
)

__all__ = ["VTModule", "VTResNet", "vt_resnet18", "vt_resnet34", "vt_resnet50", "vt_resnet101"]

KNOWN_FAILURES = {
    "reaches_every_parameter": "the classifier reads tokens, so the last projector serves feature maps alone; the "
    "printed sizes count it, last_projector=False leaves it out"
}

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "recurrent": RecurrentTokenizer, "filter": FilterTokenizer, "pooling": PoolingTokenizer,
    "clustering": ClusteringTokenizer,
}  # fmt: skip
CHANNEL_MULTIPLE = 8
TOKEN_CHANNEL_MULTIPLE = 64
"""16 heads with half the channels, 4 groups."""


def _config() -> dict[str, Any]:
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (14, 14), "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0",
    }  # fmt: skip


default_cfgs = generate_default_cfgs({f"vt_resnet{depth}.untrained": _config() for depth in (18, 34, 50, 101)})


class VTModule(nn.Module):
    """Make tokens of a feature map, relate them, and add them to the map.

    Args:
        tokenizer: called with map and earlier tokens.
        transformer: maps tokens to tokens.
        projector: called with map and tokens; None leaves the map as it is.
    """

    def __init__(self, tokenizer: Tokenizer, transformer: nn.Module, projector: nn.Module | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.projector = projector

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the map (B, C_out, H, W) and the tokens (B, C_T, L) for x (B, C, H, W), tokens (B, C_T, L) or None."""
        tokens = self.transformer(self.tokenizer(x, tokens))
        return (x if self.projector is None else self.projector(x, tokens)), tokens


class VTResNet(nn.Module):
    """Stages 1 to 3 of a ResNet, then modules of visual tokens.

    Args:
        block: ``BasicBlock`` or ``Bottleneck`` of timm.
        layers: blocks of the three stages.
        modules: number of modules of visual tokens.
        num_classes: number of classes; 0 for outputs (B, C_T).
        in_chans: image channels.
        global_pool: "avg", or "" for tokens (B, C_T, L) without a classifier.
        tokens: L.
        token_channels: C_T at width 1; unused by the equations.
        tokenizer: "recurrent", "filter", "pooling" or "clustering".
        transformer: "transformer", "graph" or "none".
        projector: False leaves the map as it is.
        last_projector: False leaves out the last projector, which the classifier does not read.
        reading: "published_size" or "equations".
        width: multiplies channels; those of stage 1 are rounded to a multiple of 8, C_T to one of 64.
        stem_stride: 4; or 1 or 2, a 3×3 convolution without max pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block of stage 3, growing linearly from 0.
        zero_init_last: True to initialise the last norm of each block with zeros.

    Raises:
        UserError: an option has no such value.
    """

    def __init__(
        self,
        block: Any = BasicBlock,
        layers: Sequence[int] = (2, 2, 2),
        modules: int = 2,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        tokens: int = 16,
        token_channels: int = 1024,
        tokenizer: str = "recurrent",
        transformer: str = "transformer",
        projector: bool = True,
        last_projector: bool = True,
        reading: str = "published_size",
        width: float = 1.0,
        stem_stride: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
    ) -> None:
        super().__init__()
        _check("tokenizer", tokenizer, TOKENIZERS)
        _check("transformer", transformer, ("transformer", "graph", "none"))
        _check("reading", reading, ("published_size", "equations"))
        check_stem(stem_stride, width)
        if modules < 1:
            raise UserError(f"modules must be at least 1, got {modules}")
        if len(layers) != 3:
            raise UserError(f"layers must give the blocks of three stages, got {list(layers)}")
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        first = _round(64 * width, CHANNEL_MULTIPLE)
        kernel = 7 if stem_stride == 4 else 3
        self.conv1 = nn.Conv2d(in_chans, first, kernel, min(stem_stride, 2), kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem_stride == 4 else nn.Identity()
        stages, info = make_blocks(
            (block,) * 3, (first, first * 2, first * 4), tuple(layers), first, drop_path_rate=drop_path_rate,
            act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d,
        )  # fmt: skip
        for name, stage in stages:
            self.add_module(name, stage)
        self._initialise_backbone(zero_init_last)

        channels = first * 4 * block.expansion
        # The appendix has 512 channels for basic blocks, 1024 for bottlenecks.
        out_channels = first * 8 if block.expansion == 1 else channels
        equations = reading == "equations"
        self.num_features = self.head_hidden_size = (
            channels if equations else _round(token_channels * width, TOKEN_CHANNEL_MULTIPLE)
        )
        self.vt = nn.ModuleList()
        for k in range(modules):
            kind = "filter" if tokenizer == "recurrent" and k == 0 else tokenizer
            token_map = TOKENIZERS[kind](
                channels, tokens, None if equations else self.num_features,
                previous_channels=self.num_features if k else 0,
            )  # fmt: skip
            relate: nn.Module = nn.Identity()
            if transformer == "graph":
                relate = TokenGraphConvolution(tokens)
            elif transformer == "transformer":
                relate = (EquationTransformer if equations else TokenTransformer)(self.num_features)
            project: nn.Module | None = None
            if projector and (last_projector or k < modules - 1):
                if equations:
                    project = EquationProjector(channels)
                else:
                    project = Projector(channels, out_channels, self.num_features)
                    channels = out_channels
            self.vt.append(VTModule(token_map, relate, project))

        self.feature_info = [{"num_chs": first, "reduction": min(stem_stride, 2), "module": "act1"}]
        for k, stage_info in enumerate(info):
            self.feature_info.append({**stage_info, "reduction": stem_stride * 2**k})
        if self.vt[-1].projector is not None:
            module = f"vt.{modules - 1}.projector"
            self.feature_info.append({"num_chs": channels, "reduction": stem_stride * 4, "module": module})
        self.reset_classifier(num_classes, global_pool)

    def _initialise_backbone(self, zero_init_last: bool) -> None:
        """Initialise the convolutions as timm does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_last and isinstance(module, BasicBlock | Bottleneck):
                module.zero_init_last()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one of ``num_classes`` outputs; 0 for none.

        Raises:
            UserError: ``global_pool`` is neither "avg" nor "", or "" comes with classes.
        """
        if global_pool is not None:
            _check("global_pool", global_pool, ("avg", ""))
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise UserError(f'global_pool="" leaves tokens without a classifier, got num_classes={num_classes}; use 0')
        self.num_classes = num_classes
        like = self.conv1.weight
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names for layer-wise rates, as timm's networks do."""
        stages = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        modules = [(rf"^vt\.{k}\.", (4,) if coarse else (4, k)) for k in range(len(self.vt))]
        return {"stem": r"^(?:conv1|bn1)", "blocks": [(stages, None), *modules]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of the stages in the backward pass to save memory."""
        self.grad_checkpointing = enable

    def convert_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace stage 4 and classifier in the weights of timm's ResNet by this network's values; keep others."""
        if not any(key.startswith("layer4.") for key in weights):
            return dict(weights)
        kept = {key: value for key, value in weights.items() if not key.startswith(("layer4.", "fc."))}
        return {**{key: value for key, value in self.state_dict().items() if key.startswith(("vt.", "fc."))}, **kept}

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens (B, C_T, L) of images x (B, in_chans, H, W)."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for stage in self._stages():
            x = self._run_stage(stage, x)
        return self._run_modules(x)[1]

    def _stages(self) -> list[nn.Module]:
        stages: list[Any] = [self.layer1, self.layer2, self.layer3]
        return stages

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
        return y

    def _run_modules(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.vt:  # pruned: the pixels of the last stage take the place of tokens
            return x, x.flatten(2)
        x, tokens = self.vt[0](x)
        for module in self.vt[1:]:
            x, tokens = module(x, tokens)
        return x, tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes) of tokens x (B, C_T, L); with ``pre_logits`` their mean."""
        if self.global_pool:
            x = x.mean(2)
        x = F.dropout(x, self.drop_rate, self.training)
        logits: Tensor = x if pre_logits else self.fc(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images x (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return tokens (B, C_T, L), or the last map if stopped early, and the maps (B, C, H, W) of `feature_info`.

        Raises:
            UserError: ``output_fmt`` is not "NCHW".
        """
        _check("output_fmt", output_fmt, ("NCHW",))
        take, last = feature_take_indices(len(self.feature_info), indices)
        maps = [self.act1(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        stops = (stop_early or intermediates_only) and last < 4
        for stage in self._stages()[: last if stops else None]:
            x = self._run_stage(stage, x)
            maps.append(x)
        if not stops:
            y, x = self._run_modules(x)
            maps.append(y)
        taken = [maps[k] for k in take]
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what comes after the last of the feature maps ``indices``; return the indices."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        for k in range(last + 1, 4):
            self.add_module(f"layer{k}", nn.Sequential())
        if last < 4:
            self.vt = nn.ModuleList()
        if last < 4 or prune_head:
            self.reset_classifier(0, "")
        return list(take)


def _check(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise UserError(
            f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.{did_you_mean(value, known)}"
        )


def _round(channels: float, multiple: int) -> int:
    return max(multiple, round(channels / multiple) * multiple)


def _build(name: str, pretrained: bool, options: dict[str, Any], **layout: Any) -> nn.Module:
    maps = 5 if options.get("projector", True) and options.get("last_projector", True) else 4
    return build_model_with_cfg(
        VTResNet, name, pretrained, feature_cfg={"out_indices": tuple(range(maps)), "feature_cls": "getter"},
        **{**layout, **options},
    )  # fmt: skip


@register_model
def vt_resnet18(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build VT-ResNet-18: two basic blocks in each of three stages, two modules of visual tokens."""
    return _build("vt_resnet18", pretrained, options, block=BasicBlock, layers=(2, 2, 2), modules=2)


@register_model
def vt_resnet34(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build VT-ResNet-34: 3, 4, 6 basic blocks, three modules of visual tokens."""
    return _build("vt_resnet34", pretrained, options, block=BasicBlock, layers=(3, 4, 6), modules=3)


@register_model
def vt_resnet50(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build VT-ResNet-50: 3, 4, 6 bottlenecks, three modules of visual tokens."""
    return _build("vt_resnet50", pretrained, options, block=Bottleneck, layers=(3, 4, 6), modules=3)


@register_model
def vt_resnet101(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build VT-ResNet-101: 3, 4, 23 bottlenecks, three modules of visual tokens."""
    return _build("vt_resnet101", pretrained, options, block=Bottleneck, layers=(3, 4, 23), modules=3)
