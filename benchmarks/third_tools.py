"""A plugged network after other libraries' tools: it computes with its plugs, or an error says that it cannot.

    python benchmarks/third_tools.py [--hosts GLOB] [--mechanisms se,das] [--tools GLOB] [--out rows.jsonl] > page.md

The oracle needs nothing of how plugs are attached: it is the same network, unplugged, whose modules' ``forward`` calls
the plugs by hand. After each tool the plugged network computes what the oracle computes (``equal``), or an error says
that the plugs are lost (``raises``). Where the tool fails on the network without plugs by the same kind of error, or
changes what that computes, it is ``not applicable``. Anything else is wrong in silence: ``fails``. No network is fresh:
norms, biases, running statistics and the mechanisms' weights are drawn at random, and every ``a`` is 0.5.

Progress goes to stderr; exit code 1 if anything fails.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import saccade
from host_zoo import HOSTS as ZOO
from host_zoo import Host, flat
from saccade.contract.randomize import perturb, randomize
from saccade.surgery.plug_module import Plug
from tools_of_others import TOOLS, NotApplicableError, Tool, Yolo, noted

__all__ = ["HOSTS", "MECHANISMS", "Pair", "judged", "oracle"]

LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "transformers", "peft", "accelerate")
ROUNDING = 1e-4
"""Of the largest value: what folding and re-ordering of float32 may change."""
ROUNDING_64 = 1e-9
"""The same of float64."""

_NAMES = """torchvision resnet18|torchvision mobilenet_v2|torchvision densenet121|torchvision vgg11_bn
torchvision squeezenet1_1|torchvision shufflenet_v2_x0_5|torchvision mnasnet0_5|torchvision mobilenet_v3_small
torchvision googlenet|timm resnet18|timm densenet121|timm convnext_atto|timm resnetv2_18|timm regnety_002
timm mobilenetv3_small_100|timm mobilenetv1_100|timm tinynet_e|timm lcnet_100|timm ghostnet_100|timm repghostnet_100
timm repvgg_a0|timm repvit_m0_9|timm mobileone_s1|timm dla46x_c|timm hgnetv2_b0|timm skresnet18
timm ese_vovnet19b_slim_dw|timm starnet_s050|timm edgenext_xx_small|smp Unet, mobilenet_v2|smp FPN, tu-convnext_atto
transformers ResNet|transformers ConvNeXt|transformers RegNet|user's Sequential"""
HOSTS: dict[str, Host] = {name: ZOO[name] for line in _NAMES.splitlines() for name in line.split("|")}
HOSTS |= {
    "quantizable resnet18": Host(lambda: torchvision.models.quantization.resnet18(num_classes=5)),
    "quantizable mobilenet_v2": Host(lambda: torchvision.models.quantization.mobilenet_v2(num_classes=5)),
    "own YOLO-like": Host(Yolo),
}
MECHANISMS: dict[str, tuple[str, str]] = {
    "se": ("se", "residual"),
    "simam": ("simam", "conv3x3"),
    "cbam": ("cbam", "paper"),
    "eca": ("eca", "stage"),
    "das": ("das", "paper"),
    "gc": ("gc", "paper"),
    "emca": ("emca", "stage"),
    "sge": ("sge", "activated"),
}
"""Mechanism and position; the position that the host lacks gives way to the paper's."""
SLOW = ("se", "simam")


def oracle(plugged: nn.Module) -> nn.Module:
    """Return a copy of ``plugged`` without plugs, whose modules' ``forward`` calls them instead."""
    network = copy.deepcopy(plugged)
    rows = saccade.plugs(network)
    saccade.unplug(network)
    # Tools find the plugs inside a convolution, which runs no child; a Sequential would.
    holder = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    holder.add_module("plugs_of_oracle", nn.ModuleList([row.module for row in rows]))
    for row in rows:
        parent = network.get_submodule(row.parent)
        parent.forward = _wrapped(parent.forward, row.module)
    return network


