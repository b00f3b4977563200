"""Write a network to a folder, together with a description from which it can be rebuilt."""

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
from saccade.saving.config import CONFIG, FORMAT, WEIGHTS, check_config
from saccade.saving.hosts import imports_unknown_module, rebuild
from saccade.saving.reading import apply_config, load_values
from saccade.saving.weights import Shapes, compare_shapes, file_digest, shapes_of, state_for_saving
from saccade.saving.wrappers import unwrap
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replacement_rows
from saccade.surgery.replaced import CHILD, restored

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
    """Write ``model`` to ``folder``, which is created if needed; files of the same names are replaced.

    Wrappers are left out: DataParallel, DistributedDataParallel, ``torch.compile``, AveragedModel, timm's ModelEma.

    Args:
        model: a network, plugged or not.
        folder: destination folder.
        host: description of the network without plugs: ``{"timm": name, "options": {…}}``, ``{"torchvision": name,
            "options": {…}}`` or ``{"call": "package.module:function", "options": {…}}``, which ``load`` imports only
            if it is trusted. None guesses from timm's metadata, else from the class; a guess must give the same keys,
            shapes and, with these weights, outputs.
        input: size (C, H, W) of the network's input.
        classes: names of the classes.
        facts: further JSON-serialisable values, stored under ``facts``.

    Returns:
        content of ``config.json``. If the host could not be rebuilt, its ``host`` is None, a warning is logged, and
        ``load`` needs ``host``.

    Raises:
        UserError: ``host`` builds a different network, a module of the network is wrapped, a value is not
            JSON-serialisable or has the wrong type, or the folder cannot be written.
    """
    folder = Path(folder)
    model = unwrap(model)
    plug_rows = [_plug_row(path, plug) for path, _, plug in plugs_in(model)]
    if plug_rows:
        plugs(model)  # raises UserError if a plug is no longer attached
    replacements = replacement_rows(model)
    for name in sorted({row["mechanism"] for row in plug_rows + replacements}):
        try:
            catalog.load(name)
        except UserError as error:
            _LOG.warning("load will need a host that has its plugs already: %s", error)
    state = state_for_saving(model)
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        _LOG.warning("%s has values that are infinite or NaN; load refuses such weights", ", ".join(broken[:4]))
    if host is not None:
        rebuilt = rebuild(host)
        names = ("the network to save", "the network that host= builds")
        compare_shapes(_host_shapes(model), shapes_of(rebuilt), f"host={dict(host)} makes another network", names)
    else:
        host = next(
            (h for h in _guess_hosts(model) if _rebuilds(model, h, plug_rows, replacements, state, input)), None
        )
    config: dict[str, Any] = {
        "format": FORMAT,
        "host": None if host is None else dict(host),
        "plugs": plug_rows,
        "replacements": replacements,
        "input": None if input is None else list(input),
        "classes": None if classes is None else list(classes),
        "facts": facts,
    }
    try:
        config_from_json = json.loads(json.dumps(config))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a value to be saved is not JSON-serialisable: {error}") from None
    check_config(config_from_json | {"sha256": "0" * 64}, "the values to be saved")
    if host is None:
        _LOG.warning(
            "%s cannot be rebuilt automatically: saccade.load(%r, host=…) will need the host",
            type(model).__name__, str(folder),
        )  # fmt: skip
    try:
        make_folders(folder)
        with atomic_writer(folder / WEIGHTS) as file:
            save_file(state, file.name, {"format": "pt"})
        config["sha256"] = file_digest(folder / WEIGHTS)
        write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the network to {folder}: {error}") from None
    return config


def _guess_hosts(model: nn.Module) -> list[dict[str, Any]]:
    """Return candidates for ``host``, from timm's metadata and the class of ``model``."""
    candidates: list[dict[str, Any]] = []
    timm_config = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and timm_config.get("architecture"):
        options = {"num_classes": getattr(model, "num_classes", None), "in_chans": example_input(model)[0].shape[1]}
        options = {key: value for key, value in options.items() if value is not None}
        candidates.append({"timm": timm_config["architecture"], "options": options})
    cls = type(model)
    if cls.__module__ != "__main__" and "<" not in cls.__qualname__ and cls.__module__.partition(".")[0] != "torch":
        candidate = {"call": f"{cls.__module__}:{cls.__qualname__}", "options": {}}
        # segmentation_models_pytorch stores the constructor's arguments here, for Hugging Face's hub.
        arguments = getattr(model, "_hub_mixin_config", None)
        if isinstance(arguments, dict) and not imports_unknown_module(candidate):
            candidate["options"] = arguments | dict.fromkeys(arguments.keys() & {"encoder_weights"})
        candidates.append(candidate)
    return candidates


def _rebuilds(
    model: nn.Module,
    host: Mapping[str, Any],
    plug_rows: list[dict[str, Any]],
    replacements: list[dict[str, Any]],
    state: dict[str, Tensor],
    input: Sequence[int] | None,
) -> bool:
    """Return True if ``host`` rebuilds the keys and shapes of ``model`` and, with its weights, its outputs."""
    try:
        rebuilt = rebuild(host, trust=imports_unknown_module(host))
        compare_shapes(_host_shapes(model), shapes_of(rebuilt), "")
        apply_config(rebuilt, {"plugs": plug_rows, "replacements": replacements}, "")
    except UserError:
        return False
    parameter = next(model.parameters(), torch.zeros(()))
    load_values(rebuilt, state)
    rebuilt.to(parameter.device)
    with torch.no_grad():
        arguments = example_input(model, None if input is None else tuple(input))
        outputs = []
        for network in (model, rebuilt):
            with preserve_state(network):
                try:
                    outputs.append(network(*arguments))
                except Exception:  # if ``model`` fails, the example input is unsuitable; keys and shapes must suffice
                    return network is model
    return _is_close(*outputs)


def _is_close(a: Any, b: Any) -> bool:
    """Compare tensors, else types."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_is_close(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_is_close, a, b))
    return type(a) is type(b)


def _plug_row(path: str, plug: Plug) -> dict[str, Any]:
    site = asdict(plug.site)
    parent = site.pop("parent")
    prefix = path.removesuffix(parent) if path.endswith(parent) else ""
    return {
        "mechanism": plug.name,
        "options": plug.options,
        "neutral": plug.a is not None,  # only neutral plugs have the factor a
        "position": plug.position,
        "site": site | {"path": prefix + site["path"], "carrier": path},
        "reads": [prefix + source for source in plug.reads],
    }


def _host_shapes(model: nn.Module) -> Shapes:
    """Return the shapes of the host's state dict, without plugs and replacements, by key."""
    prefixes = tuple(
        f"{path}.{name}.".removeprefix(".")
        for path, module in model.named_modules(remove_duplicate=False)
        for name, child in module.named_children()
        if isinstance(child, Plug) or name == CHILD
    )
    with restored(model):
        shapes = shapes_of(model)
    return {key: shape for key, shape in shapes.items() if not (prefixes and key.startswith(prefixes))}
