"""The network a recipe describes, each part drawn from a generator of its own."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from saccade import catalog
from saccade.builders import arguments, find, is_builder
from saccade.errors import UserError
from saccade.graph.inputs import example_input
from saccade.graph.states import preserve_state, training_copy
from saccade.recipe import Recipe
from saccade.surgery import plugs, replacements
from saccade.surgery.controls import Shuffled, plug_control
from saccade.surgery.insert import insert
from saccade.surgery.mechanism import Mechanism
from saccade.surgery.plug_module import Plug
from saccade.tasks.base import Task
from saccade.training.gates import probe_images
from saccade.training.inheriting import inherit

__all__ = ["build", "derived", "start_of", "started"]


def derived(seed: int, *words: object) -> int:
    """Return a seed that depends on ``seed`` and ``words`` alone; different words give unrelated seeds.

    >>> derived(0, "host") != derived(0, "attention") != derived(1, "attention")
    True
    """
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def start_of(recipe: Recipe) -> Literal["neutral", "paper"] | None:
    """Return the start the recipe asks for: ``neutral``, the host's own function, or ``paper``; None without plugs.

    ``auto`` means neutral if the host brings trained weights.
    """
    part, model = recipe.attention, recipe.model
    if part.mechanism == "none":
        return None
    if part.start == "auto":
        trained = model.pretrained or model.checkpoint is not None or model.init_from is not None
        return "neutral" if trained else "paper"
    return part.start


def started(network: nn.Module) -> Literal["neutral", "paper"] | None:
    """Return how ``network`` started, trained or not: ``neutral`` if it then computed the host's own function.

    A mechanism or control that is neutral by itself starts so whatever was asked for.
    """
    found = [_is_neutral(row.module) for row in plugs(network)] + [row.neutral for row in replacements(network)]
    if not found:
        return None
    return "neutral" if all(found) else "paper"


def _is_neutral(plug: Plug) -> bool:
    """Return whether the plug returned its input before training."""
    name, options = plug.name, plug.options
    if isinstance(plug.mechanism, Shuffled):
        name, options = options["mechanism"], options["options"]
    what = Mechanism.of(name)
    return plug.a is not None or what.spec.is_neutral({**what.defaults, **options})


def build(task: Task) -> nn.Module:
    """Build the host of ``task`` with its attention, plugged or in the place of convolutions, on the CPU.

    The global random state stays as it was. The host depends on the recipe's model and seed alone: it is the same
    under every mechanism, but for the convolutions that one replaces. Convolutions lie in the recipe's memory format;
    the maps they return follow them.

    Raises:
        UserError: unknown model, mechanism or option, a host that does not answer such images as the task needs, no
            site, channels or a convolution outside the mechanism's limits, or a control of what replaces convolutions.
    """
    network = _built(task)
    if task.recipe.training.memory_format == "channels_last":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # other parameters of four dimensions may be viewed as they lie
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def _built(task: Task) -> nn.Module:
    recipe, split = task.recipe, task.data
    part, seed = recipe.attention, recipe.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "host"))
        host = task.build(recipe.model)
        _try(host, task)
        start = start_of(recipe)
        if start is None:
            return _inheriting(host, recipe)
        name, options = catalog.parse(part.mechanism)
        torch.manual_seed(derived(seed, "attention"))
        where = part.where if isinstance(part.where, str) else list(part.where)
        images = probe_images(split.train)  # a mechanism whose ReLUs are off for them is drawn again
        if part.control is None:
            insert(host, name, where=where, start=start, input=images, **options)
            return _inheriting(host, recipe)
        if catalog.spec(name).kind == "conv":
            raise UserError(
                f"the control {part.control!r} stands where a mechanism is plugged, and {name} stands in the place of "
                "a convolution: what it does without is the convolution itself, which is the run without attention"
            )
        plug_control(host, part.control, name, where=where, start=start, input=images, **options)
        return _inheriting(host, recipe)


def _inheriting(network: nn.Module, recipe: Recipe) -> nn.Module:
    """Return ``network`` with the plugs of the run that it starts from."""
    if recipe.model.init_from is not None:
        inherit(network, Path(recipe.model.init_from))
    return network


def _try(host: nn.Module, task: Task) -> None:
    """Run one forward pass of two pictures and restore the host's state; of a host of the user's own one in each mode.

    Raises:
        UserError: it fails, or its output does not meet the contract of the task.
    """
    size, name = (task.data.channels, *task.data.size), task.recipe.model.name
    words = f"model {name} on images of {'×'.join(map(str, size))} (channels, height, width)"
    own = is_builder(name)
    try:
        with preserve_state(host), torch.no_grad():
            images = example_input(host, size, batch=2)
            output = host(*images)
    except Exception as error:  # a network may raise anything for a size it was not made for
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{words}: {reason}{_hint(host, task) if own else ''}") from error
    if wrong := task.misfit(output, images[0]):
        raise UserError(f"{words} {wrong}{_hint(host, task) if own else ''}")
    if not own or callable(getattr(host, "training_loss", None)):
        return
    with ExitStack() as stack:
        try:
            twin = stack.enter_context(training_copy(host))
        except Exception:  # it cannot be copied, and is trained all the same
            return
        try:
            output = twin(*images)
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{words}, in training mode: {reason}") from error
    if wrong := task.misfit(output, images[0]):
        raise UserError(
            f"{words}, in training mode, {wrong}. Build it without its auxiliary outputs, or give it a method "
            "training_loss(images, targets)"
        )


def _hint(host: nn.Module, task: Task) -> str:
    """Return what may be wrong with a function that does not take what the data decide, as the end of a sentence."""
    model, classes, channels = task.recipe.model, len(task.data.classes), task.data.channels
    taken = arguments(find((model.name, model.code)), classes, channels, model.options)
    first = next((m for m in host.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels and channels not in taken.values():
        return f"; the images have {channels} channels: let the function take in_chans"
    if classes not in taken.values():
        return f"; the data have {classes} classes: let the function take num_classes"
    return ""
