"""Predictions, gates and heat maps of one network for one picture, computed once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, cast

from torch import Tensor

from saccade.errors import UserError
from saccade.explanation import (
    Explained,
    channel_means,
    explain,
    gate_maps,
    is_spatial,
    passed_fractions,
    spatial_map,
)
from saccade.explanation.prepared_network import Picture
from saccade.surgery import sites
from saccade.web.examples import Examples
from saccade.web.networks import Network
from saccade.web.pictures import Pictures

__all__ = ["GateView", "Looks", "Source"]

_MAX_KEPT = 128
"""Number of results in memory; one holds up to 7 MB, a heat map and the pixels of a large picture."""
_MIN_CHANNELS = 8
"""Least number of channels of a layer in the list; attention maps have fewer."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Source:
    """Picture that the page shows: test image ``index``, or the uploaded picture ``name``."""

    index: int | None = None
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Return the source of ``example:12`` or ``upload:NAME``.

        Raises:
            UserError: the text has another form.
        """
        kind, _, value = text.partition(":")
        if kind == "example" and value.isascii() and value.isdigit() and len(value) < 10:
            return cls(index=int(value))
        if kind == "upload" and value:
            return cls(name=value)
        raise UserError("There is no such picture; take a test image or upload one.")


@dataclass(frozen=True)
class GateView:
    """Gate of one site.

    Attributes:
        site: path of the site.
        values: gate (H, W) over the positions, or (1, C) over the channels.
        is_map: True for positions.
        is_gate: False if ``values`` is the fraction of the feature map that passes a mechanism without gate.
    """

    site: str
    values: Tensor
    is_map: bool
    is_gate: bool


class Looks:
    """Results for the networks and pictures of one page.

    Args:
        networks: networks by name.
        examples: test images, if any.
        pictures: uploaded pictures.
    """

    def __init__(self, networks: dict[str, Network], examples: Examples | None, pictures: Pictures) -> None:
        self.networks = networks
        self.examples = examples
        self.pictures = pictures
        self._kept: OrderedDict[Hashable, object] = OrderedDict()

    def pixels(self, network: Network, source: Source) -> Tensor:
        """Return the picture as the network sees it, before normalisation, uint8 (C, H, W).

        Raises:
            UserError: there is no such picture.
        """
        return network.prepared.pixels(self._picture(network, source))

    def explained(self, network: Network, source: Source, label: str, layer: str, method: str) -> Explained:
        """Return the heat map of a class with the predictions.

        Args:
            network: one of the networks.
            source: picture.
            label: class; "" for the class that the network predicts.
            layer: path of the layer; "" for the automatic one.
            method: name of the method, see ``saccade.explain``.

        Raises:
            UserError: there is no such picture, class, layer or method, or they do not go together.
        """
        index = network.class_index(label) if label else None

        def compute() -> Explained:
            picture, layers = self._picture(network, source), [layer] if layer else None
            explanation = explain(network.prepared, [picture], classes=index, layers=layers, method=method)
            return explanation.rows[0][0]

        return self._once((network.name, source, index, layer, method), compute)

    def gates(self, network: Network, source: Source) -> tuple[GateView, ...]:
        """Return the gates of the plugs, from input to output.

        Raises:
            UserError: there is no such picture.
        """

        def compute() -> tuple[GateView, ...]:
            images = network.prepared.tensor(self._picture(network, source))[None]
            return tuple(_gate_views(network, images))

        return self._once(("gates", network.name, source), compute)

    def layers(self, network: Network) -> tuple[str, ...]:
        """Return the paths of the last feature maps before the size changes, from input to output."""
        return self._once(("layers", network.name), lambda: _layers(network))

    def _picture(self, network: Network, source: Source) -> Picture:
        """Return a picture for ``network.prepared``; test images of its own data are normalised already."""
        if source.index is None:
            return self.pictures.get(source.name)
        if self.examples is None or source.index >= len(self.examples):
            raise UserError("There is no such test image.")
        if self.examples.is_of(network):
            return self.examples.tensor(source.index)
        return self.examples.picture(source.index)

    def _once(self, key: Hashable, compute: Callable[[], _Result]) -> _Result:
        if key not in self._kept:
            self._kept[key] = compute()
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return cast(_Result, self._kept[key])


def _gate_views(network: Network, images: Tensor) -> list[GateView]:
    gates = gate_maps(network.prepared.module, images)
    views = []
    for site, fraction in passed_fractions(network.prepared.module, images).items():
        gate = gates.get(site)
        if gate is None:
            views.append(GateView(site, fraction[0], is_map=True, is_gate=False))
        elif is_spatial(gate):
            views.append(GateView(site, spatial_map(gate)[0], is_map=True, is_gate=True))
        else:
            views.append(GateView(site, channel_means(gate), is_map=False, is_gate=True))
    return views


def _layers(network: Network) -> tuple[str, ...]:
    try:
        found = sites(network.prepared.module, network.size)
    except UserError:
        return ()
    maps = [(site.path, site.size) for site in found if min(site.size) > 1 and site.channels >= _MIN_CHANNELS]
    ends = [path for (path, size), (_, next_size) in pairwise([*maps, ("", None)]) if size != next_size]
    return tuple(dict.fromkeys(ends))
