"""Load trained weights into a host, from a safetensors file or the folder of a finished run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import is_model
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.models._dense import encoder_of
from saccade.parent_class import CHILD
from saccade.recipe import Model
from saccade.runfiles import SavedNetwork, read, read_done

__all__ = ["head_paths", "is_attention_key", "load_initial_weights", "read_metadata", "saved_network_config"]

_log = logging.getLogger("saccade")
_WEIGHTS_FILE = "model.safetensors"
_ENCODER_PATHS = ("encoder", "backbone.encoder", "network.model.backbone.model")
"""Paths of the encoder in dense networks and in detectors."""


def load_initial_weights(host: nn.Module, model: Model) -> None:
    """Load the weights that ``model.checkpoint`` or ``model.init_from`` names into ``host``.

    If the shape of the head differs, the host keeps its random head, with a warning. If the host has an encoder and the
    weights are those of a classifier, they are loaded into the encoder. A host's method
    ``convert_weights`` may rename the keys of a checkpoint.

    Raises:
        UserError: the file or run does not exist, or holds the weights of another network.
    """
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        saved_architecture = read_metadata(path).get("architecture", "")
        names = [str(name).partition(".")[0] for name in (encoder_of(model), model.name) if name is not None]
        if is_model(saved_architecture) and saved_architecture not in names:
            raise UserError(
                f"model.checkpoint: {brief(path)} says that its weights are of {brief(saved_architecture)!r}; "
                f"{'the encoder' if names[1:] else 'model.name'} is {names[0]!r}"
            )
        weights = _read_weights(path)
        if (convert := getattr(host, "convert_weights", None)) is not None:
            weights = convert(weights)
        _load_host_or_encoder(host, model, weights, "model.checkpoint", path)
    elif model.init_from is not None:
        folder = Path(model.init_from)
        replaced_convolutions = [
            str(replacement["convolution"]) for replacement in saved_network_config(folder)["replacements"]
        ]
        weights = {
            key: value for key, value in _read_weights(folder / _WEIGHTS_FILE).items() if not is_attention_key(key)
        }
        _load_host_or_encoder(host, model, weights, "model.init_from", folder, replaced_convolutions)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file.

    Raises:
        UserError: the file does not exist, or is not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        suggestion = did_you_mean(path.name, _siblings(path))
        raise UserError(f"model.checkpoint: there is no file {path}.{suggestion}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.checkpoint: {path} is not a readable safetensors file: {error}") from None


def saved_network_config(folder: Path) -> dict[str, Any]:
    """Return the description of the network in ``config.json`` of a finished run.

    Raises:
        UserError: ``folder`` is not the folder of a finished run.
    """
    if not folder.is_dir():
        raise UserError(f"model.init_from: there is no folder {folder}.{did_you_mean(folder.name, _siblings(folder))}")
    config = read(folder / "config.json", SavedNetwork)
    if config is None or read_done(folder / "done.json") is None or not (folder / _WEIGHTS_FILE).is_file():
        raise UserError(
            f"model.init_from: {folder} holds no finished run; one with done.json, config.json and {_WEIGHTS_FILE} is "
            "needed"
        )
    return {"plugs": [], "replacements": [], **config}


def head_paths(host: nn.Module) -> set[str]:
    """Return the module paths of the host's heads, which timm names in ``default_cfg["classifier"]``."""
    classifier = getattr(host, "default_cfg", {}).get("classifier") or ()
    return {classifier} if isinstance(classifier, str) else set(classifier)


def is_attention_key(key: str) -> bool:
    """Return True if a state dict key belongs to a plug or to a module that replaced a convolution."""
    return any(name in (CHILD, f"{CHILD}_conv") for name in key.split("."))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None


def _load_host_or_encoder(
    host: nn.Module,
    model: Model,
    weights: Mapping[str, Tensor],
    setting: str,
    path: Path,
    optional_modules: Collection[str] = (),
) -> None:
    """Load ``weights`` into ``host``, or into its encoder if no key is below the encoder's path.

    ``setting`` and ``path`` name the source of the weights in messages; ``optional_modules`` as in :func:`_load`.
    """
    encoder_path = _encoder_path(host) if encoder_of(model) is not None else None
    if encoder_path is not None and not any(key.startswith(f"{encoder_path}.") for key in weights):
        encoder = _network_of_timm(host.get_submodule(encoder_path))
        keys = {key: _classifier_key(key, weights) for key in encoder.state_dict()}
        loaded = {key: weights[name] for key, name in keys.items() if name in weights}
        extra_keys = [key for key in weights if key not in keys.values()]
        if loaded and extra_keys:
            _log.warning(
                "%s: %d tensors are for the encoder; %d tensors beyond the encoder are left out, such as %s",
                path, len(loaded), len(extra_keys), extra_keys[0],
            )  # fmt: skip
        if loaded:
            host, weights = encoder, loaded
    _load(host, weights, setting, path, optional_modules)


