"""Metrics other than the one that decides the verdicts: means, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import format_interval, format_number, format_signed, label_with_unit

if TYPE_CHECKING:
    from saccade.study.results import OtherMetric

__all__ = ["OtherMetricsSection"]


@final
class OtherMetricsSection(Section):
    """One row per arm, one column per metric."""

    title = "Other metrics"
    order = 22
    template = """
<p class="how">Mean ± standard deviation over seeds; below it the difference to {{ baseline }} with its
95&#8239;% interval, signed so that + is better. The verdict uses none of these metrics, but one chosen before the
runs.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>
{%- for name, direction in headers %}<th scope="col">{{ name }}<br>{{ direction }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ arm_label(style) }}</th>
{%- for value, difference in cells %}<td>{{ value }}<span class="second">{{ difference }}</span></td>{% endfor %}</tr>
{%- endfor %}
{%- for reference, cells in references %}
<tr class="soft"><td>{{ reference }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        others = context.results.others
        if not others:
            return None
        headers = [
            (label_with_unit(other.metric.name, other.metric.unit),
             "higher is better" if other.metric.higher_is_better else "lower is better")
            for other in others
        ]  # fmt: skip
        rows = [(style, [_cell(other, name) for other in others]) for name, style in context.styles.items()]
        references = [
            (name, [format_number(scores.get(other.metric.name), other.metric.digits) for other in others])
            for name, scores in context.results.references.items()
        ]
        return {"headers": headers, "rows": rows, "references": references, "baseline": context.results.baseline}


def _cell(other: OtherMetric, arm: str) -> tuple[str, str]:
    digits = other.metric.digits
    values = [score for score in other.scores[arm] if score is not None]
    mean = format_number(fmean(values) if values else None, digits)
    spread = f" ± {format_number(stdev(values), digits)}" if len(values) > 1 else ""
    finding = next((finding for finding in other.differences if finding.name == arm), None)
    difference = (
        f"{format_signed(finding.difference, digits)} {format_interval(finding.low, finding.high, digits)}"
        if finding
        else ""
    )
    return f"{mean}{spread}", difference
