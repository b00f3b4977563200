"""Resolution of ``where`` (a position, a path or glob of modules, or a list of these) to sites."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.graph.convolutions import activated, conv_stem, expanded, last_spatial
from saccade.graph.decoder import (
    after_encoder,
    decoder,
    decoder_units,
    is_same_level,
    no_decoder_reason,
    no_skip_reason,
    skips,
)  # fmt: skip
from saccade.graph.neck import neck, no_neck_reason
from saccade.graph.sites import Inspection, Site
from saccade.graph.structure import Structure
from saccade.specs import POSITION_INDEX, POSITIONS, Spec

__all__ = ["POSITIONS", "ChosenSites", "paths_at", "position_key", "select", "sites_at", "where_items"]

_REASONS = {"neck": no_neck_reason, "decoder": no_decoder_reason, "skip": no_skip_reason}
"""Maps a position to the function that explains why a network lacks it."""
_FALLBACK = ("residual", "block", "stage")

_LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class ChosenSites:
    """Sites in order of execution, and the position that selected them."""

    sites: list[Site]
    position: str


def select(inspection: Inspection, where: str | Sequence[str], spec: Spec) -> ChosenSites:
    """Return the sites that ``where`` selects.

    Without the paper's position for the host's family, use the default one, else residual, block, then stage. If the
    position's suffix or stage restriction matches no site, drop it; of ``decoder`` take the coarsest map. The log and
    the returned position name the fallback.

    Args:
        inspection: the inspected host.
        where: a position (``POSITIONS``), optionally with an index or slice or with ``[first]`` or ``[last]`` of each
            stage; a path or glob of modules; either restricted to stages (``conv3x3 in stage[-3:]``) or to a half of
            the network (``block in decoder``, ``residual in encoder``); or a list of these.
        spec: specification of the mechanism, which names the position that ``paper`` stands for.

    Raises:
        UserError: ``where`` matches no site; the message lists the candidates.
    """
    if not inspection.sites:
        raise UserError(
            f"{_host_name(inspection)} has no site: no module of it returns one map (B, C, H, W) whose height and "
            "width follow the image's"
        )
    chosen: dict[tuple[str, bool], Site] = {}
    positions = []
    for item in where_items(where):
        sites, chosen_position = _resolve_item(inspection, item, spec)
        positions.append(chosen_position)
        for site in sites:
            chosen.setdefault((site.parent, site.entering), site)
    order = {path: n for n, path in enumerate(inspection.sites)}
    return ChosenSites(sorted(chosen.values(), key=lambda site: order[site.path]), ", ".join(positions))


def where_items(where: str | Sequence[str]) -> list[str]:
    """Return ``where`` as a list of strings.

    Raises:
        UserError: ``where`` is not a string or a list of strings, or is an empty list.
    """
    if not isinstance(where, (str, Sequence)) or not all(isinstance(item, str) for item in where):
        raise UserError(f"where is a position, a path or glob of modules, or a list of these; got {where!r}")
    if not where and not isinstance(where, str):
        raise UserError("where is an empty list; name at least one position or module")
    return [where] if isinstance(where, str) else list(where)


def _resolve_item(inspection: Inspection, where: str, spec: Spec) -> tuple[list[Site], str]:
    """Return the sites that one item of ``where`` selects, and their position."""
    if not where.strip():
        raise UserError(f"where contains an empty string; name a position ({', '.join(POSITIONS)}) or a module")
    position, stage_index, suffix = _split_stages(where)
    if stage_index:
        sites, chosen_position = _resolve_item(inspection, position, spec)
        chosen = _apply_suffix(_in_stages(inspection, sites, stage_index, where), suffix, where)
        return chosen, f"{chosen_position} in stage{stage_index}{suffix}"
    position, half, index, suffix = _split_half(where)
    if half:
        sites, chosen_position = _sites_in_half(inspection, position, half, spec)
        chosen = _apply_suffix(_on_levels(inspection, sites, index, where), suffix, where)
        return chosen, f"{chosen_position} in {half}{index}{suffix}"
    position, suffix = _split_suffix(where)
    if position not in POSITIONS:
        # After a glob, [first] and [last] are suffixes, but [0] is a character class.
        match = re.fullmatch(r"(.+?)(\[(?:first|last)\])", where.strip())
        if match is None:
            return _module_sites(inspection, where), where
        return _apply_suffix(_module_sites(inspection, match[1]), match[2], where), where
    if position == "paper":
        sites, chosen_position = _paper_sites(inspection, spec)
        return _apply_suffix(sites, suffix, where), chosen_position + suffix
    sites = sites_at(inspection, position)
    if not sites:
        raise _no_site(inspection, position)
    return _apply_suffix(sites, suffix, where), where


def _no_site(inspection: Inspection, position: str) -> UserError:
    reason = _REASONS.get(position)
    if reason is not None:
        return UserError(f"{_host_name(inspection)} has no site at {position!r}: {reason(inspection.structure)}")
    return UserError(f"{_host_name(inspection)} has no site at {position!r}. Its sites: {_candidates(inspection)}.")


def _paper_sites(inspection: Inspection, spec: Spec) -> tuple[list[Site], str]:
    """Return the sites and name of the paper's positions, or of their fallbacks in the host."""
    host = inspection.structure.trace.host
    key = position_key(host, spec)
    try:
        chosen = [_paper_position_sites(inspection, position, spec) for position in spec.positions(key)]
    except UserError:
        if key == "default":
            raise
        _LOG.warning(
            "the paper of %s puts it at %r, which %s does not have; using %r instead",
            spec.title, ", ".join(spec.positions(key)), _host_name(inspection), spec.position["default"],
        )  # fmt: skip
        chosen = [_paper_position_sites(inspection, position, spec) for position in spec.positions("default")]
    return [site for sites, _ in chosen for site in sites], ", ".join(position for _, position in chosen)


