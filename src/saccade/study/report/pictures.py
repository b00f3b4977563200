"""The same few test images under every arm: what each network answers, and what its gates let through."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from saccade.data import Split
from saccade.errors import UserError
from saccade.explanation import gate_maps, is_spatial, passing, per_channel, site_to_show
from saccade.recipe import described
from saccade.runfiles import predictions
from saccade.saving import describe, load
from saccade.study.plan import Arm, Run, Study
from saccade.study.report.svg import element
from saccade.study.report.typeset import NARROW, number
from saccade.trust import Trust

__all__ = ["COLOURS", "Cell", "Column", "Examples", "examples"]

IMAGES = 6
SIDE = 128
"""Longest side of an embedded picture, in pixels."""
PLACES = 7
"""A map is shown if it has so many places a side, where there is one."""
COLUMNS = 64
"""Widest strip of channels; where a site has more, neighbours are averaged."""
COLOURS = (
    "#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725",
)  # fmt: skip
"""Ten steps of viridis, dark where little passes."""
NARROWEST = 0.05
"""A scale spans at least this much, so that noise is not stretched into a pattern."""


@dataclass(frozen=True)
class Cell:
    """One image under one arm."""

    answer: str
    right: bool
    sure: str
    """Probability of the answer, in per cent."""
    plane: Markup | None
    """The image with what passes over it, or the strips of channels; None where nothing is plugged."""


@dataclass(frozen=True)
class Column:
    """One arm: where its maps were taken, the scale of their colours, and a cell an image."""

    arm: Arm
    seed: int
    site: str | None
    ends: tuple[str, str] | None
    """Of the scale; None where nothing is plugged."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Examples:
    """The pictures with their true classes, and a column an arm."""

    chosen: str
    """How the images were chosen, in words for the reader."""
    common: bool
    """Whether all networks are of one seed."""
    pictures: tuple[tuple[Markup, str], ...]
    columns: tuple[Column, ...]
    definitions: Markup
    """The pictures themselves, once, for the page to refer to."""
    smooth: bool
    """Whether the pictures have more pixels than the page shows."""


def examples(study: Study, split: Split, trust: Trust) -> Examples:
    """Six test images under every arm that has a finished run, all of one seed where there is one.

    Args:
        study: its runs hold the trained networks.
        split: the images the runs were tested on.
        trust: what the saved networks may name besides the catalogue.
    """
    done = {arm: [seed for seed in study.seeds if _scored(study.run(arm, seed))] for arm in study.arms}
    done = {arm: seeds for arm, seeds in done.items() if seeds}
    common = next((seed for seed in study.seeds if all(seed in seeds for seeds in done.values())), None)
    runs = {arm: study.run(arm, seeds[0] if common is None else common) for arm, seeds in done.items()}
    indices, chosen = _choice(len(split.test), runs)
    if common is not None:
        chosen = f"{chosen} All networks are those of seed {common}."
    if any(arm.control == "shuffled" for arm in runs):
        chosen = f"{chosen} A shuffled mechanism sees the image of the next row, in the last row that of the first."
    images = torch.stack([split.test[i][0] for i in indices])
    truths = [split.test.labels[i] for i in indices]
    pictures = [split.test.picture(i) for i in indices]
    once = element("defs", *(_definition(k, picture) for k, picture in enumerate(pictures)))
    definitions = element("svg", once, width=0, height=0, class_="hidden", aria_hidden="true")
    return Examples(
        chosen=chosen,
        pictures=tuple((_plane(k, None, split.classes[truth]), split.classes[truth]) for k, truth in enumerate(truths)),
        common=common is not None,
        columns=tuple(_column(arm, run, images, truths, split.classes, trust) for arm, run in runs.items()),
        definitions=definitions,
        smooth=split.size > SIDE // 2,
    )


def _scored(run: Run) -> bool:
    done = run.finished
    return done is not None and not done.get("diverged") and (run.folder / "model.safetensors").exists()


