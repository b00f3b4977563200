"""What each mechanism costs in one network, beside the plain network, timed by turns."""

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
    """Of each mechanism in turn, where its paper puts it and as it starts there: what it costs in ``model``.

    Args:
        model: a network of timm's or ours, with random weights.
        mechanisms: names of the catalogue, with options if wanted, as ``das:alpha=0.1``.
        size: of the picture, (C, H, W); None for the network's own.
        batch: pictures of the training step whose memory is counted; latency and memory are those of one picture.
        seconds: how long each network is timed.

    Yields:
        ``mechanism``, and either ``refused``, why it cannot be put in, or ``sites``, ``positions``, ``parameters`` and
        ``macs`` of the whole network, ``latency``, ``memory``, ``step_memory`` as ratios to the plain network, and the
        plain network's own costs under ``plain``.

    Raises:
        UserError: there is no such model or mechanism, or the model does not take such pictures.
    """
    asked = {text: catalog.parse(text) for text in mechanisms}
    host = create_host(Model(name=model), classes=1000, channels=size[0] if size else 3)
    picture = list(example_input(host, size)[0].shape[1:])
    with torch.no_grad(), preserve_state(host):
        ForwardCall.build(host, size, batch).run_checked()  # what it does not take is said once, not by each mechanism
    plain_step = step_memory(ForwardCall.build(host, size, batch))
    for text, (name, options) in asked.items():
        changed = copy.deepcopy(host)
        try:
            insert(changed, name, start="paper", input=size, **options)
        except UserError as error:
            yield {"mechanism": text, "refused": str(error)}
            continue
        plain, own = measure_all([host, changed], size, seconds=seconds)
        own_step = step_memory(ForwardCall.build(changed, size, batch))
        positions = positions_of(changed)
        yield {
            "mechanism": text,
            "sites": len(positions),
            "positions": sorted(set(positions)),
            "parameters": own.parameters,
            "macs": own.macs,
            "latency": own.latency_ms.median / plain.latency_ms.median,
            "memory": own.memory / plain.memory,
            "step_memory": None if plain_step is None or own_step is None else own_step / plain_step,
            "plain": {"input": picture, **asdict(plain)},
        }
