"""Statistics of gates and contexts, and detection of plugs that ignore the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.bases import Context, Convolution, Gate
from saccade.data.samples import ImageSet
from saccade.hooks import temporary_hooks
from saccade.surgery import plugs, record, replacements
from saccade.surgery.controls import NoiseGate, unshuffled
from saccade.surgery.record import effective_gate
from saccade.surgery.replaced import CHILD, ReplacedConvolution, original_output, output_without_plug

__all__ = ["constant_plugs", "plug_statistics", "probe_images"]

_PROBE_COUNT = 16
"""Largest number of probe images."""
_ROUNDING = 1e-6
"""Relative tolerance for float32 rounding, which depends on the order of summation."""


def probe_images(images: ImageSet) -> Tensor:
    """Return up to 16 evenly spaced images (B, C, H, W), the same for every epoch and mechanism."""
    count = min(_PROBE_COUNT, len(images))
    return torch.stack([images[n * len(images) // count][0] for n in range(count)])


def plug_statistics(network: nn.Module, images: Tensor) -> dict[str, dict[str, Any]]:
    """Return statistics of each plug of ``network`` on ``images`` (B, C, H, W) in eval mode, by site.

    The site of a replaced convolution is its path, or, if a plug has that site, the path of the mechanism inside. Each
    value has ``a`` (the plug's factor, or None), ``gamma`` (the mechanism's own, if any), ``kind``, and ``mean`` and
    ``std`` over all elements and images:

    * ``gate``: of the effective gate 1 + a(g - 1), which is 1 without attention.
    * ``context``: of |a c|, the absolute value of the added context.
    * ``change``: of ‖y - x‖ / ‖x‖ per image, for other mechanisms, with output y of input x or, for a replaced
      convolution, original output x.
    """
    rows = plugs(network)
    plug_sites = {row.site for row in rows}
    replaced = {
        f"{row.convolution}.{CHILD}" if row.convolution in plug_sites else row.convolution: row
        for row in replacements(network)
        if isinstance(row.module, Convolution) or _gamma(row.module) is not None
    }
    if not rows and not replaced:
        return {}
    changes: dict[str, list[Tensor]] = {site: [] for site in (*plug_sites, *replaced)}

    def make_hook(site: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            reference: Tensor = (*inputs, *kwargs.values())[0]
            if isinstance(module, ReplacedConvolution):
                output, reference = output_without_plug(module, reference, output), original_output(module, reference)
            reference_values = reference.float().flatten(1)
            norm = reference_values.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            changes[site].append((output.float().flatten(1) - reference_values).norm(dim=1) / norm)

        return hook

    recorded_sites = {row.site for row in rows if isinstance(unshuffled(row.module.mechanism), (Gate, Context))}
    with temporary_hooks() as handles, _eval_mode(network), record(network) as maps:
        handles += [
            row.module.register_forward_hook(make_hook(row.site), with_kwargs=True)
            for row in rows
            if row.site not in recorded_sites
        ]
        handles += [
            network.get_submodule(row.convolution).register_forward_hook(
                make_hook(site), prepend=True, with_kwargs=True
            )
            for site, row in replaced.items()
            if isinstance(row.module, Convolution)
        ]
        network(images)
    statistics = {}
    for row in rows:
        plug = row.module
        mixing_weight = None if plug.a is None else plug.a.item()
        if row.site in recorded_sites:
            values = torch.cat([recorded.float().flatten() for recorded in _as_list(maps[row.site])])
            is_gate = isinstance(unshuffled(plug.mechanism), Gate)
            values = (
                effective_gate(values, plug.a)
                if is_gate
                else ((1.0 if mixing_weight is None else mixing_weight) * values).abs()
            )
            kind = "gate" if is_gate else "context"
        else:
            values, kind = torch.cat(changes[row.site]), "change"
        statistics[row.site] = _summary(kind, values, mixing_weight, _gamma(unshuffled(plug.mechanism)))
    for site, replacement in replaced.items():
        gamma = _gamma(replacement.module)
        if isinstance(replacement.module, Convolution):
            kind, values = "change", torch.cat(changes[site])
        else:
            kind, values = "context", torch.cat([m.float().flatten().abs() for m in _as_list(maps[site])])
        statistics[site] = _summary(kind, values, None, gamma)
    return statistics


def constant_plugs(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, str]:
    """Map the site of each plug with the same gate or context for all images to ``gate`` or ``context``.

    The control ``noise``, which is constant by design, and mechanisms without gate or context are left out.

    Args:
        network: network with plugs, run in eval mode.
        batches: at least two images (B, C, H, W), all of one size; reading stops once no plug is constant.
    """
    constant = {
        row.site: "gate" if isinstance(mechanism, Gate) else "context"
        for row in plugs(network)
        if isinstance(mechanism := unshuffled(row.module.mechanism), (Gate, Context))
        and not isinstance(mechanism, NoiseGate)
    }
    if not constant:
        return {}
    count = 0
    # Minimum and maximum per element, one pair per call of the parent module.
    ranges: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with _eval_mode(network):
        for images in batches:
            count += len(images)
            with record(network) as maps:
                network(images)
            for site in list(constant):
                current_ranges = [(values.amin(0), values.amax(0)) for values in _as_list(maps.get(site, []))]
                previous_ranges = ranges.get(site, current_ranges)
                # The number of calls may depend on the images.
                if not current_ranges or len(current_ranges) != len(previous_ranges):
                    del constant[site]
                    continue
                pairs = zip(current_ranges, previous_ranges, strict=True)
                ranges[site] = [
                    (low.minimum(previous_low), high.maximum(previous_high))
                    for (low, high), (previous_low, previous_high) in pairs
                ]
                if not all(torch.allclose(low, high, rtol=_ROUNDING, atol=0) for low, high in ranges[site]):
                    del constant[site]
            if not constant:
                break
    return constant if count > 1 else {}


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Put ``network`` into eval mode without gradients; restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _as_list(recorded: Tensor | list[Tensor]) -> list[Tensor]:
    return recorded if isinstance(recorded, list) else [recorded]


def _gamma(mechanism: nn.Module) -> float | None:
    """Return the factor ``gamma`` with which the mechanism adds its context, or None."""
    gamma = getattr(mechanism, "gamma", None)
    if not isinstance(gamma, nn.Parameter) or gamma.numel() != 1 or not hasattr(mechanism, "tap"):
        return None
    return _number(gamma.detach())


def _summary(kind: str, values: Tensor, mixing_weight: float | None, gamma: float | None) -> dict[str, Any]:
    std, mean = torch.std_mean(values, correction=0)
    row = {"kind": kind, "mean": _number(mean), "std": _number(std), "a": mixing_weight}
    return row if gamma is None else row | {"gamma": gamma}


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
