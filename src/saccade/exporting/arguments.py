"""Check the arguments of ``export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.errors import UserError
from saccade.graph.hosts import check_network

__all__ = ["RESERVED", "check_arguments", "check_class_count"]

RESERVED = ("host", "plugs", "replacements", "input", "classes", "smallest", "multiple")
"""Metadata keys that the exporter writes itself."""


def check_arguments(model: Any, host: Any, classes: Any, metadata: Mapping[str, Any]) -> None:
    """Raise UserError unless the arguments of ``export`` are valid.

    They must have the right types, ``metadata`` no reserved key, and the network no DataParallel or meta device.
    """
    check_network(model, "the model")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(f"{type(model).__name__} spreads a network over devices: export its .module")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UserError(f"{type(model).__name__} is on the meta device, without values: load its weights first")
    if host is not None and not isinstance(host, Mapping):
        raise UserError(f"host is a mapping such as {{'timm': 'resnet18'}}; got {host!r}")
    if classes is not None and (
        isinstance(classes, str) or not isinstance(classes, Sequence) or not all(isinstance(n, str) for n in classes)
    ):
        raise UserError(f"classes is a list of names; got {classes!r}")
    reserved = sorted(set(metadata) & set(RESERVED))
    if reserved:
        raise UserError(
            f"the metadata keys {', '.join(reserved)} are reserved, because export writes them; use other names"
        )


def check_class_count(classes: Sequence[str] | None, outputs: Sequence[Tensor]) -> None:
    """Raise UserError unless there are as many classes as logits; one logit may stand for two classes.

    Only a network with a single output (B, logits) is checked.
    """
    if classes is None or len(outputs) != 1 or outputs[0].ndim != 2:
        return
    n_logits = outputs[0].shape[1]
    if len(classes) != n_logits and (n_logits, len(classes)) != (1, 2):
        raise UserError(
            f"classes has {len(classes)} names, but the network returns {n_logits} values per image; give that many"
        )
