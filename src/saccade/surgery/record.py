"""Record the gates of a plugged network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replacements
from saccade.surgery.replaced import CHILD as REPLACEMENT_CHILD

__all__ = ["effective_gate", "record"]


def effective_gate(gate: Tensor, a: Tensor | None) -> Tensor:
    """Return 1 + a (g − 1), the factor by which a plug multiplies its map; g itself without ``a``.

    Args:
        gate: g, of any shape.
        a: (1,), or None.

    Returns:
        tensor of the same shape as ``gate``, float32, detached.

    >>> effective_gate(torch.tensor([0.5, 0.75]), torch.tensor([0.4]))
    tensor([0.8000, 0.9000])
    """
    gate = gate.detach().float()
    return gate if a is None else 1 + a.detach().float() * (gate - 1)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, Tensor | list[Tensor]]]:
    """Record the gates and contexts of the latest forward pass of ``model``, by site, detached.

    A site that runs several times in one forward pass has a list. Only mechanisms with a submodule ``tap``, which
    returns the gate or context, are recorded. A replacement is recorded under the path of its convolution, or under
    ``<path>.saccade_conv`` if that path is also the site of a plug. Only the current thread is recorded, and a compiled
    network runs uncompiled. The dictionary stays readable after the block.

    Raises:
        UserError: ``model`` is not a module, has lost a plug, or is a DataParallel on several devices.

    >>> with saccade.record(model) as gates:                                                    # doctest: +SKIP
    ...     model(images)
    >>> gates["layer1.0.bn2"].shape                                                             # doctest: +SKIP
    torch.Size([8, 64, 1, 1])
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise UserError("DataParallel runs the network on several threads; record the network inside: model.module")
    tap_outputs: dict[str, Tensor | list[Tensor]] = {}

    def clear_outputs(module: nn.Module, args: tuple[Any, ...]) -> None:
        tap_outputs.clear()

    def register_hook(site: str, tap: nn.Module) -> None:
        def store_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if torch._C._current_graph_task_id() != -1:
                return  # gradient checkpointing repeats the forward pass during the backward pass
            previous = tap_outputs.get(site)
            if previous is None:
                tap_outputs[site] = output.detach()
            elif isinstance(previous, list):
                previous.append(output.detach())
            else:
                tap_outputs[site] = [previous, output.detach()]

        handles.append(tap.register_forward_hook(only_in_this_thread(store_output)))

    mechanisms = {row.site: row.module.mechanism for row in plugs(model)}
    for row in replacements(model):
        path = row.convolution
        mechanisms[f"{path}.{REPLACEMENT_CHILD}" if path in mechanisms else path] = row.module
    with temporary_hooks() as handles:
        handles.append(model.register_forward_pre_hook(only_in_this_thread(clear_outputs)))
        for site, mechanism in mechanisms.items():
            tap = getattr(mechanism, "tap", None)
            if isinstance(tap, nn.Module):
                register_hook(site, tap)
        with torch.compiler.set_stance("force_eager"):
            yield tap_outputs
