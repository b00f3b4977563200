"""The same few test images under every arm, with each network's prediction and gate map."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn

from saccade.data import open_data
from saccade.errors import UserError
from saccade.explanation import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show
from saccade.metrics.rows import Rows, count_images, select_images
from saccade.recipe import short_repr
from saccade.runfiles import read_rows
from saccade.saving import describe, load
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.boxes import class_legend, draw_boxes
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.svg import element
from saccade.study.report.typeset import NARROW_SPACE, format_number
from saccade.study.run_notes import RunResult
from saccade.tasks import resolve
from saccade.tasks.base import Drawing, Task

__all__ = ["PicturesSection"]

N_IMAGES = 6
"""Number of images shown."""
MAX_SIDE = 128
"""Longest side of an embedded image, in pixels."""
MAX_LARGE_SIDE = 256
"""Longest side of an embedded image that is shown large, for boxes and heat maps, in pixels."""
MIN_MAP_SIDE = 7
"""Maps with a smaller side are shown only if there is no larger one."""
STRIP_WIDTH = 64
"""Number of values in a strip of channels; more channels are averaged in groups."""
COLOURS = (
    "#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725",
)  # fmt: skip
"""Ten steps of the colour map viridis."""
MIN_COLOUR_SPAN = 0.05
"""Smallest range of a colour scale, so that noise does not appear as a pattern."""


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
    runs, common_seed = _runs_to_show(context, study)
    indices, description = _choose_images(
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
    overlays = [_overlay(k, None, drawing.caption) for k, drawing in enumerate(truths)]
    columns = [_column(context, study, task, arm, run, indices) for arm, run in runs.items()]
    all_drawings = [*truths, *(drawing for column in columns for drawing in column["drawings"])]
    boxes = [box for drawing in all_drawings for box in drawing.boxes]
    is_photograph = max(height, width) > MAX_SIDE
    is_large = bool(boxes) or (is_photograph and any(drawing.smooth for drawing in all_drawings))
    max_side = MAX_LARGE_SIDE if is_large else MAX_SIDE
    definitions = element("defs", *(_image_definition(k, picture, max_side) for k, picture in enumerate(pictures)))
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


def _runs_to_show(context: ReportContext, study: Study) -> tuple[dict[Arm, RunResult], int | None]:
    """Return the run to show for each arm, and the seed common to all of them, if any."""
    runs_by_arm: dict[Arm, dict[int, RunResult]] = {}
    for row in context.results.arms:
        for run in context.results.of(row.arm.name):
            if run.status == "done" and (study.folder / run.folder / "model.safetensors").exists():
                runs_by_arm.setdefault(row.arm, {})[run.seed] = run
    common_seed = next((seed for seed in study.seeds if all(seed in runs for runs in runs_by_arm.values())), None)
    return {
        arm: next(iter(runs.values())) if common_seed is None else runs[common_seed]
        for arm, runs in runs_by_arm.items()
    }, common_seed


def _choose_images(n_images: int, task: Task, saved_rows: Sequence[Rows | None]) -> tuple[list[int], str]:
    """Return the images to show, half at random and half where the networks differ, and a sentence on them.

    All are random if the networks differ on every image or none. The order depends only on the number of images.

    Raises:
        UserError: the saved predictions cover a different number of images.
    """
    order = list(range(n_images))
    random.Random(n_images).shuffle(order)
    rows_of_runs = [rows for rows in saved_rows if rows is not None]
    for rows in rows_of_runs:
        if (n_scored := count_images(rows)) != n_images:
            raise UserError(f"the runs were scored on {n_scored} test images; there are {n_images} now")
    score_per_image = next((metric.values for metric in task.metrics if metric.values is not None), None)
    if score_per_image is not None:
        rows_of_runs = [{"value": score_per_image(rows)} for rows in rows_of_runs]
    disputed = [i for i in order if _predictions_differ([select_images(rows, [i]) for rows in rows_of_runs])]
    disputed_shown = disputed[: N_IMAGES // 2] if len(disputed) < n_images else []
    random_picks = [i for i in order if i not in disputed_shown][: N_IMAGES - len(disputed_shown)]
    if not disputed_shown:
        return random_picks, f"{len(random_picks)} test images, drawn at random."
    share = f"{100 * len(disputed) / n_images:.1f}{NARROW_SPACE}%"
    return random_picks + disputed_shown, (
        f"{len(random_picks)} test images drawn at random, then {len(disputed_shown)} drawn from the {share} of all "
        f"test images on which these networks {'predict' if score_per_image is None else 'score'} differently."
    )


def _predictions_differ(rows: Sequence[Rows]) -> bool:
    """Return True if two networks predict differently."""
    return any(not torch.equal(other[key], rows[0][key]) for other in rows[1:] for key in other)


def _column(
    context: ReportContext, study: Study, task: Task, arm: Arm, run: RunResult, indices: Sequence[int]
) -> dict[str, Any]:
    """Return one arm's column: style, seed, site, ends of the colour scale, overlays and drawings."""
    recipe = resolve(arm.recipe(study.base, run.seed), task.target)
    if recipe.data != task.recipe.data:
        task = type(task)(recipe, open_data(recipe.data, task.target))
    images, folder = task.images(indices), study.folder / run.folder
    _check_saved(folder, task.data.classes, list(images.shape[1:]))
    model = load(folder, trust=context.trust)
    with torch.no_grad():
        drawings = task.draw(indices, model)
    heat_maps, site, label = _heat_maps(model, images)
    overlays: list[Markup | None] = [None] * len(indices)
    scale_ends = None
    if heat_maps is not None:
        low, high = float(heat_maps.min()), float(heat_maps.max())
        padding = max(0.0, MIN_COLOUR_SPAN - (high - low)) / 2
        low, high = low - padding, high + padding
        scale_ends = format_number(low), format_number(high)
        for k, heat_map in enumerate(heat_maps):
            range_text = f"{format_number(float(heat_map.min()))} to {format_number(float(heat_map.max()))} passes"
            colours = _colour_map((heat_map - low) / (high - low))
            overlays[k] = _overlay(None if site is None else k, colours, f"{arm.name}, image {k + 1}: {range_text}")
    column = {"style": context.styles[arm.name], "seed": run.seed, "site": label, "scale_ends": scale_ends}
    return column | {"overlays": overlays, "drawings": drawings}


