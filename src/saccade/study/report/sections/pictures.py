"""The same few test images under every arm, with each network's prediction and gate map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from markupsafe import Markup
from PIL import Image

from saccade.errors import UserError
from saccade.heat_maps import COLOURS
from saccade.runfiles import read_rows
from saccade.saving import load
from saccade.study.arms import Arm
from saccade.study.opening import check_saved, task_of
from saccade.study.plan import Study
from saccade.study.report.boxes import class_legend, draw_boxes
from saccade.study.report.gate_pictures import gate_pictures
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.shown_images import (
    MAX_SIDE,
    choose_images,
    draw_overlay,
    embed,
    frame,
    image_definition,
    runs_to_show,
)
from saccade.study.report.svg import element
from saccade.study.run_notes import RunResult
from saccade.tasks.base import Drawing, Task

__all__ = ["PicturesSection"]

MAX_LARGE_SIDE = 256
"""Longest side of an embedded image that is shown large, for boxes and heat maps, in pixels."""


@final
class PicturesSection(Section):
    """One row per image, one column per arm.

    A cell shows the image with the gate map over it, the prediction, and a drawing of the prediction if the task makes
    one.
    """

    title = "The same images under every arm"
    order = 60
    template = """
{%- macro prediction(drawing, picture) -%}
{%- set word = {true: "right", false: "wrong", none: ""}[drawing.right] -%}
{{ picture or "" }}<span class="answer {{ word }}">
{%- if word %}<svg viewBox="0 0 16 16" aria-hidden="true"><path d="
{{- "M2,9l4,4l8,-10" if drawing.right else "M3,3l10,10M13,3l-10,10" }}"/></svg><span class="hidden">{{ word }}: </span>
{%- endif %}{{ drawing.caption }}</span>
{%- endmacro -%}
{%- if open_error %}
<p class="how">No images: {{ open_error }}</p>
{%- else %}
{{ definitions }}
<p class="how">{{ description }} Colour shows the fraction of the feature map that the plug passes, from dark (least) to
yellow (most), on the scale above each column; 1 means unchanged. Over an image: the fraction of the map’s magnitude
that passes at each position of the named site. Strips, for mechanisms that only weight channels: the effective gates,
one row per site from input to output, channels from left to right.
{%- if has_drawings %} Below: the prediction of each network, and the truth in the first column.{% endif %}</p>
{%- if legend %}
<div class="legend">
{%- for name, colour in legend %}
<span><svg class="swatch" viewBox="0 0 16 16" aria-hidden="true"><path class="halo" d="M3,3h10v10h-10z"/>
{{- "" }}<path d="M3,3h10v10h-10z" stroke="{{ colour }}"/></svg>{{ name }}</span>
{%- endfor %}
</div>
{%- endif %}
<div class="scroll pictures{% if smooth %} smooth{% endif %}{% if is_large %} large{% endif %}"
style="--aspect: {{ aspect }}; --ramp: {{ ramp }}"><table>
<thead><tr><th scope="col">image</th>
{%- for column in columns %}
<th scope="col">{{ arm_label(column.style) }}<span class="second">
{%- if not has_common_seed %}seed {{ column.seed }} {% endif %}
{{- column.site or "" }}</span>
{%- if column.scale_ends %}<span class="ramp"></span><span class="ends"><span>{{ column.scale_ends[0] }}</span><span>
{{- column.scale_ends[1] }}</span></span>{% endif %}</th>
{%- endfor %}</tr></thead>
<tbody>
{%- for overlay, drawing, picture in truths %}{% set k = loop.index0 %}
<tr><td>{{ overlay }}{{ prediction(drawing, picture) }}</td>
{%- for column in columns %}{% set overlay, drawing, picture = column.cells[k] %}
<td>{% if overlay %}{{ overlay }}{% else %}<span class="plane void">no gate</span>{% endif %}
{{- prediction(drawing, picture) }}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        if context.results.study is None:
            return None
        if context.task is None:
            return {"open_error": context.open_error}
        try:
            return {"open_error": None, **_examples(context, context.results.study, context.task)}
        except UserError as error:
            return {"open_error": str(error)}