def _wrapped(inner: Callable[..., Any], plug: Plug) -> Callable[..., Any]:
    if plug.site.entering:
        return lambda x, *args, **kwargs: inner(plug(x), *args, **kwargs)
    return lambda *args, **kwargs: plug(inner(*args, **kwargs))


@cache
def _seasoned(host: Host) -> nn.Module:
    return randomize(host.make()).eval()


class Pair:
    """A host with a mechanism in it, as if trained, and the same host without.

    Raises:
        UserError: the mechanism does not fit the host.
    """

    def __init__(self, host: Host, mechanism: str, where: str, *, hooked: bool = False) -> None:
        torch.manual_seed(0)
        self.x = host.example(1, torch.Generator().manual_seed(2))
        network = copy.deepcopy(_seasoned(host))
        if hooked:
            for module in network.modules():
                module.register_forward_hook(noted)
        try:
            saccade.plug(network, mechanism, where=where, input=host.look())
        except saccade.UserError:
            saccade.plug(network, mechanism, input=host.look())
        self.plugged = perturb(network, a=0.5).eval()

    @cached_property
    def wanted(self) -> list[Tensor]:
        """What the oracle computes."""
        model = oracle(self.plugged)
        return outputs(model, self.x, model)

    @cached_property
    def without(self) -> list[Tensor]:
        """What the network without plugs computes."""
        model = self.bare()
        return outputs(model, self.x, model)

    def in_float64(self) -> Pair:
        """Return the same pair, of float64 weights and pictures."""
        other = copy.copy(self)
        for name in ("wanted", "without"):
            vars(other).pop(name, None)
        other.plugged, other.x = copy.deepcopy(self.plugged).double(), self.x.double()
        return other

    def bare(self) -> nn.Module:
        """Return the network without plugs."""
        return saccade.unplug(copy.deepcopy(self.plugged))


