"""Cards of the page as HTML: the picture, then one card per network; and the gallery of test images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from saccade.errors import UserError
from saccade.escaping import printable
from saccade.explanation import Explained, overlay
from saccade.explanation.control_maps import centre_prior
from saccade.explanation.methods import METHODS
from saccade.heat_maps import COLOURS, draw_heat_map
from saccade.metrics import sfd
from saccade.web.looks import GateView, Looks, Source
from saccade.web.networks import Network

__all__ = ["Choice", "render_cards", "render_gallery", "render_message", "render_text", "thumbnail"]

_MIN_SPAN = 0.05
"""Smallest range of a colour scale, so that noise does not appear as a pattern."""
_MAP_NAME = "map"
"""Name of the class of a network with one output map, see ``explain``."""
_MIN_THRESHOLD = 0.01
"""Smallest threshold of sfd."""
_STRIP_WIDTH = 64
"""Number of values in a strip of channels; more channels are averaged in groups."""
_THUMBNAIL_SIDE = 96
"""Longest side of an image of the gallery, in pixels."""
_PIXELATED_BELOW = 112
"""Pictures with shorter sides are enlarged without interpolation."""


@dataclass(frozen=True)
class Choice:
    """Choices of the visitor.

    Attributes:
        source: picture.
        networks: names of the networks.
        label: class of the heat maps; "" for each network's own prediction.
        layer: layer of the heat maps; "" for the automatic one.
        method: method of the heat maps.
        threshold: smallest value of a heat map that is shown and counted, from 0 to 1.
        opacity: opacity of the heat maps, from 0 to 1.
    """

    source: Source
    networks: tuple[str, ...]
    label: str
    layer: str
    method: str
    threshold: float
    opacity: float


def render_cards(looks: Looks, choice: Choice) -> str:
    """Return the cards of the chosen networks; a network that fails has a message on its card."""
    networks = [looks.networks[name] for name in choice.networks]
    cards = [_card(looks, network, choice) for network in networks]
    return render_text(
        "cards.html.j2", picture=_picture(looks, networks[0], choice), cards=cards, ramp=", ".join(COLOURS)
    )


def render_gallery(looks: Looks) -> str:
    """Return the test images as buttons; those on which the networks disagree come first."""
    examples = looks.examples
    if examples is None:
        return ""
    items = [
        {
            "index": index,
            "image": thumbnail(examples.pixels(index)),
            "truth": printable(examples.truth(index)),
            "answers": _answers(looks, index) if n < examples.n_disputed else [],
        }
        for n, index in enumerate(examples.indices)
    ]
    return render_text(
        "gallery.html.j2",
        disputed=items[: examples.n_disputed],
        others=items[examples.n_disputed :],
        n_disputed=examples.n_disputed_in_all,
        n_images=len(examples),
        n_networks=len(examples.compared),
    )


def thumbnail(pixels: Tensor) -> str:
    """Return an image uint8 (C, H, W), reduced, as a data URI."""
    image = to_pil_image(pixels)
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    return _data_uri(image)


def render_message(text: str) -> str:
    """Return a message in place of the cards."""
    return render_text("message.html.j2", text=printable(text))


def render_text(name: str, **values: Any) -> str:
    """Return the template ``name`` filled with ``values``, which are escaped."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("saccade.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _picture(looks: Looks, network: Network, choice: Choice) -> dict[str, Any]:
    """Return the variables of the card of the picture itself, as the first network sees it."""
    pixels = looks.pixels(network, choice.source)
    if choice.source.index is None or looks.examples is None:
        title, truth = "Your picture", ""
    else:
        title = f"Test image {choice.source.index}"
        truth = f"truth: {printable(looks.examples.truth(choice.source.index))}"
    return {
        "title": title, "truth": truth, "image": _data_uri(to_pil_image(pixels)), "pixelated": _is_small(pixels),
        "aspect": _aspect(pixels),
        "size": f"{pixels.shape[2]} × {pixels.shape[1]} pixels",
    }  # fmt: skip


def _card(looks: Looks, network: Network, choice: Choice) -> dict[str, Any]:
    """Return the variables of one network's card; with a problem, it shows the network's own prediction."""
    card: dict[str, Any] = {
        "name": network.name, "parameters": _count(network.parameters),
        "macs": None if network.macs is None else _count(network.macs), "note": network.prepared.note,
        "problem": "", "plane": None, "predictions": [], "gates": [], "notes": [], "score": None, "region": None,
    }  # fmt: skip
    try:
        explained = looks.explained(network, choice.source, choice.label, choice.layer, choice.method)
        card |= _plane(looks, network, explained, choice)
    except UserError as error:
        card["problem"] = printable(error)
    try:
        if card["problem"]:
            explained = looks.explained(network, choice.source, "", "", next(iter(METHODS)))
        card["predictions"] = _bars(network, explained)
        card["gates"] = _gates(looks.gates(network, choice.source))
    except UserError as error:
        card["problem"] = card["problem"] or printable(error)
    return card


