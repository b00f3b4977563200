"""Heat maps of the same images under every arm, beside the gates, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from statistics import fmean, stdev
from typing import Any, final

import numpy as np
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.escaping import brief
from saccade.explanation.class_probabilities import class_probabilities
from saccade.explanation.map_scores import Examples, class_maps, find_examples, has_example
from saccade.explanation.target_layer import target_layer
from saccade.graph.states import without_gradients
from saccade.heat_maps import COLOURS, draw_heat_map
from saccade.runfiles import read_rows
from saccade.saving import load
from saccade.study.arms import Arm
from saccade.study.findings import ConfidenceInterval
from saccade.study.looking import FAITHFULNESS, Looking, MapScore, measure_looking
from saccade.study.opening import check_saved, task_of
from saccade.study.plan import Study
from saccade.study.report.gate_pictures import gate_pictures
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.shown_images import MAX_SIDE, choose_images, embed, frame, image_definition, runs_to_show
from saccade.study.report.svg import element
from saccade.study.report.typeset import (
    NARROW_SPACE,
    format_interval,
    format_number,
    format_signed,
    group_thousands,
    label_with_unit,
)
from saccade.study.run_notes import RunResult
from saccade.tasks.base import Task

__all__ = ["LookingSection"]

N_ROWS = 4
"""Number of images shown."""
_MAP_SIDE = 64
"""Longest side of an embedded heat map, in pixels; heat maps are smooth."""
_PREFIX = "looking-picture"


@final
class LookingSection(Section):
    """Pictures with one row per image and up to two columns per arm; then tables of scores with one row per arm."""

    title = "Where the network looks"
    order = 61
    template = """
{%- if error %}
<p class="how">No heat maps: {{ error }}</p>
{%- else %}
<p class="how finding">A heat map (Grad-CAM) marks the pixels of one feature map that raise the score of a class, each
channel weighted by its mean gradient. It does not show why the network decides so, nor that it would fail without these
pixels; and a network with random weights has heat maps too.</p>
{{ definitions }}
<p class="how">{{ description }} Left under each arm: the heat map of the class that the image shows
{%- if has_regions %}, outlined in white{% endif %}, from dark (0) to yellow (the largest value of this map), with the
probability that this network gives the class. Right: the fraction of the feature map that the gate passes, on the scale
above the column.</p>
<div class="scroll pictures{% if smooth %} smooth{% endif %}" style="--aspect: {{ aspect }}; --ramp: {{ ramp }}"><table>
<thead><tr><td></td>
{%- for column in columns %}
<th scope="colgroup" colspan="{{ column.span }}">{{ arm_label(column.style) }}
{%- if not has_common_seed %}<span class="second">seed {{ column.seed }}</span>{% endif %}</th>
{%- endfor %}</tr>
<tr><th scope="col">image</th>
{%- for column in columns %}
<th scope="col"{% if not column.gates %} class="last-of-arm"{% endif %}>heat map
{{- "" }}<span class="second">{{ column.layer }}</span></th>
{%- if column.gates %}
<th scope="col" class="last-of-arm">gate<span class="second">{{ column.gates.label }}</span><span class="ramp"></span>
{{- "" }}<span class="ends">
{%- for end in column.gates.scale_ends %}<span>{{ end }}</span>{% endfor %}</span></th>
{%- endif %}
{%- endfor %}</tr></thead>
<tbody>
{%- for picture, caption in truths %}{% set k = loop.index0 %}
<tr><td>{{ picture }}<span class="answer">{{ caption }}</span></td>
{%- for column in columns %}
<td{% if not column.gates %} class="last-of-arm"{% endif %}>{{ column.maps[k] }}
{{- "" }}<span class="answer">{{ column.captions[k] }}</span></td>
{%- if column.gates %}<td class="last-of-arm">{{ column.gates.overlays[k] }}</td>{% endif %}
{%- endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- if tables %}
<h3 class="stage">Scores of the heat maps</h3>
<p class="how">{{ scored }} Mean ± standard deviation over seeds; below it the difference to {{ baseline }} with its
95&#8239;% interval, paired over seeds and images. {{ accuracies }}</p>
{%- for table in tables %}
<h3 class="stage">{{ table.question }}</h3>
<p class="how">{{ table.text }}</p>
<div class="scroll"><table class="map-scores">
<thead><tr><th scope="col">arm</th>
{%- for header in table.headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for style, cells in table.rows %}
<tr><th scope="row">{{ arm_label(style) }}</th>
{%- for lines in cells %}<td>{{ lines[0] }}
{%- for line in lines[1:] %}<span class="second">{{ line }}</span>{% endfor %}</td>{% endfor %}</tr>
{%- endfor %}
{%- for name, cells in table.controls %}
<tr class="soft"><td>{{ name }}</td>
{%- for lines in cells %}<td>{{ lines[0] }}
{%- for line in lines[1:] %}<span class="second">{{ line }}</span>{% endfor %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endfor %}
{%- endif %}
{%- for sentence in left_out %}
<p class="how">{{ sentence }}</p>
{%- endfor %}
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        study, task = context.results.study, context.task
        if study is None:
            return None
        if task is None:
            return {"error": context.open_error}
        try:
            looking = measure_looking(context.results, task, context.trust)
            if looking is None:
                return None
            return {"error": None, **_pictures(context, study, task), **_scores(context, looking)}
        except UserError as error:
            return {"error": str(error)}
        except RuntimeError as error:  # a network of the user's that cannot run backwards
            return {"error": f"a network fails on its images: {brief(error, 200)}"}


