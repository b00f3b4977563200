"""Settings that tuning chose for each arm, with the validation scores behind the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, final

from saccade.metrics.metric import Metric
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import capitalise, format_number, unit_phrase
from saccade.study.tuning import ArmTuning

__all__ = ["TuningSection"]


@final
class TuningSection(Section):
    """One row per arm, one column per tried combination of settings."""

    title = "Tuned settings"
    order = 12
    template = """
<p class="how">{{ name }} on validation images{{ unit }}, mean ± standard deviation of {{ n_tuning_runs }} tuning runs;
below it, for how many of the study's {{ n_seeds }} seeds tuning chose these settings.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">arm</th>
{%- for combination in combinations %}<th scope="col">{{ combination }}</th>{% endfor -%}
<th scope="col">runs</th></tr></thead>
<tbody>
{%- for style, cells in rows %}
<tr><th scope="row">{{ arm_label(style) }}</th>
{%- for score, n_chosen in cells %}<td>{{ score }}<span class="second">{% if n_chosen %}<b>chosen for {{ n_chosen }}</b>
{%- else %}not chosen{% endif %}</span></td>{% endfor %}<td>{{ runs }}</td></tr>
{%- endfor %}
</tbody>
</table></div>
{%- if grid_edge_notes %}
<ul class="notes">{% for note in grid_edge_notes %}<li>{{ note }}</li>{% endfor %}</ul>
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results, tuned = context.results, context.results.tuned
        if tuned is None:
            return None
        plan = tuned.tuning
        return {
            "name": capitalise(results.metric.name),
            "unit": unit_phrase(results.metric.unit),
            "n_tuning_runs": len(plan.tuning_study.seeds),
            "n_seeds": len(results.seeds),
            "combinations": [
                ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in combination.items())
                for combination in plan.grid
            ],
            "runs": tuned.runs_per_arm,
            "rows": [(context.styles[arm.name], _combination_cells(arm, results.metric)) for arm in tuned.arms],
            "grid_edge_notes": tuned.grid_edge_notes(),
        }


def _combination_cells(arm: ArmTuning, metric: Metric) -> list[tuple[str, int]]:
    """Return each combination's mean score, and the number of seeds for which it was chosen."""
    return [(_mean_score(scores, metric), arm.chosen_indices.count(n)) for n, scores in enumerate(arm.scores)]


def _mean_score(scores: Sequence[float | None], metric: Metric) -> str:
    values = [score for score in scores if score is not None]
    mean = format_number(fmean(values) if values else None, metric.digits)
    spread = f" ± {format_number(stdev(values), metric.digits)}" if len(values) > 1 else ""
    diverged = f" ({len(scores) - len(values)} diverged)" if len(values) < len(scores) else ""
    return f"{mean}{spread}{diverged}"
