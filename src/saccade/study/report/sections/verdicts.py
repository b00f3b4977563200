"""One verdict per arm, and the notes that qualify them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import typeset_sentence

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["VerdictsSection"]

_STATUS_PHRASES = {"diverged": "diverged", "failed": "failed", "missing": "has not run yet"}
"""Maps the status of a run without a score to a phrase."""


@final
class VerdictsSection(Section):
    """One card per arm, then the notes."""

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
<li{% if card.finding.is_control %} class="aside"{% endif %}>
  <div class="who">{{ arm_label(card.style) }}
  {%- if card.finding.verdict %}<span class="badge {{ card.finding.verdict }}">{{ sign(card.finding.verdict) }}
  {{- card.badge }}</span>{% endif %}</div>
  <p class="lead"><span class="hidden">{{ card.head }}. </span>
  {%- if card.difference %}<b>{{ card.difference }}</b> {% endif %}{{ card.rest }}
  {%- if card.shares_host is false %}<span class="second">Another host: it shares seed, data order and augmentation with
  {{ baseline }}, but not the initial weights.</span>{% endif %}</p>
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

    def content(self, context: ReportContext) -> Mapping[str, Any]:
        results = context.results
        shares_host = {row.arm.name: row.shares_host for row in results.arms}
        cards = []
        for finding in results.analysis.differences if results.analysis else ():
            head, difference, rest = map(typeset_sentence, finding.parts())
            cards.append({
                "finding": finding, "style": context.styles[finding.name], "head": head,
                "difference": difference, "rest": rest,
                "badge": f"equal within ±{finding.margin:g}" if finding.verdict == "equal" else finding.verdict,
                "shares_host": shares_host[finding.name],
            })  # fmt: skip
        notes = [*_unscored_notes(results), *_other_notes(results)]
        return {"cards": cards, "notes": notes, "baseline": results.baseline}


def _unscored_notes(results: StudyResults) -> list[tuple[str, str]]:
    """Return a note on the runs without a score, as (CSS class, sentence)."""
    phrases = _STATUS_PHRASES if results.study else {"missing": "is not given"}
    unscored_runs = [
        f"{run.arm} seed {run.seed} {phrases[run.status]}" + (f" ({run.reason})" if run.reason else "")
        for run in results.runs
        if run.status != "done"
    ]
    sentence = f"{len(unscored_runs)} of {len(results.runs)} runs have no score: {'; '.join(unscored_runs)}."
    return [("alarm", sentence)] if unscored_runs else []


def _other_notes(results: StudyResults) -> list[tuple[str, str]]:
    """Return the other notes, as (CSS class, sentence)."""
    return [("", typeset_sentence(note.text)) for note in results.notes if note.kind != "unscored"]
