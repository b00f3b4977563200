"""Attention into any network and out again: the weights it has keep their names and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from saccade import catalog
from saccade.attachment import CHILD, runs_plug
from saccade.errors import UserError, did_you_mean
from saccade.specs import Spec
from saccade.probe import check_network, example_input
from saccade.surgery.carrying import attach, detach, join
from saccade.surgery.checking import verify_forward, warn_of_eval_only
from saccade.surgery.guard import NOT_RUN, PLUGS, REPLACED, lost, paths, raise_if_lost, unwatch
from saccade.surgery.hosts import check_changeable
from saccade.surgery.plug_module import Plug, carried
from saccade.surgery.positions import select
from saccade.surgery.rebuilt import warn_of_rebuilding
from saccade.surgery.redraw import redraw_dead_relus
from saccade.surgery.replaced import restore
from saccade.surgery.sites import Site, survey

__all__ = ["Carried", "Mechanism", "StandIn", "install", "per_stage", "plug", "plugs", "unplug"]

Builder = Callable[..., nn.Module]
StandIn = tuple[str, dict[str, Any], nn.Module]
"""What is plugged: the name and the options it can be made of again, and the module."""


@dataclass(frozen=True)
class Carried:
    """One plug of a network; paths are relative to the network that was asked."""

    site: str
    """The module whose map goes through the plug."""
    carrier: str
    """The module that holds it."""
    channels: int
    size: tuple[int, int]
    """Height and width of the map for the picture the host was looked at with."""
    stage: int
    position: str
    """The position that chose the site; ``plug`` may have fallen back to it."""
    parameters: int
    """Of the mechanism, and ``a``."""
    mechanism: str
    module: Plug


@dataclass(frozen=True)
class Mechanism:
    """A mechanism as ``plug`` needs it: its name, its facts, its options, and how one is made."""

    name: str
    spec: Spec
    defaults: dict[str, Any]
    make: Builder
    named: bool = False
    """Was it asked for by name, so that the catalogue knows what each option takes?"""

    @classmethod
    def of(cls, mechanism: str | Builder) -> Mechanism:
        """The mechanism of a catalogue name, ``package.module:Class``, a class or a function channels -> module.

        Raises:
            UserError: no such mechanism.
        """
        if isinstance(mechanism, str):
            mechanism = catalog.canonical(mechanism)
            spec, defaults = catalog.spec(mechanism), catalog.options(mechanism)

            def make(channels: int, **options: Any) -> nn.Module:
                return catalog.create(mechanism, channels, **options)

            return cls(mechanism, spec, defaults, make, named=True)
        if not callable(mechanism):
            raise UserError(f"a mechanism is a name or something that takes the channels, got {mechanism!r}")
        name = f"{getattr(mechanism, '__module__', '')}:{getattr(mechanism, '__qualname__', repr(mechanism))}"
        try:
            name = catalog.canonical(name)
            spec = catalog.spec(name)
        except UserError:
            spec = Spec(title=name.partition(":")[2], kind="transform", evidence="reading")
        return cls(name, spec, _defaults(mechanism), mechanism)

    @property
    def sized(self) -> bool:
        """Does it take the size of the map, as its option ``size``?"""
        return "size" in self.spec.needs

    @property
    def reads(self) -> bool:
        """Does it read what the sites of the stage before its own squeezed?"""
        return "previous stage" in self.spec.needs

    def check(self, options: Mapping[str, Any]) -> None:
        """Nothing, if it has these options.

        Raises:
            UserError: it has not, or, asked for by name, one takes no such value.
        """
        if self.named:
            catalog.resolve_options(self.name, options)
            return
        for key in options:
            if self.defaults and key not in self.defaults:
                raise UserError(
                    f"{self.name} has no option {key!r}.{did_you_mean(key, self.defaults)} "
                    f"Its options: {', '.join(self.defaults)}."
                )

    def build(self, site: Site, options: dict[str, Any]) -> nn.Module:
        """A new module for the site.

        Raises:
            UserError: it cannot be made with these options at this channel count.
        """
        try:
            made = self.make(site.channels, **options)
        except UserError as error:
            raise UserError(f"at {site.path}: {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"at {site.path}: {self.name} with channels={site.channels}, {options}: {error}") from error
        if not isinstance(made, nn.Module):
            raise UserError(f"{self.name} made a {type(made).__name__}, which is no torch.nn.Module")
        return made


def plug(
    host: nn.Module,
    mechanism: str | Builder,
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Put a mechanism into ``host``, in place, at every site of ``where``.

    No key of the host's state dict moves, and its own checkpoints load strictly before and after. The mechanisms are
    drawn from the global random state, which stays as it is. One that could not learn, because all units of a ReLU are
    off on ``input``, is drawn again from the same initialisation; on a map that is zero at the start, as behind a norm
    whose weight is, only biases can tell. The log names the sites that the host reaches in eval mode only, and warns of
    a host that its trainer builds anew: see ``plugged_trainer``.

    Args:
        host: any network.
        mechanism: a name of the catalogue, ``package.module:Class``, or a callable channels -> module.
        where: ``paper``, ``stage``, ``neck``, ``block``, ``residual``, ``conv3x3``, ``activated``, ``expanded``,
            ``conv_stem``, each with a suffix if wanted: ``[:-1]`` or the like, ``[first]`` or ``[last]`` of each stage;
            a path or glob of module paths; or a list of these.
        start: ``neutral``: until it is trained, the network computes what it computed, bit for bit wherever the
            mechanism's own output is finite; ``paper``: the mechanism's own initialisation, without ``a``.
        input: what to look at the host with; see ``sites``.
        options: of the mechanism. A list, where the option's default is none, gives one value per stage. A mechanism
            whose facts say that it needs the size of the map gets each site's as its option ``size`` (H, W), unless it
            is given here: that of the map for ``input``, and no narrower picture is tried where there is none. One that
            reads the stage before its own gets as its option ``previous`` how many sites are chosen there, which is the
            nearest earlier stage that has some; a smaller number takes the last of them.

    Returns:
        ``host``.

    Raises:
        UserError: ``host`` is no module; unknown mechanism or option, no site, a carrier that has a plug already, a
            host that does not run each plug once per call of its carrier, is wrapped in DistributedDataParallel,
            compiled, or on the meta device, or a mechanism that changes the shape, the dtype, or, though its facts
            call it neutral, the map. The host is then as it was.
    """
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    install(host, Mechanism.of(mechanism), where, input, options, neutral=start == "neutral")
    warn_of_rebuilding(host)
    return host


