"""How much each plug and each replacement changes its input, and which plugs ignore the image."""

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

__all__ = ["constant_plugs", "gate_movement", "probe_images"]

PROBE = 16
"""Images looked at."""
_ROUNDING = 1e-6
"""Relative difference of two sums of the same numbers in float32."""


def probe_images(images: ImageSet) -> Tensor:
    """Return up to 16 of the images (B, C, H, W), evenly spaced: the same for every epoch and mechanism."""
    count = min(PROBE, len(images))
    return torch.stack([images[n * len(images) // count][0] for n in range(count)])


def gate_movement(network: nn.Module, images: Tensor) -> dict[str, dict[str, Any]]:
    """Summarise what each plug of ``network`` does to ``images`` (B, C, H, W) in eval mode, by site.

    A replaced convolution whose kernel is kept is a site by its path, or, where a plug has that, by the path of the
    mechanism inside. Each site has ``a`` (None where the plug has none), ``kind``, ``mean`` and ``std`` over all
    entries and images:

    ``gate``     the effective gate 1 + a(g - 1): 1 is no attention
    ``context``  |a c|, what is added
    ``change``   ‖y - f‖ / ‖f‖ of each image, for a mechanism that shows neither; for one in the place of a
                 convolution f is what the convolution with its kernel makes
    """
    rows = plugs(network)
    sites = {row.site for row in rows}
    kept = {
        f"{row.convolution}.{CHILD}" if row.convolution in sites else row.convolution: row
        for row in replacements(network)
        if isinstance(row.module, Convolution)
    }
    if not rows and not kept:
        return {}
    changes: dict[str, list[Tensor]] = {site: [] for site in (*sites, *kept)}

    def watch(site: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            given: Tensor = (*inputs, *named.values())[0]
            if isinstance(module, ReplacedConvolution):
                output, given = output_without_plug(module, given, output), original_output(module, given)
            before = given.float().flatten(1)
            size = before.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            changes[site].append((output.float().flatten(1) - before).norm(dim=1) / size)

        return hook

    shown = {row.site for row in rows if isinstance(unshuffled(row.module.mechanism), (Gate, Context))}
    with temporary_hooks() as handles, _evaluated(network), record(network) as maps:
        handles += [
            row.module.register_forward_hook(watch(row.site), with_kwargs=True) for row in rows if row.site not in shown
        ]
        handles += [
            network.get_submodule(row.convolution).register_forward_hook(watch(site), prepend=True, with_kwargs=True)
            for site, row in kept.items()
        ]
        network(images)
    movement = {}
    for row in rows:
        plug = row.module
        a = None if plug.a is None else plug.a.item()
        if row.site in shown:
            seen = maps[row.site]
            values = torch.cat([m.float().flatten() for m in (seen if isinstance(seen, list) else [seen])])
            gate = isinstance(unshuffled(plug.mechanism), Gate)
            values = effective_gate(values, plug.a) if gate else ((1.0 if a is None else a) * values).abs()
            kind = "gate" if gate else "context"
        else:
            values, kind = torch.cat(changes[row.site]), "change"
        movement[row.site] = _moved(kind, values, a)
    return movement | {site: _moved("change", torch.cat(changes[site]), None) for site in kept}


def constant_plugs(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, str]:
    """Find the plugs of ``network`` whose gate or context is the same for every image in eval mode: site -> kind.

    The kind is ``gate`` or ``context``; a single image shows none. Batches are read only while a plug may still be
    constant. The control ``noise``, which is constant by design, and mechanisms that show neither gate nor context are
    left out.

    Args:
        network: the network.
        batches: images (B, C, H, W), all of one size.
    """
    found = {
        row.site: "gate" if isinstance(mechanism, Gate) else "context"
        for row in plugs(network)
        if isinstance(mechanism := unshuffled(row.module.mechanism), (Gate, Context))
        and not isinstance(mechanism, NoiseGate)
    }
    if not found:
        return {}
    count = 0
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}  # the least and the largest of each entry, by call of the parent
    with _evaluated(network):
        for images in batches:
            count += len(images)
            with record(network) as maps:
                network(images)
            for site in list(found):
                shown = maps.get(site, [])
                now = [(values.amin(0), values.amax(0)) for values in (shown if isinstance(shown, list) else [shown])]
                before = seen.get(site, now)
                if not now or len(now) != len(before):  # a host that calls its parts as the images are
                    del found[site]
                    continue
                pairs = zip(now, before, strict=True)
                seen[site] = [(a.minimum(c), b.maximum(d)) for (a, b), (c, d) in pairs]
                if not all(torch.allclose(low, high, rtol=_ROUNDING, atol=0) for low, high in seen[site]):
                    del found[site]
            if not found:
                break
    return found if count > 1 else {}


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Put ``network`` into eval mode without gradients; restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _moved(kind: str, values: Tensor, a: float | None) -> dict[str, Any]:
    std, mean = torch.std_mean(values, correction=0)
    return {"kind": kind, "mean": _number(mean), "std": _number(std), "a": a}


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
