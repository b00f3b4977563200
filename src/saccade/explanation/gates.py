"""Gates of a plugged network on given images, and the fraction of the feature map that each plug passes.

A plug with gate g and factor ``a`` returns y = f + a (g f − f) for a map f, so its *effective gate* is 1 + a (g − 1).
The passed fraction Σ_c |y_c| / Σ_c |f_c| is also defined for mechanisms that add to the map.
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

__all__ = [
    "channel_means", "effective_gates", "gate_maps", "is_spatial", "number_calls", "passed_fractions", "site_to_show",
    "spatial_map",
]  # fmt: skip


def gate_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the effective gates of the mechanisms that are gates, by site, from one forward pass in eval mode.

    Args:
        model: a plugged network.
        images: (B, C, H, W), normalised as the network expects; moved to its device.

    Returns:
        mapping from site to effective gate (B, C | 1, H | 1, W | 1), float32 on the CPU, in the order of the plugs; a
        second call of a site is ``site (call 2)``.
    """
    device = next((p.device for p in model.parameters()), images.device)
    with preserve_state(model), torch.no_grad(), record(model) as recorded:
        model(images.to(device))
    return effective_gates(model, recorded)


def effective_gates(model: nn.Module, recorded: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """Return the effective gates as :func:`gate_maps` does, from what ``record`` recorded of (B, C, H, W) images."""
    gates: dict[str, Tensor] = {}
    for plug_info in plugs(model):
        plug = plug_info.module
        if (
            not isinstance(plug, Plug)
            or not isinstance(unshuffled(plug.mechanism), Gate)
            or plug_info.site not in recorded
        ):
            continue
        for name, gate in number_calls(plug_info.site, recorded[plug_info.site]):
            gates[name] = effective_gate(gate, plug.a).cpu()
    return gates


def passed_fractions(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the fraction of the feature map that each plug passes, per pixel; arguments as for :func:`gate_maps`.

    Returns:
        mapping from site, named as there, to Σ_c |y_c| / Σ_c |f_c|, (B, H, W), float32 on the CPU, where the plug maps
        f (B, C, H, W) to y; 1 where f is zero.
    """
    fractions: dict[str, list[Tensor]] = {}

    def register_hook(site: str, plug: nn.Module) -> None:
        def store_fraction(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            input_norm, output_norm = (x.float().abs().sum(1) for x in (inputs[0], output))
            fractions.setdefault(site, []).append(torch.where(input_norm > 0, output_norm / input_norm, 1.0).cpu())

        handles.append(plug.register_forward_hook(store_fraction))

    device = next((p.device for p in model.parameters()), images.device)
    with temporary_hooks() as handles, preserve_state(model), torch.no_grad():
        for plug_info in plugs(model):
            register_hook(plug_info.site, plug_info.module)
        model(images.to(device))
    return {
        name: fraction
        for site, fractions_of_site in fractions.items()
        for name, fraction in number_calls(site, fractions_of_site)
    }


def number_calls(site: str, tensors: Tensor | list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for each call of a site; names of several calls end in their number."""
    tensors = tensors if isinstance(tensors, list) else [tensors]
    for number, tensor in enumerate(tensors, 1):
        yield (site if len(tensors) == 1 else f"{site} (call {number})"), tensor


def is_spatial(gate: Tensor) -> bool:
    """Return True if a gate (B, C | 1, H | 1, W | 1) has more than one pixel."""
    return gate.shape[-2] > 1 or gate.shape[-1] > 1


def spatial_map(gate: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Average a gate (B, C | 1, H | 1, W | 1) over its channels, and resize it to ``size`` bilinearly: (B, H, W)."""
    mean_gate = gate.mean(1, keepdim=True)
    if size is not None:
        mean_gate = F.interpolate(mean_gate, size, mode="bilinear", align_corners=False)
    return mean_gate[:, 0]


def channel_means(gate: Tensor) -> Tensor:
    """Average a gate over its pixels: (B, C | 1, H | 1, W | 1) -> (B, C | 1)."""
    return gate.mean((2, 3))


def site_to_show(maps: Mapping[str, Tensor], min_size: int = 4) -> str | None:
    """Return the last site whose gate (B, C | 1, H | 1, W | 1) has at least ``min_size`` rows and columns.

    Without such a site, return that of the largest spatial standard deviation; None without a spatial gate.
    """
    large_sites = [site for site, gate in maps.items() if min(gate.shape[-2:]) >= min_size]
    if large_sites:
        return large_sites[-1]
    spatial_sites = [site for site, gate in maps.items() if is_spatial(gate)]
    return max(spatial_sites, key=lambda site: float(spatial_map(maps[site]).std((1, 2)).mean()), default=None)