def install(
    host: nn.Module,
    what: Mechanism,
    where: str | Sequence[str],
    input: Any,
    options: dict[str, Any],
    *,
    neutral: bool,
    instead: Callable[[Site, dict[str, Any], nn.Module], StandIn] | None = None,
) -> nn.Module:
    """The work of ``plug``.

    ``neutral`` gives each plug its ``a``, but for those whose facts promise that they change nothing without one;
    ``instead`` turns each mechanism, given its site and options, into what is plugged in its place.
    """
    if what.spec.kind == "conv":
        raise UserError(
            f"{what.name} stands in the place of a convolution and cannot be plugged behind a module: "
            f"saccade.replace(host, {what.name!r}) puts it there"
        )
    what.check(options)
    check_changeable(host)
    if input is None and what.sized:
        input = example_input(host)  # the size of the pictures to come, where a survey by itself narrows them
    seen = survey(host, input)
    chosen = select(seen, where, what.spec)
    each = per_stage(what, options, chosen.sites)
    reads = _before(what, chosen.sites, each)
    new: list[Plug] = []

    def make(site: Site, own: dict[str, Any]) -> StandIn:
        with torch.device("cpu"):  # the same weights wherever the host is
            module = what.build(site, own)
            return (what.name, own, module) if instead is None else instead(site, own, module)

    def check() -> None:
        verify_forward(host, new, seen.arguments, exact=neutral)
        redraw_dead_relus(host, new, seen.arguments, lambda n: make(chosen.sites[n], each[n])[2])
        warn_of_eval_only(host, new, seen.arguments)

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for site, own, before in zip(chosen.sites, each, reads, strict=True):
            if what.reads and own.get("previous") is None:
                own["previous"] = len(before)
            name, taken, module = make(site, own)
            bare = not neutral or what.spec.is_neutral({**what.defaults, **own})
            with torch.device("cpu"):
                made = Plug(
                    module,
                    site=site,
                    name=name,
                    options=taken,
                    position=chosen.position,
                    neutral=not bare,
                    reads=before,
                )
            value = seen.structure.value(site.path)
            new.append(made.to(value.device, seen.structure.weights(site.path, site.carrier)))
        return settle(host, new, check)


def settle(host: nn.Module, new: list[Plug], check: Callable[[], None]) -> nn.Module:
    """Attach ``new`` to the carriers of their sites, then ``check``.

    Raises:
        UserError: a carrier is missing or taken. Whatever is raised, here or by ``check``: the host is then as it was.
    """
    try:
        for made in new:
            attach(host, made)
        join(host, new)
        check()
    except BaseException:
        detach(host, new)
        raise
    return host