def _paper_position_sites(inspection: Inspection, paper_position: str, spec: Spec) -> tuple[list[Site], str]:
    if _split_half(paper_position)[1]:
        return _resolve_item(inspection, paper_position, spec)
    base, stage_index, _ = _split_stages(paper_position)
    position, suffix = _split_suffix(base)
    fallbacks = _FALLBACK[_FALLBACK.index(position) + 1 :] if position in _FALLBACK else _FALLBACK
    for chosen_position in (position, *fallbacks):
        sites = sites_at(inspection, chosen_position) if chosen_position in POSITIONS else []
        if sites:
            break
        if chosen_position in _REASONS:
            raise _no_site(inspection, chosen_position)
    else:
        raise UserError(
            f"{_host_name(inspection)} has no site at {paper_position!r}, where the paper of {spec.title} puts it, "
            f"nor at {', '.join(fallbacks)}; name sites by where=. Its sites: {_candidates(inspection)}."
        )
    try:
        chosen, chosen_position = _apply_suffix(sites, suffix, paper_position), chosen_position + suffix
        if stage_index:
            chosen, chosen_position = (
                _in_stages(inspection, chosen, stage_index, paper_position),
                f"{chosen_position} in stage{stage_index}",
            )
    except UserError:  # the host has fewer stages, or levels of the decoder, than the paper's network
        chosen = sites
        if chosen_position == "decoder":
            chosen, chosen_position = sites[:1], "decoder[0]"
    if chosen_position != paper_position:
        _LOG.warning(
            "the paper of %s puts it at %r, which %s does not have; using %r instead",
            spec.title, paper_position, _host_name(inspection), chosen_position,
        )  # fmt: skip
    return chosen, chosen_position


def _split_stages(where: str) -> tuple[str, str, str]:
    """Split ``conv3x3 in stage[-3:][-1]`` into position, stage index and suffix; missing ones are empty."""
    match = re.fullmatch(rf"(.+?) in stage({POSITION_INDEX})({POSITION_INDEX}|\[(?:first|last)\])?", where.strip())
    return (match[1], match[2], match[3] or "") if match else (where, "", "")


