"""Every mechanism in every host under every condition: is the host the same until it learns, and does it learn?

    python benchmarks/hosts.py [--hosts GLOB] [--mechanisms se,das] > table.md

Prints a Markdown table, one row a pair; exit code 1 if any cell fails. Hosts are not fresh: norms, biases, layer scales
and running statistics are drawn at random. The conditions:

    f32 bf16 nhwc  outputs (eval and train), losses, gradients and buffers of the host equal bit for bit: float32, bf16
                   autocast, channels_last
    loaded         the same after the host's own state was loaded strictly into the plugged network
    ckpt feats     the same under timm's gradient checkpointing and features_only
    1×1            the same where the last map is one pixel
    keys           no key of the host moved; host's and plugged states load strictly; half a plugged state does not
    calls          each plug ran once per call of its carrier
    unplug         modules, hooks, keys and outputs as before, also from a deepcopy and a pickle
    differs        with a = 1 and random weights the output is another
    learns         five steps of AdamW from the neutral start change every parameter of every plug
"""

from __future__ import annotations

import argparse
import copy
import logging
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import saccade

SIZE = (3, 64, 48)
Make = Callable[..., nn.Module]


def user_net() -> nn.Module:
    """A network of no library: plain containers in plain containers, and in-place activations."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(48, 48, 3), nn.ReLU(True)),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


def _torchvision(name: str) -> Make:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5)


def _timm(name: str) -> Make:
    return lambda **options: timm.create_model(name, **({"num_classes": 5} | options))


def _vgg(make: Make) -> Make:
    """The same body with a head of one layer: the 120 million weights of the usual one only take time."""

    def small(**options: Any) -> nn.Module:
        with torch.device("meta"):
            host = make(**options)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5))
        if hasattr(host, "pre_logits"):  # timm
            host.pre_logits, host.head = nn.Identity(), head
        elif hasattr(host, "avgpool"):  # torchvision; features_only has no head at all
            host.avgpool, host.classifier = head[0], head[2]
        host.to_empty(device="cpu")
        for module in host.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        return host

    return small


HOSTS: dict[str, Make] = {
    **{f"torchvision {name}": _torchvision(name)
       for name in ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "convnext_tiny")},
    **{f"torchvision {name}": _vgg(_torchvision(name)) for name in ("vgg11", "vgg11_bn")},
    **{f"timm {name}": _timm(name)
       for name in ("resnet18", "resnet50", "mobilenetv2_100", "densenet121", "convnext_atto")},
    **{f"timm {name}": _vgg(_timm(name)) for name in ("vgg11", "vgg11_bn")},
    "user's Sequential": user_net,
}  # fmt: skip


def seasoned(host: nn.Module, seed: int = 1) -> nn.Module:
    """The host with random norms, biases, layer scales and running statistics, as if it had been trained."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.uniform_(0.5, 1.5, generator=draw)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=draw)
            elif "scale" in name or "gamma" in name:
                parameter.uniform_(0.2, 0.8, generator=draw)
        for name, buffer in host.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=draw)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=draw)
    return host


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for part in output for t in flat(part)]


def seen(host: nn.Module, x: Tensor, context: AbstractContextManager[Any]) -> Iterator[tuple[str, list[Tensor]]]:
    """What a host computes in eval and in train mode, with its gradients and buffers afterwards, by name."""
    for mode in (False, True):
        host.train(mode)
        host.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with context:
            output = flat(host(x))
        torch.stack([t.float().square().mean() for t in output]).sum().backward()
        yield ("train" if mode else "eval"), [t.detach() for t in output]
    own = [(n, p) for n, p in host.named_parameters() if "saccade." not in n]
    yield "gradients", [p.grad for _, p in own if p.grad is not None]
    yield "buffers", [b for n, b in host.named_buffers() if "saccade." not in n]


def same(host: nn.Module, plugged: nn.Module, x: Tensor, context: Callable[[], AbstractContextManager[Any]]) -> str:
    """The first thing in which two networks differ; empty if none."""
    for (name, left), (_, right) in zip(
        seen(copy.deepcopy(host), x, context()), seen(copy.deepcopy(plugged), x, context()), strict=True
    ):
        if len(left) != len(right) or not all(map(torch.equal, left, right)):
            return name
    return ""


def skeleton(host: nn.Module) -> list[Any]:
    """Modules, hooks and keys: all that plugging touches."""
    return [
        (name, type(m), sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks),
         len(m._load_state_dict_pre_hooks), len(m._load_state_dict_post_hooks))
        for name, m in host.named_modules()
    ] + list(host.state_dict())  # fmt: skip


def plug(host: nn.Module, mechanism: str, size: tuple[int, int, int] = SIZE) -> nn.Module:
    torch.manual_seed(3)
    return saccade.plug(host, mechanism, input=size)


def keys(host: nn.Module, plugged: nn.Module) -> str:
    state, full = host.state_dict(), plugged.state_dict()
    if [key for key in full if "saccade." not in key] != list(state):
        return "keys moved"
    target = copy.deepcopy(plugged)
    target.load_state_dict(state, strict=True)
    target.load_state_dict(full, strict=True)
    lost = next(key for key in full if "saccade." in key)
    try:
        target.load_state_dict({key: value for key, value in full.items() if key != lost}, strict=True)
    except RuntimeError as error:
        return "" if lost in str(error) else "the missing key is not named"
    return "half a plugged state loads"


