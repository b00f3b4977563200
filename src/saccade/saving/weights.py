"""``model.safetensors``: its header before anything is built, its tensors afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.escaping import brief
from saccade.saving.config import CONFIG, WEIGHTS
from saccade.saving.wrappers import prefix

__all__ = ["check_values", "compare", "digest", "header", "shapes_of", "state_of", "tensors"]

Shapes = dict[str, tuple[int, ...]]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_COMPLEX = (torch.complex64, torch.complex128)
_FAMILIES = {"floating": _FLOATS, "integer": _INTEGERS, "complex": _COMPLEX, "bool": (torch.bool,)}


def header(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the tensors in the file of weights, reading none of them.

    Raises:
        UserError: the file is missing, broken, or not the one that ``config`` was written for.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} is half a checkpoint: {WEIGHTS} is missing")
    try:
        if digest(path) != config["sha256"]:
            raise UserError(f"{path} is damaged or not the file that {CONFIG} was written for: its SHA-256 differs")
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from None


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in the file of weights.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        # Beside its own error, safetensors raises what torch raises for a dtype or a size it does not have.
        raise UserError(f"{folder / WEIGHTS} cannot be read: {brief(error)}") from None


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as safetensors needs it: contiguous, on the CPU, no two tensors of one memory."""
    state: dict[str, Tensor] = {}
    seen = set()
    for key, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        if tensor.numel():
            seen.add(tensor.untyped_storage().data_ptr())
        state[key] = tensor
    return state


def shapes_of(network: nn.Module) -> Shapes:
    """Return the shapes of the network's state dict, by key."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def compare(wanted: Shapes, found: Shapes, message: str) -> None:
    """Raise UserError that names the keys and shapes in which a file (``wanted``) and a network (``found``) differ.

    Raises:
        UserError: they differ; a prefix that the keys of the file have is named.
    """
    parts = (
        ("the network has no", [brief(key) for key in wanted if key not in found]),
        ("the file has no", [brief(key) for key in found if key not in wanted]),
        ("of another shape", [f"{brief(key)} {wanted[key]} for {found[key]}" for key in wanted
                              if key in found and wanted[key] != found[key]]),
    )  # fmt: skip
    said = [f"{what} {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for what, keys in parts if keys]
    if not said:
        return
    outer = prefix(wanted, found)
    if outer is not None:
        said.append(
            f"every key of the file begins with {brief(outer)!r}, which no key of the network does: it was saved "
            f"from a wrapper; save the network inside, saccade.save(model.{brief(outer.rstrip('.'))}, …)"
        )
    raise UserError(f"{message}: {'; '.join(said)}")


def check_values(state: Mapping[str, Tensor], network: nn.Module, owner: str) -> None:
    """Raise UserError unless each tensor is of its dtype family and finite.

    The families are floating (16 to 64 bit), integer, complex and bool. A value may be infinite or NaN where the new
    network's own buffer is, as in a mask of attention.

    Args:
        state: the tensors of the file.
        network: with the same keys.
        owner: the file.

    Raises:
        UserError: a tensor is of another family, or holds values that are not finite; it is named.
    """
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for key, own in network.state_dict().items():
        tensor = state[key]
        family = next((name for name, dtypes in _FAMILIES.items() if own.dtype in dtypes), None)
        if tensor.dtype != own.dtype and tensor.dtype not in _FAMILIES.get(family or "", ()):
            dtypes = _spoken(own.dtype) if family is None else f"a {family} dtype such as {_spoken(own.dtype)}"
            raise UserError(f"{owner}: {brief(key)} is of dtype {_spoken(tensor.dtype)}; {dtypes} is needed")
        if family not in ("floating", "complex"):
            continue
        wrong = ~torch.isfinite(tensor)
        if key not in parameters and not own.is_meta:
            wrong &= torch.isfinite(own).to(wrong.device)
        if count := int(wrong.sum()):
            raise UserError(
                f"{owner}: {brief(key)} holds {count:,} values of {tensor.numel():,} that are infinite or no "
                "number; all weights must be finite"
            )


def _spoken(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
