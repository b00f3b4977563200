"""The plugs of a finished run, taken over by a network that has the same ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from saccade.models import is_of_attention, saved_network
from saccade.surgery import plugs
from saccade.surgery.replace import replacement_rows

__all__ = ["inherit"]

_log = logging.getLogger("saccade")


def inherit(network: nn.Module, folder: Path) -> None:
    """Give ``network`` the plugs of the run in ``folder``, or log why they are left out.

    Args:
        network: with the host of that run.
        folder: of a finished run.

    Raises:
        UserError: it holds none.
    """
    saved = saved_network(folder)
    theirs = {row["site"]["path"]: _facts(row["mechanism"], row["options"], row["neutral"]) for row in saved["plugs"]}
    theirs |= {row["convolution"]: _facts(row["mechanism"], row["options"], None) for row in saved["replacements"]}
    ours = {row.site: _facts(row.mechanism, row.module.options, row.module.a is not None) for row in plugs(network)}
    ours |= {row["convolution"]: _facts(row["mechanism"], row["options"], None) for row in replacement_rows(network)}
    if ours == theirs:
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({key: value for key, value in weights.items() if is_of_attention(key)}, strict=False)
    elif theirs:
        names, many = ", ".join(sorted({name for name, *_ in theirs.values()})), len(theirs)
        sites = f"{many} site{'s' * (many > 1)}"
        _log.warning("%s: its %s at %s is left out; this run does not have the same", folder, names, sites)


def _facts(mechanism: str, options: Any, neutral: bool | None) -> tuple[str, str, bool | None]:
    return mechanism, json.dumps(options, sort_keys=True), neutral
