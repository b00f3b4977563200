"""The fastest public implementation of each mechanism of the catalogue, with the weights of ours.

A row says where it lies, how it is made of a module of ours, and what is wrong with it where it computes something
else: then the nearest that is right takes its place, or the wrong one repaired, and the note states the repair.
fightingcv-attention is the package of that name on PyPI (1.0.0).
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.eca import EcaModule
from timm.layers.gather_excite import GatherExcite
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import NonLocalAttn
from timm.layers.selective_kernel import SelectiveKernel
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation, deform_conv2d

__all__ = ["ROWS", "Row", "Swapped", "plain", "taught"]


@dataclass(frozen=True)
class Row:
    """What a mechanism is held against.

    Args:
        source: package and class of the public implementation, or "" where there is none.
        public: makes it of a module of ours: the same function with the same weights. Without a source, the plain
            definition of ours where :func:`plain` does not find it.
        options: of ours, beside its defaults.
        note: what is wrong with public ones, and what was repaired.
        matrix: ours weighs every pixel by every pixel; the memory of the matrix is asked for.
    """

    source: str = ""
    public: Callable[[Any], nn.Module] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    matrix: bool = False


def taught(theirs: nn.Module, ours: nn.Module, names: Mapping[str, str], **given: Tensor | float) -> nn.Module:
    """``theirs`` with the parameters and buffers of ``ours``.

    Args:
        theirs: changed in place.
        ours: where they are read.
        names: prefixes of theirs and what ours call them; a tensor takes the shape that theirs has.
        given: whole names of theirs, dots written as two underscores, and their values; these go first.

    Raises:
        KeyError: a tensor of theirs is in neither.
    """
    own = ours.state_dict()
    fixed = {name.replace("__", "."): value for name, value in given.items()}
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if name in fixed:
                value = torch.as_tensor(fixed[name])
            else:
                prefixes = [p for p in names if name == p or name.startswith(f"{p}.")]
                if not prefixes:
                    raise KeyError(f"{name} has no name in ours")
                prefix = max(prefixes, key=len)
                value = own[names[prefix] + name[len(prefix) :]]
            tensor.copy_(value.reshape(tensor.shape) if value.numel() == tensor.numel() else value)
    return theirs


class Swapped(nn.Module):
    """A module of ours in whose file functions, or numbers, are others, as long as it runs."""

    def __init__(self, ours: nn.Module, functions: Mapping[str, Callable[..., Any] | int]) -> None:
        super().__init__()
        self.ours = ours
        self.functions = dict(functions)

    def forward(self, x: Tensor) -> Tensor:
        """What ``ours`` computes with these functions."""
        file = importlib.import_module(type(self.ours).__module__)
        with ExitStack() as stack:
            for name, function in self.functions.items():
                stack.enter_context(patch.object(file, name, function))
            y: Tensor = self.ours(x)
        return y


def plain(ours: nn.Module) -> Swapped | None:
    """``ours`` on the plain definitions of the operators that its file imports; None where it imports none."""
    found = {}
    for name, function in vars(importlib.import_module(type(ours).__module__)).items():
        if isinstance(function, types.FunctionType) and function.__module__.startswith("saccade.ops."):
            definition = getattr(importlib.import_module(function.__module__), f"{name}_definition", None)
            if definition is not None:
                found[name] = definition
    return Swapped(ours, found) if found else None


class _Added(nn.Module):
    """x plus what a module makes of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.module(x)
        return y


class _Again(nn.Module):
    """A module applied to its own result."""

    def __init__(self, module: nn.Module, times: int) -> None:
        super().__init__()
        self.module, self.times = module, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.module(x)
        return x


def _fighting(file: str, name: str) -> Any:
    """A class of fightingcv-attention."""
    return getattr(importlib.import_module(f"fightingcv_attention.attention.{file}"), name)


def _se(ours: Any) -> nn.Module:
    theirs = SqueezeExcitation(ours.squeeze.in_features, ours.squeeze.out_features)
    return taught(theirs, ours, {"fc1": "squeeze", "fc2": "excite"})


def _eca(ours: Any) -> nn.Module:
    return taught(EcaModule(kernel_size=ours.conv.kernel_size[0]), ours, {"conv": "conv"})


def _cbam(ours: Any) -> nn.Module:
    first, last = ours.mlp[0], ours.mlp[2]
    theirs = CbamModule(first.in_features, rd_channels=first.out_features, mlp_bias=True)
    names = {"channel.fc1": "mlp.0", "channel.fc2": "mlp.2", "spatial.conv.bn": "bn"}
    assert last.out_features == first.in_features
    return taught(theirs, ours, names, spatial__conv__conv__weight=ours.conv.weight.flip(1))


