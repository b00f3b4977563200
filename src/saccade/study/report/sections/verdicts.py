"""The answer: a verdict an arm, and what must be known beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import prose

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["Verdicts"]

_STATUSES = {"diverged": "diverged", "failed": "failed", "missing": "is not run yet"}


@final
class Verdicts(Section):
    """A card an arm, then the notes."""

    title = ""
    order = 0
    template = """
{%- macro sign(verdict) -%}
<svg viewBox="0 0 16 16" aria-hidden="true"><path d="
{%- if verdict == "helps" %}M8,14V2M2.5,7.5L8,2l5.5,5.5
{%- elif verdict == "hurts" %}M8,2v12M2.5,8.5L8,14l5.5,-5.5
{%- elif verdict == "equal" %}M2,5.5h12M2,10.5h12
{%- else %}M2,8c2,-4 4,-4 6,0s4,4 6,0{% endif -%}
"/></svg>
{%- endmacro -%}
<ol class="verdicts" aria-label="Verdicts">
{%- for card in cards %}
<li{% if card.row.is_control %} class="aside"{% endif %}>
  <div class="who">{{ named(card.style) }}
  {%- if card.row.verdict %}<span class="badge {{ card.row.verdict }}">{{ sign(card.row.verdict) }}
  {{- card.badge }}</span>{% endif %}</div>
  <p class="lead"><span class="hidden">{{ card.head }}. </span>
  {%- if card.figure %}<b>{{ card.figure }}</b> {% endif %}{{ card.rest }}
  {%- if card.shares_host is false %}<span class="second">Another host: it shares seed, data order and augmentation with
  {{ baseline }}, not the first weights.</span>{% endif %}</p>
</li>
{%- else %}
<li><div class="who"><span class="badge">{{ sign("not decided") }}not decided</span></div>
  <p class="lead">No run of {{ baseline }} has a score yet: there is nothing to compare with.</p></li>
{%- endfor %}
</ol>
{%- if notes %}
<ul class="notes">
{%- for class, sentence in notes %}
<li{% if class %} class="{{ class }}"{% endif %}>{{ sentence }}</li>
{%- endfor %}
</ul>
{%- endif %}
"""

    def content(self, context: Context) -> Mapping[str, Any]:
        results = context.results
        shares_host = {row.arm.name: row.shares_host for row in results.arms}
        cards = []
        for row in results.analysis.differences if results.analysis else ():
            head, figure, rest = map(prose, row.parts())
            cards.append({
                "row": row, "style": context.styles[row.name], "head": head, "figure": figure, "rest": rest,
                "badge": f"equal within ±{row.margin:g}" if row.verdict == "equal" else row.verdict,
                "shares_host": shares_host[row.name],
            })  # fmt: skip
        notes = [*_unscored(results), *_others(results)]
        return {"cards": cards, "notes": notes, "baseline": results.baseline}


def _unscored(results: StudyResults) -> list[tuple[str, str]]:
    status = _STATUSES if results.study else {"missing": "is not given"}
    named = [
        f"{run.arm} seed {run.seed} {status[run.status]}" + (f" ({run.reason})" if run.reason else "")
        for run in results.runs
        if run.status != "done"
    ]
    said = f"{len(named)} of {len(results.runs)} runs have no score: {'; '.join(named)}."
    return [("alarm", said)] if named else []


def _others(results: StudyResults) -> list[tuple[str, str]]:
    return [("", prose(note.text)) for note in results.notes if note.kind != "unscored"]
