"""Convolutions of any network exchanged for mechanisms."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any, Literal, cast

import torch
from torch import nn

from saccade import catalog
from saccade.errors import UserError
from saccade.graph.hosts import check_network, check_not_distributed
from saccade.graph.inputs import example_input
from saccade.graph.positions import POSITIONS, position_key, select, where_items
from saccade.graph.sites import Inspection, Site
from saccade.surgery.mechanism import Mechanism, kernel_keeper, per_stage, starts_neutral
from saccade.surgery.rebuilt import warn_of_rebuilding
from saccade.surgery.replaceable import check_replaceable, fitted, insert_replacements
from saccade.surgery.replaced import CHILD, Note, Stand, gone, note, replaced
from saccade.surgery.sites import inspect_unplugged

__all__ = ["Replacement", "again", "described", "replace", "replacements"]

_OWN = ("out_channels", "stride", "padding", "dilation", "groups", "bias")
"""Arguments that the convolution decides."""

_PLACES = ("conv3x3", "conv_stem")
"""Positions that are convolutions."""

_LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class Replacement:
    """One replaced convolution of a network; its path is relative to that network."""

    convolution: str
    """The module."""
    channels: int
    """Of the map it receives."""
    size: tuple[int, int]
    """Height and width of that map for the picture it was inspected with."""
    stage: int
    position: str
    """The position that chose it."""
    parameters: int
    """Of the mechanism alone; a kernel that it keeps is the host's."""
    discarded: int
    """Weights of the convolution that are not used."""
    neutral: bool
    """Whether it started as the convolution, but for rounding."""
    mechanism: str
    module: nn.Module


