"""A mechanism as surgery needs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from saccade import catalog
from saccade.bases import Convolution
from saccade.errors import UserError, did_you_mean
from saccade.graph.sites import Site
from saccade.specs import Spec

__all__ = ["Builder", "Mechanism", "StandIn", "kernel_keeper", "per_stage", "previous_sites", "starts_neutral"]

Builder = Callable[..., nn.Module]
StandIn = tuple[str, dict[str, Any], nn.Module]
"""The name and options that a module is made from, and the module."""


@dataclass(frozen=True)
class Mechanism:
    """The name, SPEC and options of a mechanism, and how one is made."""

    name: str
    spec: Spec
    defaults: dict[str, Any]
    make: Builder
    named: bool = False
    """Whether it was asked for by name, so that the catalogue knows what each option takes."""

    @classmethod
    def of(cls, mechanism: str | Builder) -> Mechanism:
        """Find a mechanism by its catalogue name or ``package.module:Class``, or take a callable channels -> module.

        Raises:
            UserError: there is no such mechanism.
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
        """Whether it takes the size of the map, as its option ``size``."""
        return "size" in self.spec.needs

    @property
    def reads(self) -> bool:
        """Whether it reads what the sites of the stage before its own squeezed."""
        return "previous stage" in self.spec.needs

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UserError unless it has these options and, if asked for by name, they take such values."""
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
        """Build a new module for the site.

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


def _defaults(function: Builder) -> dict[str, Any]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_POSITIONAL}


def starts_neutral(start: str) -> bool:
    """Return whether ``start`` is "neutral".

    Raises:
        UserError: it is neither that nor "paper".
    """
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    return start == "neutral"


def kernel_keeper(mechanism: str | Builder) -> type[Convolution] | None:
    """Return the class of a mechanism that keeps the kernel of the convolution it replaces, or None."""
    maker = catalog.load(mechanism) if isinstance(mechanism, str) else mechanism
    return maker if isinstance(maker, type) and issubclass(maker, Convolution) else None


def per_stage(what: Mechanism, options: dict[str, Any], sites: list[Site]) -> list[dict[str, Any]]:
    """Return the options of each site: a list gives one value per stage, unless the option's own default is a list.

    An option ``size`` that the mechanism takes and nobody gave is the site's.

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


def previous_sites(what: Mechanism, sites: list[Site], each: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the parents that each site reads: all sites of the stage before, or as many as its ``previous`` says.

    Raises:
        UserError: there are fewer.
    """
    if not what.reads:
        return [()] * len(sites)
    found = []
    for site, own in zip(sites, each, strict=True):
        stage = max((other.stage for other in sites if other.stage < site.stage), default=None)
        there = tuple(other.parent for other in sites if other.stage == stage)
        wanted = own.get("previous")
        if wanted is not None and wanted > len(there):
            raise UserError(
                f"at {site.path}: previous={wanted} vectors of the stage before are to be read; "
                f"{len(there)} of the sites lie there"
            )
        found.append(there if wanted is None else there[len(there) - wanted :])
    return found
