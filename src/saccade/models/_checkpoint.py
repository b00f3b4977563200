"""Start a host from trained weights: a safetensors file, or the folder of a finished run."""

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
from saccade.parent_class import CHILD
from saccade.recipe import Model
from saccade.runfiles import SavedNetwork, read, read_done

__all__ = ["head_of", "is_of_attention", "metadata", "saved_network", "start_from"]

_log = logging.getLogger("saccade")
_WEIGHTS = "model.safetensors"


def start_from(host: nn.Module, model: Model) -> None:
    """Load the weights that ``model`` names; a head of another size stays as it was drawn, with a warning.

    Those of a classifier start the encoder of a host that has one.

    Raises:
        UserError: there is no such file or run, or it holds the weights of another network.
    """
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        facts = metadata(path)
        made_for = facts.get("architecture", "")
        name = str(model.options.get("encoder", model.name)).partition(".")[0]
        if is_model(made_for) and made_for != name:
            raise UserError(
                f"model.checkpoint: {brief(path)} says that its weights are of {brief(made_for)!r}; model.name is "
                f"{name!r}"
            )
        _load_whole_or_encoder(host, model, _weights(path), f"model.checkpoint: {path}")
    elif model.init_from is not None:
        folder = Path(model.init_from)
        replaced = [str(row["convolution"]) for row in saved_network(folder)["replacements"]]
        weights = {key: value for key, value in _weights(folder / _WEIGHTS).items() if not is_of_attention(key)}
        _load_whole_or_encoder(host, model, weights, f"model.init_from: {folder}", replaced)


def metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says of its weights.

    Raises:
        UserError: there is no such file, or it is no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        near = did_you_mean(path.name, _siblings(path))
        raise UserError(f"model.checkpoint: there is no file {path}.{near}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.checkpoint: {path} is no readable safetensors file: {error}") from None


def saved_network(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a finished run says of its network.

    Raises:
        UserError: ``folder`` is no run, or one that is not finished.
    """
    if not folder.is_dir():
        raise UserError(f"model.init_from: there is no folder {folder}.{did_you_mean(folder.name, _siblings(folder))}")
    found = read(folder / "config.json", SavedNetwork)
    if found is None or read_done(folder / "done.json") is None or not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"model.init_from: {folder} holds no finished run; one with done.json, config.json and {_WEIGHTS} is needed"
        )
    return {"plugs": [], "replacements": [], **found}


def head_of(host: nn.Module) -> set[str]:
    """Return the paths of the host's classifiers, as timm declares them."""
    declared = getattr(host, "default_cfg", {}).get("classifier") or ()
    return {declared} if isinstance(declared, str) else set(declared)


def is_of_attention(key: str) -> bool:
    """Return whether a key of a state dict belongs to a plug or to what stands in the place of a convolution."""
    return any(part in (CHILD, f"{CHILD}_conv") for part in key.split("."))


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file: {error}") from None


def _load_whole_or_encoder(
    host: nn.Module, model: Model, weights: Mapping[str, Tensor], owner: str, free: Collection[str] = ()
) -> None:
    if "encoder" in model.options and not any(key.startswith("encoder.") for key in weights):
        host = host.get_submodule("encoder")
        own = host.state_dict().keys()
        if rest := [key for key in weights if key not in own]:
            _log.warning(
                "%s: %d tensors beyond the encoder are left out, such as %s",
                owner.partition(": ")[2],
                len(rest),
                rest[0],
            )
        weights = {key: value for key, value in weights.items() if key in own}
    _load(host, weights, owner, free)


def _load(host: nn.Module, weights: Mapping[str, Tensor], owner: str, free: Collection[str] = ()) -> None:
    """Give ``host`` the ``weights``; what lies in the head or in the modules ``free`` may be missing.

    Raises:
        UserError: they are of another network.
    """
    own: dict[str, Tensor] = host.state_dict()
    in_head = {key for key in own if any(key.startswith(f"{path}.") for path in head_of(host))}
    in_free = {key for key in own if key.rpartition(".")[0] in free}
    left_out: list[str] = []
    wrong: list[str] = []
    missing: list[str] = []
    for key, value in own.items():
        if key not in weights:
            missing.append(key)
        elif weights[key].shape != value.shape:
            (left_out if key in in_head else wrong).append(
                f"{key} {tuple(weights[key].shape)} for {tuple(value.shape)}"
            )
    headless = bool(in_head) and in_head <= set(missing)
    lost = set(missing) - in_free - (in_head if headless else set())
    foreign = [key for key in weights if key not in own]
    if foreign or wrong or lost:
        parts = (("missing", missing), ("unknown", foreign), ("of another shape", wrong))
        found = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}"
                          for what, keys in parts if keys)  # fmt: skip
        raise UserError(f"{owner} holds the weights of another network ({found})")
    where = owner.partition(": ")[2]
    if headless:
        _log.warning("%s has no head; it starts at random", where)
    elif left_out:
        _log.warning("%s: the head is of another size and is left out (%s)", where, "; ".join(left_out))
    if rest := in_free & set(missing):
        _log.warning("%s: convolutions that were replaced start at random: %s", where, ", ".join(sorted(rest)))
    fresh = set(missing) | (in_head if left_out else set())
    host.load_state_dict({key: value if key in fresh else weights[key] for key, value in own.items()})


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
