"""Score of each class under every arm."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import capitalise, format_number, format_signed, unit_phrase

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["ByClassSection"]

MAX_CLASSES = 20
"""Maximum number of classes listed."""


@final
class ByClassSection(Section):
    """One row per class, one column per arm; classes whose scores differ most come first."""

    title = "By class"
    order = 24
    template = """
<p class="how">{{ name }} of each class, mean over seeds; below it the difference to {{ baseline }}, + is better.
{{ classes }}, sorted by the largest difference between arms. Among many classes some differ by chance:
no verdict follows.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">class</th>
{%- for style in styles %}<th scope="col">{{ arm_label(style) }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for class, cells in rows %}
<tr><th scope="row">{{ class }}</th>
{%- for value, difference in cells %}<td>{{ value }}<span class="second">{{ difference }}</span></td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        metric = context.results.metric
        means = {name: _means(context.results, name) for name in context.styles}
        total = max(map(len, means.values()))
        if not total:
            return None
        names = context.task.data.classes if context.task else []
        scores = [[mean[k] if k < len(mean) else None for mean in means.values()] for k in range(total)]
        order = sorted(range(total), key=lambda k: -_score_range(scores[k]))[:MAX_CLASSES]
        rows = []
        for k in order:
            baseline_score = scores[k][0]
            sign = 1 if metric.higher_is_better else -1
            differences = [
                None if baseline_score is None or score is None else sign * (score - baseline_score)
                for score in scores[k]
            ]
            difference_texts = [
                "" if n == 0 or d is None else format_signed(d, metric.digits) for n, d in enumerate(differences)
            ]
            cells = list(
                zip([format_number(score, metric.digits) for score in scores[k]], difference_texts, strict=True)
            )
            rows.append((names[k] if k < len(names) else f"class {k}", cells))
        return {
            "name": capitalise(metric.name) + unit_phrase(metric.unit),
            "baseline": context.results.baseline,
            "classes": f"{len(rows)} of {total} classes" if len(rows) < total else "All classes",
            "styles": context.styles.values(),
            "rows": rows,
        }


def _means(results: StudyResults, arm: str) -> list[float | None]:
    """Return the mean over the seeds for each class; [] if the runs have no scores by class."""
    runs = [run.by_class.get(results.metric.name, []) for run in results.of(arm)]
    columns = [[run[k] for run in runs if k < len(run)] for k in range(max(map(len, runs), default=0))]
    scores_by_class = [[score for score in column if score is not None] for column in columns]
    return [fmean(column) if column else None for column in scores_by_class]


def _score_range(scores: list[float | None]) -> float:
    """Return the largest difference between ``scores``; -1 if all are missing."""
    values = [score for score in scores if score is not None]
    return max(values) - min(values) if values else -1.0
