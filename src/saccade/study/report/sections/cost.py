"""Cost of each arm, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, final

from saccade.study.costs import Latency
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import format_count, format_duration, format_milliseconds, format_relative

if TYPE_CHECKING:
    from saccade.study.results import ArmResult, StudyResults

__all__ = ["CostSection"]


@final
class CostSection(Section):
    """One row per arm: each cost, and below it the change against the baseline."""

    title = "Cost"
    order = 50
    template = """
<p class="how">{% if machine %}Measured with the study’s network and input size on {{ machine }}. MACs count every
multiply-add, deformable sampling and attention products included. Latency: median, and the range of the middle
90&#8239;%, in milliseconds. {% endif %}Training: median seconds of a run. Percentages are relative to
{{ baseline }}.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th><th scope="col">parameters</th><th scope="col">MACs</th>
<th scope="col">latency, batch 1<br>ms</th>
<th scope="col">latency{% if batch %}, batch {{ batch }}{% endif %}<br>ms</th>
<th scope="col">training</th></tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ arm_label(style) }}</th>
{%- for value, change in cells %}
<td>{{ value }}<span class="second">{{ change }}</span></td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results = context.results
        if results.study is None:
            return None
        costs = {row.arm.name: _costs(results, row) for row in results.arms}
        baseline = results.arms[0].arm.name
        formats = (format_count, format_count, format_milliseconds, format_milliseconds, format_duration)
        rows = []
        for name, style in context.styles.items():
            cells = []
            pairs = zip(costs[name], costs[baseline], formats, strict=True)
            for (value, range_text), (baseline_value, _), to_text in pairs:
                change = "" if name == baseline else format_relative(value, baseline_value)
                cells.append((to_text(value), " · ".join(filter(None, (change, range_text)))))
            rows.append((style, cells))
        measured = next((row.cost for row in results.arms if row.cost), None)
        if measured is None:
            return {"rows": rows, "batch": None, "baseline": baseline, "machine": None}
        machine = f"{measured.device}, {measured.threads} thread{'s' * (measured.threads > 1)}"
        return {"rows": rows, "batch": measured.batch, "baseline": baseline, "machine": machine}


def _costs(results: StudyResults, row: ArmResult) -> list[tuple[float | None, str]]:
    """Return the costs of an arm in the order of the columns, each with its range as text."""
    seconds = [run.seconds for run in results.of(row.arm.name) if run.seconds is not None]
    training = (median(seconds) if seconds else None, "")
    if row.cost is None:
        return [(row.parameters, ""), (None, ""), (None, ""), (None, ""), training]
    latencies = [(latency.median, _latency_range(latency)) for latency in (row.cost.latency, row.cost.batched)]
    return [(row.cost.parameters, ""), (row.cost.macs, ""), *latencies, training]


def _latency_range(latency: Latency) -> str:
    """Return the range of the middle 90 % of the timed runs, in milliseconds."""
    return f"{format_milliseconds(latency.low)}–{format_milliseconds(latency.high)}"
