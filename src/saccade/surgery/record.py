"""The gates of a plugged network, recorded at the ``tap`` of each mechanism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.hooks import of_this_thread, temporary_hooks
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replacements
from saccade.surgery.replaced import CHILD

__all__ = ["effective_gate", "record"]


def effective_gate(gate: Tensor, a: Tensor | None) -> Tensor:
    """Return 1 + a (g − 1), the factor by which a plug multiplies its map; g itself without ``a``.

    Args:
        gate: g, of any shape.
        a: (1,), or None.

    Returns:
        the shape of ``gate``, float32, detached.

    >>> effective_gate(torch.tensor([0.5, 0.75]), torch.tensor([0.4]))
    tensor([0.8000, 0.9000])
    """
    gate = gate.detach().float()
    return gate if a is None else 1 + a.detach().float() * (gate - 1)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, Tensor | list[Tensor]]]:
    """Record the gates and contexts of the latest forward of ``model``, by site, detached.

    A site whose parent runs several times in one forward has a list. A replacement is recorded under the path of its
    convolution, or, if that is a site too, of the mechanism inside. Mechanisms without a ``tap`` are absent. The
    dictionary stays readable after the block.

    Inside the block a compiled network runs uncompiled. Only forwards of the thread that opened the block are recorded.

    Raises:
        UserError: ``model`` is no module, has lost a plug, or is a DataParallel that runs several threads.

    >>> with saccade.record(model) as maps:                                                     # doctest: +SKIP
    ...     model(images)
    >>> maps["layer1.0.bn2"].shape                                                              # doctest: +SKIP
    torch.Size([8, 64, 1, 1])
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise UserError("DataParallel runs the network on several threads; record the network inside: model.module")
    maps: dict[str, Tensor | list[Tensor]] = {}

    def anew(module: nn.Module, args: tuple[Any, ...]) -> None:
        maps.clear()

    def watch(site: str, tap: nn.Module) -> None:
        def seen(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if torch._C._current_graph_task_id() != -1:
                return  # gradient checkpointing runs the forward again during the backward
            before = maps.get(site)
            if before is None:
                maps[site] = output.detach()
            elif isinstance(before, list):
                before.append(output.detach())
            else:
                maps[site] = [before, output.detach()]

        handles.append(tap.register_forward_hook(of_this_thread(seen)))

    found = {row.site: row.module.mechanism for row in plugs(model)}
    for row in replacements(model):
        path = row.convolution
        found[f"{path}.{CHILD}" if path in found else path] = row.module
    with temporary_hooks() as handles:
        handles.append(model.register_forward_pre_hook(of_this_thread(anew)))
        for site, mechanism in found.items():
            tap = getattr(mechanism, "tap", None)
            if isinstance(tap, nn.Module):
                watch(site, tap)
        with torch.compiler.set_stance("force_eager"):
            yield maps
