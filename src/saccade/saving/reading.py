"""Read a folder back into a network, after checking everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.graph.sites import Site
from saccade.saving.config import CONFIG, WEIGHTS, describe
from saccade.saving.hosts import check_named, rebuild, sketch
from saccade.saving.sketch import Limits, TooLargeError, clone, sketched
from saccade.saving.weights import check_values, compare, header, shapes_of, tensors
from saccade.surgery.mechanism import Mechanism
from saccade.surgery.plug import attach_all
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import unplug
from saccade.surgery.replace import again
from saccade.surgery.replaced import note, replaced
from saccade.trust import Trust, check_mechanism, check_numbers, trusted

__all__ = ["fill", "load", "replay"]


def load(folder: str | Path, host: nn.Module | None = None, trust: Trust = False) -> nn.Module:
    """Return the network that ``save`` wrote into ``folder``, on the CPU, in eval mode.

    A folder may name networks of timm, torchvision, segmentation_models_pytorch and Saccade, and mechanisms of the
    catalogue; anything else is not even imported, unless ``trust`` allows it. The size of what it describes is compared
    with the weights before any memory is taken.

    Args:
        folder: with ``model.safetensors`` and ``config.json``.
        host: the network without its plugs, for a folder whose ``config.json`` cannot rebuild it; it is plugged, loaded
            and returned. A host that has plugs already keeps them.
        trust: True: whatever the folder names may be imported and run. Names, ``["my.module:Class"]``: these may.

    Raises:
        UserError: a file is missing, broken, does not belong to the other or names what is not trusted; the host cannot
            be rebuilt; its keys, shapes or dtypes differ from the file's; a weight is not finite. A host that was given
            is then as it was.
    """
    folder = Path(folder)
    config = describe(folder)
    path = str(folder / CONFIG)
    given = host
    shapes = header(folder, config)
    limits = Limits(shapes)
    bare = host is None or (next(plugs_in(host), None) is None and next(replaced(host), None) is None)
    if bare:
        for row in config["plugs"] + config["replacements"]:
            check_mechanism(row["mechanism"], row["options"], path, trust)
            if not trusted(row["mechanism"], trust):
                numbers = row["options"] | {"channels": row.get("site", {}).get("channels", 0)}
                check_numbers(numbers, path, limits.largest)
    if host is None:
        if config["host"] is None:
            raise UserError(
                f"{folder} does not say how its host is made; give it: saccade.load({str(folder)!r}, host=…)"
            )
        check_named(config["host"], path, trust)
    drawing = sketch(config["host"], limits, path, trust) if host is None else clone(host) if bare else host
    if drawing is not None:
        message = f"{folder} holds another network than {type(drawing).__name__}"
        if not bare or _fits(drawing, config, limits, path, trust):
            compare(shapes, shapes_of(drawing), message)
    state = tensors(folder)
    if host is None:
        host = rebuild(config["host"], trust)
    try:
        if bare:
            replay(host, config, path)
        compare(shapes, shapes_of(host), f"{folder} holds another network than {type(host).__name__}")
        check_values(state, host, str(folder / WEIGHTS))
    except BaseException:
        if bare and given is not None:
            unplug(given)
        raise
    fill(host, state)
    for _, convolution in replaced(host):
        note(convolution).known = False
    return host.eval()


def _fits(drawing: nn.Module, config: Mapping[str, Any], limits: Limits, owner: str, trust: Trust) -> bool:
    """Plug the network on the meta device; False where a trusted mechanism cannot be built there.

    Raises:
        UserError: a row does not fit, or describes more than the weights account for.
    """
    try:
        sketched(lambda: replay(drawing, config, owner), limits, owner)
    except TooLargeError:
        raise
    except UserError:
        if any(trusted(row["mechanism"], trust) for row in config["plugs"] + config["replacements"]):
            return False
        raise
    return True


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``network`` the values and dtypes of ``state``, which has its keys and shapes."""
    for key, value in network.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[key].dtype)
    network.load_state_dict(dict(state))


def replay(host: nn.Module, config: Mapping[str, Any], owner: str) -> nn.Module:
    """Plug ``host`` and replace in it as the rows of ``config`` say.

    Args:
        host: without plugs.
        config: with ``plugs`` and ``replacements``.
        owner: the file they come from.

    Returns:
        ``host``.

    Raises:
        UserError: a row does not fit the host, or its mechanism cannot be made. The host is then as it was.
    """
    like = next(host.parameters(), torch.zeros(()))
    new = []
    with torch.random.fork_rng(devices=[]):
        for row in config["plugs"]:
            place = dict(row["site"])
            place["parent"] = place.pop("carrier")  # the file's word for it
            site = Site(**place | {"size": tuple(place["size"])})
            name, options, position = row["mechanism"], row["options"], row["position"]
            module = Mechanism.of(name).build(site, options)
            reads, neutral = tuple(row.get("reads", ())), row["neutral"]
            plug = Plug(module, site=site, name=name, options=options, position=position, neutral=neutral, reads=reads)
            new.append(plug.to(like.device))
        return attach_all(host, new, lambda: again(host, config["replacements"], owner))
