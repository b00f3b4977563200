"""The words for places: positions such as ``paper`` or ``stage``, globs of module paths, lists of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.graph.convolutions import activated, expanded, last_spatial, stem
from saccade.graph.neck import neck, without_neck
from saccade.graph.sites import Inspection, Site
from saccade.graph.structure import Structure
from saccade.specs import Spec

__all__ = ["POSITIONS", "ChosenSites", "family", "paths_at", "select", "sites_at", "words_in"]

POSITIONS = ("paper", "stage", "neck", "block", "residual", "conv3x3", "activated", "expanded", "conv_stem")
_FALLBACK = ("residual", "block", "stage")
_INDEX = r"\[-?\d+\]|\[(?:-?\d+)?:(?:-?\d+)?\]"
"""Regular expression of an index or slice in brackets."""

_LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class ChosenSites:
    """The sites chosen, in order of execution, and the position that chose them."""

    sites: list[Site]
    position: str


def select(seen: Inspection, where: str | Sequence[str], spec: Spec) -> ChosenSites:
    """Return the sites that ``where`` names.

    Args:
        seen: the host, inspected.
        where: a position (``POSITIONS``), with a suffix if wanted: an index or slice, or ``[first]`` or ``[last]`` of
            each stage; a path or glob of modules; each confined to some stages if wanted (``conv3x3 in stage[-3:]``);
            or a list of these.
        spec: says what ``paper`` is. If the host has no such place, fall back to residual, block, then stage; if the
            suffix selects nothing, use every match. The log and the position returned say so.

    Raises:
        UserError: nothing is there; the message lists the candidates.
    """
    if not seen.sites:
        raise UserError(
            f"{_host(seen)} has no site: no module of it returns one map (B, C, H, W) that follows the picture"
        )
    chosen: dict[tuple[str, bool], Site] = {}
    said = []
    for part in words_in(where):
        sites, position = _part(seen, part, spec)
        said.append(position)
        for site in sites:
            chosen.setdefault((site.parent, site.entering), site)
    order = {path: n for n, path in enumerate(seen.sites)}
    return ChosenSites(sorted(chosen.values(), key=lambda site: order[site.path]), ", ".join(said))


def words_in(where: str | Sequence[str]) -> list[str]:
    """Return the words of ``where``, one or several.

    Raises:
        UserError: it is no text and no list of texts, or empty.
    """
    if not isinstance(where, (str, Sequence)) or not all(isinstance(part, str) for part in where):
        raise UserError(f"where is a position, a path or glob of modules, or a list of these; got {where!r}")
    if not where and not isinstance(where, str):
        raise UserError("where is an empty list; name at least one place")
    return [where] if isinstance(where, str) else list(where)


def _part(seen: Inspection, where: str, spec: Spec) -> tuple[list[Site], str]:
    """Return the sites of one word of ``where``, and their position."""
    if not where.strip():
        raise UserError(f"where holds an empty word; name a position ({', '.join(POSITIONS)}) or a module")
    word, within, suffix = _within(where)
    if within:
        sites, position = _part(seen, word, spec)
        return _cut(_staged(sites, within, where), suffix, where), f"{position} in stage{within}{suffix}"
    word, suffix = _split(where)
    if word not in POSITIONS:
        # [last] of a glob is this suffix too; [0] is one of its characters.
        named = re.fullmatch(r"(.+?)(\[(?:first|last)\])", where.strip())
        return (_cut(_named(seen, named[1]), named[2], where) if named else _named(seen, where)), where
    if word == "paper":
        sites, position = _paper(seen, spec)
        return _cut(sites, suffix, where), position + suffix
    sites = sites_at(seen, word)
    if not sites and word == "neck":
        raise UserError(f"{_host(seen)} has no site at {word!r}: {without_neck(seen.structure)}")
    if not sites:
        raise UserError(f"{_host(seen)} has no site at {word!r}. Its sites: {_candidates(seen)}.")
    return _cut(sites, suffix, where), where


def _paper(seen: Inspection, spec: Spec) -> tuple[list[Site], str]:
    """Return the sites where the paper puts it, else those of the next position that the host has."""
    own = spec.position[family(seen.structure.trace.host, spec)]
    base, within, _ = _within(own)
    word, suffix = _split(base)
    later = _FALLBACK[_FALLBACK.index(word) + 1 :] if word in _FALLBACK else _FALLBACK
    for position in (word, *later):
        sites = sites_at(seen, position) if position in POSITIONS else []
        if sites:
            break
    else:
        raise UserError(
            f"{_host(seen)} has no site at {own!r}, where the paper of {spec.title} puts it, nor at "
            f"{', '.join(later)}; name sites by where=. Its sites: {_candidates(seen)}."
        )
    try:
        cut, position = _cut(sites, suffix, own), position + suffix
        if within:
            cut, position = _staged(cut, within, own), f"{position} in stage{within}"
    except UserError:  # fewer stages than the paper's network
        cut = sites
    if position != own:
        _LOG.warning(
            "the paper of %s puts it at %r, which %s does not have: %r is taken",
            spec.title, own, _host(seen), position,
        )  # fmt: skip
    return cut, position


def _within(where: str) -> tuple[str, str, str]:
    """Split ``conv3x3 in stage[-3:][-1]`` into the place, the stages and the suffix; "" for those that are missing."""
    match = re.fullmatch(rf"(.+?) in stage({_INDEX})({_INDEX}|\[(?:first|last)\])?", where.strip())
    return (match[1], match[2], match[3] or "") if match else (where, "", "")


def _staged(sites: list[Site], within: str, where: str) -> list[Site]:
    """Return those of ``sites`` that lie in the stages ``within``, counted among the stages that have any."""
    each = {site.stage: site for site in sites}
    left = _cut([each[stage] for stage in sorted(each)], within, where)
    return [site for site in sites if any(site.stage == kept.stage for kept in left)]


def _split(where: str) -> tuple[str, str]:
    """Split a position into its word and its suffix."""
    match = re.fullmatch(rf"(\w+)({_INDEX}|\[(?:first|last)\])?", where)
    return (match[1], match[2] or "") if match else (where, "")


def _cut(sites: list[Site], suffix: str, where: str) -> list[Site]:
    """Apply the index or slice ``suffix``, or take the first or last site of each stage."""
    if not suffix:
        return sites
    if suffix in ("[first]", "[last]"):
        inwards = sites if suffix == "[last]" else sites[::-1]
        kept = {site.stage: site for site in inwards}
        return [site for site in sites if kept[site.stage] is site]
    start, colon, stop = suffix[1:-1].partition(":")
    if colon:
        left = sites[int(start) if start else None : int(stop) if stop else None]
    else:
        left = sites[int(start) :][:1] if -len(sites) <= int(start) < len(sites) else []
    if not left:
        raise UserError(f"{where!r} leaves none of {len(sites)} sites: {', '.join(site.path for site in sites)}")
    return left


def paths_at(structure: Structure, word: str) -> list[str]:
    """Return the modules whose maps are at the position ``word``, any but ``paper``, in order of execution.

    ``stage``: the map that ends each stage; ``neck``: see :mod:`.neck`; ``block``: the output of each repeated unit;
    ``residual``: the end of its residual branch, before the addition; for the others see :mod:`.convolutions`.
    """
    match word:
        case "stage":
            return structure.stages
        case "neck":
            return neck(structure)
        case "block":
            return structure.units
        case "residual":
            return [path for _, path in structure.ends]
        case "conv3x3":
            return last_spatial(structure)
        case "activated":
            return [path for path, _ in activated(structure)]
        case "expanded":
            return expanded(structure)
        case "conv_stem":
            return stem(structure)
    raise ValueError(f"{word!r} is no position")


def sites_at(seen: Inspection, word: str) -> list[Site]:
    """Return the sites at the position ``word``, any but ``paper``, in order of execution."""
    structure = seen.structure
    if word == "residual" and structure.unreached:
        _LOG.warning(
            "no module of %s returns the residual branch: nothing can be plugged there",
            ", ".join(path or type(structure.trace.host).__name__ for path in structure.unreached),
        )
    if word == "activated":
        places = [(path, into) for path, into in activated(structure) if path in seen.sites]
        return [seen.entering(path) if into else seen.sites[path] for path, into in places]
    return [seen.sites[path] for path in paths_at(structure, word) if path in seen.sites]


def _named(seen: Inspection, where: str) -> list[Site]:
    if where in seen.sites:
        return [seen.sites[where]]
    modules = dict(seen.structure.trace.host.named_modules(remove_duplicate=False))
    named = [where] if where in modules else [path for path in modules if fnmatchcase(path, where)]
    # A module that hangs in the host under several names was seen under the first.
    first = {id(seen.structure.maps[path][0].module): site for path, site in seen.sites.items()}
    found = [first[id(modules[path])] for path in named if id(modules[path]) in first]
    if not found:
        why = "is a module that returns no map (B, C, H, W)" if where in modules else "is neither a position nor a site"
        near = did_you_mean(where, [*POSITIONS, *seen.sites])
        raise UserError(
            f"{where!r} {why}.{near} The positions: {', '.join(POSITIONS)}. The sites: {_candidates(seen)}."
        )
    return found


def _candidates(seen: Inspection) -> str:
    paths = list(seen.sites)
    more = f" and {len(paths) - 40} more" if len(paths) > 40 else ""
    return ", ".join(paths[:40]) + more


def _host(seen: Inspection) -> str:
    return type(seen.structure.trace.host).__name__


def family(host: nn.Module, spec: Spec) -> str:
    """Return the longest key of ``spec.position`` that the name of the host's architecture or class holds."""
    facts = getattr(host, "pretrained_cfg", None)
    name = str(facts.get("architecture", "")) if isinstance(facts, dict) else ""
    names = f"{name} {type(host).__name__}".lower().replace("_", "")
    keys = [key for key in spec.position if key != "default" and key.lower().replace("_", "") in names]
    return max(keys, key=len, default="default")
