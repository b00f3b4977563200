"""Costs of each mechanism in one network, relative to the plain network and timed in alternation with it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from saccade import catalog
from saccade.cost import measure_all
from saccade.cost.call import ForwardCall
from saccade.cost.memory import step_memory
from saccade.errors import UserError
from saccade.graph.inputs import example_input
from saccade.graph.states import preserve_state
from saccade.models import create_host
from saccade.recipe import Model
from saccade.surgery.insert import insert, positions_of

__all__ = ["costs"]


def costs(
    model: str,
    mechanisms: Iterable[str],
    size: tuple[int, ...] | None = None,
    *,
    batch: int = 1,
    seconds: float = 0.5,
) -> Iterator[dict[str, Any]]:
    """Yield the costs of each mechanism in ``model``, at the position and with the initialisation of its paper.

    Args:
        model: name of a timm model, built with random weights.
        mechanisms: names of mechanisms, with options if needed, as ``das:alpha=0.1``.
        size: image size (C, H, W); None for the network's own.
        batch: batch size of the training step whose peak memory is measured; latency and memory are for one image.
        seconds: seconds of timing per network.

    Yields:
        a dictionary with ``mechanism`` and either ``refused``, the reason for a failed insertion, or: ``sites``,
        ``positions``, ``parameters`` and ``macs`` of the changed network; ``latency``, ``memory`` and ``step_memory``
        as ratios to the plain network; and ``plain``, the costs of the plain network.

    Raises:
        UserError: the model or a mechanism does not exist, or the model does not accept images of this size.
    """
    mechanisms_by_text = {text: catalog.parse(text) for text in mechanisms}
    host = create_host(Model(name=model), num_classes=1000, channels=size[0] if size else 3)
    input_shape = list(example_input(host, size)[0].shape[1:])
    with torch.no_grad(), preserve_state(host):
        ForwardCall.build(host, size, batch).run_checked()  # report an unsupported size once, not per mechanism
    plain_step = step_memory(ForwardCall.build(host, size, batch))
    for text, (name, options) in mechanisms_by_text.items():
        changed = copy.deepcopy(host)
        try:
            insert(changed, name, start="paper", input=size, **options)
        except UserError as error:
            yield {"mechanism": text, "refused": str(error)}
            continue
        plain_cost, changed_cost = measure_all([host, changed], size, seconds=seconds)
        changed_step = step_memory(ForwardCall.build(changed, size, batch))
        positions = positions_of(changed)
        yield {
            "mechanism": text,
            "sites": len(positions),
            "positions": sorted(set(positions)),
            "parameters": changed_cost.parameters,
            "macs": changed_cost.macs,
            "latency": changed_cost.latency_ms.median / plain_cost.latency_ms.median,
            "memory": changed_cost.memory / plain_cost.memory,
            "step_memory": None if plain_step is None or changed_step is None else changed_step / plain_step,
            "plain": {"input": input_shape, **asdict(plain_cost)},
        }
