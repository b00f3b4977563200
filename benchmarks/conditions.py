"""What a plugged host has to promise, each as a function that returns what is wrong, or nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import saccade
from host_zoo import Host, flat
from saccade.attention.gsop import SecondOrderPooling
from saccade.contract.randomize import randomize
from saccade.surgery.plugs import PlugInfo

__all__ = ["CORE", "DEEP", "WIDE", "Case", "Condition"]

Context = Callable[[], AbstractContextManager[Any]]
Seen = list[tuple[str, list[Tensor]]]


def _bf16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _close(left: list[Tensor], right: list[Tensor]) -> bool:
    """Is the distance of two gradients a rounding of their length? Single ones may be zero but for rounding."""
    distance = torch.stack([(a - b).norm() for a, b in zip(left, right, strict=True)]).norm()
    return bool(distance <= 1e-4 * torch.stack([a.norm() for a in left]).norm())


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(map(torch.equal, left, right))


class Case:
    """One host, and what all mechanisms can share of it: its outputs, its gradients, its statistics."""

    def __init__(self, host: Host) -> None:
        self.host = host
        torch.manual_seed(0)
        self.bare = randomize(host.make())
        self.given = host.example(2, _draw(2))
        self._kept: dict[str, Any] = {}

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was first asked for under this name."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def plug(self, host: nn.Module, mechanism: str, look: Any = None) -> nn.Module:
        """``host`` with the mechanism where its paper puts it."""
        torch.manual_seed(3)
        return saccade.plug(host, mechanism, input=self.host.look() if look is None else look)

    def trained(self) -> tuple[nn.Module, Any]:
        """A copy of the host and pictures whose running statistics it has, as a pretrained host has its pictures'."""

        def make() -> tuple[nn.Module, Any]:
            network, given = copy.deepcopy(self.bare), self.host.example(3, _draw(8))
            norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            before = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average
            with torch.no_grad():
                for _ in range(3):
                    self.host.outputs(network.train(), given)
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum
            return network, given

        network, given = self.keep("trained", make)
        return copy.deepcopy(network), given

    def seen(
        self, network: nn.Module, given: Any, context: Context = nullcontext
    ) -> Iterator[tuple[str, list[Tensor]]]:
        """What ``network`` computes in eval and in train mode, then its host's gradients and buffers, by name."""
        network = copy.deepcopy(network)
        for mode in ("eval", "train"):
            network.train(mode == "train")
            torch.manual_seed(0)
            with context(), torch.set_grad_enabled(mode == "train"):
                outputs = self.host.outputs(network, given)
            yield mode, [t.detach() for t in outputs]
        torch.stack([t.float().square().mean() for t in outputs if t.requires_grad]).sum().backward()
        own = [(n, p) for n, p in network.named_parameters() if "saccade." not in n]
        yield "gradients", [p.grad for _, p in own if p.grad is not None]
        yield "buffers", [b for n, b in network.named_buffers() if "saccade." not in n]

    def same(self, name: str, bare: nn.Module, plugged: nn.Module, given: Any, context: Context = nullcontext) -> str:
        """The first thing in which two networks differ; "" if none. What ``bare`` computes is kept under ``name``.

        With channels last, gradients may differ by rounding: where a host changes a slice of a map in place, autograd
        adds them up in another layout.
        """
        before: Seen = self.keep(name, lambda: list(self.seen(bare, given, context)))
        for (what, left), (_, right) in zip(before, self.seen(plugged, given, context), strict=True):
            if not all(bool(t.isfinite().all()) for t in left):
                return f"{what}: the host itself is not finite"
            alike = _close if (name, what) == ("nhwc", "gradients") else _equal
            if len(left) != len(right) or not alike(left, right):
                return what
        return ""


