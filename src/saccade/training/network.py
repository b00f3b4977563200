"""Construction of the network of a recipe."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from saccade import catalog
from saccade.builders import call_arguments, find_builder, is_builder
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
from saccade.training.inheriting import load_plug_weights

__all__ = ["actual_start", "build", "derive_seed", "requested_start"]


def derive_seed(seed: int, *words: object) -> int:
    """Return a seed determined by ``seed`` and ``words``; different words give unrelated seeds.

    >>> derive_seed(0, "host") != derive_seed(0, "attention") != derive_seed(1, "attention")
    True
    """
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def requested_start(recipe: Recipe) -> Literal["neutral", "paper"] | None:
    """Return the initialisation that the recipe requests; None without attention.

    A ``neutral`` network first computes the function of its host; ``paper`` is the initialisation in the mechanism's
    paper.
    """
    attention, model = recipe.attention, recipe.model
    if attention.mechanism == "none":
        return None
    if attention.start == "auto":
        has_weights = model.pretrained or model.checkpoint is not None or model.init_from is not None
        return "neutral" if has_weights else "paper"
    return attention.start


def actual_start(network: nn.Module) -> Literal["neutral", "paper"] | None:
    """Return ``neutral`` if the untrained ``network`` computed the function of its host, otherwise ``paper``.

    Without attention, return None.
    """
    neutral = [_is_neutral(row.module) for row in plugs(network)] + [row.neutral for row in replacements(network)]
    if not neutral:
        return None
    return "neutral" if all(neutral) else "paper"


def _is_neutral(plug: Plug) -> bool:
    """Return True if the untrained plug returned its input."""
    name, options = plug.name, plug.options
    if isinstance(plug.mechanism, Shuffled):
        name, options = options["mechanism"], options["options"]
    mechanism = Mechanism.resolve(name)
    return plug.a is not None or mechanism.spec.is_neutral({**mechanism.defaults, **options})


def build(task: Task) -> nn.Module:
    """Build the host of ``task`` with its attention, on the CPU.

    The global random state is preserved. The host depends only on the recipe's model and seed, except for replaced
    convolutions. Convolution weights use the recipe's memory format.

    Raises:
        UserError: a name or option is unknown, the host does not fit the task, no site matches, the mechanism does not
            support a site's size, or a control is requested for a mechanism that replaces convolutions.
    """
    network = _build(task)
    if task.recipe.training.memory_format == "channels_last":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # view() of other 4-D parameters needs contiguous memory
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def _build(task: Task) -> nn.Module:
    recipe, splits = task.recipe, task.data
    attention, seed = recipe.attention, recipe.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "host"))
        host = task.build(recipe.model)
        _check_host(host, task)
        start = requested_start(recipe)
        if start is None:
            return _load_init_from(host, recipe)
        name, options = catalog.parse(attention.mechanism)
        torch.manual_seed(derive_seed(seed, "attention"))
        where = attention.where if isinstance(attention.where, str) else list(attention.where)
        images = probe_images(splits.train)  # insert redraws weights if all ReLUs are dead on these images
        if attention.control is None:
            insert(host, name, where=where, start=start, input=images, **options)
            return _load_init_from(host, recipe)
        if catalog.spec(name).kind == "conv":
            raise UserError(
                f"attention.control = {attention.control!r} needs a mechanism that is plugged, and {name} replaces "
                "convolutions; compare it with attention.mechanism = 'none' instead"
            )
        plug_control(host, attention.control, name, where=where, start=start, input=images, **options)
        return _load_init_from(host, recipe)


def _load_init_from(network: nn.Module, recipe: Recipe) -> nn.Module:
    """Load the plug weights of ``model.init_from``, if set, into ``network`` and return it."""
    if recipe.model.init_from is not None:
        load_plug_weights(network, Path(recipe.model.init_from))
    return network


def _check_host(host: nn.Module, task: Task) -> None:
    """Run a forward pass of two images and restore the host's state; run a user's own host in train mode too.

    Raises:
        UserError: the pass fails, or its output does not fit the task.
    """
    size, name = (task.data.channels, *task.data.size), task.recipe.model.name
    prefix = f"model {name} on images of {'×'.join(map(str, size))} (channels, height, width)"
    is_user_function = is_builder(name)
    try:
        # The task recognises a sigmoid by its gradient function.
        with preserve_state(host), torch.set_grad_enabled(is_user_function):
            images = example_input(host, size, batch=2)
            output = host(*images)
    except Exception as error:  # a network may raise anything for an unsupported image size
        message = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{prefix}: {message}{_hint(host, task) if is_user_function else ''}") from error
    if mismatch := task.output_problem(output, images[0]):
        raise UserError(f"{prefix} {mismatch}{_hint(host, task) if is_user_function else ''}")
    if not is_user_function or callable(getattr(host, "training_loss", None)):
        return
    with ExitStack() as stack:
        try:
            train_mode_copy = stack.enter_context(training_copy(host))
        except Exception:  # a host that cannot be copied can still be trained
            return
        try:
            mismatch = task.training_problem(train_mode_copy, images[0])
        except Exception as error:
            message = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{prefix}, in training mode: {message}") from error
    if mismatch:
        raise UserError(f"{prefix}, in training mode, {mismatch}")


def _hint(host: nn.Module, task: Task) -> str:
    """Return a hint if the builder ignores the number of channels or classes, else ""."""
    model, classes, channels = task.recipe.model, len(task.data.classes), task.data.channels
    builder_arguments = call_arguments(find_builder((model.name, model.code)), classes, channels, model.options)
    first_convolution = next((module for module in host.modules() if isinstance(module, nn.Conv2d)), None)
    if (
        first_convolution is not None
        and first_convolution.in_channels != channels
        and channels not in builder_arguments.values()
    ):
        return f"; the images have {channels} channels: add an argument in_chans to the function"
    if classes not in builder_arguments.values():
        return f"; the data have {classes} classes: add an argument num_classes to the function"
    return ""
