"""Maps of the visual tokens of each network, on a few test images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.explanation import attention_entropy, has_token_maps, strongest_tokens, token_maps
from saccade.heat_maps import draw_heat_map
from saccade.runfiles import read_rows
from saccade.saving import load
from saccade.study.opening import check_saved, task_of
from saccade.study.plan import Study
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.shown_images import (
    MAX_SIDE,
    choose_images,
    draw_overlay,
    image_definition,
    runs_to_show,
)
from saccade.study.report.svg import element
from saccade.tasks.base import Task

__all__ = ["TokensSection"]

N_TOKENS = 3
"""Number of tokens shown of each tokenizer."""
N_ROWS = 4
"""Number of images shown."""


@final
class TokensSection(Section):
    """One table per arm with token maps: a row per image, a column per token of the first and the last tokenizer."""

    title = "Where the tokens look"
    order = 62
    template = """
{%- if error %}
<p class="how">No token maps: {{ error }}</p>
{%- else %}
{{ definitions }}
<p class="how">Each visual token averages the pixels of a feature map with the weights of its token map, drawn over the
image: yellow is the largest weight of a map. Shown are the {{ n_tokens }} strongest tokens of the first and the last
tokenizer, those of least entropy on these images. Entropy is in nats: 0 for a single pixel of the feature map.</p>
{%- for table in tables %}
<h3 class="stage">{{ arm_label(table.style) }}{% if not has_common_seed %}, seed {{ table.seed }}{% endif %}</h3>
<div class="scroll pictures{% if smooth %} smooth{% endif %}" style="--aspect: {{ aspect }}"><table>
<thead><tr><td></td>
{%- for path, uniform, n in table.tokenizers %}
<th scope="colgroup" colspan="{{ n }}"><code>{{ path }}</code>
<span class="second">uniform map: entropy {{ uniform }}</span></th>
{%- endfor %}</tr>
<tr><th scope="col">image</th>
{%- for token in table.tokens %}
<th scope="col">token {{ token.number }}<span class="second">entropy {{ token.entropy }}</span></th>
{%- endfor %}</tr></thead>
<tbody>
{%- for truth in truths %}{% set k = loop.index0 %}
<tr><td>{{ truth.overlay }}<span class="answer">{{ truth.caption }}</span></td>
{%- for token in table.tokens %}
<td>{{ token.cells[k] }}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endfor %}
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        if context.results.study is None or context.task is None:
            return None
        try:
            return _tables(context, context.results.study, context.task)
        except UserError as error:
            return {"error": str(error)}


def _tables(context: ReportContext, study: Study, task: Task) -> dict[str, Any] | None:
    """Return the variables of the template, or None if no network has token maps.

    Raises:
        UserError: a saved network cannot be loaded, or it or its rows do not belong to these images.
    """
    runs, common_seed = runs_to_show(context, study)
    networks = {arm: load(study.folder / run.folder, trust=context.trust) for arm, run in runs.items()}
    networks = {arm: network for arm, network in networks.items() if has_token_maps(network)}
    if not networks:
        return None
    rows = [read_rows(study.folder / run.folder) for run in runs.values()]
    indices = choose_images(len(task.data.test), task, rows)[0][:N_ROWS]
    tables = []
    for arm, network in networks.items():
        run = runs[arm]
        own_task, folder = task_of(study, arm, run.seed, task), study.folder / run.folder
        images = own_task.images(indices)
        check_saved(folder, own_task.data.classes, list(images.shape[1:]))
        tokens = _tokens(network, images, arm.name)
        tokenizers = Counter((token["path"], token["uniform"]) for token in tokens)
        tables.append({
            "style": context.styles[arm.name], "seed": run.seed, "tokens": tokens,
            "tokenizers": [(*tokenizer, n) for tokenizer, n in tokenizers.items()],
        })  # fmt: skip
    pictures = [task.data.test.raw_image(i) for i in indices]
    captions = [drawing.caption for drawing in task.draw(indices, None)]
    height, width = pictures[0].shape[-2:]
    # The section of the images may be absent or show other sizes, so this one defines its own.
    definitions = element("defs", *(image_definition(k, x, MAX_SIDE, "token-picture") for k, x in enumerate(pictures)))
    return {
        "error": None,
        "tables": tables,
        "truths": [
            {"overlay": draw_overlay(k, None, caption, "token-picture"), "caption": caption}
            for k, caption in enumerate(captions)
        ],
        "has_common_seed": common_seed is not None,
        "n_tokens": N_TOKENS,
        "definitions": element("svg", definitions, width=0, height=0, class_="hidden", aria_hidden="true"),
        "smooth": max(height, width) > MAX_SIDE // 2,
        "aspect": f"{width / height:.3f}",
    }


def _tokens(model: nn.Module, images: Tensor, arm: str) -> list[dict[str, Any]]:
    """Return the columns of one network: number, path, entropies and pictures of each token."""
    with torch.no_grad():
        maps_by_path = token_maps(model, images, resize=False)
    paths = list(maps_by_path)
    columns = []
    for path in dict.fromkeys([*paths[:1], *paths[-1:]]):
        maps = maps_by_path[path]  # (B, L, H, W)
        entropy = attention_entropy(maps).mean(0)
        for token in strongest_tokens(maps, N_TOKENS):
            cells = [
                draw_overlay(k, draw_heat_map(map_ / map_.max()), f"{arm}, image {k + 1}, token {token}",
                             "token-picture")
                for k, map_ in enumerate(maps[:, token])
            ]  # fmt: skip
            columns.append({
                "number": token, "path": path, "entropy": f"{float(entropy[token]):.2f}",
                "uniform": f"{math.log(maps.shape[2] * maps.shape[3]):.2f}", "cells": cells,
            })  # fmt: skip
    return columns
