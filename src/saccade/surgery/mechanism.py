"""A mechanism with its SPEC and constructor, and its options at each site."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from saccade import catalog
from saccade.bases import Convolution
from saccade.errors import UserError, did_you_mean
from saccade.graph.decoder import no_skip_reason, skips
from saccade.graph.sites import Site
from saccade.graph.structure import Structure
from saccade.specs import Spec

__all__ = [
    "BuiltModule", "Mechanism", "MechanismBuilder", "kernel_keeping_class", "options_per_site", "previous_parents",
    "skip_options", "starts_neutral",
]  # fmt: skip

MechanismBuilder = Callable[..., nn.Module]
"""Function or class (channels, **options) -> module."""
BuiltModule = tuple[str, dict[str, Any], nn.Module]
"""Name and options of a module, and the module built from them."""


@dataclass(frozen=True)
class Mechanism:
    """A mechanism that can be built for a site."""

    name: str
    spec: Spec
    defaults: dict[str, Any]
    """Maps option to default value, or to ``inspect.Parameter.empty``."""
    builder: MechanismBuilder
    is_given_by_name: bool = False
    """Whether the mechanism was given by name, so that the catalogue can check the values of options."""

    @classmethod
    def resolve(cls, mechanism: str | MechanismBuilder) -> Mechanism:
        """Return the mechanism for a catalogue name, ``package.module:Class``, or a callable channels -> module.

        Raises:
            UserError: there is no such mechanism.
        """
        if isinstance(mechanism, str):
            mechanism = catalog.canonical(mechanism)
            spec, defaults = catalog.spec(mechanism), catalog.options(mechanism)

            def create(channels: int, **options: Any) -> nn.Module:
                return catalog.create(mechanism, channels, **options)

            return cls(mechanism, spec, defaults, create, is_given_by_name=True)
        if not callable(mechanism):
            raise UserError(f"a mechanism is a name, or a callable that takes the channels, got {mechanism!r}")
        name = f"{getattr(mechanism, '__module__', '')}:{getattr(mechanism, '__qualname__', repr(mechanism))}"
        try:
            name = catalog.canonical(name)
            spec = catalog.spec(name)
        except UserError:
            # "reading": no reference implementation
            spec = Spec(title=name.partition(":")[2], kind="transform", evidence="reading")
        return cls(name, spec, _defaults(mechanism), mechanism)

    @property
    def needs_size(self) -> bool:
        """Return True if the mechanism needs the height and width of the map, as its option ``size``."""
        return "size" in self.spec.needs

    @property
    def reads_previous_stage(self) -> bool:
        """Return True if the mechanism reads channel descriptors of the previous stage's plugs."""
        return "previous stage" in self.spec.needs

    @property
    def reads_skip(self) -> bool:
        """Return True if the mechanism needs the channels of a concatenation's skip, as its option ``skip``."""
        return "skip" in self.spec.needs

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UserError if an option is unknown or, for a mechanism given by name, has an invalid value."""
        if self.is_given_by_name:
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
            UserError: the module cannot be built with these options for this number of channels.
        """
        try:
            module = self.builder(site.channels, **options)
        except UserError as error:
            raise UserError(f"at {site.path}: {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"at {site.path}: {self.name} with channels={site.channels}, {options}: {error}") from error
        if not isinstance(module, nn.Module):
            raise UserError(f"{self.name} returned a {type(module).__name__}, which is not a torch.nn.Module")
        return module


def _defaults(function: MechanismBuilder) -> dict[str, Any]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_POSITIONAL}


def starts_neutral(start: str) -> bool:
    """Return True if ``start`` is "neutral", False if it is "paper".

    Raises:
        UserError: ``start`` is neither.
    """
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    return start == "neutral"


def kernel_keeping_class(mechanism: str | MechanismBuilder) -> type[Convolution] | None:
    """Return ``mechanism`` as a class if it keeps the kernel of a convolution, else None."""
    cls = catalog.load(mechanism) if isinstance(mechanism, str) else mechanism
    return cls if isinstance(cls, type) and issubclass(cls, Convolution) else None


def options_per_site(mechanism: Mechanism, options: dict[str, Any], sites: list[Site]) -> list[dict[str, Any]]:
    """Return the options of each site: a list gives one value per stage, unless the option's own default is a list.

    If the mechanism needs ``size``, the default is the size of the site's map.

    Raises:
        UserError: the length of a list is not the number of stages.
    """
    stages = sorted({site.stage for site in sites})
    lists = {
        key for key, value in options.items()
        if isinstance(value, list) and not isinstance(mechanism.defaults.get(key), (list, tuple))
    }  # fmt: skip
    for key in lists:
        if len(options[key]) != len(stages):
            raise UserError(
                f"{key}={options[key]} has {len(options[key])} values, one per stage; "
                f"the {len(sites)} sites lie in {len(stages)} stages"
            )
    options_list = [
        {key: value[stages.index(site.stage)] if key in lists else value for key, value in options.items()}
        for site in sites
    ]
    if not mechanism.needs_size:
        return options_list
    return [
        site_options if site_options.get("size") is not None else site_options | {"size": site.size}
        for site_options, site in zip(options_list, sites, strict=True)
    ]


def previous_parents(
    mechanism: Mechanism, sites: list[Site], options_list: list[dict[str, Any]]
) -> list[tuple[str, ...]]:
    """Return, for each site, the parents in the previous stage that it reads: all, or the last n = ``previous``.

    Raises:
        UserError: the previous stage has fewer than ``previous`` sites.
    """
    if not mechanism.reads_previous_stage:
        return [()] * len(sites)
    parents = []
    for site, options in zip(sites, options_list, strict=True):
        previous_stage = max((other.stage for other in sites if other.stage < site.stage), default=None)
        candidates = tuple(other.parent for other in sites if other.stage == previous_stage)
        n_previous = options.get("previous")
        if n_previous is not None and n_previous > len(candidates):
            raise UserError(
                f"at {site.path}: previous={n_previous}, but the previous stage has {len(candidates)} sites"
            )
        parents.append(candidates if n_previous is None else candidates[len(candidates) - n_previous :])
    return parents


def skip_options(
    mechanism: Mechanism, structure: Structure, sites: list[Site], options_list: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the options of each site, with the channels of its skip as ``skip`` if the mechanism needs them.

    Raises:
        UserError: a site is no concatenation with a skip and no ``skip`` is given, or another ``skip`` is given.
    """
    if not mechanism.reads_skip:
        return options_list
    channels = {(skip.path, skip.is_input): skip.channels for skip in skips(structure)}
    new_options = []
    for site, options in zip(sites, options_list, strict=True):
        traced, given = channels.get((site.path, site.entering)), options.get("skip")
        if traced is None and given is None:
            reason = "" if channels else f"; {no_skip_reason(structure)}"
            raise UserError(
                f"at {site.path}: {mechanism.name} needs a concatenation of upsampled maps with maps from the way "
                f"down, as where='skip' finds them{reason}"
            )
        if traced is not None and given is not None and tuple(given) != traced:
            raise UserError(f"at {site.path}: skip={tuple(given)}, but the skip has the channels {traced}")
        new_options.append(options | {"skip": given if traced is None else traced})
    return new_options