def outputs(run: Callable[[Tensor], Any], x: Tensor, network: nn.Module) -> list[Tensor]:
    """Return all that ``run`` computes of ``x``, as one call of ``network``, of which it was made."""
    inside = [*network.modules(), *(run.modules() if isinstance(run, nn.Module) else ())]
    relays = {id(m.outputs): m.outputs for m in inside if isinstance(m, Plug) and m.outputs is not None}
    with ExitStack() as calls, torch.no_grad():
        for relay in relays.values():
            calls.enter_context(relay.call())
        return [y.detach().clone() for y in flat(run(x))]


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference, in the largest value of each tensor; infinite where shapes differ."""
    if not theirs or len(ours) != len(theirs):
        return float("inf")
    found = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or not bool(torch.isfinite(a).all()):
            return float("inf")
        if b.numel():
            found = max(found, float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)))
    return found


def _after(tool: Tool, network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(5)
    run = tool.act(network, x)
    return outputs(run, x, network)


def _says_so(error: BaseException | None) -> bool:
    """Return whether the error, or one that led to it, is ours or names a plug or the class of a plugged module."""
    named = ("with a saccade plug", "<class 'saccade.", "no attribute 'saccade'")
    while error is not None:
        # Not just "saccade": errors of compilers quote paths of files.
        if isinstance(error, saccade.UserError) or any(words in str(error) for words in named):
            return True
        error = error.__cause__ or error.__context__
    return False


def judged(pair: Pair, tool: Tool) -> tuple[str, str]:
    """Return ``equal``, ``raises``, ``not applicable`` or ``fails``, and why.

    What fails in float32 is judged again in float64: a network drawn at random can make much of rounding, or so little
    of its plugs that float32 does not show them.
    """
    status, note = _judged(pair, tool, ROUNDING)
    if status != "fails" or pair.x.dtype == torch.float64:
        return status, note
    try:
        again, why = _judged(pair.in_float64(), tool, ROUNDING_64)
    except Exception as error:  # a tool or a host that knows no float64
        return status, f"{note} (in float64 {type(error).__name__})"
    return (again, f"in float64; in float32 {note}") if again == "equal" else (status, f"{note} (in float64 {why})")


def _judged(pair: Pair, tool: Tool, rounding: float) -> tuple[str, str]:
    x = pair.x
    try:
        ours: Any = _after(tool, copy.deepcopy(pair.plugged), x)
    except Exception as error:  # whatever a tool raises
        ours = error
    if isinstance(ours, NotApplicableError):
        return "not applicable", str(ours)
    if isinstance(ours, Exception) and _says_so(ours):
        return "raises", f"{type(ours).__name__}: {ours}"[:300]
    if not isinstance(ours, Exception):
        try:
            wanted = _after(tool, oracle(pair.plugged), x) if tool.alike else pair.wanted
        except Exception as error:
            wanted, ours = [], error
        allowed = 0.0 if tool.exact else rounding
        found = float("inf") if isinstance(ours, Exception) else distance(ours, wanted)
        if found <= allowed:
            return _twin(pair, tool, wanted, rounding)
    try:
        after = _after(tool, pair.bare(), x)
    except Exception as error:
        same = isinstance(ours, Exception) and type(error) is type(ours)
        return "not applicable" if same else "fails", f"without plugs {type(error).__name__}: {error}"[:300]
    if isinstance(ours, Exception):
        return "fails", f"{type(ours).__name__}: {ours}"[:300]
    if not tool.alike and distance(after, pair.without) > allowed:
        return "not applicable", "the tool changes what the network without plugs computes"
    return "fails", f"differs by {found:.1e} of the largest value"


def _twin(pair: Pair, tool: Tool, wanted: list[Tensor], rounding: float) -> tuple[str, str]:
    """Return ``equal``, unless the network without plugs computes the same: then equality would show nothing."""
    try:
        without = _after(tool, pair.bare(), pair.x) if tool.alike else pair.without
    except NotApplicableError:  # it works on plugs alone
        without = pair.without
    far = distance(without, wanted)
    return ("equal", "") if far > 10 * rounding else ("fails", f"without plugs it differs by only {far:.1e}")


@dataclass(frozen=True)
class Row:
    """What one tool made of one pair."""

    host: str
    mechanism: str
    tool: str
    status: str
    note: str
    seconds: float


def rows(hosts: list[str], mechanisms: list[str], tools: list[str]) -> Iterator[Row]:
    """Yield the result of each tool on each pair that fits."""
    for mechanism in mechanisms:  # outside: a run that was stopped has seen all hosts
        for host in hosts:

            @cache
            def made(hooked: bool, host: str = host, mechanism: str = mechanism) -> Pair:
                return Pair(HOSTS[host], *MECHANISMS[mechanism], hooked=hooked)

            for name in ["nothing", *tools]:
                tool = TOOLS.get(name, Tool(lambda network, x: network, exact=True))
                if tool.slow and mechanism not in SLOW:
                    continue
                began = time.perf_counter()
                try:
                    status, note = judged(made(tool.hooked), tool)
                except saccade.UserError as error:
                    status, note = "does not fit", str(error)[:300]
                yield Row(host, mechanism, name, status, note, round(time.perf_counter() - began, 2))
                if status == "does not fit":
                    break


def page(found: list[Row], command: str) -> str:
    """Return the Markdown page."""
    fits = [row for row in found if row.status != "does not fit"]
    pairs = {(row.host, row.mechanism) for row in fits}
    total = Counter(row.status for row in fits)
    kinds = ("equal", "raises", "not applicable", "fails")
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    lines = [
        "# Tools tried",
        "",
        f"Tools of other libraries on plugged networks: {len({h for h, _ in pairs})} hosts, "
        f"{len({m for _, m in pairs})} mechanisms, {len(pairs)} pairs. {total['equal']} of {len(fits)} results equal "
        f"the oracle's, {total['raises']} are errors that name the lost plugs or the plugged class, "
        f"{total['not applicable']} tools do not apply, {total['fails']} fail.",
        "",
        "The oracle is the same network without plugs, whose modules' `forward` calls the mechanisms by hand. After a "
        "tool the plugged network must compute the same (equal) or raise an error that says it cannot (raises). A tool "
        "does not apply if it raises the same error on the network without plugs, changes what that computes, has "
        "nothing to do, or is not installed. Anything else fails. All networks have random parameters; every `a` is "
        "0.5. Equal means bit for bit for copies, and 1e-4 of the largest value otherwise; larger differences in "
        "float32 are checked again in float64, to 1e-9.",
        "",
        f"Not tried in this run: {', '.join(left)}." if (left := _left(fits)) else "Every host was tried.",
        "",
        "```",
        command,
        "```",
        "",
        versions + ".",
        "",
        "| tool | equal | raises | not applicable | fails |",
        "|---|---:|---:|---:|---:|",
    ]
    for tool in dict.fromkeys(row.tool for row in fits):
        counts = Counter(row.status for row in fits if row.tool == tool)
        lines.append(f"| {tool} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    wrong = [row for row in fits if row.status == "fails"]
    if wrong:
        lines += ["", "| tool that fails | host | mechanism | what is seen |", "|---|---|---|---|"]
        for row in wrong:
            note = " ".join(row.note.split()).replace("|", "/")[:120]
            lines.append(f"| {row.tool} | {row.host} | {row.mechanism} | {note} |")
    lines += ["", f"Hosts: {'; '.join(dict.fromkeys(row.host for row in fits))}.", ""]
    places = ", ".join(f"{name} ({MECHANISMS[name][1]})" for name in dict.fromkeys(row.mechanism for row in fits))
    lines += [f"Mechanisms and positions (the paper's where a host lacks the position): {places}.", ""]
    return "\n".join(lines)


def _left(found: list[Row]) -> list[str]:
    """Return the hosts, and mechanisms in how many hosts, that ``found`` lacks."""
    hosts = {row.host for row in found}
    few = [(name, len({row.host for row in found if row.mechanism == name})) for name in MECHANISMS]
    missing = [f"{name} in {len(HOSTS) - count} hosts" for name, count in few if count < len(HOSTS)]
    return [*(f"the host {name}" for name in HOSTS if name not in hosts), *missing]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="*", help="glob of host names")
    parser.add_argument("--mechanisms", default=",".join(MECHANISMS), help="names, with commas")
    parser.add_argument("--tools", default="*", help="glob of tool names")
    parser.add_argument("--out", type=Path, help="file to which each result is added as a JSON line")
    parser.add_argument("--part", default="1/1", help="1/2: the first half of the hosts, for two processes")
    parser.add_argument("--page", type=Path, nargs="+", help="run nothing: make the page of these files of --out")
    options = parser.parse_args()
    if options.page:
        kept = [Row(**json.loads(line)) for file in options.page for line in file.read_text().splitlines()]
        print(page(kept, "python benchmarks/third_tools.py"), end="")
        return int(any(row.status == "fails" for row in kept))
    torch.set_num_threads(1)
    logging.getLogger("saccade").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    hosts = [name for name in HOSTS if fnmatchcase(name, options.hosts)]
    part, parts = map(int, options.part.split("/"))
    hosts = hosts[part - 1 :: parts]
    tools = [name for name in TOOLS if fnmatchcase(name, options.tools)]
    mechanisms = options.mechanisms.split(",")
    unknown = [name for name in mechanisms if name not in MECHANISMS]
    if unknown or not hosts or not tools:
        parser.error(f"no mechanism {unknown}" if unknown else "no host or no tool of that name")
    found = []
    for row in rows(hosts, mechanisms, tools):
        found.append(row)
        print(
            f"{row.host} | {row.mechanism} | {row.tool} | {row.status} {row.note[:150]} | {row.seconds} s",
            file=sys.stderr,
        )
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(vars(row)) + "\n")
    print(page(found, "python benchmarks/third_tools.py " + " ".join(sys.argv[1:])))
    return int(any(row.status == "fails" for row in found))


if __name__ == "__main__":
    sys.exit(main())
