"""The metrics beside that of the verdicts: means and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import heading, interval, number, signed

if TYPE_CHECKING:
    from saccade.study.results import OtherMetric

__all__ = ["OtherMetrics"]


@final
class OtherMetrics(Section):
    """A row an arm, a column a metric."""

    title = "Other metrics"
    order = 22
    template = """
<p class="how">Mean ± standard deviation between seeds; beneath it the difference to {{ baseline }} with its
95&#8239;% interval, turned so that + is better. They give no verdict: it is read off one metric, chosen before the
runs.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>
{%- for name, way in heads %}<th scope="col">{{ name }}<br>{{ way }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ named(style) }}</th>
{%- for value, more in cells %}<td>{{ value }}<span class="second">{{ more }}</span></td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        others = context.results.others
        if not others:
            return None
        heads = [
            (heading(other.metric.name, other.metric.unit),
             "higher is better" if other.metric.higher_is_better else "lower is better")
            for other in others
        ]  # fmt: skip
        rows = [(style, [_cell(other, name) for other in others]) for name, style in context.styles.items()]
        return {"heads": heads, "rows": rows, "baseline": context.results.baseline}


def _cell(other: OtherMetric, arm: str) -> tuple[str, str]:
    digits = other.metric.digits
    known = [score for score in other.scores[arm] if score is not None]
    mean = number(fmean(known) if known else None, digits)
    spread = f" ± {number(stdev(known), digits)}" if len(known) > 1 else ""
    row = next((row for row in other.differences if row.name == arm), None)
    beneath = f"{signed(row.difference, digits)} {interval(row.low, row.high, digits)}" if row else ""
    return f"{mean}{spread}", beneath
