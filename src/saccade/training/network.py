"""The network a recipe describes, each part drawn from a generator of its own."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import nn

from saccade import catalog
from saccade.data import Split
from saccade.models import create_host
from saccade.recipe import Recipe
from saccade.surgery import plug
from saccade.surgery.controls import plug_control

__all__ = ["build", "derived", "start_of"]


def derived(seed: int, *words: object) -> int:
    """A seed that is a function of ``seed`` and ``words`` alone; different words give unrelated seeds.

    >>> derived(0, "host") != derived(0, "attention") != derived(1, "attention")
    True
    """
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def start_of(recipe: Recipe) -> Literal["neutral", "paper"] | None:
    """How the plugs start: ``neutral``, as the host's own function, or ``paper``; None where nothing is plugged.

    ``auto`` means neutral if the host brings trained weights. A control is always neutral.
    """
    part, model = recipe.attention, recipe.model
    if part.mechanism == "none":
        return None
    if part.control is not None:
        return "neutral"
    if part.start == "auto":
        return "neutral" if model.pretrained or model.checkpoint is not None else "paper"
    return part.start


def build(recipe: Recipe, split: Split) -> nn.Module:
    """The host with what is plugged into it, on the CPU; the global random state stays as it was.

    The host depends on the recipe's model and seed alone: it is the same under every mechanism.

    Raises:
        UserError: unknown model, mechanism or option, no site, or channels outside the mechanism's limits.
    """
    part, seed = recipe.attention, recipe.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "host"))
        host = create_host(recipe.model, len(split.classes), split.channels)
        start = start_of(recipe)
        if start is None:
            return host
        name, options = catalog.parse(part.mechanism)
        torch.manual_seed(derived(seed, "attention"))
        where = part.where if isinstance(part.where, str) else list(part.where)
        size = (split.channels, split.size, split.size)
        if part.control is not None:
            return plug_control(host, part.control, name, where=where, input=size, **options)
        return plug(host, name, where=where, start=start, input=size, **options)