def _pictures(context: ReportContext, study: Study, task: Task) -> dict[str, Any]:
    """Return the variables of the pictures.

    Raises:
        UserError: a network or its rows do not belong to these images, or it has no heat maps.
    """
    runs, common_seed = runs_to_show(context, study)
    rows = [read_rows(study.folder / run.folder) for run in runs.values()]
    indices = choose_images(len(task.data.test), task, rows)[0]
    others = (i for i in range(len(task.data.test)) if i not in indices)
    indices = list(islice((i for i in chain(indices, others) if has_example(task, i)), N_ROWS))
    examples = find_examples(task, indices)
    assert examples is not None
    pictures = [task.data.test.raw_image(i) for i in indices]
    height, width = pictures[0].shape[-2:]
    columns = [_column(context, study, task, arm, run, indices) for arm, run in runs.items()]
    regions = [] if examples.regions is None else [_outline(k, region) for k, region in enumerate(examples.regions)]
    definitions = element(
        "defs", *(image_definition(k, x, MAX_SIDE, _PREFIX) for k, x in enumerate(pictures)), *regions
    )
    seed = "" if common_seed is None else f" under the networks of seed {common_seed}"
    return {
        "description": f"The same {len(indices)} test images{seed}.",
        "has_regions": bool(regions),
        "has_common_seed": common_seed is not None,
        "columns": columns,
        "truths": [
            (_plane(k, None, name or f"image {k + 1}", bool(regions)), name) for k, name in enumerate(examples.names)
        ],
        "definitions": element("svg", definitions, width=0, height=0, class_="hidden", aria_hidden="true"),
        "smooth": max(height, width) > MAX_SIDE // 2,
        "aspect": f"{width / height:.3f}",
        "ramp": f"linear-gradient(90deg, {', '.join(COLOURS)})",
    }