def float32(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    return case.same("f32", case.bare, plugged, case.given)


def bf16(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    try:
        case.keep("bf16", lambda: list(case.seen(case.bare, case.given, _bf16)))
    except (RuntimeError, NotImplementedError):
        return None  # the host does not run so by itself
    return case.same("bf16", case.bare, plugged, case.given, _bf16)


def nhwc(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    def turned(network: nn.Module) -> nn.Module:
        return copy.deepcopy(network).to(memory_format=torch.channels_last)

    given = case.given
    if isinstance(given, Tensor):
        given = given.contiguous(memory_format=torch.channels_last)
    return case.same("nhwc", case.keep("nhwc host", lambda: turned(case.bare)), turned(plugged), given)


def loaded(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    other = case.keep("other", lambda: randomize(copy.deepcopy(case.bare), 7))
    target = copy.deepcopy(plugged)
    target.load_state_dict(other.state_dict(), strict=True)
    return case.same("loaded", other, target, case.given)


def checkpointing(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    def make() -> nn.Module | None:
        network: Any = copy.deepcopy(case.bare)
        if not hasattr(network, "set_grad_checkpointing"):
            return None
        try:
            network.set_grad_checkpointing()
        except AssertionError:  # timm's VGG knows no checkpointing
            return None
        return network

    network = case.keep("checkpointing host", make)
    if network is None:
        return None
    return case.same("checkpointing", network, case.plug(copy.deepcopy(network), mechanism), case.given)


def features(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    if not hasattr(case.bare, "feature_info"):
        return None
    network = case.keep("maps host", lambda: randomize(case.host.make(features_only=True, num_classes=0)))
    return case.same("maps", network, case.plug(copy.deepcopy(network), mechanism), case.given)


def pixel(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    if case.host.tiny is None:
        return None
    given = torch.randn(3, *case.host.tiny, generator=_draw(4))
    return case.same("1×1", case.bare, case.plug(copy.deepcopy(case.bare), mechanism, case.host.tiny), given)


def keys(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    state, full = case.bare.state_dict(), plugged.state_dict()
    if [key for key in full if "saccade." not in key] != list(state):
        return "keys moved"
    target = copy.deepcopy(plugged)
    target.load_state_dict(state, strict=True)
    target.load_state_dict(full, strict=True)
    own = [key for key in full if "saccade." in key and "num_batches" not in key]
    if len(own) < 2:
        return ""
    half = copy.copy(full)  # with its metadata, which torchvision's MNASNet asks for
    del half[own[-1]]
    try:
        target.load_state_dict(half, strict=True)
    except RuntimeError as error:
        return "" if own[-1] in str(error) else "the missing key is not named"
    return "half a plugged state loads"


def calls(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    counts: dict[str, list[int]] = {}
    handles = []
    for row in saccade.plugs(plugged):
        for n, module in enumerate((row.module, plugged.get_submodule(row.parent))):
            pair = counts.setdefault(row.parent, [0, 0])

            def count(*_: Any, pair: list[int] = pair, n: int = n) -> None:
                pair[n] += 1

            handles.append(module.register_forward_hook(count))
    with torch.no_grad():
        case.host.outputs(plugged.eval(), case.given)
    for handle in handles:
        handle.remove()
    return ", ".join(parent for parent, (ran, wanted) in counts.items() if ran != wanted or ran == 0)


def _skeleton(network: nn.Module) -> list[Any]:
    """Modules, hooks and keys: all that plugging touches."""
    return [
        (name, type(m).__name__, sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks),
         len(m._load_state_dict_pre_hooks), len(m._load_state_dict_post_hooks))
        for name, m in network.named_modules()
    ] + list(network.state_dict())  # fmt: skip


def _pickled(network: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(network))
    return copied


def unplug(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    def picklable() -> bool:
        try:
            _pickled(case.bare)
        except (AttributeError, RuntimeError, pickle.PicklingError):
            return False
        return True

    wanted = case.keep("skeleton", lambda: _skeleton(case.bare))
    ways = [("deepcopy", copy.deepcopy)] + [("pickle", _pickled)] * case.keep("picklable", picklable)
    for how, copied in ways:
        target = copied(plugged)
        if not saccade.plugs(target) or _skeleton(saccade.unplug(target)) != wanted:
            return how
    torch.manual_seed(0)
    with torch.no_grad():
        after = case.host.outputs(target.eval(), case.given)
    before: Seen = case.keep("f32", lambda: list(case.seen(case.bare, case.given)))
    return "" if all(map(torch.equal, before[0][1], after)) else "outputs"


def differs(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    twin, draw = copy.deepcopy(plugged), _draw(5)
    with torch.no_grad():
        for row in saccade.plugs(twin):
            for parameter in row.module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
            if row.module.a is not None:
                row.module.a.fill_(1.0)
        before: Seen = case.keep("f32", lambda: list(case.seen(case.bare, case.given)))
        for mode, left in before[:2]:
            torch.manual_seed(0)
            right = flat(case.host.outputs(twin.train(mode == "train"), case.given))
            if len(left) == len(right) and all(map(torch.equal, left, right)):
                return mode
    return ""


def _still(case: Case, mechanism: str, training: bool) -> tuple[list[str], int]:
    """The parameters of plugs that five steps leave where they are, and how many there are.

    Without ``training`` batch norms keep to their running statistics: the host's are those of these pictures.
    """
    network, given = case.trained()
    case.plug(network, mechanism, given)  # these pictures, for a bottleneck that is off on all of them is drawn again
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("saccade." in name)  # the host's own gradients take most of the time
    blind = tuple(f"{plug.parent}.saccade.mechanism." for plug in saccade.plugs(network) if _sees_one_pixel(plug))
    before = {
        name: p.detach().clone()
        for name, p in network.named_parameters()
        if "saccade." in name and not name.startswith(blind)
    }
    optimiser = torch.optim.AdamW(saccade.parameter_groups(network.train(), lr=1e-3))
    if not training:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    for _ in range(5):
        optimiser.zero_grad()
        case.host.loss(network, given).backward()
        optimiser.step()
    after = dict(network.named_parameters())
    return [name for name, value in before.items() if torch.equal(value, after[name])], len(before)


def _sees_one_pixel(plug: PlugInfo) -> bool:
    """Is its gate that of a covariance over one pixel? That is zero, whatever the parameters."""
    return isinstance(plug.module.mechanism, SecondOrderPooling) and max(plug.size) <= plug.module.mechanism.stride


def learns(case: Case, mechanism: str, plugged: nn.Module) -> str | None:
    still, count = _still(case, mechanism, training=True)
    # The mean of a batch takes out a bias in front of its norm: that need only move where running statistics norm. And
    # a host that norms by the batch is not quite the one whose maps the mechanisms were fitted to.
    if still:
        still = sorted(set(still) & set(_still(case, mechanism, training=False)[0]))
    return f"{len(still)} of {count}: {', '.join(still[:3])}" if still else ""


Condition = Callable[[Case, str, nn.Module], str | None]
"""The case, the mechanism, the host plugged with it -> "" if it holds, what is wrong, None where it has no meaning."""

WIDE: dict[str, Condition] = {
    "f32": float32,
    "keys": keys,
    "calls": calls,
    "unplug": unplug,
    "differs": differs,
    "learns": learns,
}
CORE: dict[str, Condition] = WIDE | {"bf16": bf16, "nhwc": nhwc}
DEEP: dict[str, Condition] = CORE | {"loaded": loaded, "ckpt": checkpointing, "feats": features, "1×1": pixel}
