"""Score of every run, with the scores of a trivial predictor and of reference predictions in the last rows."""

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
<p class="how">{{ name }}{{ scored_on }}{{ unit }}. Each row shows the spread over seeds; differences are
computed within a column.{% if diagnostics %} {{ diagnostics }}{% endif %}</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>{% for seed in seeds %}<th scope="col">seed {{ seed }}</th>{% endfor %}
<th scope="col">mean</th><th scope="col">sd</th></tr></thead>
<tbody>
{%- for row in rows %}
<tr><th scope="row">{{ arm_label(row.style) }}</th>
{%- for cell, has_no_score in row.cells %}<td{% if has_no_score %} class="bad"{% endif %}>{{ cell }}</td>{% endfor -%}
<td><b>{{ row.mean }}</b></td><td>{{ row.sd }}</td></tr>
{%- endfor %}
{%- if trivial_name is not none %}
<tr class="soft"><td colspan="{{ seeds | length + 1 }}">{{ trivial_name }}, without looking at the image</td>
<td>{{ trivial_score }}</td><td></td></tr>
{%- endif %}
{%- for reference, score in references %}
<tr class="soft"><td colspan="{{ seeds | length + 1 }}">{{ reference }}, for comparison</td>
<td>{{ score }}</td><td></td></tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any]:
        results, metric = context.results, context.results.metric
        rows = []
        for row in results.arms:
            runs = results.of(row.arm.name)
            rows.append({
                "style": context.styles[row.arm.name],
                "cells": [
                    (format_number(score, metric.digits) if run.status == "done" else run.status, run.status != "done")
                    for run, score in zip(runs, row.scores, strict=True)
                ],
                "mean": format_number(row.mean, metric.digits), "sd": format_number(row.sd, metric.digits),
            })  # fmt: skip
        trivial_name, trivial_score = results.trivial or (None, None)
        return {
            "name": capitalise(metric.name),
            "unit": unit_phrase(metric.unit),
            "scored_on": f" of {results.scored_epoch}" if results.scored_epoch else "",
            "seeds": results.seeds,
            "rows": rows,
            "trivial_name": trivial_name,
            "trivial_score": format_number(trivial_score, metric.digits),
            "references": [
                (name, format_number(score, metric.digits)) for name, score in results.reference_scores(metric).items()
            ],
            "diagnostics": typeset_sentence(results.analysis.diagnostics()) if results.analysis else None,
        }
