"""The result of ``saccade.explain``: activation maps, predictions and gates of networks on pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from saccade.errors import UserError
from saccade.explanation.gates import channel_means, is_spatial, spatial_map
from saccade.explanation.regions import RegionScores
from saccade.files import write_atomically

__all__ = ["Explained", "Explanation", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """One class that a network predicts.

    Attributes:
        index: index of the class, or label of a detection.
        name: name of the class.
        value: probability, share of the pixels, or score of the box.
        box: (left, top, right, bottom) in pixels of the input, for a detection.
    """

    index: int
    name: str
    value: float
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Explained:
    """One network on one picture.

    Attributes:
        pixels: the picture as the network saw it, uint8 (C, H, W).
        class_index: the class explained; None if a detector found nothing.
        class_name: its name.
        value: its probability, share of the pixels or best score; None if unknown.
        predictions: the best predictions.
        heat_maps: Maps layer to map (H, W) from 0 to 1.
        gates: Maps site to effective gate (C | 1, h | 1, w | 1).
        notes: what to know about the maps.
        region: scores of the maps in a region, if one was given.
    """

    pixels: Tensor
    class_index: int | None
    class_name: str
    value: float | None
    predictions: tuple[Prediction, ...]
    heat_maps: dict[str, Tensor]
    gates: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    region: RegionScores | None = None


@dataclass(frozen=True)
class Explanation:
    """Activation maps of networks on pictures.

    Attributes:
        method: title of the method, such as Grad-CAM.
        images: names of the pictures.
        networks: names of the networks.
        rows: for each picture, one entry per network.
        notes: sentences on the networks.
    """

    method: str
    images: list[str]
    networks: list[str]
    rows: list[list[Explained]]
    notes: list[str] = field(default_factory=list)

    def save(self, path: str | Path, *, opacity: float = 0.5, threshold: float = 0.0) -> Path:
        """Write a sheet of pictures as ``path``, by its suffix as an image (.png) or a page (.html); return the path.

        Args:
            path: the file.
            opacity: opacity of the maps, from 0 to 1.
            threshold: values below it are not drawn.

        Raises:
            UserError: the suffix is another, the file cannot be written, or a number is outside 0 to 1.
        """
        from saccade.explanation.page import render_page
        from saccade.explanation.sheet import draw_sheet, png_bytes

        path = Path(path)
        if path.suffix.lower() == ".png":
            content: str | bytes = png_bytes(draw_sheet(self, opacity, threshold))
        elif path.suffix.lower() in (".html", ".htm"):
            content = render_page(self, opacity, threshold)
        else:
            raise UserError(f"{path}: an explanation is written as .png or .html")
        try:
            write_atomically(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        return path

    def to_json(self) -> dict[str, Any]:
        """Return the predictions and gates as JSON-serialisable objects, and the peak and mean of each map."""
        rows = [
            {"image": image, "network": network, **_cell_to_json(cell)}
            for image, cells in zip(self.images, self.rows, strict=True)
            for network, cell in zip(self.networks, cells, strict=True)
        ]
        return {"method": self.method, "notes": self.notes, "explained": rows}

    def _repr_html_(self) -> str:
        """Return the sheet as HTML for a notebook."""
        from saccade.explanation.page import render_fragment

        return render_fragment(self)


def _cell_to_json(cell: Explained) -> dict[str, Any]:
    gates = {
        site: spatial_map(gate[None])[0] if is_spatial(gate) else channel_means(gate[None])[0]
        for site, gate in cell.gates.items()
    }
    return {
        "class": cell.class_index, "name": cell.class_name, "value": cell.value,
        "predictions": [{"class": p.index, "name": p.name, "value": p.value,
                         **({} if p.box is None else {"box": list(p.box)})} for p in cell.predictions],
        "size": list(cell.pixels.shape[1:]), "notes": list(cell.notes),
        "maps": {layer: _summary(values) for layer, values in cell.heat_maps.items()},
        "gates": {site: values.tolist() for site, values in gates.items()},
        **({} if cell.region is None else {"region": _region_to_json(cell.region)}),
    }  # fmt: skip


def _region_to_json(region: RegionScores) -> dict[str, Any]:
    scores = {
        layer: {name: each._asdict() for name, each in {"map": score, **region.controls[layer]}.items()}
        for layer, score in region.maps.items()
    }
    return {"share": float(region.mask.double().mean()), "scores": scores}


def _summary(heat_map: Tensor) -> dict[str, Any]:
    """Return the place of the largest value of a map (H, W), in pixels from the top left, and its mean."""
    y, x = divmod(int(heat_map.argmax()), heat_map.shape[1])
    return {"peak": [x, y] if bool(heat_map.any()) else None, "mean": float(heat_map.mean())}
