"""What the gates of a plugged network let through, on given images.

A gate g multiplies its map. With ``a`` the plug returns y = f + a (g f − f), f times the *effective* gate 1 + a (g −
1): 1 passes the map unchanged, 0 shuts it off; with a outside [0, 1] it may leave the range of g.

The plain mean of the gates at a place says little: one that is normalised over the channels, as that of DAS, has nearly
the same mean everywhere. What passes is Σ_c |y_c| / Σ_c |f_c|, which also serves mechanisms that add or transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import Gate
from saccade.graph.states import preserve_state
from saccade.hooks import temporary_hooks
from saccade.surgery import Plug, plugs, record
from saccade.surgery.controls import unshuffled
from saccade.surgery.record import effective_gate

__all__ = ["gate_maps", "is_spatial", "passing", "per_channel", "site_to_show", "spatial"]


def gate_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the effective gates of every site of a multiplicative mechanism.

    The network runs once, in eval mode and without gradients, and is left as it was.

    Args:
        model: a plugged network.
        images: (B, C, H, W), normalised as the network expects; moved to its device.

    Returns:
        Site to effective gate (B, c | 1, h | 1, w | 1), float32 on the CPU, in the order of the plugs. A parent that
        runs several times in one forward appears once a call: ``site (call 2)``.
    """
    device = next((p.device for p in model.parameters()), images.device)
    with preserve_state(model), torch.no_grad(), record(model) as seen:
        model(images.to(device))
    found: dict[str, Tensor] = {}
    for row in plugs(model):
        plug = row.module
        if not isinstance(plug, Plug) or not isinstance(unshuffled(plug.mechanism), Gate) or row.site not in seen:
            continue
        values = seen[row.site]
        for name, gate in _named(row.site, values if isinstance(values, list) else [values]):
            found[name] = effective_gate(gate, plug.a).cpu()
    return found


def passing(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return which part of the map every plug lets pass, place by place.

    The network runs once, in eval mode and without gradients, and is left as it was.

    Args:
        model: a plugged network.
        images: (B, C, H, W), normalised as the network expects; moved to its device.

    Returns:
        Site to Σ_c |y_c| / Σ_c |f_c|, (B, h, w), float32 on the CPU, for a map f (B, c, h, w) that leaves the plug as
        y; 1 where the map is zero. Of a mechanism that adds it may exceed 1. Named as by :func:`gate_maps`.
    """
    seen: dict[str, list[Tensor]] = {}

    def watch(site: str, plug: nn.Module) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = (x.float().abs().sum(1) for x in (inputs[0], output))
            seen.setdefault(site, []).append(torch.where(before > 0, after / before, 1.0).cpu())

        handles.append(plug.register_forward_hook(hook))

    device = next((p.device for p in model.parameters()), images.device)
    with temporary_hooks() as handles, preserve_state(model), torch.no_grad():
        for row in plugs(model):
            watch(row.site, row.module)
        model(images.to(device))
    return {name: x for site, calls in seen.items() for name, x in _named(site, calls)}


def _named(site: str, calls: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield a site's values with their names, numbered by call where there are several."""
    for number, value in enumerate(calls, 1):
        yield (site if len(calls) == 1 else f"{site} (call {number})"), value


def is_spatial(gate: Tensor) -> bool:
    """Return whether a gate (B, C | 1, H | 1, W | 1) differs between places at all."""
    return gate.shape[-2] > 1 or gate.shape[-1] > 1


def spatial(gate: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return the mean of a gate over its channels, as one map an image.

    Args:
        gate: (B, C | 1, H | 1, W | 1).
        size: (height, width) to interpolate to bilinearly (pixel areas aligned, corners not); None keeps its own.

    Returns:
        (B, H, W), or (B, height, width).
    """
    heat = gate.mean(1, keepdim=True)
    if size is not None:
        heat = F.interpolate(heat, size, mode="bilinear", align_corners=False)
    return heat[:, 0]


def per_channel(gate: Tensor) -> Tensor:
    """Return the mean of a gate over its places: (B, C | 1, H | 1, W | 1) -> (B, C | 1)."""
    return gate.mean((2, 3))


def site_to_show(maps: Mapping[str, Tensor], least: int = 4) -> str | None:
    """Return the last site whose gate is at least ``least`` places high and wide.

    Without one, the site that differs most from place to place (mean standard deviation of :func:`spatial`);
    None where none differs.

    Args:
        maps: site to (B, C | 1, H | 1, W | 1).
        least: places.
    """
    large = [site for site, gate in maps.items() if min(gate.shape[-2:]) >= least]
    if large:
        return large[-1]
    small = [site for site, gate in maps.items() if is_spatial(gate)]
    return max(small, key=lambda site: float(spatial(maps[site]).std((1, 2)).mean()), default=None)
