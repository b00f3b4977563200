"""Replace convolutions of a network by mechanisms, and list the replacements."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from saccade import catalog
from saccade.errors import UserError
from saccade.graph.hosts import check_network, check_not_distributed
from saccade.graph.inputs import example_input
from saccade.graph.positions import POSITIONS, position_key, select, where_items
from saccade.graph.sites import Inspection, Site
from saccade.surgery.mechanism import Mechanism, kernel_keeping_class, options_per_site, starts_neutral
from saccade.surgery.rebuild_warning import warn_of_rebuilding
from saccade.surgery.replaceable import build_replacement, check_replaceable, insert_replacements
from saccade.surgery.replaced import CHILD as REPLACEMENT_CHILD
from saccade.surgery.replaced import (
    KernellessConvolution,
    ReplacementInfo,
    lost_replacements,
    replaced_convolutions,
    replacement_info,
)
from saccade.surgery.sites import inspect_unplugged

__all__ = ["Replacement", "repeat_replacements", "replace", "replacement_rows", "replacements"]

_GEOMETRY_OPTIONS = ("out_channels", "stride", "padding", "dilation", "groups", "bias")
"""Options of a mechanism that the replaced convolution determines."""

_CONVOLUTION_POSITIONS = ("conv3x3", "conv_stem")
"""Positions that are convolutions."""

_LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class Replacement:
    """One replaced convolution of a network."""

    convolution: str
    """Path of the convolution, relative to the network."""
    channels: int
    """Number of input channels."""
    size: tuple[int, int]
    """Height and width of the input map, for the input of the inspection."""
    stage: int
    position: str
    """Position that selected the convolution."""
    parameters: int
    """Number of parameters of the mechanism, without a kept kernel."""
    discarded: int
    """Number of the convolution's weights that are not used."""
    neutral: bool
    """Whether the mechanism initially computed the convolution's output, up to rounding."""
    mechanism: str
    """Name of the mechanism."""
    module: nn.Module