def replace(
    host: nn.Module,
    mechanism: str | Callable[..., nn.Module],
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Put a mechanism of kind ``conv`` in the place of convolutions of ``host``, in place, all of them or none.

    Kernel size, stride, padding, dilation, groups and channels stay. A :class:`saccade.bases.Convolution` (``dcn1``,
    ``dcn2``) keeps weight and bias under their own keys, with its parameters beside them under ``saccade_conv``. Any
    other mechanism discards them: the log says how many, as a warning if a neutral start was asked for; ``unplug``
    restores them.

    The host's own checkpoints load strictly before and after. The mechanisms are drawn from the global random state,
    which stays as it is.

    Args:
        host: any network.
        mechanism: a name of the catalogue, ``package.module:Class``, or a callable that takes the channels and, by
            name, ``out_channels``, ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups`` and ``bias``.
        where: ``paper``; ``conv3x3``, the last spatial convolution of each unit; ``conv_stem``, the first convolution;
            each with a suffix such as ``[1:]``, and `` in stage[-3:]``, if wanted; a path of a convolution; a glob,
            which selects all convolutions among its matches; or a list of these.
        start: ``neutral``: a mechanism that keeps the kernel computes what the convolution did, but for the order of
            summation; ``paper``: the mechanism's own start, with the kernel it keeps.
        input: see ``sites``.
        options: of the mechanism; a list gives one value per stage. ``kernel_size`` may be given to a mechanism that
            does not keep the kernel, if the padding keeps the size of the map.

    Returns:
        ``host``.

    Raises:
        UserError: ``host`` is no module, wrapped in DistributedDataParallel or compiled; unknown mechanism or option,
            or one to be plugged; nothing to replace; a module that is no ``nn.Conv2d``, computes its weight, does not
            pad with zeros, or is replaced already; numbers that the mechanism cannot keep. The host is then as it was.
    """
    neutral = starts_neutral(start)
    what = Mechanism.of(mechanism)
    _check_options(what, options)
    check_not_distributed(host)
    if input is None and what.sized:
        input = example_input(host)
    seen = inspect_unplugged(host, input)
    chosen = _chosen(host, seen, where, what)
    keeper = kernel_keeper(mechanism)
    known = dict(keeper.neutral_options) if keeper is not None and neutral else {}
    new: dict[str, tuple[nn.Module, Note]] = {}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for (site, position), own in zip(chosen, per_stage(what, options, [site for site, _ in chosen]), strict=True):
            new[site.parent] = fitted(host, what, site, position, known | own, neutral)
        insert_replacements(host, new, seen.arguments)
    lost = sum(known.discarded for _, known in new.values())
    if lost:
        _LOG.log(
            logging.WARNING if neutral else logging.INFO,
            "%s keeps no kernel: %s weights of %d convolution%s of %s are discarded, and the network computes "
            "something else until it is trained",
            what.name, f"{lost:,}", len(new), "s" * (len(new) != 1), type(host).__name__,
        )  # fmt: skip
    warn_of_rebuilding(host)
    return host


def replacements(host: nn.Module) -> list[Replacement]:
    """Return the replaced convolutions of ``host`` in the order of its modules.

    Raises:
        UserError: ``host`` is no module, or a replaced convolution is something else now.
    """
    check_network(host)
    lost = gone(host)
    if lost:
        raise UserError(
            f"the replacement of {', '.join(lost)} is lost: the module was fused, exchanged or re-parametrised, or a "
            "part of the network was unplugged by itself; unplug the whole network before such a step, or replace "
            "afterwards"
        )
    rows = []
    for path, module in replaced(host):
        known, made = note(module), module.get_submodule(CHILD)
        rows.append(
            Replacement(
                convolution=path,
                channels=cast(int, module.in_channels),
                size=known.size,
                stage=known.stage,
                position=known.position,
                parameters=sum(p.numel() for p in made.parameters()),
                discarded=known.discarded,
                neutral=known.neutral,
                mechanism=known.name,
                module=made,
            )
        )
    return rows


def described(model: nn.Module) -> list[dict[str, Any]]:
    """Return the replacements of ``model`` as JSON holds them, for :func:`again`.

    Raises:
        UserError: as ``replacements``.
    """
    return [
        {
            "mechanism": row.mechanism,
            "options": note(model.get_submodule(row.convolution)).options,
            "neutral": row.neutral,
            "position": row.position,
            "convolution": row.convolution,
            "stage": row.stage,
            "size": list(row.size),
        }
        for row in replacements(model)
    ]


def again(host: nn.Module, rows: Sequence[Mapping[str, Any]], owner: str) -> None:
    """Replace convolutions of ``host`` as ``described`` says.

    Raises:
        UserError: a module is missing or cannot be replaced so; the host is then as it was.
    """
    new = {}
    for row in rows:
        path, size, options = row["convolution"], (row["size"][0], row["size"][1]), dict(row["options"])
        if options.get("size") is not None:
            options["size"] = tuple(options["size"])
        try:
            check_replaceable(path, host.get_submodule(path))
        except AttributeError:
            raise UserError(f"{owner}: {type(host).__name__} has no module {path!r} to replace") from None
        site = Site(path=path, parent=path, entering=False, channels=0, size=size, stage=row["stage"], calls=1, kind="")
        new[path] = fitted(host, Mechanism.of(row["mechanism"]), site, row["position"], options, row["neutral"])
    insert_replacements(host, new, None)


def _states(name: str) -> bool:
    """Return whether a mechanism has a SPEC."""
    try:
        return catalog.stated(name) is not None
    except UserError:  # a function of nowhere
        return False


def _check_options(what: Mechanism, options: Mapping[str, Any]) -> None:
    if what.spec.kind != "conv" and _states(what.name):
        raise UserError(
            f"{what.name} is a {what.spec.kind}, no convolution: saccade.plug(host, {what.name!r}) puts it behind a "
            f"module. These replace: {', '.join(catalog.list_mechanisms('replace'))}"
        )
    for key in options:
        if key in _OWN:
            raise UserError(f"{key}={options[key]!r}: the convolution that is replaced decides its {key}")
    what.check(options)


def _chosen(host: nn.Module, seen: Inspection, where: str | Sequence[str], what: Mechanism) -> list[tuple[Site, str]]:
    """Return the convolutions that ``where`` names, as sites with the size they receive, in order of execution."""
    found: dict[str, tuple[Site, str]] = {}
    for part in where_items(where):
        for site, position in _part(host, seen, part, what):
            check_replaceable(site.path, host.get_submodule(site.parent))
            found.setdefault(site.parent, (site, position))
    order = {path: n for n, path in enumerate(seen.structure.in_order(found))}
    return [found[path] for path in sorted(found, key=order.__getitem__)]


def _part(host: nn.Module, seen: Inspection, where: str, what: Mechanism) -> Iterator[tuple[Site, str]]:
    """Yield the convolutions that one word of ``where`` names, and their position."""
    word = where.strip()
    if re.match(r"paper\b", word):
        own = what.spec.position[position_key(host, what.spec)]
        word = (own if own.startswith(_PLACES) else "conv3x3") + word.removeprefix("paper")
    base = word.partition(" in stage[")[0]
    name = base.partition("[")[0]
    if name in POSITIONS and name not in _PLACES:
        raise UserError(
            f"{where!r} is a place for a plug; convolutions are at 'paper', {', '.join(map(repr, _PLACES))}, or named "
            "by a path or glob"
        )
    modules = dict(host.named_modules())
    if isinstance(modules.get(base), (nn.Conv2d, Stand)):
        check_replaceable(base, modules[base])
    sites = select(seen, word, what.spec).sites
    if name not in _PLACES and base not in modules:  # a glob takes the convolutions among what it matches
        sites = [site for site in sites if isinstance(modules[site.parent], (nn.Conv2d, Stand)) and not site.entering]
    if not sites:
        near = [path for path, module in modules.items() if isinstance(module, nn.Conv2d)]
        more = f" and {len(near) - 40} more" if len(near) > 40 else ""
        raise UserError(
            f"{where!r} leaves no convolution of {type(host).__name__}. Its convolutions: {', '.join(near[:40])}{more}."
        )
    for site in sites:
        call = seen.structure.trace.calls_by_path()[site.parent][0]
        value = None if call.first_input is None else seen.structure.trace.values.get(call.first_input)
        size = site.size if value is None else (value.shape[2], value.shape[3])
        yield changed(site, path=site.path if site.entering else site.parent, size=size), word
