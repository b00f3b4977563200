"""Results of a study as one piece of HTML for a notebook: verdicts, table and notes.

A notebook does not always declare a light or dark theme. So text inherits the notebook's colour, lines are transparent
grey, and verdicts are readable on white and on black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from saccade.study.report.svg import element
from saccade.study.report.table import table_rows
from saccade.study.report.typeset import label_with_unit, typeset_sentence

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["render_fragment"]

_STYLE = """
.saccade { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; max-width: 60rem; color: inherit; }
.saccade p { margin: 0.3em 0; }
.saccade .head { font-size: 13px; opacity: 0.75; }
.saccade .alarm { border: 1.5px solid #d1493f; border-radius: 6px; padding: 0.6em 0.9em; margin: 0.5em 0; }
.saccade .alarm b { color: #d1493f; }
.saccade .card { display: grid; grid-template-columns: 11em 1fr; gap: 0.2em 1em; align-items: baseline;
  border-top: 1px solid rgba(128, 128, 128, 0.35); padding: 0.5em 0; }
.saccade .who { display: flex; flex-wrap: wrap; gap: 0.2em 0.6em; align-items: baseline; overflow-wrap: anywhere; }
.saccade .badge { border-radius: 4px; padding: 0.05em 0.55em; font-size: 12px; font-weight: 600; white-space: nowrap;
  border: 1.5px solid #9a7200; }
.saccade .helps { background: #0a7a58; border-color: #0a7a58; color: #fff; }
.saccade .hurts { background: #bf3329; border-color: #bf3329; color: #fff; }
.saccade .equal { background: #4a6a95; border-color: #4a6a95; color: #fff; }
.saccade .wide { overflow-x: auto; }
.saccade table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.6em 0; font-size: 13px; }
.saccade th, .saccade td { text-align: right; padding: 0.25em 0 0.25em 1.2em; white-space: nowrap; border: 0;
  border-bottom: 1px solid rgba(128, 128, 128, 0.35); background: none; color: inherit; }
.saccade th:first-child, .saccade td:first-child { text-align: left; padding-left: 0; }
.saccade thead th { font-weight: 500; opacity: 0.75; }
.saccade .notes { margin: 0.4em 0; padding-left: 1.2em; font-size: 13px; opacity: 0.85; }
@media (max-width: 40rem) { .saccade .card { grid-template-columns: 1fr; } }
"""


def render_fragment(results: StudyResults) -> str:
    """Return a self-contained ``div``; all text from the user is escaped."""
    parts = [element("style", Markup(_STYLE))]
    if results.alarm and results.analysis:
        alarm = element("b", typeset_sentence(str(results.analysis.not_learnt)))
        parts.append(element("p", alarm, f" {results.advice}", class_="alarm", role="alert"))
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) != 1)}"
    metric = label_with_unit(results.metric.name, results.metric.unit)
    parts.append(element("p", f"{results.name}: {metric} against {results.baseline}, {seeds}", class_="head"))
    parts += [_card(results, name) for name in results.verdicts]
    head, *body = table_rows(results)
    parts.append(
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *(element("th", cell) for cell in head))),
                element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in body)),
            ),
            class_="wide",
        )
    )
    if results.notes:
        parts.append(
            element("ul", *(element("li", typeset_sentence(note.text)) for note in results.notes), class_="notes")
        )
    return str(element("div", *parts, class_="saccade"))


def _card(results: StudyResults, name: str) -> Markup:
    """Return the name, verdict and difference of one arm, as HTML."""
    finding = results.verdicts[name]
    _, difference_text, rest = finding.parts()
    badge = element("span", finding.verdict, class_=f"badge {finding.verdict}") if finding.verdict else Markup("")
    headline = element("b", typeset_sentence(difference_text)) if difference_text else Markup("")
    title = element("div", element("b", name), badge, class_="who")
    return element("div", title, element("div", headline, f" {typeset_sentence(rest)}"), class_="card")