def _column(
    context: ReportContext, study: Study, task: Task, arm: Arm, run: RunResult, indices: Sequence[int]
) -> dict[str, Any]:
    """Return one arm's columns: style, seed, layer, heat maps with their captions, and gates or None."""
    own_task, folder = task_of(study, arm, run.seed, task), study.folder / run.folder
    examples = find_examples(own_task, indices)
    assert examples is not None
    check_saved(folder, own_task.data.classes, list(examples.images.shape[1:]))
    model = load(folder, trust=context.trust)
    layer = target_layer(model, examples.images[:1])
    maps = class_maps(model, examples.images, examples.classes, layer)
    captions = _captions(model, examples)
    gates = gate_pictures(model, examples.images, arm.name, _PREFIX)
    planes = [
        _plane(k, map_, f"{arm.name}, image {k + 1}: heat map, {caption}", examples.regions is not None)
        for k, (map_, caption) in enumerate(zip(maps, captions, strict=True))
    ]
    return {
        "style": context.styles[arm.name], "seed": run.seed, "layer": layer, "maps": planes, "captions": captions,
        "gates": None if gates.label is None else gates, "span": 1 if gates.label is None else 2,
    }  # fmt: skip


def _captions(model: nn.Module, examples: Examples) -> list[str]:
    """Return the class of each image with the network's probability for it; "" without classes."""
    if examples.classes is None:
        return [""] * len(examples.indices)
    try:
        with without_gradients(model):
            probability = class_probabilities(model, examples.images, examples.classes, multilabel=examples.multilabel)(
                examples.images
            )
    except UserError:  # a detector
        return examples.names
    return [
        f"{name} · {100 * p:.0f}{NARROW_SPACE}%" for name, p in zip(examples.names, probability.tolist(), strict=True)
    ]


