"""What other libraries do to a network: each tool takes a network and an example, and gives what is run afterwards.

A tool marked ``alike`` changes what the network computes, and is used on the oracle as well; any other must leave the
result as it is. Tools change the network they are given: hand them a copy.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm.utils
import torch
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules, quantize_dynamic
from torch.fx.experimental.optimization import fuse as fx_fuse
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from saccade.surgery.plug_module import Plug

__all__ = ["TOOLS", "NotApplicableError", "Tool", "Yolo", "noted"]

Run = Callable[[Tensor], Any]
_TIMM: Any = timm.utils  # it does not say what it exports


class NotApplicableError(Exception):
    """There is nothing in this network that the tool works on, or the tool is not installed."""


@dataclass(frozen=True)
class Tool:
    """Something people do to networks.

    Args:
        act: changes the network, and returns what is called afterwards.
        alike: the oracle undergoes it too.
        exact: the result is the same bit for bit, else to the rounding of float32.
        slow: takes seconds; tried with few mechanisms only.
        hooked: user's hooks are registered on every module before the network is plugged.
    """

    act: Callable[[Any, Tensor], Run]
    alike: bool = False
    exact: bool = False
    slow: bool = False
    hooked: bool = False


class Yolo(nn.Module):
    """Convolutions that fold their norm into themselves as YOLO's do before they predict."""

    class Conv(nn.Module):
        """Convolution, norm, activation."""

        def __init__(self, into: int, out: int) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(into, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out)
            self.act = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            """Map (B, into, H, W) to (B, out, H/2, W/2)."""
            y: Tensor = self.act(self.bn(self.conv(x)))
            return y

        def forward_fuse(self, x: Tensor) -> Tensor:
            """Do the same without the norm."""
            y: Tensor = self.act(self.conv(x))
            return y

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(self.Conv(3, 16), self.Conv(16, 24), self.Conv(24, 32))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) to logits (B, 5)."""
        y: Tensor = self.head(self.pool(self.model(x)).flatten(1))
        return y


def noted(module: nn.Module, args: Any, output: Any) -> None:
    """Forward hook of a user: keep what the module returned."""
    vars(module)["_noted"] = output


def _plugs(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, Plug)]


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, str, str]]:
    """Yield convolutions with the norm behind them: path and module of their parent, and their names."""
    for path, parent in network.named_modules():
        for (first, conv), (second, norm) in itertools.pairwise(parent.named_children()):
            plain = isinstance(norm, nn.BatchNorm2d) and not hasattr(norm, "act")
            if isinstance(conv, nn.Conv2d) and plain and conv.out_channels == norm.num_features:
                yield parent, path, first, second


def _found(things: Any) -> list[Any]:
    """The things, of which there must be some."""
    found = list(things)
    if not found:
        raise NotApplicableError("the network has nothing for it")
    return found


def _freeze(network: nn.Module, x: Tensor) -> Run:
    _TIMM.freeze(network)
    return network


def _freeze_norms(network: nn.Module, x: Tensor) -> Run:
    frozen: Run = _TIMM.model.freeze_batch_norm_2d(network)
    return frozen


def _fx_fuse(network: nn.Module, x: Tensor) -> Run:
    return fx_fuse(network)


def _fuse_modules(network: Any, x: Tensor) -> Any:
    if hasattr(network, "fuse_model"):
        network.fuse_model(is_qat=False)
        return network
    names = [[f"{path}.{name}".strip(".") for name in pair] for _, path, *pair in _found(_pairs(network))]
    return fuse_modules(network, names, inplace=True)


def _fuse_by_hand(network: nn.Module, x: Tensor) -> Run:
    for parent, _, conv, norm in _found(_pairs(network)):
        parent._modules[conv] = fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, norm))
        parent._modules[norm] = nn.Identity()
    return network


def _fuse_yolo(network: nn.Module, x: Tensor) -> Run:
    for m in _found(m for m in network.modules() if hasattr(m, "forward_fuse")):
        m.conv = fuse_conv_bn_eval(m.conv, m.bn)
        del m.bn
        m.forward = m.forward_fuse
    return network


def _reparameterize(network: nn.Module, x: Tensor) -> Run:
    changed: Run = _TIMM.reparameterize_model(network, inplace=True)
    return changed


def _prune(network: nn.Module, x: Tensor) -> Run:
    for module in list(network.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)) and 8 < module.weight.numel() < 10_000:
            prune.l1_unstructured(module, "weight", amount=0.3)
    return network


def _averaged(network: nn.Module, x: Tensor) -> Run:
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    return averaged.eval()


def _ema(network: nn.Module, x: Tensor) -> Run:
    averaged: Run = _TIMM.ModelEmaV3(network).module.eval()
    return averaged


def _compile(network: nn.Module, x: Tensor) -> Run:
    torch.compiler.reset()
    return torch.compile(network, backend="eager")


def _quantize(network: nn.Module, x: Tensor) -> Run:
    quantized: Run = quantize_dynamic(network, {nn.Linear}, inplace=True)
    return quantized


def _lora(network: nn.Module, x: Tensor) -> Run:
    layers = _found(_layers(network))
    return _adapted(network, layers[:6] + layers[-3:])


def _lora_saving(network: nn.Module, x: Tensor) -> Run:
    layers = _found(name for name in _layers(network) if "saccade" not in network.get_submodule(name)._modules)
    return _adapted(network, layers[:6] + layers[-3:], modules_to_save=["saccade"] if _plugs(network) else None)


def _layers(network: nn.Module) -> list[str]:
    """Return the paths of the host's layers that LoRA adapts."""
    return [
        name for name, m in network.named_modules()
        if (isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)) and ".saccade." not in f".{name}"
    ]  # fmt: skip