def _in_stages(inspection: Inspection, sites: list[Site], stage_index: str, where: str) -> list[Site]:
    """Return the sites in ``stage_index``, an index or slice of the stages that have sites.

    A decoder or neck is in no stage, unless all ``sites`` lie there.
    """
    structure = inspection.structure
    if decoder(structure):
        later_paths = set(after_encoder(structure))
        sites = [site for site in sites if site.path not in later_paths] or sites
    last_of_stage = {site.stage: site for site in sites}
    chosen = _apply_suffix([last_of_stage[stage] for stage in sorted(last_of_stage)], stage_index, where)
    return [site for site in sites if any(site.stage == chosen_site.stage for chosen_site in chosen)]


def _split_half(where: str) -> tuple[str, str, str, str]:
    """Split ``block in decoder[1:][-1]`` into position, half of the network, index of the levels and suffix."""
    match = re.fullmatch(
        rf"(.+?) in (?:(encoder)|(decoder)({POSITION_INDEX})?)({POSITION_INDEX}|\[(?:first|last)\])?", where.strip()
    )
    return (match[1], match[2] or match[3], match[4] or "", match[5] or "") if match else (where, "", "", "")


def _on_levels(inspection: Inspection, sites: list[Site], index: str, where: str) -> list[Site]:
    """Return the sites at the resolutions of the decoder that ``index`` selects."""
    if not index:
        return sites
    levels = _apply_suffix(sites_at(inspection, "decoder"), index, where)
    chosen = [site for site in sites if any(is_same_level(level.size, site.size) for level in levels)]
    if not chosen:
        raise UserError(f"{where!r} leaves none of {len(sites)} sites: {', '.join(site.path for site in sites)}")
    return chosen


def _sites_in_half(inspection: Inspection, position: str, half: str, spec: Spec) -> tuple[list[Site], str]:
    """Return the sites of ``position`` before or after the encoder's end, and the position.

    In a decoder, ``block`` and ``conv3x3`` find its repeated units, with or without a shortcut; without units ``block``
    finds the maps of ``decoder``. In an encoder without units, ``conv3x3`` finds every spatial convolution.

    Raises:
        UserError: there are none.
    """
    structure = inspection.structure
    if not decoder(structure):
        raise UserError(f"{_host_name(inspection)} has no {half}: {no_decoder_reason(structure)}")
    paths = set(after_encoder(structure))
    if half == "decoder" and position in ("block", "conv3x3"):
        units = decoder_units(structure)
        convolutions = last_spatial(structure, units) if units else []
        found = (units or decoder(structure)) if position == "block" else convolutions
        sites, chosen_position = [inspection.sites[path] for path in found if path in inspection.sites], position
    elif position == "conv3x3" and not structure.stage_units:
        found = last_spatial(structure, [])
        sites, chosen_position = [inspection.sites[path] for path in found if path in inspection.sites], position
    else:
        sites, chosen_position = _resolve_item(inspection, position, spec)
    end = max((structure.maps[stage][0].exit_tick for stage in structure.stages), default=0)
    chosen = [
        site for site in sites
        if (site.path in paths if half == "decoder" else structure.maps[site.path][0].exit_tick <= end)
    ]  # fmt: skip
    if not chosen:
        raise UserError(
            f"{_host_name(inspection)} has no site at {position!r} in its {half}. Its sites there: "
            f"{_candidates(inspection, [p for p in inspection.sites if (p in paths) == (half == 'decoder')])}."
        )
    return chosen, chosen_position


def _split_suffix(where: str) -> tuple[str, str]:
    """Split a position from its suffix."""
    match = re.fullmatch(rf"(\w+)({POSITION_INDEX}|\[(?:first|last)\])?", where)
    return (match[1], match[2] or "") if match else (where, "")


