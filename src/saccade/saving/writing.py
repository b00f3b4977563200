"""Write a network into a folder, with what it takes to make it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade import catalog
from saccade.errors import UserError
from saccade.files import atomic_writer, make_folders, write_atomically
from saccade.graph.inputs import example_input
from saccade.graph.states import preserve_state
from saccade.saving.config import CONFIG, FORMAT, WEIGHTS, check
from saccade.saving.hosts import of_library, rebuild
from saccade.saving.reading import fill, replay
from saccade.saving.weights import Shapes, compare, digest, shapes_of, state_of
from saccade.saving.wrappers import unwrapped
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import described
from saccade.surgery.replaced import CHILD, originals

__all__ = ["save"]

_LOG = logging.getLogger("saccade")


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    host: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``model`` into ``folder``, which is made if needed; files of the same names are replaced.

    Of a network in DataParallel, DistributedDataParallel, ``torch.compile``, AveragedModel or timm's ModelEma, the
    network inside is saved.

    Args:
        model: a network, plugged or not.
        folder: where to.
        host: how the network without plugs is made: ``{"timm": name, "options": {…}}``, ``{"torchvision": name,
            "options": {…}}`` or ``{"call": "package.module:function", "options": {…}}``, which ``load`` imports only
            where it is trusted. None tries timm's own record, then the class without arguments; a guess counts if what
            it makes has the same keys and shapes and, with these weights, computes the same.
        input: size (C, H, W) the network is meant for.
        classes: their names.
        facts: whatever else JSON can hold.

    Returns:
        what ``config.json`` says. Its ``host`` is None where the host could not be rebuilt: a warning is logged, and
        ``load`` then needs the host.

    Raises:
        UserError: ``host`` makes another network, a part of the network is wrapped, a value is no JSON or of another
            type than ``config.json`` holds, or the folder cannot be written.
    """
    folder = Path(folder)
    model = unwrapped(model)
    rows = [_row(path, plug) for path, _, plug in plugs_in(model)]
    if rows:
        plugs(model)  # refuses a network that has lost one
    swaps = described(model)
    for name in sorted({row["mechanism"] for row in rows + swaps}):
        try:
            catalog.load(name)
        except UserError as error:
            _LOG.warning("load will need a host that carries its plugs already: %s", error)
    state = state_of(model)
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        _LOG.warning("%s holds values that are infinite or no number; load refuses such weights", ", ".join(broken[:4]))
    if host is not None:
        made = rebuild(host)
        compare(_shapes_of_host(model), shapes_of(made), f"host={dict(host)} makes another network")
    else:
        host = next((guess for guess in _guesses(model) if _same(model, guess, (rows, swaps), state, input)), None)
    config: dict[str, Any] = {
        "format": FORMAT,
        "host": None if host is None else dict(host),
        "plugs": rows,
        "replacements": swaps,
        "input": None if input is None else list(input),
        "classes": None if classes is None else list(classes),
        "facts": facts,
    }
    try:
        plain = json.loads(json.dumps(config))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a fact to be saved is no JSON: {error}") from None
    check(plain | {"sha256": "0" * 64}, "what is to be saved")
    if host is None:
        _LOG.warning(
            "%s cannot be rebuilt from what it says of itself: saccade.load(%r, host=…) will need the host",
            type(model).__name__, str(folder),
        )  # fmt: skip
    try:
        make_folders(folder)
        with atomic_writer(folder / WEIGHTS) as file:
            save_file(state, file.name, {"format": "pt"})
        config["sha256"] = digest(folder / WEIGHTS)
        write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the network to {folder}: {error}") from None
    return config


def _guesses(model: nn.Module) -> list[dict[str, Any]]:
    """Return how ``model`` may have been made, by what it says of itself.

    Networks of segmentation_models_pytorch keep their arguments for Hugging Face's hub.
    """
    guesses: list[dict[str, Any]] = []
    facts = getattr(model, "pretrained_cfg", None)
    if isinstance(facts, dict) and facts.get("architecture"):
        options = {"num_classes": getattr(model, "num_classes", None), "in_chans": example_input(model)[0].shape[1]}
        guesses.append({"timm": facts["architecture"], "options": {k: v for k, v in options.items() if v is not None}})
    kind = type(model)
    if kind.__module__ != "__main__" and "<" not in kind.__qualname__ and kind.__module__.partition(".")[0] != "torch":
        guess = {"call": f"{kind.__module__}:{kind.__qualname__}", "options": {}}
        arguments = getattr(model, "_hub_mixin_config", None)
        if isinstance(arguments, dict) and of_library(guess):
            guess["options"] = arguments | dict.fromkeys(arguments.keys() & {"encoder_weights"})
        guesses.append(guess)
    return guesses


def _same(
    model: nn.Module,
    guess: Mapping[str, Any],
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    state: dict[str, Tensor],
    input: Sequence[int] | None,
) -> bool:
    """Return whether the guess makes the host, and with these weights computes the same."""
    try:
        made = rebuild(guess, trust=not of_library(guess))
        compare(_shapes_of_host(model), shapes_of(made), "")
        replay(made, {"plugs": rows[0], "replacements": rows[1]}, "")
    except UserError:
        return False
    like = next(model.parameters(), torch.zeros(()))
    fill(made, state)
    made.to(like.device)
    with torch.no_grad():
        arguments = example_input(model, None if input is None else tuple(input))
        outputs = []
        for network in (model, made):
            with preserve_state(network):
                try:
                    outputs.append(network(*arguments))
                except Exception:  # it takes something else: the keys and shapes must do
                    return network is model
    return _close(*outputs)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_close, a, b))
    return type(a) is type(b)


def _row(path: str, plug: Plug) -> dict[str, Any]:
    site = asdict(plug.site)
    parent = site.pop("parent")
    prefix = path.removesuffix(parent) if path.endswith(parent) else ""
    return {
        "mechanism": plug.name,
        "options": plug.options,
        "neutral": plug.a is not None,
        "position": plug.position,
        "site": site | {"path": prefix + site["path"], "carrier": path},
        "reads": [prefix + read for read in plug.reads],
    }


def _shapes_of_host(model: nn.Module) -> Shapes:
    """Return keys and shapes of the state dict before anything was plugged or replaced."""
    prefixes = tuple(f"{path}.{name}." for path, m in model.named_modules(remove_duplicate=False)
                     for name, child in m.named_children() if isinstance(child, Plug) or name == CHILD)  # fmt: skip
    prefixes = tuple(prefix.removeprefix(".") for prefix in prefixes)
    with originals(model):
        shapes = shapes_of(model)
    return {key: shape for key, shape in shapes.items() if not (prefixes and key.startswith(prefixes))}
