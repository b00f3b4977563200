"""Load a network from a folder, after checking every file in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.graph.sites import Site
from saccade.saving.config import CONFIG, WEIGHTS, describe
from saccade.saving.hosts import check_host_name, rebuild, rebuild_on_meta_device
from saccade.saving.meta_device import Limits, TooLargeError, call_on_meta_device, copy_on_meta_device
from saccade.saving.weights import check_values, compare_shapes, read_shapes, read_tensors, shapes_of
from saccade.surgery.mechanism import Mechanism
from saccade.surgery.plug import attach_all
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import unplug
from saccade.surgery.replace import repeat_replacements
from saccade.surgery.replaced import replaced_convolutions, replacement_info
from saccade.trust import Trust, check_mechanism, check_numbers, is_trusted

__all__ = ["apply_config", "load", "load_values"]


def load(folder: str | Path, host: nn.Module | None = None, trust: Trust = False) -> nn.Module:
    """Return the network that ``save`` wrote into ``folder``, on the CPU, in eval mode.

    A folder may name networks of timm, torchvision, segmentation_models_pytorch and Saccade, and mechanisms of the
    catalogue; anything else is imported only if ``trust`` allows it.

    Args:
        folder: folder with ``model.safetensors`` and ``config.json``.
        host: the network, needed if ``config.json`` does not describe it. It is modified in place and returned, with
            its plugs.
        trust: True allows all names; a list, such as ``["my.module:Class"]``, allows the names in it.

    Raises:
        UserError: a file is missing or broken, or the two files do not belong together; a name is not trusted; the host
            cannot be rebuilt; keys, shapes or dtypes differ; a weight is not finite. ``host`` is then
            unchanged.
    """
    folder = Path(folder)
    config = describe(folder)
    config_path = str(folder / CONFIG)
    given_host = host
    shapes = read_shapes(folder, config)
    limits = Limits(shapes)
    needs_plugs = host is None or (
        next(plugs_in(host), None) is None and next(replaced_convolutions(host), None) is None
    )
    if needs_plugs:
        for entry in config["plugs"] + config["replacements"]:
            check_mechanism(entry["mechanism"], entry["options"], config_path, trust)
            if not is_trusted(entry["mechanism"], trust):
                values_to_bound = entry["options"] | {"channels": entry.get("site", {}).get("channels", 0)}
                check_numbers(values_to_bound, config_path, limits.max_option)
    if host is None:
        if config["host"] is None:
            raise UserError(
                f"{folder} does not say how its host is built; give it: saccade.load({str(folder)!r}, host=…)"
            )
        check_host_name(config["host"], config_path, trust)
    if host is None:
        meta_network = rebuild_on_meta_device(config["host"], limits, config_path, trust)
    else:
        meta_network = copy_on_meta_device(host) if needs_plugs else host
    if meta_network is not None:
        message = f"{folder} holds another network than {type(meta_network).__name__}"
        if not needs_plugs or _apply_on_meta_device(meta_network, config, limits, config_path, trust):
            compare_shapes(shapes, shapes_of(meta_network), message)
    state = read_tensors(folder)
    if host is None:
        host = rebuild(config["host"], trust)
    try:
        if needs_plugs:
            apply_config(host, config, config_path)
        compare_shapes(shapes, shapes_of(host), f"{folder} holds another network than {type(host).__name__}")
        check_values(state, host, str(folder / WEIGHTS))
    except BaseException:
        if needs_plugs and given_host is not None:
            unplug(given_host)
        raise
    load_values(host, state)
    for _, convolution in replaced_convolutions(host):
        replacement_info(convolution).has_original_kernel = False  # the file lacks the original kernel
    return host.eval()


def _apply_on_meta_device(
    network: nn.Module, config: Mapping[str, Any], limits: Limits, subject: str, trust: Trust
) -> bool:
    """Apply ``config`` to ``network`` on the meta device; return False if a trusted mechanism cannot be built there.

    Raises:
        UserError: an entry does not fit the network, or exceeds the limits.
    """
    try:
        call_on_meta_device(lambda: apply_config(network, config, subject), limits, subject)
    except TooLargeError:
        raise
    except UserError:
        if any(is_trusted(entry["mechanism"], trust) for entry in config["plugs"] + config["replacements"]):
            return False
        raise
    return True


def load_values(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the values and dtypes of ``network`` to those of ``state``, which has its keys and shapes."""
    for key, value in network.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[key].dtype)
    network.load_state_dict(dict(state))


def apply_config(host: nn.Module, config: Mapping[str, Any], subject: str) -> nn.Module:
    """Attach the plugs and make the replacements in ``config``, and return ``host``; ``subject`` begins the messages.

    Raises:
        UserError: an entry does not fit the host, or a mechanism cannot be built. The host is then unchanged.
    """
    parameter = next(host.parameters(), torch.zeros(()))
    new_plugs = []
    with torch.random.fork_rng(devices=[]):
        for entry in config["plugs"]:
            values = dict(entry["site"])
            values["parent"] = values.pop("carrier")  # the file's key
            site = Site(**values | {"size": tuple(values["size"])})
            name, options, position = entry["mechanism"], entry["options"], entry["position"]
            module = Mechanism.resolve(name).build(site, options)
            reads, neutral = tuple(entry.get("reads", ())), entry["neutral"]
            plug = Plug(module, site=site, name=name, options=options, position=position, neutral=neutral, reads=reads)
            new_plugs.append(plug.to(parameter.device))
        return attach_all(host, new_plugs, lambda: repeat_replacements(host, config["replacements"], subject))