def _plane(index: int, heat_map: Tensor | None, label: str, has_region: bool) -> Markup:
    """Return an image with the outline of its region; under it, in grey, with a heat map (H, W)."""
    elements = [element("use", href=f"#{_PREFIX}-{index}", class_=None if heat_map is None else "base-image")]
    if heat_map is not None:
        colours = draw_heat_map(heat_map)
        colours.thumbnail((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BILINEAR)
        elements.append(embed(colours, class_="over"))
    if has_region:
        elements.append(element("use", href=f"#{_PREFIX}-region-{index}"))
    return frame(*elements, label=label, class_="plane")


def _outline(index: int, region: Tensor) -> Markup:
    """Return the pixels just outside a region (H, W), white on transparent, as the element of ``_plane``."""
    inside = np.pad(region.numpy(), 1)
    grown = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
    edge = grown & ~region.numpy()
    pixels = np.full((*edge.shape, 4), 255, np.uint8)
    pixels[..., 3] = 230 * edge
    return embed(Image.fromarray(pixels), id=f"{_PREFIX}-region-{index}")


def _scores(context: ReportContext, looking: Looking) -> dict[str, Any]:
    """Return the variables of the tables."""
    located = [score for score in looking.scores if score.metric.name not in FAITHFULNESS]
    faithful = [score for score in looking.scores if score.metric.name in FAITHFULNESS]
    tables = []
    if located:
        has_regions = located[0].metric.name == "sfd"
        question = "Do the maps lie on the object?" if has_regions else "Do people look where the maps are high?"
        table = _table(context, located, with_accuracy=True)
        tables.append({"question": question, "text": _REGION_TEXT if has_regions else _GAZE_TEXT, **table})
    if faithful:
        table = _table(context, faithful, with_accuracy=not located)
        tables.append({"question": "Do these pixels matter to the network?", "text": _FAITHFUL_TEXT, **table})
    share = f"{group_thousands(looking.images)} of {group_thousands(looking.total)} test images, evenly spaced."
    return {
        "tables": tables, "scored": share, "baseline": context.results.baseline, "left_out": looking.left_out,
        "accuracies": _accuracies(context),
    }  # fmt: skip


_REGION_TEXT = """\
sfd is the weight that a map gives to the object against what it marks outside, from 0.09 to 0.91; a constant map has \
0.5, a random one less. Pixels outside count from half of the map’s largest value; mean sfd averages over thresholds \
from 0.1 to 0.9. Pointing game: the maximum lies on the object. mIoU is at the best threshold of each arm."""
_GAZE_TEXT = "NSS, CC and AUC-Judd of the heat map against the fixations, as for a predicted saliency map."
_FAITHFUL_TEXT = """\
Advantage of the map over a random map, in probability of the class: insertion adds the marked pixels first to a \
blurred image, deletion removes them first. 0 is no better than random; + is better."""


def _table(context: ReportContext, scores: Sequence[MapScore], with_accuracy: bool) -> dict[str, Any]:
    """Return a table of ``scores``: headers, a row of cells per arm, a row per control of the baseline."""
    results, metric = context.results, context.results.metric
    headers = [label_with_unit(metric.name, metric.unit)] * with_accuracy
    for score in scores:
        headers.append(label_with_unit(score.metric.name, score.metric.unit))
        if score.metric.name in _WITH_RANDOM:
            headers.append(f"{score.metric.name} above {_WITH_RANDOM[score.metric.name]}")
    rows = []
    for row in results.arms:
        cells = [_value(row.scores, metric.digits)] * with_accuracy
        for score in scores:
            difference = next((d for d in score.differences if d.name == row.arm.name), None)
            cells.append(_cell(score, score.scores[row.arm.name], difference))
            if score.metric.name in _WITH_RANDOM:
                above = score.above_random.get(row.arm.name)
                cells.append(["–"] if above is None else _difference(above, score.metric.digits))
        rows.append((context.styles[row.arm.name], cells))
    names = list(dict.fromkeys(name for score in scores for name in score.controls))
    controls = []
    for name in names:
        control_cells: list[list[str]] = [[""]] * with_accuracy
        for score in scores:
            difference = next((d for d in score.control_differences if d.name == name), None)
            control_cells.append(_cell(score, score.controls.get(name, []), difference))
            control_cells += [[""]] * (score.metric.name in _WITH_RANDOM)
        controls.append((_CONTROL_TEXT[name].format(results.baseline), control_cells))
    return {"headers": headers, "rows": rows, "controls": controls}


_WITH_RANDOM = {"sfd": "random weights", "NSS": "random weights", **dict.fromkeys(FAITHFULNESS, "a random map")}
"""Scores with a column for the difference to a map that knows nothing, and the name of that map."""
_CONTROL_TEXT = {
    "random weights": "{}, random weights",
    "another class": "{}, map of another class",
    "centre": "centre of the image",
}


def _cell(score: MapScore, values: Sequence[float | None], difference: ConfidenceInterval | None) -> list[str]:
    digits = score.metric.digits
    return _value(values, digits) + ([] if difference is None else _difference(difference, digits))


def _value(values: Sequence[float | None], digits: int) -> list[str]:
    known = [value for value in values if value is not None]
    spread = f" ± {format_number(stdev(known), digits)}" if len(known) > 1 else ""
    return [f"{format_number(fmean(known) if known else None, digits)}{spread}"]


def _difference(difference: ConfidenceInterval, digits: int) -> list[str]:
    return [
        format_signed(difference.difference, digits),
        format_interval(difference.low, difference.high, digits),
    ]


def _accuracies(context: ReportContext) -> str:
    """Return sentences on the arms whose score differs from the baseline's, or may differ."""
    results = context.results
    analysis, name = results.analysis, results.metric.name
    if analysis is None or not analysis.differences:
        return ""
    if analysis.not_learnt is not None:
        return f"{results.baseline} has not learnt the task, so that there is no knowledge that its maps could show."
    groups: dict[str, list[str]] = {}
    for difference in analysis.differences:
        word = {"helps": "differs", "hurts": "differs"}.get(difference.verdict_text, difference.verdict_text)
        groups.setdefault(word, []).append(difference.name)
    sentences = []
    if names := groups.get("differs"):
        sentences.append(
            f"{', '.join(names)} and {results.baseline} differ in {name}, so that a difference between maps may come "
            "from how good the networks are."
        )
    if names := groups.get("not decided"):
        sentences.append(f"Whether {name} differs is not decided for {', '.join(names)}.")
    if names := groups.get("equal"):
        sentences.append(f"{name} is equal within the margin for {', '.join(names)}.")
    return " ".join(sentences)
