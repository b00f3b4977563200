"""Read and check ``model.safetensors``: the shapes before a network is built, the tensors afterwards."""

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
from saccade.saving.wrappers import wrapper_prefix

__all__ = [
    "check_values", "compare_shapes", "file_digest", "read_shapes", "read_tensors", "shapes_of", "state_for_saving",
]  # fmt: skip

Shapes = dict[str, tuple[int, ...]]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_COMPLEX = (torch.complex64, torch.complex128)
_FAMILIES = {"floating": _FLOATS, "integer": _INTEGERS, "complex": _COMPLEX, "bool": (torch.bool,)}
"""Maps dtype family to dtypes; a saved tensor needs the family of the network's tensor."""


def read_shapes(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the tensors in the weights file, by key, without reading the tensors.

    Raises:
        UserError: the file is missing, broken, or not the one ``config`` was written for.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} is incomplete: {WEIGHTS} is missing")
    try:
        if file_digest(path) != config["sha256"]:
            raise UserError(f"{path} is damaged or not the file that {CONFIG} was written for: its SHA-256 differs")
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in the weights file, by key.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        # Besides its own error, safetensors passes on torch's errors for an unknown dtype or a wrong size.
        raise UserError(f"{folder / WEIGHTS} cannot be read: {brief(error)}") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_for_saving(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as safetensors needs it: contiguous, on the CPU, no two tensors sharing storage."""
    state: dict[str, Tensor] = {}
    pointers = set()
    for key, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in pointers:
            tensor = tensor.clone()
        if tensor.numel():
            pointers.add(tensor.untyped_storage().data_ptr())
        state[key] = tensor
    return state


def shapes_of(network: nn.Module) -> Shapes:
    """Return the shapes of the network's state dict, by key."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def compare_shapes(
    in_file: Shapes, in_network: Shapes, intro: str, names: tuple[str, str] = ("the file", "the network")
) -> None:
    """Compare keys and shapes; ``names`` says what the two are.

    Raises:
        UserError: they differ. The text is ``intro``, the differences, and a prefix that all keys of the file share.
    """
    file_name, network_name = names
    different = [key for key in in_file if key in in_network and in_file[key] != in_network[key]]
    differences = (
        (f"{network_name} has no", [brief(key) for key in in_file if key not in in_network]),
        (f"{file_name} has no", [brief(key) for key in in_network if key not in in_file]),
        (
            "different shapes:",
            [
                f"{brief(key)} is {in_file[key]} in {file_name} and {in_network[key]} in {network_name}"
                for key in different
            ],
        ),
    )
    sentences = [
        f"{text} {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for text, keys in differences if keys
    ]  # fmt: skip
    if not sentences:
        return
    prefix = wrapper_prefix(in_file, in_network)
    if prefix is not None:
        sentences.append(
            f"every key of {file_name} begins with {brief(prefix)!r}, which no key of {network_name} does: it was "
            f"saved from a wrapper; save the network inside, saccade.save(model.{brief(prefix.rstrip('.'))}, …)"
        )
    raise UserError(f"{intro}: {'; '.join(sentences)}")


def check_values(state: Mapping[str, Tensor], network: nn.Module, subject: str) -> None:
    """Raise UserError unless each tensor is finite and of the same dtype family as the network's tensor.

    The families are floating (16 to 64 bit), integer, complex and bool. A value of a buffer may be infinite or NaN
    if the network's own value is not finite, as in an attention mask.
    """
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for key, expected in network.state_dict().items():
        tensor = state[key]
        family = next((name for name, dtypes in _FAMILIES.items() if expected.dtype in dtypes), None)
        if tensor.dtype != expected.dtype and tensor.dtype not in _FAMILIES.get(family or "", ()):
            dtype = _dtype_name(expected.dtype)
            needed = dtype if family is None else f"a {family} dtype such as {dtype}"
            raise UserError(f"{subject}: {brief(key)} is of dtype {_dtype_name(tensor.dtype)}; {needed} is needed")
        if family not in ("floating", "complex"):
            continue
        not_finite = ~torch.isfinite(tensor)
        if key not in parameters and not expected.is_meta:
            not_finite &= torch.isfinite(expected).to(not_finite.device)
        if count := int(not_finite.sum()):
            raise UserError(
                f"{subject}: {brief(key)} holds {count:,} values of {tensor.numel():,} that are infinite or "
                "NaN; all weights must be finite"
            )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