def _encoder_path(host: nn.Module) -> str | None:
    """Return the path of the host's encoder, or None if it is at neither of the usual paths."""
    paths = {path for path, _ in host.named_modules()}
    return next((path for path in _ENCODER_PATHS if path in paths), None)


def _network_of_timm(encoder: nn.Module) -> nn.Module:
    """Return the timm network that ``encoder`` is, or that the encoder of an ``EncoderDecoder`` holds."""
    network = getattr(encoder, "model", encoder)
    return network if isinstance(network, nn.Module) else encoder


def _classifier_key(key: str, weights: Mapping[str, Tensor]) -> str:
    """Return the key in the weights of a classifier for ``key`` of timm's feature extractor.

    The extractor may write the first two names as one: ``stages_0`` for ``stages.0``.
    """
    first, _, rest = key.partition(".")
    split = [f"{first[:i]}.{first[i + 1 :]}.{rest}" for i, letter in enumerate(first) if letter == "_"]
    return next((name for name in (key, *split) if name in weights), key)


def _load(
    host: nn.Module,
    weights: Mapping[str, Tensor],
    setting: str,
    path: Path,
    optional_modules: Collection[str] = (),
) -> None:
    """Load ``weights`` into ``host``; they may lack the head and ``optional_modules``.

    Raises:
        UserError: the weights are of another network.
    """
    state: dict[str, Tensor] = host.state_dict()
    weights = _sum_input_channels(weights, state, path)
    heads = [{key for key in state if key.startswith(f"{path}.")} for path in sorted(head_paths(host))]
    head_keys = {key for head in heads for key in head}
    optional_keys = {key for key in state if key.rpartition(".")[0] in optional_modules}
    head_mismatches: dict[str, str] = {}
    mismatches: list[str] = []
    missing_keys: list[str] = []
    for key, value in state.items():
        if key not in weights:
            missing_keys.append(key)
        elif weights[key].shape != value.shape:
            message = f"{key} {tuple(weights[key].shape)} for {tuple(value.shape)}"
            if key in head_keys:
                head_mismatches[key] = message
            else:
                mismatches.append(message)
    missing_heads = {key for head in heads if head <= set(missing_keys) for key in head}
    missing_required = set(missing_keys) - optional_keys - missing_heads
    unknown_keys = [key for key in weights if key not in state]
    if unknown_keys or mismatches or missing_required:
        differences = (("missing", missing_keys), ("unknown", unknown_keys), ("of another shape", mismatches))
        counts = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for kind, keys in differences if keys
        )
        raise UserError(f"{setting}: {path} holds the weights of another network ({counts})")
    if missing_heads:
        _log.warning("%s has no head; it starts at random", path)
    if head_mismatches:
        _log.warning("%s: the head is of another size and is left out (%s)", path, "; ".join(head_mismatches.values()))
    if missing_optional_keys := optional_keys & set(missing_keys):
        names = ", ".join(sorted(missing_optional_keys))
        _log.warning("%s: convolutions that were replaced start at random: %s", path, names)
    modules = {key.rpartition(".")[0] for key in head_mismatches}
    random_keys = set(missing_keys) | {key for key in head_keys if key.rpartition(".")[0] in modules}
    host.load_state_dict({key: value if key in random_keys else weights[key] for key, value in state.items()})


def _sum_input_channels(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Return ``weights`` with the first convolution summed over three channels, if ``state`` has one there.

    The sum gives the output for three equal channels.
    """
    keys = [
        key
        for key, value in state.items()
        if value.ndim == 4 and key in weights and _input_channels(weights[key], value) == (3, 1)
    ]
    if len(keys) != 1:
        return weights
    (key,) = keys
    _log.warning("%s: %s is for three channels; they are summed for grey images", path, key)
    return {**weights, key: weights[key].sum(1, keepdim=True)}


def _input_channels(saved: Tensor, built: Tensor) -> tuple[int, int] | None:
    """Return the input channels of two kernels (O, C, k, k), or None if they differ in more than these."""
    same_elsewhere = saved.ndim == 4 and saved.shape[:1] + saved.shape[2:] == built.shape[:1] + built.shape[2:]
    return (saved.shape[1], built.shape[1]) if same_elsewhere else None


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
