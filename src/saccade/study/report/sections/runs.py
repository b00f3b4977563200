"""Score of every run, with the score of a trivial predictor in the last row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import capitalise, format_number, typeset_sentence, unit_phrase

__all__ = ["RunsSection"]


@final
class RunsSection(Section):
    """One row per arm, one column per seed."""

    title = "Every run"
    order = 70
    template = """
<p class="how">{{ name }}{{ scored }}{{ unit }}. Each row shows the spread over seeds; differences are
computed within a column.{% if diagnostics %} {{ diagnostics }}{% endif %}</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>{% for seed in seeds %}<th scope="col">seed {{ seed }}</th>{% endfor %}
<th scope="col">mean</th><th scope="col">sd</th></tr></thead>
<tbody>
{%- for row in rows %}
<tr><th scope="row">{{ arm_label(row.style) }}</th>
{%- for cell, bad in row.cells %}<td{% if bad %} class="bad"{% endif %}>{{ cell }}</td>{% endfor -%}
<td><b>{{ row.mean }}</b></td><td>{{ row.sd }}</td></tr>
{%- endfor %}
{%- if trivial %}
<tr class="soft"><td colspan="{{ seeds | length + 1 }}">{{ trivial[0] }}, without looking at the image</td>
<td>{{ trivial[1] }}</td><td></td></tr>
{%- endif %}
</tbody>
</table></div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any]:
        results, metric = context.results, context.results.metric
        rows = []
        for arm in results.arms:
            runs = results.of(arm.arm.name)
            rows.append({
                "style": context.styles[arm.arm.name],
                "cells": [
                    (format_number(score, metric.digits) if run.status == "done" else run.status, run.status != "done")
                    for run, score in zip(runs, arm.scores, strict=True)
                ],
                "mean": format_number(arm.mean, metric.digits), "sd": format_number(arm.sd, metric.digits),
            })  # fmt: skip
        return {
            "name": capitalise(metric.name),
            "unit": unit_phrase(metric.unit),
            "scored": f" of {results.scored_epoch}" if results.scored_epoch else "",
            "seeds": results.seeds,
            "rows": rows,
            "trivial": results.trivial and (results.trivial[0], format_number(results.trivial[1], metric.digits)),
            "diagnostics": typeset_sentence(results.analysis.diagnostics()) if results.analysis else None,
        }