def _plane(looks: Looks, network: Network, explained: Explained, choice: Choice) -> dict[str, Any]:
    """Return the heat map over the picture, its caption and its sfd."""
    ((layer, values),) = list(explained.heat_maps.items())[:1]
    pixels, index, label = explained.pixels, explained.class_index, explained.class_name
    if index is not None and label != _MAP_NAME:
        label = network.label(index)
    regions = _regions(looks, network, choice)
    region = None if index is None else regions.get(index)
    return {
        "plane": _data_uri(overlay(pixels, values, opacity=choice.opacity, threshold=choice.threshold)),
        "pixelated": _is_small(pixels), "aspect": _aspect(pixels), "layer": printable(layer), "class_name": label,
        "notes": explained.notes, "region": None if region is None else _outline(region),
        "score": _score(values, region, label, choice.threshold) if regions else None,
    }  # fmt: skip


def _score(values: Tensor, region: Tensor | None, label: str, threshold: float) -> dict[str, str]:
    """Return the sfd of a heat map and that of a map of the centre, (H, W); without a region, why it is missing."""
    if region is None or not bool(region.any()):
        return {"sfd": "–", "prior": "–", "missing": label}
    centre = centre_prior((values.shape[0], values.shape[1]))
    found, prior = (float(sfd(each, region, threshold=max(threshold, _MIN_THRESHOLD))) for each in (values, centre))
    return {"sfd": f"{found:.2f}", "prior": f"{prior:.2f}", "missing": ""}


def _regions(looks: Looks, network: Network, choice: Choice) -> dict[int, Tensor]:
    """Return the regions of classes in the shown test image, if ``network`` sees it in their geometry."""
    if choice.source.index is None or looks.examples is None or not looks.examples.is_of(network):
        return {}
    return looks.examples.regions(choice.source.index)


def _bars(network: Network, explained: Explained) -> list[dict[str, Any]]:
    """Return the predictions as bars; that of the explained class is marked."""
    return [
        {
            "name": network.label(found.index),
            "percent": f"{100 * found.value:.1f}",
            "width": f"{max(0.0, min(100.0, 100 * found.value)):.2f}",
            "chosen": found.index == explained.class_index,
        }
        for found in explained.predictions
    ]


def _gates(gates: Sequence[GateView]) -> list[dict[str, Any]]:
    """Return the gates as images on one colour scale each."""
    views = []
    for gate in gates:
        low, high = float(gate.values.min()), float(gate.values.max())
        padding = max(0.0, _MIN_SPAN - (high - low)) / 2
        values = gate.values if gate.is_map else _strip(gate.values)
        image = draw_heat_map((values - (low - padding)) / (high - low + 2 * padding))
        kind = ("gate" if gate.is_gate else "passes") + (" by position" if gate.is_map else " by channel")
        views.append(
            {
                "site": printable(gate.site),
                "image": _data_uri(image),
                "is_map": gate.is_map,
                "kind": kind,
                "aspect": _aspect(gate.values),
                "range": f"{low:.2f} – {high:.2f}",
            }
        )
    return views


def _strip(values: Tensor) -> Tensor:
    """Return channels (1, C) as (1, ``_STRIP_WIDTH``): averaged in groups, or repeated."""
    if values.shape[1] > _STRIP_WIDTH:
        return F.adaptive_avg_pool1d(values, _STRIP_WIDTH)
    return F.interpolate(values[None], _STRIP_WIDTH, mode="nearest")[0]


def _answers(looks: Looks, index: int) -> list[dict[str, str]]:
    """Return what each compared network predicts for a test image, where the saved rows hold a class."""
    answers = []
    for name in looks.examples.compared if looks.examples else ():
        network = looks.networks[name]
        if network.rows is not None and "predicted" in network.rows and network.rows["predicted"].ndim == 1:
            answers.append({"network": name, "class": network.label(int(network.rows["predicted"][index]))})
    return answers


def _outline(region: Tensor) -> str:
    """Return the outline of a region (H, W), white within black, as a transparent PNG eight times as large."""
    large = region.repeat_interleave(8, 0).repeat_interleave(8, 1)[None, None].float()
    grown, shrunk = (F.max_pool2d(large, 5, 1, 2)[0, 0], -F.max_pool2d(-large, 5, 1, 2)[0, 0])
    white = (large[0, 0] - shrunk) > 0.5
    visible = (grown - shrunk) > 0.5
    image = to_pil_image((white * 255).to(torch.uint8)).convert("LA")
    image.putalpha(to_pil_image((visible * 255).to(torch.uint8)))
    return _data_uri(image)


def _data_uri(image: Image.Image) -> Markup:
    file = io.BytesIO()
    photograph = min(image.size) > _PIXELATED_BELOW and image.mode == "RGB"
    image.save(file, "JPEG" if photograph else "PNG", quality=90)
    kind = "jpeg" if photograph else "png"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}")


def _is_small(pixels: Tensor) -> bool:
    return min(pixels.shape[-2:]) < _PIXELATED_BELOW


def _aspect(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]} / {pixels.shape[-2]}"


def _count(number: int) -> str:
    """Return a count in words that a reader takes in, such as ``8.46 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