def _adapted(network: nn.Module, layers: list[str], **options: Any) -> Run:
    try:
        import peft  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise NotApplicableError("peft is not installed") from None
    adapted: Run = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=layers, **options)).eval()
    return adapted


def _offload(network: nn.Module, x: Tensor) -> Run:
    try:
        import accelerate  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise NotApplicableError("accelerate is not installed") from None
    offloaded: Run = accelerate.cpu_offload(network, execution_device=torch.device("cpu"))
    return offloaded


def _pickle(network: nn.Module, x: Tensor) -> Run:
    again: Run = pickle.loads(pickle.dumps(network))
    return again


def _deepcopy(network: nn.Module, x: Tensor) -> Run:
    return copy.deepcopy(network)


def _trace(network: nn.Module, x: Tensor) -> Run:
    traced: Run = torch.jit.trace(network, x, check_trace=False, strict=False)
    return traced


def _export(network: nn.Module, x: Tensor) -> Run:
    exported: Run = torch.export.export(network, (x,)).module()
    return exported


def _features(network: nn.Module, x: Tensor) -> Run:
    name = "_head"
    wrapped = nn.Sequential()
    wrapped.add_module(name, network)  # the result of the whole network is a node of it
    return create_feature_extractor(wrapped.eval(), return_nodes=[name])


def _weight_norm(network: nn.Module, x: Tensor) -> Run:
    return _parametrized(network, parametrizations.weight_norm)


def _spectral_norm(network: nn.Module, x: Tensor) -> Run:
    return _parametrized(network, parametrizations.spectral_norm)


def _parametrized(network: nn.Module, of: Any) -> Run:
    layers = [m for plug in _plugs(network) for m in plug.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    for layer in _found(layers):
        torch.manual_seed(0)  # spectral_norm draws; the plugs stand in another order in the oracle
        of(layer)
    return network


def _sync(network: nn.Module, x: Tensor) -> Run:
    converted: Run = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return converted


def _hooks(network: nn.Module, x: Tensor) -> Run:
    def run(x: Tensor) -> list[Any]:
        network(x)
        return [m._noted for m in network.modules() if isinstance(vars(m).get("_noted"), Tensor)]

    return run


def _children(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in network.named_children() if name != "saccade"]


def _layer_getter(network: nn.Module, x: Tensor) -> Run:
    name = _found(_children(network)[:-1])[-1][0]
    return IntermediateLayerGetter(network, {name: "map"})


def _body(network: nn.Module, x: Tensor) -> Run:
    return nn.Sequential(*(child for _, child in _found(_children(network)[:-1])))


TOOLS: dict[str, Tool] = {
    "timm freeze": Tool(_freeze),
    "timm freeze_batch_norm_2d": Tool(_freeze_norms),
    "torch.fx fuse": Tool(_fx_fuse),
    "torch.ao fuse_modules": Tool(_fuse_modules),
    "fuse_conv_bn_eval by hand": Tool(_fuse_by_hand),
    "fuse as YOLO does": Tool(_fuse_yolo),
    "timm reparameterize_model": Tool(_reparameterize),
    "prune": Tool(_prune, alike=True),
    "AveragedModel": Tool(_averaged, exact=True),
    "timm ModelEmaV3": Tool(_ema, exact=True),
    "torch.compile": Tool(_compile, slow=True),
    "quantize_dynamic": Tool(_quantize, alike=True),
    "peft LoRA": Tool(_lora),
    "peft LoRA, plugs in modules_to_save": Tool(_lora_saving),
    "accelerate cpu_offload": Tool(_offload),
    "pickle": Tool(_pickle, exact=True),
    "deepcopy": Tool(_deepcopy, exact=True),
    "torch.jit.trace": Tool(_trace, slow=True),
    "torch.export": Tool(_export, slow=True),
    "create_feature_extractor": Tool(_features),
    "weight_norm of the plugs": Tool(_weight_norm, alike=True),
    "spectral_norm of the plugs": Tool(_spectral_norm, alike=True),
    "SyncBatchNorm": Tool(_sync),
    "hooks registered before": Tool(_hooks, alike=True, exact=True, slow=True, hooked=True),
    "IntermediateLayerGetter": Tool(_layer_getter, alike=True, exact=True),
    "Sequential of the children": Tool(_body, alike=True, exact=True),
}

warnings.filterwarnings("ignore", module=r"torch\.ao|torch\.jit|torch\.onnx")
