"""The network a recipe describes, each part drawn from a generator of its own."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from saccade import catalog
from saccade.data import Split
from saccade.models import create_host
from saccade.recipe import Recipe
from saccade.surgery import plug
from saccade.surgery.controls import plug_control

__all__ = ["build", "derived", "starts_neutral"]


def derived(seed: int, *words: object) -> int:
    """A seed that is a function of ``seed`` and ``words`` alone; different words give unrelated seeds.

    >>> derived(0, "host") != derived(0, "attention") != derived(1, "attention")
    True
    """
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def starts_neutral(recipe: Recipe) -> bool:
    """Does the plugged network start as the host's own function? ``auto``: only if the host brings trained weights."""
    trained = recipe.model.pretrained or recipe.model.checkpoint is not None
    return recipe.attention.start == "neutral" or (recipe.attention.start == "auto" and trained)


def build(recipe: Recipe, split: Split) -> nn.Module:
    """The host with what is plugged into it, on the CPU; the global random state stays as it was.

    The host depends on the recipe's model and seed alone: it is the same under every mechanism.

    Raises:
        UserError: unknown model, mechanism or option, no site, or channels outside the mechanism's limits.
    """
    part, seed = recipe.attention, recipe.training.seed
    name, options = ("none", {}) if part.mechanism == "none" else catalog.parse(part.mechanism)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "host"))
        host = create_host(recipe.model, len(split.classes), split.channels)
        if name == "none":
            return host
        torch.manual_seed(derived(seed, "attention"))
        where = part.where if isinstance(part.where, str) else list(part.where)
        size = (split.channels, split.size, split.size)
        if part.control is not None:
            return plug_control(host, part.control, name, where=where, input=size, **options)
        start = "neutral" if starts_neutral(recipe) else "paper"
        return plug(host, name, where=where, start=start, input=size, **options)
