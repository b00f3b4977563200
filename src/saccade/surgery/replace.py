"""Convolutions of any network exchanged for mechanisms, and listed."""

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
from saccade.bases import Convolution
from saccade.probe import check_network, example_input
from saccade.surgery.fitting import check, fitted, install
from saccade.surgery.hosts import check_changeable
from saccade.surgery.plug import Mechanism, per_stage
from saccade.surgery.positions import POSITIONS, family, select
from saccade.surgery.rebuilt import warn_of_rebuilding
from saccade.surgery.replaced import CHILD, Note, Stand, gone, note, replaced
from saccade.surgery.sites import Site, Survey, survey

__all__ = ["Replacement", "again", "described", "replace", "replacements"]

_OWN = ("out_channels", "stride", "padding", "dilation", "groups", "bias")
"""Arguments of a mechanism that the convolution decides."""

_PLACES = ("conv3x3", "conv_stem")
"""Positions that are convolutions."""

_LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class Replacement:
    """One replaced convolution of a network; its path is relative to the network that was asked."""

    convolution: str
    """The module."""
    channels: int
    """Of the map it receives."""
    size: tuple[int, int]
    """Height and width of that map for the picture the host was looked at with."""
    stage: int
    position: str
    """The position that chose it."""
    parameters: int
    """Of the mechanism alone; a kernel that it keeps is the host's."""
    discarded: int
    """Weights of the convolution that the network does without."""
    neutral: bool
    """Did it start as the convolution, but for rounding?"""
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

    Each keeps the kernel size, stride, padding, dilation, groups and channels of its convolution. A
    :class:`saccade.bases.Convolution` (``dcn1``, ``dcn2``) also keeps its weight and bias: the same parameters under
    the same keys, with those of the mechanism beside them, under ``saccade_conv``. Any other mechanism has no use for
    them: the log says how many weights are discarded, as a warning where a neutral start was asked for, and so does
    :func:`replacements`. They are put aside, outside the parameters and the state dict, for ``unplug``.

    The host's own checkpoints load strictly before and after. The mechanisms are drawn from the global random state,
    which stays as it is.

    Args:
        host: any network.
        mechanism: a name of the catalogue, ``package.module:Class``, or a callable that takes the channels and, by
            name, ``out_channels``, ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups`` and ``bias``.
        where: ``paper``; ``conv3x3``, the last spatial convolution of each unit; ``conv_stem``, the first convolution
            of the network; each with a suffix such as ``[1:]`` if wanted, and followed by `` in stage[-3:]``, which
            leaves those of some stages; a path of a convolution, a glob of paths, of which all convolutions that run
            are taken; or a list of these.
        start: ``neutral``: a mechanism that keeps the kernel computes what the convolution computed, but for the order
            of summation; one that does not starts as it is. ``paper``: the mechanism's own start; a kernel that is
            kept is kept here too.
        input: what to look at the host with; see ``sites``.
        options: of the mechanism; a list gives one value per stage. ``kernel_size`` may be given to a mechanism that
            does not keep the kernel, where the padding keeps the size of the map.

    Returns:
        ``host``.

    Raises:
        UserError: ``host`` is no module, wrapped in DistributedDataParallel or compiled; unknown mechanism or option,
            or one that is to be plugged; nothing to replace; a module that is no ``nn.Conv2d``, computes its weight,
            does not pad with zeros, or is replaced already; numbers of a convolution that the mechanism cannot keep.
            The host is then as it was.
    """
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    what = Mechanism.of(mechanism)
    _check_options(what, options)
    check_changeable(host)
    if input is None and what.sized:
        input = example_input(host)
    seen = survey(host, input)
    chosen = _chosen(host, seen, where, what)
    known = _neutral(mechanism) if start == "neutral" else {}
    new: dict[str, tuple[nn.Module, Note]] = {}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for (site, position), own in zip(chosen, per_stage(what, options, [site for site, _ in chosen]), strict=True):
            new[site.carrier] = fitted(host, what, site, position, known | own, start == "neutral")
        install(host, new, seen.arguments)
    lost = sum(known.discarded for _, known in new.values())
    if lost:
        _LOG.log(
            logging.WARNING if start == "neutral" else logging.INFO,
            "%s keeps no kernel: %s weights of %d convolution%s of %s are discarded, and the network computes "
            "something else until it is trained",
            what.name, f"{lost:,}", len(new), "s" * (len(new) != 1), type(host).__name__,
        )  # fmt: skip
    warn_of_rebuilding(host)
    return host


def replacements(host: nn.Module) -> list[Replacement]:
    """The replaced convolutions of ``host``, in the order of its modules; [] if it has none.

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
    """The replacements of ``model`` as JSON holds them: what ``again`` takes.

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
    """Replace convolutions of ``host`` as ``described`` says of another network of its kind.

    Raises:
        UserError: a row is broken, or names a module that is missing or cannot be replaced so; ``owner`` is told. The
            host is then as it was.
    """
    new = {}
    for row in rows:
        try:
            path, name, stage = (row[key] for key in ("convolution", "mechanism", "stage"))
            (height, width), position, neutral = map(int, row["size"]), row["position"], row["neutral"]
            options = dict(row["options"])
            if options.get("size") is not None:
                options["size"] = tuple(options["size"])
            convolution = host.get_submodule(path)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{owner}: a row of replacements is broken: {error}") from None
        except AttributeError:
            raise UserError(f"{owner}: {type(host).__name__} has no module {path!r} to replace") from None
        check(path, convolution)
        site = Site(
            path=path, carrier=path, entering=False, channels=0, size=(height, width), stage=stage, calls=1, kind=""
        )
        new[path] = fitted(host, Mechanism.of(name), site, position, options, neutral)
    install(host, new, None)


def _neutral(mechanism: str | Callable[..., nn.Module]) -> dict[str, Any]:
    """The options with which a mechanism that keeps the kernel starts as the convolution."""
    maker = catalog.load(mechanism) if isinstance(mechanism, str) else mechanism
    return dict(maker.neutral_options) if isinstance(maker, type) and issubclass(maker, Convolution) else {}


def _states(name: str) -> bool:
    """Do the facts of a mechanism say what it is?"""
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


def _chosen(host: nn.Module, seen: Survey, where: str | Sequence[str], what: Mechanism) -> list[tuple[Site, str]]:
    """The convolutions that ``where`` names, as sites that say what they receive, in order of execution."""
    if not isinstance(where, (str, Sequence)) or not all(isinstance(part, str) for part in where):
        raise UserError(f"where is a position, a path or glob of modules, or a list of these; got {where!r}")
    parts = [where] if isinstance(where, str) else list(where)
    if not parts:
        raise UserError("where is an empty list; name at least one convolution")
    found: dict[str, tuple[Site, str]] = {}
    for part in parts:
        for site, position in _part(host, seen, part, what):
            check(site.path, host.get_submodule(site.carrier))
            found.setdefault(site.carrier, (site, position))
    order = {path: n for n, path in enumerate(seen.structure.in_order(found))}
    return [found[path] for path in sorted(found, key=order.__getitem__)]


def _part(host: nn.Module, seen: Survey, where: str, what: Mechanism) -> Iterator[tuple[Site, str]]:
    """What one word of ``where`` names, and the position it is at."""
    word = where.strip()
    if re.match(r"paper\b", word):
        own = what.spec.position[family(host, what.spec)]
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
        check(base, modules[base])
    sites = select(seen, word, what.spec).sites
    if name not in _PLACES and base not in modules:  # a glob takes the convolutions among what it matches
        sites = [site for site in sites if isinstance(modules[site.carrier], (nn.Conv2d, Stand)) and not site.entering]
    if not sites:
        near = [path for path, module in modules.items() if isinstance(module, nn.Conv2d)]
        more = f" and {len(near) - 40} more" if len(near) > 40 else ""
        raise UserError(
            f"{where!r} leaves no convolution of {type(host).__name__}. Its convolutions: {', '.join(near[:40])}{more}."
        )
    for site in sites:
        call = seen.structure.trace.by_path()[site.carrier][0]
        value = None if call.first is None else seen.structure.trace.values.get(call.first)
        size = site.size if value is None else (value.shape[2], value.shape[3])
        yield changed(site, path=site.path if site.entering else site.carrier, size=size), word