def replace(
    host: nn.Module,
    mechanism: str | Callable[..., nn.Module],
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Replace the convolutions of ``host`` that ``where`` selects by a mechanism of kind ``conv``, in place.

    The geometry is kept. A :class:`saccade.bases.Convolution` (``dcn1``, ``dcn2``) uses weight and bias under the same
    state-dict keys; its parameters are beside them, under ``saccade_conv``. Any other mechanism leaves them unused
    until ``unplug``; the log gives their number, as a warning for a neutral start. The host's own checkpoints still
    load strictly, and the global random state is left unchanged.

    Args:
        host: any network.
        mechanism: catalogue name, ``package.module:Class``, or a callable that takes the channels and, by name,
            ``out_channels``, ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups`` and ``bias``.
        where: ``paper``; ``conv3x3``, the last spatial convolution of each unit; ``conv_stem``, the first convolution;
            each optionally followed by an index or slice (``[1:]``) and a filter (``' in stage[-3:]'``, ``' in
            decoder'``); a path or glob of convolutions; or a list of these.
        start: ``neutral``: a mechanism that keeps the kernel starts with the convolution's output, up to rounding;
            ``paper``: its own initialisation.
        input: as for :func:`sites`.
        options: options of the mechanism; a list gives one value per stage.

    Returns:
        ``host``.

    Raises:
        UserError: ``host`` is distributed or compiled; the mechanism or an option is unknown, or the mechanism must be
            plugged; no convolution is selected; a module is not a plain ``nn.Conv2d`` with zero padding; the mechanism
            does not support the geometry. The host is left as it was.
    """
    neutral = starts_neutral(start)
    resolved = Mechanism.resolve(mechanism)
    _check_options(resolved, options)
    check_not_distributed(host)
    if input is None and resolved.needs_size:
        input = example_input(host)
    inspection = inspect_unplugged(host, input)
    selection = _select_convolutions(host, inspection, where, resolved)
    cls = kernel_keeping_class(mechanism)
    neutral_options = dict(cls.neutral_options) if cls is not None and neutral else {}
    options_list = options_per_site(resolved, options, [site for site, _ in selection])
    new_modules: dict[str, tuple[nn.Module, ReplacementInfo]] = {}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for (site, position), site_options in zip(selection, options_list, strict=True):
            all_options = neutral_options | site_options
            new_modules[site.parent] = build_replacement(host, resolved, site, position, all_options, neutral)
        insert_replacements(host, new_modules, inspection.arguments)
    n_discarded = sum(info.discarded for _, info in new_modules.values())
    if n_discarded:
        _LOG.log(
            logging.WARNING if neutral else logging.INFO,
            "%s keeps no kernel: %s weights of %d convolution%s of %s are discarded, and the network's output is "
            "different until it is trained",
            resolved.name, f"{n_discarded:,}", len(new_modules), "s" * (len(new_modules) != 1), type(host).__name__,
        )  # fmt: skip
    warn_of_rebuilding(host)
    return host


def replacements(host: nn.Module) -> list[Replacement]:
    """Return the replaced convolutions of ``host`` in the order of its modules.

    Raises:
        UserError: ``host`` is not an ``nn.Module``, or a replacement was lost.
    """
    check_network(host)
    lost = lost_replacements(host)
    if lost:
        raise UserError(
            f"the replacement of {', '.join(lost)} is lost: the module was fused, exchanged or re-parametrised, or "
            "only a part of the network was unplugged; unplug the whole network before such a step, or replace "
            "afterwards"
        )
    rows = []
    for path, convolution in replaced_convolutions(host):
        info, mechanism = replacement_info(convolution), convolution.get_submodule(REPLACEMENT_CHILD)
        rows.append(
            Replacement(
                convolution=path,
                channels=cast(int, convolution.in_channels),
                size=info.size,
                stage=info.stage,
                position=info.position,
                parameters=sum(p.numel() for p in mechanism.parameters()),
                discarded=info.discarded,
                neutral=info.neutral,
                mechanism=info.name,
                module=mechanism,
            )
        )
    return rows


def replacement_rows(model: nn.Module) -> list[dict[str, Any]]:
    """Return the replacements of ``model`` as JSON-serialisable dicts, for :func:`repeat_replacements`.

    Raises:
        UserError: as ``replacements``.
    """
    return [
        {
            "mechanism": row.mechanism,
            "options": replacement_info(model.get_submodule(row.convolution)).options,
            "neutral": row.neutral,
            "position": row.position,
            "convolution": row.convolution,
            "stage": row.stage,
            "size": list(row.size),
        }
        for row in replacements(model)
    ]


def repeat_replacements(host: nn.Module, rows: Sequence[Mapping[str, Any]], source_file: str) -> None:
    """Replace convolutions of ``host`` as listed in ``rows``; messages name ``source_file``.

    Raises:
        UserError: a module is missing or cannot be replaced. The host is left as it was.
    """
    new_modules = {}
    for row in rows:
        path, size, options = row["convolution"], (row["size"][0], row["size"][1]), dict(row["options"])
        if options.get("size") is not None:
            options["size"] = tuple(options["size"])
        try:
            check_replaceable(path, host.get_submodule(path))
        except AttributeError:
            raise UserError(f"{source_file}: {type(host).__name__} has no module {path!r} to replace") from None
        site = Site(path=path, parent=path, entering=False, channels=0, size=size, stage=row["stage"], calls=1, kind="")
        mechanism = Mechanism.resolve(row["mechanism"])
        new_modules[path] = build_replacement(host, mechanism, site, row["position"], options, row["neutral"])
    insert_replacements(host, new_modules, None)


def _has_spec(name: str) -> bool:
    """Return True if the mechanism ``name`` declares a SPEC."""
    try:
        return catalog.declared_spec(name) is not None
    except UserError:  # a function that cannot be imported
        return False


def _check_options(mechanism: Mechanism, options: Mapping[str, Any]) -> None:
    if mechanism.spec.kind != "conv" and _has_spec(mechanism.name):
        raise UserError(
            f"{mechanism.name} is a {mechanism.spec.kind}, not a convolution: saccade.plug(host, {mechanism.name!r}) "
            f"inserts it after a module. These replace: {', '.join(catalog.list_mechanisms('replace'))}"
        )
    for key in options:
        if key in _GEOMETRY_OPTIONS:
            raise UserError(f"{key}={options[key]!r}: the replaced convolution determines its {key}")
    mechanism.check(options)


def _select_convolutions(
    host: nn.Module, inspection: Inspection, where: str | Sequence[str], mechanism: Mechanism
) -> list[tuple[Site, str]]:
    """Return (site, position) of the selected convolutions in forward order; sites have the size of their input map."""
    selection: dict[str, tuple[Site, str]] = {}
    for entry in where_items(where):
        for site, position in _select_entry(host, inspection, entry, mechanism):
            check_replaceable(site.path, host.get_submodule(site.parent))
            selection.setdefault(site.parent, (site, position))
    order = {path: n for n, path in enumerate(inspection.structure.in_order(selection))}
    return [selection[path] for path in sorted(selection, key=order.__getitem__)]


def _select_entry(
    host: nn.Module, inspection: Inspection, entry: str, mechanism: Mechanism
) -> Iterator[tuple[Site, str]]:
    """Yield (site, position) of the convolutions that one entry of ``where`` selects."""
    position = entry.strip()
    if re.match(r"paper\b", position):
        (paper_position,) = mechanism.spec.positions(position_key(host, mechanism.spec))
        if not paper_position.startswith(_CONVOLUTION_POSITIONS):
            paper_position = "conv3x3"
        position = paper_position + position.removeprefix("paper")
    base = re.split(r" in (?:stage\[|encoder|decoder)", position)[0]
    name = base.partition("[")[0]
    if name in POSITIONS and name not in _CONVOLUTION_POSITIONS:
        raise UserError(
            f"{entry!r} is a position for plugs; convolutions are at 'paper', "
            f"{', '.join(map(repr, _CONVOLUTION_POSITIONS))}, or named by a path or glob"
        )
    modules = dict(host.named_modules())
    if isinstance(modules.get(base), (nn.Conv2d, KernellessConvolution)):
        check_replaceable(base, modules[base])
    sites = select(inspection, position, mechanism.spec).sites
    if name not in _CONVOLUTION_POSITIONS and base not in modules:  # a glob
        sites = [
            site for site in sites
            if isinstance(modules[site.parent], (nn.Conv2d, KernellessConvolution)) and not site.entering
        ]  # fmt: skip
    if not sites:
        convolutions = [path for path, module in modules.items() if isinstance(module, nn.Conv2d)]
        more = f" and {len(convolutions) - 40} more" if len(convolutions) > 40 else ""
        raise UserError(
            f"{entry!r} selects no convolution of {type(host).__name__}. Its convolutions: "
            f"{', '.join(convolutions[:40])}{more}."
        )
    trace = inspection.structure.trace
    for site in sites:
        call = trace.calls_by_path()[site.parent][0]
        input_map = None if call.first_input is None else trace.values.get(call.first_input)
        size = site.size if input_map is None else (input_map.shape[2], input_map.shape[3])
        path = site.path if site.entering else site.parent
        yield dataclasses.replace(site, path=path, size=size), position
