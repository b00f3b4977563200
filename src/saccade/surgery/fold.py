"""Fold constant channel gates into the layer beside them, and remove their plugs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from saccade.bases import Gate
from saccade.errors import UserError, did_you_mean
from saccade.graph.hosts import check_network
from saccade.graph.inputs import example_input
from saccade.graph.trace import Arguments, run
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.attachment import detach
from saccade.surgery.controls.shuffled import unshuffled
from saccade.surgery.hold import held
from saccade.surgery.plugs import PlugInfo, plugs
from saccade.surgery.record import effective_gate, record
from saccade.surgery.scaled_layers import LayerFinder, ScaledLayer
from saccade.surgery.sites import inspect_unplugged
from saccade.tensors import tensors_in

__all__ = ["Folded", "fold"]

Gates = Mapping[str, Tensor | list[Tensor]]
"""Maps site to gate, as ``mean_gates`` returns it."""
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_LOW_PRECISION_TOLERANCE = 0.05
"""Largest difference that counts as rounding, relative to the largest value; in bfloat16 and float16."""
_CONSTANT = 1e-6
"""Largest difference between the gates of two images that counts as rounding."""


@dataclass(frozen=True)
class Folded:
    """Outcome for one plug.

    Attributes:
        site: its site.
        parent: module that held the plug.
        mechanism: name of the mechanism.
        into: module whose weights took the gate; None if the plug was kept.
        is_input: True if the input channels of ``into`` were scaled, False for its output channels.
        reason: the reason why the plug was kept; "" if it was folded.
        factors: smallest and largest factor 1 + a (g − 1); None without a gate.
        difference: largest difference from the network with held gates at this map, relative to the largest value.
    """

    site: str
    parent: str
    mechanism: str
    into: str | None = None
    is_input: bool = False
    reason: str = ""
    factors: tuple[float, float] | None = None
    difference: float | None = None


def fold(
    model: nn.Module,
    gates: Gates | None = None,
    sites: str | Sequence[str] | None = None,
    input: Any = None,
) -> list[Folded]:
    """Fold channel gates held at ``gates`` into the layer beside them, in place, and remove their plugs.

    In eval mode the outputs are those of ``held(model, gates)`` to rounding, at the cost and with the state-dict keys
    of the plain host. The gate scales the convolution or affine norm that computes the map, possibly before a ReLU,
    else the one convolution that reads it. A plug that neither can take is kept, with the reason.

    Args:
        model: network with plugs.
        gates: maps site to g (C,) or (C, 1, 1), as ``mean_gates`` returns it, not the effective gate 1 + a (g − 1).
            None folds the gates that are equal for all images of ``input``.
        sites: sites or globs; None for all.
        input: as for ``sites``, at least two images; on them the result is verified.

    Returns:
        one row per plug of ``sites``, in the order of ``plugs``.

    Raises:
        UserError: ``model`` has no plugs, a site is unknown, ``gates`` has no value for any plug, or the folded network
            computes something else; ``model`` is then unchanged.

    >>> rows = saccade.fold(model, mean_gates(model, batches))                                  # doctest: +SKIP
    >>> [row.reason for row in rows if row.into is None]                                        # doctest: +SKIP
    []
    """
    check_network(model)
    if any(isinstance(module, torch.fx.GraphModule) for module in model.modules()):
        raise UserError("a graph of torch.fx may call the plugs; fold the network before it is traced")
    rows = plugs(model)
    if not rows:
        raise UserError(f"{type(model).__name__} has no plugs to fold")
    selected = _select(rows, sites, gates)
    structure = inspect_unplugged(model, input).structure
    arguments: Arguments = (
        ((), dict(input)) if isinstance(input, Mapping) else (example_input(model, input, batch=2), {})
    )
    values, results = _held_values(model, selected, gates, arguments)
    finder = LayerFinder(model, structure)
    layers: dict[str, ScaledLayer] = {}
    factors = {row.site: _factor(values[row.site], row) for row in selected if row.site in values}
    for row in selected:
        if row.site in factors:
            factor = factors[row.site]
            found = finder.find(row.parent, row.channels, float(factor.min()))
            results[row.site] = replace(results[row.site], factors=(float(factor.min()), float(factor.max())))
            if isinstance(found, str):
                results[row.site] = replace(results[row.site], reason=found)
            else:
                layers[row.site] = found
    while True:
        _keep_read_plugs(rows, layers, results)
        chosen = [row for row in selected if row.site in layers]
        problem, differences = _apply(model, chosen, layers, factors, values, arguments)
        if problem is None:
            break
        layer = layers.pop(problem)
        reason = f"scaling {layer.path} ({type(layer.module).__name__}) does not scale its map"
        results[problem] = replace(results[problem], reason=reason)
    detach(model, [row.module for row in chosen])
    for row in chosen:
        layer = layers[row.site]
        results[row.site] = replace(
            results[row.site], into=layer.path, is_input=layer.is_input, difference=differences[row.site]
        )
    return [results[row.site] for row in selected]


def _select(rows: Sequence[PlugInfo], sites: str | Sequence[str] | None, gates: Gates | None) -> list[PlugInfo]:
    """Return the plugs that ``sites`` names.

    Raises:
        UserError: a site matches none, or ``gates`` has a key that is no site.
    """
    patterns = ["*"] if sites is None else [sites] if isinstance(sites, str) else list(sites)
    names = [row.site for row in rows]
    unknown = [p for p in patterns if not any(p == name or fnmatchcase(name, p) for name in names)]
    unknown += [name for name in gates or () if name not in names]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} is no site with a plug.{did_you_mean(unknown[0], names)} Sites: {', '.join(names)}"
        )
    return [row for row in rows if any(p == row.site or fnmatchcase(row.site, p) for p in patterns)]


def _held_values(
    model: nn.Module,
    selected: Sequence[PlugInfo],
    gates: Gates | None,
    arguments: Arguments,
) -> tuple[dict[str, Tensor], dict[str, Folded]]:
    """Return the value g (C,) of each site that may be folded, and a row per plug with the reason of the others."""
    with record(model) as recorded:
        run(model, arguments)
    values: dict[str, Tensor] = {}
    results: dict[str, Folded] = {}
    for row in selected:
        shown = recorded.get(row.site)
        mechanism = unshuffled(row.module.mechanism)
        reason = ""
        if not isinstance(mechanism, Gate):
            reason = f"{row.mechanism} is not a gate that multiplies the map"
        elif not isinstance(shown, Tensor):
            reason = f"{row.parent} runs {len(shown or [])} times in a forward pass"
        elif shown.ndim != 4 or shown.shape[2:] != (1, 1):
            reason = f"the gate varies over pixels, {tuple(shown.shape[2:])}" if shown.ndim == 4 else "no channel gate"
        elif gates is not None and row.site not in gates:
            reason = "gates has no value for it"
        elif gates is not None:
            values[row.site] = _channels(gates[row.site], row)
        else:
            effective = effective_gate(shown, row.module.a)
            spread = float((effective.amax(0) - effective.amin(0)).max())
            if len(shown) < 2:
                raise UserError("input must hold at least two images, to see which gates depend on the image")
            if spread <= _CONSTANT:
                values[row.site] = shown[0].flatten().expand(row.channels)
            else:
                reason = f"the gate depends on the image, by up to {spread:.2g}; give its value in gates"
        results[row.site] = Folded(row.site, row.parent, row.mechanism, reason=reason)
    return values, results


def _channels(value: Tensor | list[Tensor], row: PlugInfo) -> Tensor:
    """Return ``value`` as (C,).

    Raises:
        UserError: it has another shape or is not finite.
    """
    found = "a list" if isinstance(value, list) else f"the shape {tuple(value.shape)}"
    if not isinstance(value, list) and value.numel() in (1, row.channels):
        if bool(value.isfinite().all()):
            return value.detach().flatten().expand(row.channels)
        found = "values that are not finite"
    raise UserError(f"gates[{row.site!r}] must hold {row.channels} finite numbers, one per channel, got {found}")


def _factor(value: Tensor, row: PlugInfo) -> Tensor:
    """Return the factor 1 + a (g − 1) of the held gate ``value`` (C,), float64, on the CPU."""
    a = row.module.a
    value = value.detach().cpu().double()
    return value if a is None else 1 + a.detach().cpu().double() * (value - 1)


def _keep_read_plugs(rows: Sequence[PlugInfo], layers: dict[str, ScaledLayer], results: dict[str, Folded]) -> None:
    """Keep the plugs whose descriptors a kept plug of the next stage reads."""
    while True:
        readers = {parent: row.site for row in rows if row.site not in layers for parent in row.module.reads}
        read = {row.site: readers[row.module.site.parent] for row in rows
                if row.site in layers and row.module.site.parent in readers}  # fmt: skip
        if not read:
            return
        for site, reader in read.items():
            del layers[site]
            results[site] = replace(results[site], reason=f"the plug at {reader}, which stays, reads its descriptors")


def _apply(
    model: nn.Module,
    chosen: Sequence[PlugInfo],
    layers: Mapping[str, ScaledLayer],
    factors: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    arguments: Arguments,
) -> tuple[str | None, dict[str, float]]:
    """Scale the layers of ``chosen``; undo it, and return the first site in order of execution, if its map differs.

    Returns:
        that site or None, and the relative difference of each map.

    Raises:
        UserError: all maps agree and the outputs differ; the scaling is undone.
    """
    with held(model, {row.site: values[row.site] for row in chosen}):
        expected, expected_outputs = _run(model, chosen, layers, arguments, bypassed=False)
    saved = [(tensor, tensor.detach().clone()) for row in chosen for tensor in layers[row.site].tensors]
    try:
        for row in chosen:
            layers[row.site].scale(factors[row.site])
        maps, outputs = _run(model, chosen, layers, arguments, bypassed=True)
        differences = {site: _difference(maps[site], expected[site]) for site in maps}
        problem = next((site for site in maps if differences[site] > _tolerance(maps[site])), None)
        if problem is None:
            _check_outputs(outputs, expected_outputs)
    except BaseException:
        _undo(saved)
        raise
    if problem is not None:
        _undo(saved)
    return problem, differences


def _undo(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.inference_mode(False), torch.no_grad():
        for tensor, old_values in reversed(saved):
            tensor.copy_(old_values)


def _run(
    model: nn.Module,
    chosen: Sequence[PlugInfo],
    layers: Mapping[str, ScaledLayer],
    arguments: Arguments,
    bypassed: bool,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the map behind each folded gate by site, in order of execution, and the outputs of the network."""
    maps: dict[str, Tensor] = {}

    def register_hooks(row: PlugInfo) -> None:
        layer = layers[row.site]

        def plug_hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            result: Tensor = args[0] if bypassed else output
            if not layer.is_input:
                maps[row.site] = result.detach().clone()
            return result

        def layer_hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            maps[row.site] = output.detach().clone()

        handles.append(row.module.register_forward_hook(only_in_this_thread(plug_hook)))
        if layer.is_input:
            handles.append(layer.module.register_forward_hook(only_in_this_thread(layer_hook)))

    with temporary_hooks() as handles, torch.compiler.set_stance("force_eager"):
        for row in chosen:
            register_hooks(row)
        output = run(model, arguments)
    # Rounding may change which boxes a detector keeps.
    detections = isinstance(output, (list, tuple)) and all(isinstance(item, dict) for item in output)
    return maps, [] if detections else [t.detach() for t in tensors_in(output) if t.is_floating_point()]


def _difference(values: Tensor, expected: Tensor) -> float:
    """Return max |values − expected| / max |expected|."""
    scale = expected.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((values.float() - expected.float()).abs().max() / scale)


def _tolerance(values: Tensor) -> float:
    return _TOLERANCES.get(values.dtype, _LOW_PRECISION_TOLERANCE)


def _check_outputs(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise UserError if an output differs."""
    for output, other in zip(outputs, expected, strict=True):
        if output.numel() and (output.shape != other.shape or _difference(output, other) > _tolerance(output)):
            raise UserError(
                "the folded network computes something else, although every gated map is the same: a map is read "
                "before its plug. Nothing was folded; fold fewer sites"
            )