def calls(plugged: nn.Module, x: Tensor) -> str:
    counts: dict[str, list[int]] = {}
    handles = []
    for row in saccade.plugs(plugged):
        carrier = plugged.get_submodule(row.carrier)
        for n, module in enumerate((row.module, carrier)):
            pair = counts.setdefault(row.carrier, [0, 0])

            def count(*_: Any, pair: list[int] = pair, n: int = n) -> None:
                pair[n] += 1

            handles.append(module.register_forward_hook(count))
    plugged.eval()(x)
    for handle in handles:
        handle.remove()
    return ", ".join(carrier for carrier, (ran, wanted) in counts.items() if ran != wanted or ran == 0)


def unplugged(host: nn.Module, plugged: nn.Module, x: Tensor) -> str:
    wanted, output = skeleton(host), host.eval()(x)
    for how, copied in (
        ("in place", plugged),
        ("deepcopy", copy.deepcopy(plugged)),
        ("pickle", pickle.loads(pickle.dumps(plugged))),
    ):
        rows = len(saccade.plugs(copied))
        target = copied if how != "in place" else copy.deepcopy(copied)
        if rows == 0 or skeleton(saccade.unplug(target)) != wanted or not torch.equal(target.eval()(x), output):
            return how
    return ""


def differs(host: nn.Module, plugged: nn.Module, x: Tensor) -> str:
    twin = copy.deepcopy(plugged)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in saccade.plugs(twin):
            for parameter in row.module.mechanism.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
            if row.module.a is not None:
                row.module.a.fill_(1.0)
    for mode in (False, True):
        if torch.equal(copy.deepcopy(host).train(mode)(x), copy.deepcopy(twin).train(mode)(x)):
            return "train" if mode else "eval"
    return ""


def photographs(draw: torch.Generator) -> Tensor:
    """Noise (8, 3, H, W) whose brightness and contrast differ as those of photographs do."""
    contrast, brightness = torch.rand(8, 3, 1, 1, generator=draw), torch.randn(8, 3, 1, 1, generator=draw)
    return 2 * contrast * torch.randn(8, *SIZE, generator=draw) + brightness


def learns(host: nn.Module, mechanism: str) -> str:
    """Plugs of a host whose running statistics are those of its images, as a pretrained host's are."""
    network, draw = copy.deepcopy(host).train(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(10):
            network(photographs(draw))
    plug(network, mechanism)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if "saccade." in name}
    optimiser = torch.optim.AdamW(saccade.parameter_groups(network, lr=1e-3))
    for _ in range(5):
        x, y = photographs(draw), torch.randint(5, (8,), generator=draw)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    after = dict(network.named_parameters())
    still = [name for name, value in before.items() if torch.equal(value, after[name])]
    return f"{len(still)} of {len(before)}: {', '.join(still[:3])}" if still else ""


def pair(make: Make, mechanism: str) -> dict[str, str | None]:
    """Each condition: empty if it holds, what is wrong if not, None where the host has no such thing."""
    torch.manual_seed(0)
    host = seasoned(make())
    plugged = plug(copy.deepcopy(host), mechanism)
    x = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(2))

    def bf16() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16)

    def nhwc(network: nn.Module) -> nn.Module:
        return copy.deepcopy(network).to(memory_format=torch.channels_last)

    found: dict[str, str | None] = {
        "f32": same(host, plugged, x, nullcontext),
        "bf16": same(host, plugged, x, bf16),
        "nhwc": same(nhwc(host), nhwc(plugged), x.to(memory_format=torch.channels_last), nullcontext),
    }
    other, target = seasoned(copy.deepcopy(host), 7), copy.deepcopy(plugged)
    target.load_state_dict(other.state_dict(), strict=True)
    found["loaded"] = same(other, target, x, nullcontext)
    found["ckpt"] = found["feats"] = None
    if hasattr(host, "set_grad_checkpointing"):
        on: Any = copy.deepcopy(host)
        try:
            on.set_grad_checkpointing()
        except AssertionError:  # timm's VGG knows no checkpointing
            pass
        else:
            found["ckpt"] = same(on, plug(copy.deepcopy(on), mechanism), x, nullcontext)
    if hasattr(host, "feature_info"):
        maps = seasoned(make(features_only=True, num_classes=0))
        found["feats"] = same(maps, plug(copy.deepcopy(maps), mechanism), x, nullcontext)
    tiny = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    found["1×1"] = same(host, plug(copy.deepcopy(host), mechanism, (3, 32, 32)), tiny, nullcontext)
    found["keys"] = keys(host, plugged)
    found["calls"] = calls(plugged, x)
    found["unplug"] = unplugged(host, plugged, x)
    found["differs"] = differs(host, plugged, x)
    found["learns"] = learns(host, mechanism)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="*", help="a glob of host names")
    parser.add_argument("--mechanisms", default=",".join(saccade.list_mechanisms()))
    options = parser.parse_args()
    logging.getLogger("saccade").setLevel(logging.ERROR)
    failures, total, header = [], 0, False
    for name, make in HOSTS.items():
        if not fnmatchcase(name, options.hosts):
            continue
        for mechanism in options.mechanisms.split(","):
            start = time.perf_counter()
            try:
                found = pair(make, mechanism)
            except Exception as error:
                found = {"raised": f"{type(error).__name__}: {error}"}
            if not header:
                header = True
                print("| host | mechanism | " + " | ".join(found) + " | s |")
                print("|---" * (len(found) + 3) + "|")
            cells = ["–" if what is None else ("✗" if what else "✓") for what in found.values()]
            print(f"| {name} | {mechanism} | {' | '.join(cells)} | {time.perf_counter() - start:.1f} |", flush=True)
            total += sum(what is not None for what in found.values())
            failures += [f"{name}, {mechanism}, {c}: {what}" for c, what in found.items() if what]
    print(f"\n{total - len(failures)} of {total} hold.")
    for failure in failures:
        print(f"- {failure}")
    return 1 if failures or not total else 0


if __name__ == "__main__":
    sys.exit(main())
