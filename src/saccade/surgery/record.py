"""Record gates and attention maps of a network: those of its plugs, its replacements and its own layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replacements
from saccade.surgery.replaced import CHILD as REPLACEMENT_CHILD

__all__ = ["effective_gate", "record", "tapped_modules"]


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


def tapped_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Map each possible key of ``record`` to the module whose child ``tap`` is recorded, plugs first.

    Raises:
        UserError: ``model`` is not a module, or has lost a plug.
    """
    plug_rows, replaced = plugs(model), replacements(model)
    mechanisms = {row.site: row.module.mechanism for row in plug_rows}
    for row in replaced:
        path = row.convolution
        mechanisms[f"{path}.{REPLACEMENT_CHILD}" if path in mechanisms else path] = row.module
    roots: list[nn.Module] = [*(row.module for row in plug_rows), *(row.module for row in replaced)]
    inserted = {id(part) for root in roots for part in root.modules()}
    tapped = {path: module for path, module in mechanisms.items() if isinstance(_tap(module), nn.Module)}
    for path, module in model.named_modules():
        if id(module) not in inserted and isinstance(_tap(module), nn.Module):
            tapped[f"{path}.tap" if path in mechanisms else path] = module
    return tapped


def _tap(module: nn.Module) -> object:
    return getattr(module, "tap", None)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, Tensor | list[Tensor]]]:
    """Record the gates, contexts and maps of the latest forward pass of ``model``, by path, detached.

    Modules with a submodule ``tap``, which returns the tensor, are recorded: a plug's mechanism under its site, a
    replacement under the path of its convolution, or ``<path>.saccade_conv`` if that path is also a site, and a module
    of the network itself under its own path, or ``<path>.tap`` if that is a site. One that runs several times in a
    forward pass has a list. Only the current thread is recorded, and a compiled network runs uncompiled. The dictionary
    stays readable after the block.

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
        def store_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or torch._C._current_graph_task_id() != -1:
                return  # gradient checkpointing repeats the forward pass during the backward pass
            previous = tap_outputs.get(site)
            if previous is None:
                tap_outputs[site] = output.detach()
            elif isinstance(previous, list):
                previous.append(output.detach())
            else:
                tap_outputs[site] = [previous, output.detach()]

        handles.append(tap.register_forward_hook(only_in_this_thread(store_output)))

    tapped = tapped_modules(model)
    with temporary_hooks() as handles:
        handles.append(model.register_forward_pre_hook(only_in_this_thread(clear_outputs)))
        for path, module in tapped.items():
            register_hook(path, cast(nn.Module, _tap(module)))
        with torch.compiler.set_stance("force_eager"):
            yield tap_outputs
