"""What each arm costs, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, final

from saccade.study.costs import Latency
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import count, duration, milliseconds, relative

if TYPE_CHECKING:
    from saccade.study.results import ArmResult, StudyResults

__all__ = ["Cost"]


@final
class Cost(Section):
    """A row an arm: the figure, and beneath it what it is against ``none``."""

    title = "Cost"
    order = 50
    template = """
<p class="how">{% if where %}Measured on this network, input size and machine: {{ where }}. MACs count every
multiply-add, deformable sampling and attention products included. Latency: median, and the range of the middle
90&#8239;%, in milliseconds. {% endif %}Training: median seconds of a run. Percentages are against none.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th><th scope="col">parameters</th><th scope="col">MACs</th>
<th scope="col">latency, batch 1<br>ms</th>
<th scope="col">latency{% if batch %}, batch {{ batch }}{% endif %}<br>ms</th>
<th scope="col">training</th></tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ named(style) }}</th>
{%- for value, more in cells %}
<td>{{ value }}<span class="second">{{ more }}</span></td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        results = context.results
        if results.study is None:
            return None
        figures = {row.arm.name: _figures(results, row) for row in results.arms}
        plain = results.arms[0].arm.name
        say = (count, count, milliseconds, milliseconds, duration)
        rows = []
        for name, style in context.styles.items():
            cells = []
            for (value, spread), (base, _), words in zip(figures[name], figures[plain], say, strict=True):
                against = "" if name == plain else relative(value, base)
                cells.append((words(value), " · ".join(filter(None, (against, spread)))))
            rows.append((style, cells))
        measured = next((row.cost for row in results.arms if row.cost), None)
        if measured is None:
            return {"rows": rows, "batch": None, "where": None}
        where = f"{measured.device}, {measured.threads} thread{'s' * (measured.threads > 1)}"
        return {"rows": rows, "batch": measured.batch, "where": where}


def _figures(results: StudyResults, row: ArmResult) -> list[tuple[float | None, str]]:
    """Each figure of an arm in the order of the columns, with its spread in words."""
    seconds = [run.seconds for run in results.of(row.arm.name) if run.seconds is not None]
    training = (median(seconds) if seconds else None, "")
    if row.cost is None:
        return [(row.parameters, ""), (None, ""), (None, ""), (None, ""), training]
    times = [(time.median, _spread(time)) for time in (row.cost.latency, row.cost.batched)]
    return [(row.cost.parameters, ""), (row.cost.macs, ""), *times, training]


def _spread(time: Latency) -> str:
    return f"{milliseconds(time.low)}–{milliseconds(time.high)}"