def _coord(ours: Any) -> nn.Module:
    theirs = CoordAttn(ours.squeeze.in_channels, rd_channels=ours.squeeze.out_channels, bias=True)
    return taught(theirs, ours, {"conv1": "squeeze", "bn1": "bn", "conv_h": "rows", "conv_w": "columns"})


def _triplet(ours: Any) -> nn.Module:
    theirs = _fighting("TripletAttention", "TripletAttention")()
    pairs = {"cw": "height", "hc": "width", "hw": "channel"}
    parts = {f"{a}.conv.{part}": f"{b}.{part}" for a, b in pairs.items() for part in ("conv", "bn")}
    return taught(theirs, ours, parts)


def _simam(ours: Any) -> nn.Module:
    theirs: nn.Module = _fighting("SimAM", "SimAM")(e_lambda=ours.e_lambda)
    return theirs


def _sa(ours: Any) -> nn.Module:
    theirs = _fighting("ShuffleAttention", "ShuffleAttention")(2 * ours.groups * len(ours.norm_weight), G=ours.groups)
    names = {"cweight": "channel_weight", "cbias": "channel_bias", "sweight": "spatial_weight"}
    names |= {"sbias": "spatial_bias", "gn.weight": "norm_weight", "gn.bias": "norm_bias"}
    return taught(theirs, ours, names)


def _gc(ours: Any) -> nn.Module:
    channels, hidden = ours.mask.in_channels, ours.add[0].out_features
    theirs = GlobalContext(channels, fuse_add=True, fuse_scale=False, rd_channels=hidden)
    theirs.mlp_add.norm.eps = ours.add[1].eps
    names = {"conv_attn": "mask", "mlp_add.fc1": "add.0", "mlp_add.norm": "add.1", "mlp_add.fc2": "add.3"}
    return taught(theirs, ours, names, conv_attn__bias=0.0)


def _ge(ours: Any) -> nn.Module:
    depthwise = ours.gather[0]
    theirs = GatherExcite(depthwise.in_channels, use_mlp=False)
    shape = (depthwise.in_channels, depthwise.out_channels, depthwise.kernel_size)
    theirs.gather = nn.Sequential(
        nn.Conv2d(*shape, groups=depthwise.groups, bias=False), nn.BatchNorm2d(depthwise.out_channels)
    )
    return taught(theirs, ours, {"gather": "gather"})


def _nl(ours: Any) -> nn.Module:
    channels, hidden = ours.theta.in_channels, ours.theta.out_channels
    theirs = NonLocalAttn(channels, rd_channels=hidden)
    sharper = (channels / hidden) ** 0.5  # theirs divides by √C, the authors' code by √c
    query = {"t__weight": sharper * ours.theta.weight, "t__bias": sharper * ours.theta.bias}
    return taught(theirs, ours, {"p": "phi", "g": "g", "z": "out", "norm": "bn"}, **query, p__bias=0.0)