def _apply_suffix(sites: list[Site], suffix: str, where: str) -> list[Site]:
    """Return the sites at an index or slice ``suffix``, or the first or last site of each stage."""
    if not suffix:
        return sites
    if suffix in ("[first]", "[last]"):
        ordered = sites if suffix == "[last]" else sites[::-1]
        site_of_stage = {site.stage: site for site in ordered}
        return [site for site in sites if site_of_stage[site.stage] is site]
    start, colon, stop = suffix[1:-1].partition(":")
    if colon:
        chosen = sites[int(start) if start else None : int(stop) if stop else None]
    else:
        chosen = sites[int(start) :][:1] if -len(sites) <= int(start) < len(sites) else []
    if not chosen:
        raise UserError(f"{where!r} leaves none of {len(sites)} sites: {', '.join(site.path for site in sites)}")
    return chosen


def paths_at(structure: Structure, position: str) -> list[str]:
    """Return the paths of the modules whose maps are at ``position``, in order of execution.

    Raises:
        ValueError: ``position`` is ``paper`` or unknown.
    """
    match position:
        case "stage":
            return structure.stages
        case "decoder":
            return decoder(structure)
        case "skip":
            return [skip.path for skip in skips(structure)]
        case "neck":
            return neck(structure)
        case "block":
            return structure.units
        case "residual":
            return [path for _, path in structure.residual_ends]
        case "conv3x3":
            return last_spatial(structure)
        case "activated":
            return [path for path, _ in activated(structure)]
        case "expanded":
            return expanded(structure)
        case "conv_stem":
            return conv_stem(structure)
    raise ValueError(f"{position!r} is not a position")


def sites_at(inspection: Inspection, position: str) -> list[Site]:
    """Return the sites at ``position`` in order of execution, or []; ``paper`` is not allowed."""
    structure = inspection.structure
    if position == "residual" and structure.units_without_end:
        _LOG.warning(
            "no module of %s returns the residual branch: nothing can be plugged there",
            ", ".join(path or type(structure.trace.host).__name__ for path in structure.units_without_end),
        )
    if position in ("activated", "skip"):
        skip_locations = [(skip.path, skip.is_input) for skip in skips(structure)]
        locations = activated(structure) if position == "activated" else skip_locations
        return [
            inspection.input_site(path) if is_input else inspection.sites[path]
            for path, is_input in locations
            if path in inspection.sites
        ]
    return [inspection.sites[path] for path in paths_at(structure, position) if path in inspection.sites]


def _module_sites(inspection: Inspection, where: str) -> list[Site]:
    if where in inspection.sites:
        return [inspection.sites[where]]
    modules = dict(inspection.structure.trace.host.named_modules(remove_duplicate=False))
    paths = [where] if where in modules else [path for path in modules if fnmatchcase(path, where)]
    # A module registered under several names was traced under the first.
    site_of_module = {id(inspection.structure.maps[path][0].module): site for path, site in inspection.sites.items()}
    sites = [site_of_module[id(modules[path])] for path in paths if id(modules[path]) in site_of_module]
    if not sites:
        problem = (
            "is a module that returns no map (B, C, H, W)" if where in modules else "is neither a position nor a site"
        )
        hint = did_you_mean(where, [*POSITIONS, *inspection.sites])
        raise UserError(
            f"{where!r} {problem}.{hint} The positions: {', '.join(POSITIONS)}. The sites: {_candidates(inspection)}."
        )
    return sites


def _candidates(inspection: Inspection, paths: Sequence[str] | None = None) -> str:
    paths = list(inspection.sites) if paths is None else paths
    rest = f" and {len(paths) - 40} more" if len(paths) > 40 else ""
    return ", ".join(paths[:40]) + rest


def _host_name(inspection: Inspection) -> str:
    return type(inspection.structure.trace.host).__name__


def position_key(host: nn.Module, spec: Spec) -> str:
    """Return the longest key of ``spec.position`` that the host's architecture or class name contains, or "default"."""
    config = getattr(host, "pretrained_cfg", None)
    name = str(config.get("architecture", "")) if isinstance(config, dict) else ""
    names = f"{name} {type(host).__name__}".lower().replace("_", "")
    keys = [key for key in spec.position if key != "default" and key.lower().replace("_", "") in names]
    return max(keys, key=len, default="default")
