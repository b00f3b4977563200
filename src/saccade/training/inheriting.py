"""Plug weights of a finished run, loaded into a network that has the same plugs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from saccade.models import is_attention_key, saved_network_config
from saccade.surgery import plugs
from saccade.surgery.replace import replacement_rows

__all__ = ["load_plug_weights"]

_log = logging.getLogger("saccade")


def load_plug_weights(network: nn.Module, folder: Path) -> None:
    """Load the plug weights of the run in ``folder``, or log a warning if ``network`` has other plugs.

    Raises:
        UserError: the folder has no finished run.
    """
    saved = saved_network_config(folder)
    saved_plugs = {
        row["site"]["path"]: _plug_signature(row["mechanism"], row["options"], row["neutral"]) for row in saved["plugs"]
    }
    saved_plugs |= {
        row["convolution"]: _plug_signature(row["mechanism"], row["options"], None) for row in saved["replacements"]
    }
    network_plugs = {
        row.site: _plug_signature(row.mechanism, row.module.options, row.module.a is not None) for row in plugs(network)
    }
    network_plugs |= {
        row["convolution"]: _plug_signature(row["mechanism"], row["options"], None) for row in replacement_rows(network)
    }
    if network_plugs == saved_plugs:
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({key: value for key, value in weights.items() if is_attention_key(key)}, strict=False)
    elif saved_plugs:
        names, count = ", ".join(sorted({name for name, *_ in saved_plugs.values()})), len(saved_plugs)
        sites = f"{count} site{'s' * (count > 1)}"
        _log.warning(
            "%s: the weights of %s at %s are not loaded, because this run has other plugs", folder, names, sites
        )


def _plug_signature(mechanism: str, options: Any, neutral: bool | None) -> tuple[str, str, bool | None]:
    return mechanism, json.dumps(options, sort_keys=True), neutral
