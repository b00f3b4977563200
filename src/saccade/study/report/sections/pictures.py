"""The same few test images under every arm: what each network answers, and what its gates let through."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn

from saccade.data import open_data
from saccade.errors import UserError
from saccade.explanation import gate_maps, is_spatial, passing, per_channel, site_to_show
from saccade.metrics.rows import Rows, count, select
from saccade.recipe import short_repr
from saccade.runfiles import read_rows
from saccade.saving import describe, load
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.svg import element
from saccade.study.report.typeset import NARROW, number
from saccade.study.run_notes import RunResult
from saccade.tasks import resolved
from saccade.tasks.base import Drawing, Task

__all__ = ["Pictures"]

IMAGES = 6
SIDE = 128
"""Longest side of an embedded picture, in pixels."""
PLACES = 7
"""Maps with fewer places a side are shown only where there is no larger one."""
COLUMNS = 64
"""Widest strip; of more channels, neighbours are averaged."""
COLOURS = (
    "#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725",
)  # fmt: skip
"""Ten steps of viridis."""
NARROWEST = 0.05
"""Least span of a scale, so that noise is not stretched into a pattern."""


@final
class Pictures(Section):
    """A row an image, a column an arm: the image under its plug, the answer, and the answer's own picture."""

    title = "The same images under every arm"
    order = 60
    template = """
{%- macro answer(drawing, picture) -%}
{%- set word = {true: "right", false: "wrong", none: ""}[drawing.right] -%}
{{ picture or "" }}<span class="answer {{ word }}">
{%- if word %}<svg viewBox="0 0 16 16" aria-hidden="true"><path d="
{{- "M2,9l4,4l8,-10" if drawing.right else "M3,3l10,10M13,3l-10,10" }}"/></svg><span class="hidden">{{ word }}: </span>
{%- endif %}{{ drawing.caption }}</span>
{%- endmacro -%}
{%- if missing %}
<p class="how">No pictures: {{ missing }}</p>
{%- else %}
{{ definitions }}
<p class="how">{{ chosen }} Colour is what the plug lets pass, on the scale above each column: dark least, yellow
most; 1 is all. Over a picture: the part of the map’s magnitude that passes at each place of the site named. Strips,
for mechanisms that weigh channels alone: the effective gates, a row a site from input to output, channels from left to
right.
{%- if painted %} Beneath: the answer of each network, and the truth in the first column.{% endif %}</p>
<div class="scroll pictures{% if smooth %} smooth{% endif %}" style="--aspect: {{ aspect }}; --ramp: {{ ramp }}"><table>
<thead><tr><th scope="col">image</th>
{%- for column in columns %}
<th scope="col">{{ named(column.style) }}<span class="second">{% if not common %}seed {{ column.seed }} {% endif %}
{{- column.site or "" }}</span>
{%- if column.ends %}<span class="ramp"></span><span class="ends"><span>{{ column.ends[0] }}</span><span>
{{- column.ends[1] }}</span></span>{% endif %}</th>
{%- endfor %}</tr></thead>
<tbody>
{%- for plane, drawing, picture in truths %}{% set k = loop.index0 %}
<tr><td>{{ plane }}{{ answer(drawing, picture) }}</td>
{%- for column in columns %}{% set plane, drawing, picture = column.cells[k] %}
<td>{% if plane %}{{ plane }}{% else %}<span class="plane void">nothing plugged</span>{% endif %}
{{- answer(drawing, picture) }}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
{%- endif %}
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        if context.results.study is None:
            return None
        if context.task is None:
            return {"missing": context.missing}
        try:
            return {"missing": None, **_examples(context, context.results.study, context.task)}
        except UserError as error:
            return {"missing": str(error)}


def _examples(context: Context, study: Study, task: Task) -> dict[str, Any]:
    """Six test images under every arm that has a finished run, all of one seed where there is one.

    Raises:
        UserError: a saved network or its rows do not belong to these images.
    """
    runs, common = _shown(context, study)
    indices, chosen = _choice(
        len(task.data.test), task, [read_rows(study.folder / run.folder) for run in runs.values()]
    )
    if common is not None:
        chosen = f"{chosen} All networks are those of seed {common}."
    if any(arm.control == "shuffled" for arm in runs):
        chosen = f"{chosen} A shuffled mechanism sees the image of the next row, in the last row that of the first."
    pictures = [task.data.test.picture(i) for i in indices]
    once = element("defs", *(_definition(k, picture) for k, picture in enumerate(pictures)))
    truths = task.draw(indices, None)
    height, width = pictures[0].shape[-2:]
    planes = [_plane(k, None, drawing.caption) for k, drawing in enumerate(truths)]
    return {
        "chosen": chosen,
        "common": common is not None,
        "truths": _cells("truth", planes, truths),
        "columns": [_column(context, study, task, arm, run, indices) for arm, run in runs.items()],
        "definitions": element("svg", once, width=0, height=0, class_="hidden", aria_hidden="true"),
        "painted": any(drawing.picture is not None for drawing in truths),
        "smooth": max(height, width) > SIDE // 2,
        "aspect": f"{width / height:.3f}",
        "ramp": f"linear-gradient(90deg, {', '.join(COLOURS)})",
    }


def _shown(context: Context, study: Study) -> tuple[dict[Arm, RunResult], int | None]:
    """For each arm the run to show, and the seed that all share; None without one."""
    found: dict[Arm, dict[int, RunResult]] = {}
    for row in context.results.arms:
        for run in context.results.of(row.arm.name):
            if run.status == "done" and (study.folder / run.folder / "model.safetensors").exists():
                found.setdefault(row.arm, {})[run.seed] = run
    common = next((seed for seed in study.seeds if all(seed in runs for runs in found.values())), None)
    return {arm: next(iter(runs.values())) if common is None else runs[common] for arm, runs in found.items()}, common


def _choice(total: int, task: Task, answers: Sequence[Rows | None]) -> tuple[list[int], str]:
    """Half at random, half where the networks differ; the draw depends on the number of images alone.

    Raises:
        UserError: rows are of another number of images.
    """
    order = list(range(total))
    random.Random(total).shuffle(order)
    known = [rows for rows in answers if rows is not None]
    for rows in known:
        if (found := count(rows)) != total:
            raise UserError(f"the runs were scored on {found} test images; there are {total} now")
    values = next((metric.values for metric in task.metrics if metric.values is not None), None)
    if values is not None:
        known = [{"value": values(rows)} for rows in known]
    disputed = [i for i in order if _differ([select(rows, [i]) for rows in known])]
    apart = disputed[: IMAGES // 2]
    plain = [i for i in order if i not in apart][: IMAGES - len(apart)]
    if not apart:
        return plain, f"{len(plain)} test images, drawn at random."
    share = f"{100 * len(disputed) / total:.1f}"
    return plain + apart, (
        f"{len(plain)} test images drawn at random, then {len(apart)} drawn from the {share}{NARROW}% of all test "
        f"images on which these networks {'answer' if values is None else 'score'} differently."
    )


def _differ(rows: Sequence[Rows]) -> bool:
    return any(not torch.equal(each[key], rows[0][key]) for each in rows[1:] for key in each)


def _column(
    context: Context, study: Study, task: Task, arm: Arm, run: RunResult, indices: Sequence[int]
) -> dict[str, Any]:
    """One arm: where its maps were taken, the scale of their colours, and what stands beside each image."""
    recipe = resolved(arm.recipe(study.base, run.seed), task.target)
    if recipe.data != task.recipe.data:
        task = type(task)(recipe, open_data(recipe.data, task.target))
    images, folder = task.images(indices), study.folder / run.folder
    _check_saved(folder, task.data.classes, list(images.shape[1:]))
    model = load(folder, trust=context.trust)
    with torch.no_grad():
        answers = task.draw(indices, model)
    heat, site, where = _heat(model, images)
    planes: list[Markup | None] = [None] * len(indices)
    ends = None
    if heat is not None:
        low, high = float(heat.min()), float(heat.max())
        spare = max(0.0, NARROWEST - (high - low)) / 2
        low, high = low - spare, high + spare
        ends = number(low), number(high)
        for k, part in enumerate(heat):
            passes = f"{number(float(part.min()))} to {number(float(part.max()))} passes"
            colours = _coloured((part - low) / (high - low))
            planes[k] = _plane(None if site is None else k, colours, f"{arm.name}, image {k + 1}: {passes}")
    style, cells = context.styles[arm.name], _cells(arm.name, planes, answers)
    return {"style": style, "seed": run.seed, "site": where, "ends": ends, "cells": cells}


def _heat(model: nn.Module, images: Tensor) -> tuple[Tensor | None, str | None, str | None]:
    """What the plugs let pass (B, h, w); the site it is a map of, None for strips of channels; where, in words."""
    gates, passed = gate_maps(model, images), passing(model, images)
    # What passes a gate of channels differs from place to place too, but not by the gate's doing.
    places = {site: x[:, None] for site, x in passed.items() if site not in gates or is_spatial(gates[site])}
    site = site_to_show(places, least=PLACES)
    if site is not None:
        return passed[site], site, site
    if gates:
        strips = torch.stack([_strip(gate) for gate in gates.values()], 1)  # (B, sites, COLUMNS)
        return strips, None, f"{len(gates)} sites" if len(gates) > 1 else next(iter(gates))
    return None, None, None


def _check_saved(folder: Path, classes: Sequence[str], size: Sequence[int]) -> None:
    """Raise UserError unless the network saved in ``folder`` is for images of these classes and (C, H, W)."""
    saved = describe(folder)
    for key, needed in (("classes", list(classes)), ("input", list(size))):
        if (saved[key] or []) != needed:
            raise UserError(
                f"{folder}/config.json: {key} is {short_repr(saved[key])}; that of the images is {short_repr(needed)}"
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


Beside = tuple[Markup | None, Drawing, Markup | None]
"""What stands beside an image: the plane of the plug (None where nothing is plugged), the answer, its picture."""


def _cells(name: str, planes: Sequence[Markup | None], answers: Sequence[Drawing]) -> list[Beside]:
    cells: list[Beside] = []
    for k, (plane, answer) in enumerate(zip(planes, answers, strict=True), 1):
        painted = None
        if answer.picture is not None:
            image = answer.picture.copy()
            image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
            painted = _framed(_image(image), label=f"{name}, image {k}: {answer.caption}", class_="plane answered")
        cells.append((plane, answer, painted))
    return cells


def _definition(number_: int, picture: Tensor) -> Markup:
    """A picture uint8 (C, H, W), made smaller if need be, to be shown by reference."""
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _image(image, id=f"picture-{number_}")


def _plane(picture: int | None, gate: Image.Image | None, label: str) -> Markup:
    """A picture, a gate, or a gate over a picture in grey."""
    below = [] if picture is None else [element("use", href=f"#picture-{picture}", class_="under" if gate else None)]
    above = [] if gate is None else [_image(gate, class_="over" if below else None)]
    return _framed(*below, *above, label=label, class_="plane")


def _framed(*shown: Markup, label: str, class_: str) -> Markup:
    """A plane of 100 × 100, which the style sheet gives the images' aspect."""
    box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return element("svg", *shown, class_=class_, **box, role="img", aria_label=label)


def _image(image: Image.Image, **attributes: str | None) -> Markup:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    href = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return element("image", href=href, width=100, height=100, preserveAspectRatio="none", **attributes)
