"""Every score, arms down and seeds across, with the trivial answer below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import capital, in_unit, number, prose

__all__ = ["Runs"]


@final
class Runs(Section):
    """A row an arm."""

    title = "Every run"
    order = 70
    template = """
<p class="how">{{ name }}{{ scored }}{{ unit }}. A row read across is the scatter between seeds; differences are
taken within a column.{% if diagnostics %} {{ diagnostics }}{% endif %}</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>{% for seed in seeds %}<th scope="col">seed {{ seed }}</th>{% endfor %}
<th scope="col">mean</th><th scope="col">sd</th></tr></thead>
<tbody>
{%- for row in rows %}
<tr><th scope="row">{{ named(row.style) }}</th>
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

    def content(self, context: Context) -> Mapping[str, Any]:
        results, metric = context.results, context.results.metric
        rows = []
        for arm in results.arms:
            runs = results.of(arm.arm.name)
            rows.append({
                "style": context.styles[arm.arm.name],
                "cells": [
                    (number(score, metric.digits) if run.status == "done" else run.status, run.status != "done")
                    for run, score in zip(runs, arm.scores, strict=True)
                ],
                "mean": number(arm.mean, metric.digits), "sd": number(arm.sd, metric.digits),
            })  # fmt: skip
        return {
            "name": capital(metric.name),
            "unit": in_unit(metric.unit),
            "scored": f" of {results.scored}" if results.scored else "",
            "seeds": results.seeds,
            "rows": rows,
            "trivial": results.trivial and (results.trivial[0], number(results.trivial[1], metric.digits)),
            "diagnostics": prose(results.analysis.diagnostics()) if results.analysis else None,
        }