def _examples(context: ReportContext, study: Study, task: Task) -> dict[str, Any]:
    """Return the variables of the template: test images, and one column per arm with a saved network.

    Raises:
        UserError: a saved network or its rows do not belong to these images.
    """
    runs, common_seed = runs_to_show(context, study)
    indices, description = choose_images(
        len(task.data.test), task, [read_rows(study.folder / run.folder) for run in runs.values()]
    )
    if common_seed is not None:
        description = f"{description} All networks are those of seed {common_seed}."
    if any(arm.control == "shuffled" for arm in runs):
        sentence = (
            "A shuffled mechanism uses the gate of the image in the next row; in the last row, of the first image."
        )
        description = f"{description} {sentence}"
    pictures = [task.data.test.raw_image(i) for i in indices]
    truths = task.draw(indices, None)
    height, width = pictures[0].shape[-2:]
    overlays = [draw_overlay(k, None, drawing.caption) for k, drawing in enumerate(truths)]
    columns = [_column(context, study, task, arm, run, indices) for arm, run in runs.items()]
    all_drawings = [*truths, *(drawing for column in columns for drawing in column["drawings"])]
    boxes = [box for drawing in all_drawings for box in drawing.boxes]
    is_photograph = max(height, width) > MAX_SIDE
    is_large = bool(boxes) or (is_photograph and any(drawing.smooth for drawing in all_drawings))
    max_side = MAX_LARGE_SIDE if is_large else MAX_SIDE
    definitions = element("defs", *(image_definition(k, picture, max_side) for k, picture in enumerate(pictures)))
    return {
        "description": description,
        "has_common_seed": common_seed is not None,
        "truths": _make_cells("truth", overlays, truths, bool(boxes)),
        "columns": [
            column | {"cells": _make_cells(column["style"].name, column["overlays"], column["drawings"], bool(boxes))}
            for column in columns
        ],
        "definitions": element("svg", definitions, width=0, height=0, class_="hidden", aria_hidden="true"),
        "has_drawings": bool(boxes) or any(drawing.picture is not None for drawing in all_drawings),
        "is_large": is_large,
        "legend": class_legend(boxes, task.data.classes),
        "smooth": max(height, width) > MAX_SIDE // 2,
        "aspect": f"{width / height:.3f}",
        "ramp": f"linear-gradient(90deg, {', '.join(COLOURS)})",
    }


def _column(
    context: ReportContext, study: Study, task: Task, arm: Arm, run: RunResult, indices: Sequence[int]
) -> dict[str, Any]:
    """Return one arm's column: style, seed, site, ends of the colour scale, overlays and drawings."""
    task = task_of(study, arm, run.seed, task)
    images, folder = task.images(indices), study.folder / run.folder
    check_saved(folder, task.data.classes, list(images.shape[1:]))
    model = load(folder, trust=context.trust)
    with torch.no_grad():
        drawings = task.draw(indices, model)
    gates = gate_pictures(model, images, arm.name)
    column = {"style": context.styles[arm.name], "seed": run.seed, "site": gates.label, "scale_ends": gates.scale_ends}
    return column | {"overlays": gates.overlays, "drawings": drawings}


ArmCell = tuple[Markup | None, Drawing, Markup | None]
"""Overlay of heat map and image (None without a plug), the task's Drawing, and its picture as SVG or None."""


def _make_cells(
    name: str, overlays: Sequence[Markup | None], drawings: Sequence[Drawing], has_boxes: bool
) -> list[ArmCell]:
    """Return the cells of one arm, one per image; with ``has_boxes``, drawings without a picture show the image."""
    cells: list[ArmCell] = []
    for k, (overlay, drawing) in enumerate(zip(overlays, drawings, strict=True), 1):
        drawn_image = None
        if drawing.picture is not None or has_boxes:
            label = f"{name}, image {k}: {drawing.caption}"
            drawn_image = frame(*_draw(k - 1, drawing), label=label, class_=_plane_class(drawing))
        cells.append((overlay, drawing, drawn_image))
    return cells


def _draw(index: int, drawing: Drawing) -> list[Markup]:
    """Return the elements of a drawing of the image ``index``: its picture, or the image, below its boxes."""
    boxes = draw_boxes(drawing.boxes)
    if drawing.picture is None:
        return [element("use", href=f"#picture-{index}"), *boxes]
    image = drawing.picture.copy()
    resampling = Image.Resampling.LANCZOS if drawing.smooth else Image.Resampling.NEAREST
    image.thumbnail((MAX_SIDE, MAX_SIDE), resampling)
    return [embed(image), *boxes]


def _plane_class(drawing: Drawing) -> str:
    """Return the CSS classes of a drawing; an image with boxes is scaled like the images themselves."""
    if drawing.picture is None:
        return "plane boxes"
    return " ".join(["plane answered", *["boxes"] * bool(drawing.boxes), *["smooth"] * drawing.smooth])
