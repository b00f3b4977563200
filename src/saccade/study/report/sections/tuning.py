"""What tuning chose for each arm, and the validation scores it chose by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, final

from saccade.metrics.metric import Metric
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import capital, in_unit, number
from saccade.study.tuning import ArmTuning

__all__ = ["Tuning"]


@final
class Tuning(Section):
    """A row an arm, a column a value."""

    title = "What was chosen"
    order = 12
    template = """
<p class="how">{{ name }} on validation images{{ unit }}, mean ± standard deviation of {{ each }} tuning runs; beneath
it for how many of the {{ seeds }} judged seeds the arm chose that value.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>
{%- for value in values %}<th scope="col">{{ value }}</th>{% endfor %}<th scope="col">runs</th></tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ named(style) }}</th>
{%- for score, times in cells %}<td>{{ score }}<span class="second">{% if times %}<b>chosen for {{ times }}</b>
{%- else %}not chosen{% endif %}</span></td>{% endfor %}<td>{{ runs }}</td></tr>
{%- endfor %}
</tbody>
</table></div>
{%- if edges %}
<ul class="notes">{% for edge in edges %}<li>{{ edge }}</li>{% endfor %}</ul>
{%- endif %}
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        results, tuned = context.results, context.results.tuned
        if tuned is None:
            return None
        return {
            "name": capital(results.metric.name),
            "unit": in_unit(results.metric.unit),
            "each": len(tuned.tuning.trials.seeds),
            "seeds": len(results.seeds),
            "values": [
                ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in values.items())
                for values in tuned.tuning.grid
            ],
            "runs": tuned.runs_per_arm,
            "rows": [(context.styles[arm.name], _cells(arm, results.metric)) for arm in tuned.arms],
            "edges": tuned.edge_notes(),
        }


def _cells(arm: ArmTuning, metric: Metric) -> list[tuple[str, int]]:
    """Scores of each value, and the seeds it was chosen with."""
    return [(_mean(scores, metric), arm.picks.count(n)) for n, scores in enumerate(arm.scores)]


def _mean(scores: Sequence[float | None], metric: Metric) -> str:
    known = [score for score in scores if score is not None]
    mean = number(fmean(known) if known else None, metric.digits)
    spread = f" ± {number(stdev(known), metric.digits)}" if len(known) > 1 else ""
    lost = f" ({len(scores) - len(known)} diverged)" if len(known) < len(scores) else ""
    return f"{mean}{spread}{lost}"