def _heat_maps(model: nn.Module, images: Tensor) -> tuple[Tensor | None, str | None, str | None]:
    """Return heat maps (B, h, w) of the fraction of the feature map that passes, their site, and a label.

    The site is None for strips of channels; all are None without plugs.
    """
    gates, passed = gate_maps(model, images), passed_fractions(model, images)
    # The magnitude after a channel gate varies over positions too, but the gate does not cause that.
    magnitudes = {site: x[:, None] for site, x in passed.items() if site not in gates or is_spatial(gates[site])}
    site = site_to_show(magnitudes, min_size=MIN_MAP_SIDE)
    if site is not None:
        return passed[site], site, site
    if gates:
        strips = torch.stack([_channel_strip(gate) for gate in gates.values()], 1)  # (B, sites, STRIP_WIDTH)
        return strips, None, f"{len(gates)} sites" if len(gates) > 1 else next(iter(gates))
    return None, None, None


def _check_saved(folder: Path, classes: Sequence[str], size: Sequence[int]) -> None:
    """Raise UserError unless the network saved in ``folder`` is for these classes and images of this size (C, H, W)."""
    saved = describe(folder)
    for key, needed in (("classes", list(classes)), ("input", list(size))):
        if (saved[key] or []) != needed:
            raise UserError(
                f"{folder}/config.json: {key} is {short_repr(saved[key])}; that of the images is {short_repr(needed)}"
            )


def _channel_strip(gate: Tensor) -> Tensor:
    """Return the channels of a gate (B, C, 1, 1) as (B, STRIP_WIDTH): averaged in groups, or repeated."""
    channels = channel_means(gate)[:, None]
    if channels.shape[-1] > STRIP_WIDTH:
        return F.adaptive_avg_pool1d(channels, STRIP_WIDTH)[:, 0]
    return F.interpolate(channels, STRIP_WIDTH, mode="nearest")[:, 0]


def _colour_map(values: Tensor) -> Image.Image:
    """Return a map (h, w) in [0, 1] as an image in viridis colours."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], dtype=np.float64)
    positions = values.clamp(0, 1).double().numpy() * (len(stops) - 1)
    channels = [np.interp(positions, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


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
            drawn_image = _frame(*_draw(k - 1, drawing), label=label, class_=_plane_class(drawing))
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
    return [_embed(image), *boxes]


def _plane_class(drawing: Drawing) -> str:
    """Return the CSS classes of a drawing; an image with boxes is scaled like the images themselves."""
    if drawing.picture is None:
        return "plane boxes"
    return " ".join(["plane answered", *["boxes"] * bool(drawing.boxes), *["smooth"] * drawing.smooth])


def _image_definition(i: int, pixels: Tensor, max_side: int) -> Markup:
    """Return an image uint8 (C, H, W), downscaled to ``max_side``, as an element ``picture-i`` for ``use``."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    # A photograph this large would take several times as many bytes as PNG.
    return _embed(image, "JPEG" if max(image.size) > MAX_SIDE else "PNG", id=f"picture-{i}")


def _overlay(index: int | None, heat_map: Image.Image | None, label: str) -> Markup:
    """Return an image, a gate map, or a gate map over the image in grey."""
    style_class = "base-image" if heat_map else None
    image_elements = [] if index is None else [element("use", href=f"#picture-{index}", class_=style_class)]
    gate_elements = [] if heat_map is None else [_embed(heat_map, class_="over" if image_elements else None)]
    return _frame(*image_elements, *gate_elements, label=label, class_="plane")


def _frame(*elements: Markup, label: str, class_: str) -> Markup:
    """Return an svg with a viewBox of 100 × 100; the style sheet sets its aspect ratio to that of the images."""
    view = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return element("svg", *elements, class_=class_, **view, role="img", aria_label=label)


def _embed(image: Image.Image, file_format: Literal["PNG", "JPEG"] = "PNG", **attributes: str | None) -> Markup:
    """Return an image element that embeds ``image``."""
    file = io.BytesIO()
    image.save(file, file_format, optimize=True, quality=90)
    href = f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return element("image", href=href, width=100, height=100, preserveAspectRatio="none", **attributes)