def _choice(total: int, runs: Mapping[Arm, Run]) -> tuple[list[int], str]:
    """Half at random, half where the networks shown disagree most; the draw depends on the number of images alone."""
    order = list(range(total))
    random.Random(total).shuffle(order)
    predicted = []
    for run in runs.values():
        path = run.folder / "predictions.safetensors"
        if saved := predictions(path):
            if len(saved["label"]) != total:
                raise UserError(f"{path} is of {len(saved['label'])} test images; there are {total} now")
            predicted.append(saved["predicted"].tolist())
    disputed = [i for i in order if len({answers[i] for answers in predicted}) > 1] if predicted else []
    apart = disputed[: IMAGES // 2]
    plain = [i for i in order if i not in apart][: IMAGES - len(apart)]
    if not apart:
        return plain, f"{len(plain)} test images, drawn at random."
    share = f"{100 * len(disputed) / total:.1f}"
    return plain + apart, (
        f"{len(plain)} test images drawn at random, then {len(apart)} drawn from the {share}{NARROW}% of all test "
        "images on which these networks do not agree."
    )


def _column(arm: Arm, run: Run, images: Tensor, truths: Sequence[int], classes: Sequence[str], trust: Trust) -> Column:
    _check_saved(run, classes, tuple(images.shape[1:]))
    model = load(run.folder, trust=trust)
    with torch.no_grad():
        sure, answers = model(images).float().softmax(1).cpu().max(1)
    gates, passed = gate_maps(model, images), passing(model, images)
    # Of a gate that weighs channels alone, what passes differs from place to place as well, but not by its own doing.
    places = {site: x[:, None] for site, x in passed.items() if site not in gates or is_spatial(gates[site])}
    site = site_to_show(places, least=PLACES)
    if site is not None:
        heat = passed[site]  # (B, h, w)
    elif gates:
        heat = torch.stack([_strip(gate) for gate in gates.values()], 1)  # (B, sites, COLUMNS)
    else:
        heat = torch.ones(len(images), 1, 1)
    low, high = float(heat.min()), float(heat.max())
    spare = max(0.0, NARROWEST - (high - low)) / 2
    low, high = low - spare, high + spare
    cells = []
    for k, answer in enumerate(answers.tolist()):
        label = f"{arm.name}, image {k + 1}: {number(float(heat[k].min()))} to {number(float(heat[k].max()))} passes"
        gate = _png(_coloured((heat[k] - low) / (high - low)))
        cells.append(Cell(
            answer=classes[answer],
            right=answer == truths[k],
            sure=f"{100 * float(sure[k]):.0f}",
            plane=_plane(None if site is None else k, gate, label) if passed else None,
        ))  # fmt: skip
    ends = (number(low), number(high)) if passed else None
    where = site if site is not None or not gates else f"{len(gates)} sites" if len(gates) > 1 else next(iter(gates))
    return Column(arm, run.seed, where, ends, tuple(cells))


def _check_saved(run: Run, classes: Sequence[str], size: tuple[int, ...]) -> None:
    """Raise UserError unless the network saved in the folder of ``run`` is for images of these classes and size."""
    saved = describe(run.folder)
    for key, found, needed in (("classes", saved["classes"], list(classes)), ("input", saved["input"], list(size))):
        if found != needed:
            raise UserError(
                f"{run.folder}/config.json: {key} is {described(found)}; that of the images is {described(needed)}"
            )


def _strip(gate: Tensor) -> Tensor:
    """The channels of a gate (B, C, 1, 1) as (B, COLUMNS): neighbours averaged, or each channel repeated."""
    channels = per_channel(gate)[:, None]
    if channels.shape[-1] > COLUMNS:
        return F.adaptive_avg_pool1d(channels, COLUMNS)[:, 0]
    return F.interpolate(channels, COLUMNS, mode="nearest")[:, 0]


def _coloured(part: Tensor) -> Image.Image:
    """A map (h, w) in [0, 1] in the colours of the scale."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], dtype=np.float64)
    places = part.clamp(0, 1).double().numpy() * (len(stops) - 1)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def _definition(number_: int, picture: Tensor) -> Markup:
    """A picture uint8 (C, H, W), made smaller if need be, to be shown by reference."""
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return element("image", id=f"picture-{number_}", href=_png(image), width=100, height=100)


def _plane(picture: int | None, gate: str | None, label: str) -> Markup:
    """A square with a picture, a gate, or a gate over a picture in grey."""
    shown = [] if picture is None else [
        element("use", href=f"#picture-{picture}", class_="under" if gate else None)
    ]  # fmt: skip
    if gate is not None:
        over = "over" if picture is not None else None
        shown.append(element("image", href=gate, width=100, height=100, preserveAspectRatio="none", class_=over))
    return element("svg", *shown, class_="plane", viewBox="0 0 100 100", role="img", aria_label=label)


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
