"""Hold gates and contexts at given values, to measure what their dependence on the image is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from saccade.bases import Gate
from saccade.errors import UserError, did_you_mean
from saccade.graph.states import preserve_state
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.controls.shuffled import unshuffled
from saccade.surgery.plugs import plugs
from saccade.surgery.record import record, tapped_modules

__all__ = ["held", "mean_gates"]


def mean_gates(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor | list[Tensor]]:
    """Return the mean gate of each plug that is a gate, by site, over images, in eval mode.

    Args:
        model: network with plugs.
        batches: images (B, C, H, W), all of one size, moved to the device of the network.

    Returns:
        g (C | 1, H | 1, W | 1), float32, on the CPU, as ``held`` takes it; a list for a site that runs several times.

    Raises:
        UserError: there are no images.
    """
    sums: dict[str, list[Tensor]] = {}
    is_list: dict[str, bool] = {}
    count = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    gate_sites = [row.site for row in plugs(model) if isinstance(unshuffled(row.module.mechanism), Gate)]
    with preserve_state(model), torch.no_grad(), record(model) as recorded:
        for images in batches:
            model(images.to(device))
            count += len(images)
            for site in gate_sites:
                if site in recorded:
                    shown = recorded[site]
                    is_list[site] = isinstance(shown, list)
                    calls = shown if isinstance(shown, list) else [shown]
                    values = [len(images) * gate.double().mean(0).cpu() for gate in calls]
                    sums[site] = [a + b for a, b in zip(sums[site], values, strict=True)] if site in sums else values
    if not count:
        raise UserError("the mean of a gate needs at least one image")
    means = {site: [(total / count).float() for total in totals] for site, totals in sums.items()}
    return {site: values if is_list[site] else values[0] for site, values in means.items()}


@contextmanager
def held(model: nn.Module, values: Mapping[str, Tensor | Sequence[Tensor]]) -> Iterator[None]:
    """Replace gates and contexts of ``model`` by constants inside the block.

    The plug's factor a still applies: y = f + a (g f − f) with the held g. Held at what ``record`` shows for the same
    images, the output is unchanged bit for bit. A compiled network runs uncompiled, and only the current thread is
    affected.

    Args:
        model: network.
        values: maps a key of ``record`` to g, not to the effective gate 1 + a (g − 1): (C,), (C, H | 1, W | 1) or
            (B | 1, C | 1, H | 1, W | 1). A list has one tensor per call of the site in a forward pass.

    Raises:
        UserError: a key is not one of ``record``; in the forward pass, if a value does not fit the gate.

    >>> with saccade.record(model) as gates:                                                    # doctest: +SKIP
    ...     model(images)
    >>> with held(model, {"layer1.0.bn2": gates["layer1.0.bn2"].mean(0)}):                      # doctest: +SKIP
    ...     model(images)
    """
    tapped = tapped_modules(model)
    for path in values:
        if path not in tapped:
            raise UserError(
                f"no gate or context at {path!r}.{did_you_mean(path, tapped)} Paths: {', '.join(tapped) or 'none'}"
            )
    calls = dict.fromkeys(values, 0)

    def restart(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls.update(dict.fromkeys(values, 0))

    def register_hook(path: str, tap: nn.Module) -> None:
        def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            given = values[path]
            if not isinstance(given, Tensor):
                if calls[path] >= len(given):
                    raise UserError(f"{path} has {len(given)} held values and runs more often in a forward pass")
                given = given[calls[path]]
            calls[path] += 1
            return _fitted(given, output, path)

        handles.append(tap.register_forward_hook(only_in_this_thread(replace)))

    with temporary_hooks() as handles:
        handles.append(model.register_forward_pre_hook(only_in_this_thread(restart)))
        for path in values:
            register_hook(path, cast(nn.Module, tapped[path].tap))
        with torch.compiler.set_stance("force_eager"):
            yield


def _fitted(value: Tensor, gate: Tensor, path: str) -> Tensor:
    """Return ``value`` in the shape (B, …), dtype and device of ``gate``."""
    if value.ndim == 1:
        value = value.view(1, -1, *[1] * (gate.ndim - 2))
    try:
        return value.to(gate).expand(gate.shape)
    except RuntimeError:
        raise UserError(
            f"{path}: a held value of shape {tuple(value.shape)} does not fit the gate of shape {tuple(gate.shape)}"
        ) from None