class _Softmaxes:
    """A stand-in for ``torch.nn.functional`` whose softmaxes go by turns over these dimensions."""

    def __init__(self, *dims: int) -> None:
        self.dims, self.calls = dims, 0

    def softmax(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.softmax(x, self.dims[(self.calls - 1) % len(self.dims)])


def _a2(ours: Any) -> nn.Module:
    theirs = _fighting("A2Atttention", "DoubleAttention")(
        ours.feature.in_channels, ours.feature.out_channels, ours.gather.out_channels
    )
    names = {"convA": "feature", "convB": "gather", "convV": "distribute", "conv_reconstruct": "out"}
    taught(theirs, ours, names, convB__bias=0.0)
    importlib.import_module(type(theirs).__module__).__dict__["F"] = _Softmaxes(2, 1)
    return _Added(theirs)


def _cc(ours: Any) -> nn.Module:
    theirs = _fighting("CrissCrossAttention", "CrissCrossAttention")(ours.query.in_channels)
    names = {"query_conv": "query", "key_conv": "key", "value_conv": "value", "gamma": "gamma"}
    return _Again(taught(theirs, ours, names, key_conv__bias=0.0), ours.recurrence)


def _polarized(ours: Any) -> nn.Module:
    theirs = _fighting("PolarizedSelfAttention", "ParallelPolarizedSelfAttention")(ours.mask.in_features)
    names = {"ch_wq": "mask", "ch_wv": "value", "ch_wz": "expand.0", "ln": "expand.1", "sp_wq": "query", "sp_wv": "key"}
    silent = {f"{name}__bias": 0.0 for name in ("ch_wq", "ch_wv", "ch_wz", "sp_wq", "sp_wv")}
    return taught(theirs, ours, names, **silent)


def _sk(ours: Any) -> nn.Module:
    convolution, hidden = ours.near[0], ours.squeeze[0].out_channels
    channels, groups = convolution.in_channels, convolution.groups
    theirs = SelectiveKernel(channels, groups=groups, rd_channels=hidden, split_input=False)
    names = {f"paths.{n}.{a}": f"{b}.{i}" for n, b in enumerate(("near", "far")) for i, a in enumerate(("conv", "bn"))}
    names |= {"attn.fc_reduce": "squeeze.0", "attn.bn": "squeeze.1", "attn.fc_select": "select"}
    return taught(theirs, ours, names)


def _mhsa(ours: Any) -> nn.Module:
    theirs = BottleneckAttn(
        ours.qkv.in_channels, feat_size=ours.size, num_heads=ours.num_heads, scale_pos_embed=ours.scale_pos_embed
    )
    names = {"qkv": "qkv", "pos_embed.height_rel": "height", "pos_embed.width_rel": "width"}
    return taught(theirs, ours, names)


def _sge(ours: Any) -> nn.Module:
    theirs = _fighting("SGE", "SpatialGroupEnhance")(ours.groups)
    return taught(theirs, ours, {"weight": "weight", "bias": "bias"})


def _scse(ours: Any) -> nn.Module:
    from segmentation_models_pytorch.base.modules import SCSEModule

    theirs = SCSEModule(ours.squeeze.in_features, ours.squeeze.in_features // ours.squeeze.out_features)
    return taught(theirs, ours, {"cSE.1": "squeeze", "cSE.3": "excite", "sSE.0": "place"})


def _torchvision_deform(ours: Any) -> nn.Module:
    return Swapped(ours, {"deform_conv2d": deform_conv2d})


def _dat(ours: Any) -> nn.Module:
    whole = importlib.import_module("saccade.ops.relative").relative_bias_definition
    unbounded = {"MAX_CHUNK": 2**62, "MAX_SAVED": 2**62}  # all weights at once, and kept
    return Swapped(ours, {"relative_bias": whole, "table_runs": lambda table: table} | unbounded)


DEFORM = Row("our layer on torchvision.ops.deform_conv2d", _torchvision_deform)

ROWS: dict[str, Row] = {
    "a2": Row(
        "fightingcv DoubleAttention, repaired", _a2,
        note="wrong: both softmaxes over the batch, x not added; here over pixels and over descriptors, x added",
    ),
    "bam": Row(note="fightingcv BAMBlock is wrong: its convolutions crop the map, and it adds what is multiplied"),
    "cbam": Row("timm CbamModule", _cbam, note="its two pooled planes come in the other order; the weights too"),
    "cc": Row("fightingcv CrissCrossAttention, twice", _cc),
    "coord": Row("timm CoordAttn", _coord),
    "danet": Row(note="fightingcv DAModule is wrong: always 512 channels, other scores, no x added", matrix=True),
    "das": DEFORM,
    "dat": Row(
        "", _dat, note="fightingcv DAttentionBaseline has other reference points, and tanh of the places", matrix=True
    ),
    "dcn1": DEFORM,
    "dcn2": DEFORM,
    "dra": Row(),
    "eca": Row("timm EcaModule", _eca),
    "emattn": Row(),
    "emca": Row(),
    "gala": Row(),
    "gated_channel": Row(),
    "gc": Row("timm GlobalContext", _gc, note="ε of its layer norm set to 1e-5"),
    "ge": Row(
        "timm GatherExcite, repaired", _ge,
        note="wrong: with parameters it raises, its options given as positions; here its two layers are made for it",
    ),
    "gsop": Row(),
    "lka": Row(),
    "mhsa": Row("timm BottleneckAttn", _mhsa, matrix=True),
    "mpm": Row(),
    "nl": Row("timm NonLocalAttn", _nl, note="it divides by √C, not by √c; its weights make up for it", matrix=True),
    "ofdet": Row(),
    "polarized": Row("fightingcv ParallelPolarizedSelfAttention", _polarized),
    "ran": Row(),
    "sa": Row("fightingcv ShuffleAttention", _sa),
    "sasa": Row(),
    "sasa_stem": Row(note="public copies are wrong: rows and columns apart, windows that slide, other places"),
    "scse": Row("segmentation_models_pytorch SCSEModule", _scse),
    "se": Row("torchvision SqueezeExcitation", _se),
    "self_attention": Row(matrix=True),
    "self_attention_conv": Row(matrix=True),
    "sge": Row("fightingcv SpatialGroupEnhance", _sge),
    "simam": Row("fightingcv SimAM", _simam),
    "sk": Row("timm SelectiveKernel", _sk),
    "skip_gate": Row(),
    "spm": Row(),
    "srm": Row(),
    "stn": Row(),
    "triplet": Row("fightingcv TripletAttention", _triplet),
    "vt": Row(),
}  # fmt: skip
