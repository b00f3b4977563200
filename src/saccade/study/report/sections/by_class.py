"""The score of each class under every arm."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import capital, in_unit, number, signed

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["ByClass"]

CLASSES = 20
"""At most so many are listed."""


@final
class ByClass(Section):
    """A row a class, a column an arm; the classes that differ most come first."""

    title = "By class"
    order = 24
    template = """
<p class="how">{{ name }} of each class, mean over seeds; beneath it the difference to {{ baseline }}, + for better.
{{ which }}, those first in which the arms differ most. Of many classes some differ by chance: no verdict follows.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">class</th>
{%- for style in styles %}<th scope="col">{{ named(style) }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for class, cells in rows %}
<tr><th scope="row">{{ class }}</th>
{%- for value, more in cells %}<td>{{ value }}<span class="second">{{ more }}</span></td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table></div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        metric = context.results.metric
        means = {name: _means(context.results, name) for name in context.styles}
        total = max(map(len, means.values()))
        if not total:
            return None
        names = context.task.data.classes if context.task else []
        scores = [[mean[k] if k < len(mean) else None for mean in means.values()] for k in range(total)]
        order = sorted(range(total), key=lambda k: -_range(scores[k]))[:CLASSES]
        rows = []
        for k in order:
            plain = scores[k][0]
            sign = 1 if metric.higher_is_better else -1
            against = [None if plain is None or score is None else sign * (score - plain) for score in scores[k]]
            beneath = ["" if n == 0 or d is None else signed(d, metric.digits) for n, d in enumerate(against)]
            cells = list(zip([number(score, metric.digits) for score in scores[k]], beneath, strict=True))
            rows.append((names[k] if k < len(names) else f"class {k}", cells))
        return {
            "name": capital(metric.name) + in_unit(metric.unit),
            "baseline": context.results.baseline,
            "which": f"{len(rows)} of {total} classes" if len(rows) < total else "All classes",
            "styles": context.styles.values(),
            "rows": rows,
        }


def _means(results: StudyResults, arm: str) -> list[float | None]:
    """The mean over the seeds of each class; [] without scores by class."""
    runs = [run.by_class.get(results.metric.name, []) for run in results.of(arm)]
    columns = [[run[k] for run in runs if k < len(run)] for k in range(max(map(len, runs), default=0))]
    known = [[score for score in column if score is not None] for column in columns]
    return [fmean(column) if column else None for column in known]


def _range(scores: list[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if known else -1.0