def unplug(host: nn.Module, only: str | Sequence[str] | None = None) -> nn.Module:
    """Take plugs and replacements out of ``host``, in place: modules, hooks and keys are what they were.

    A kernel that a replacement kept stays as it was trained; any other is the convolution's own again.

    Args:
        host: the network.
        only: paths or globs of parents or convolutions, or of modules that hold them; None is all. Plugs that were
            lost are then no longer missed.

    Raises:
        UserError: ``host`` is no module, ``only`` names nothing, the plugs are in a graph of ``torch.fx``, or the
            kernel of a replaced convolution is not known or was re-parametrised; nothing is taken out then.
    """
    check_network(host)
    found = {path: plug for path, _, plug in carried(host)}
    marked = {kind: set(paths(host, kind)) for kind in (PLUGS, REPLACED)}
    chosen = {*found, *marked[PLUGS], *marked[REPLACED]}
    if only is not None:
        wanted = [only] if isinstance(only, str) else list(only)
        named = {word: {p for p in chosen if fnmatchcase(p, word) or p.startswith(f"{word}.")} for word in wanted}
        for word in wanted:
            if not named[word]:
                raise UserError(
                    f"{word!r} names no plug.{did_you_mean(word, chosen)} There are: {', '.join(sorted(chosen))}"
                )
        chosen = set[str]().union(*named.values())
    traced = [path for path in found if path in chosen and _in_graph(host, path)]
    if traced:
        raise UserError(
            f"the plugs of {', '.join(traced[:4])} are called by a graph of torch.fx; unplug the network before it is "
            "traced"
        )
    restore(host, None if only is None else chosen)
    unwatch(host, PLUGS, set(paths(host, PLUGS)) - chosen)
    detach(host, [plug for path, plug in found.items() if path in chosen])
    return host


def plugs(host: nn.Module) -> list[Carried]:
    """The plugs of ``host``, in the order of its modules; [] if it has none.

    Raises:
        UserError: ``host`` is no module, or a carrier lost its plug or its hook, as fusing and re-parametrising do: the
            network would silently compute something else.
    """
    check_network(host)
    gone = lost(host)
    rows = []
    for path, parent, found in carried(host):
        if not (runs_plug(parent) or _in_graph(host, path)):
            gone.setdefault(path, NOT_RUN)
        site = found.site
        prefix = path.removesuffix(site.carrier) if path.endswith(site.carrier) else ""
        rows.append(
            Carried(
                site=prefix + site.path,
                carrier=path,
                channels=site.channels,
                size=site.size,
                stage=site.stage,
                position=found.position,
                parameters=sum(p.numel() for p in found.parameters()),
                mechanism=found.name,
                module=found,
            )
        )
    raise_if_lost(gone)
    return rows


def _in_graph(host: nn.Module, path: str) -> bool:
    """Return whether a graph that ``torch.fx`` made calls the plug of the module at ``path``."""
    for prefix, module in host.named_modules():
        if isinstance(module, torch.fx.GraphModule):
            plug = f"{path}.{CHILD}".removeprefix(f"{prefix}." if prefix else "")
            if any(node.op == "call_module" and node.target == plug for node in module.graph.nodes):
                return True
    return False


def _defaults(function: Builder) -> dict[str, Any]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_POSITIONAL}


def per_stage(what: Mechanism, options: dict[str, Any], sites: list[Site]) -> list[dict[str, Any]]:
    """The options of each site: a list stands for one value per stage, unless the option itself is a list.

    ``size``, where the mechanism takes it and nobody gave it, is the site's.

    Raises:
        UserError: a list is not as long as there are stages among the sites.
    """
    stages = sorted({site.stage for site in sites})
    lists = {
        key for key, value in options.items()
        if isinstance(value, list) and not isinstance(what.defaults.get(key), (list, tuple))
    }  # fmt: skip
    for key in lists:
        if len(options[key]) != len(stages):
            raise UserError(
                f"{key}={options[key]} has {len(options[key])} values, one per stage; "
                f"the {len(sites)} sites lie in {len(stages)} stages"
            )
    each = [
        {key: value[stages.index(site.stage)] if key in lists else value for key, value in options.items()}
        for site in sites
    ]
    if not what.sized:
        return each
    return [
        own if own.get("size") is not None else own | {"size": site.size} for own, site in zip(each, sites, strict=True)
    ]


def _before(what: Mechanism, sites: list[Site], each: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The carriers that each site reads: all sites of the stage before it, or as many as its option ``previous`` says.

    Raises:
        UserError: there are fewer.
    """
    if not what.reads:
        return [()] * len(sites)
    found = []
    for site, own in zip(sites, each, strict=True):
        stage = max((other.stage for other in sites if other.stage < site.stage), default=None)
        there = tuple(other.carrier for other in sites if other.stage == stage)
        wanted = own.get("previous")
        if wanted is not None and wanted > len(there):
            raise UserError(
                f"at {site.path}: previous={wanted} vectors of the stage before are to be read; "
                f"{len(there)} of the sites lie there"
            )
        found.append(there if wanted is None else there[len(there) - wanted :])
    return found
