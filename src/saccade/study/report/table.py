"""The study as one table, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from saccade import escaping
from saccade.study.findings import Difference
from saccade.study.report.typeset import ABSENT, NARROW, count, heading, interval, milliseconds, number, p_value, signed

if TYPE_CHECKING:
    from saccade.study.results import ArmResult, StudyResults

__all__ = ["latex", "markdown", "rows"]

_WORDS = (0, 4)
"""The columns that hold words; the others hold numbers, and are set to the right."""
_COSTS = 3
"""The last columns, each left out where no arm has an entry."""
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bracket behind the \\ of the row before would be its length
    "]": "{]}",
    "*": "{*}",  # and an asterisk there forbids a page break
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "’": "'",
    NARROW: r"\,",
    "\u00a0": "~",
}


def markdown(results: StudyResults) -> str:
    """A row an arm: score (mean ± standard deviation over seeds), difference and verdict, cost; then the notes.

    Above it stands the sentence on a host that has not learnt its task.
    """
    # A name is a word of the user's: it must not end the cell, nor be taken for a tag.
    head, *body = [tuple(map(escaping.markdown, row)) for row in rows(results)]
    rule = tuple("---" if n in _WORDS else "--:" for n in range(len(head)))
    lines = []
    if results.analysis and results.analysis.not_learnt:
        lines = [f"**{escaping.markdown(results.analysis.not_learnt)}** {escaping.markdown(results.advice)}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
    return "\n".join(lines) + "\n" + "".join(f"\n{escaping.markdown(note)}\n" for note in _notes(results))


def latex(results: StudyResults) -> str:
    """The table of :func:`markdown`, figure for figure, as a float for a document that loads ``booktabs``."""
    metric = results.metric
    cells = rows(results)
    head, *body = ["  " + " & ".join(map(_escaped, row)) + r" \\" for row in cells]
    columns = "".join("l" if n in _WORDS else "r" for n in range(len(cells[0])))
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) > 1)}"
    points = f" in {metric.points}" if metric.points else ""
    scored = f" of {results.scored}" if results.scored else ""
    caption = (
        f"{_subject(results)}: {metric.name}{scored}, mean ± standard deviation over {seeds}; difference to "
        f"{results.baseline}{points} with its 95 % interval."
    )
    if results.alarm:
        caption = f"{results.alarm} {caption}"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {{\footnotesize {_escaped(note)}\par}}" for note in _notes(results)),
            r"\end{table}",
            "",
        ]
    )


def _subject(results: StudyResults) -> str:
    """The network and the data, or the file of judged scores."""
    if results.study is None:
        return results.name
    base = results.study.base
    return f"{base.model.name} on {Path(base.data.source).name}"


def rows(results: StudyResults) -> list[tuple[str, ...]]:
    """The head of the table, then a row an arm; columns of cost that no arm has are left out."""
    metric = results.metric
    better = "" if metric.higher_is_better else ", + is better"
    head = (
        "arm",
        heading(metric.name, metric.unit),
        f"difference to {results.baseline} [95 %]{better}",
        "p (Holm)",
        "verdict",
        "parameters",
        "MACs",
        "latency, ms",
    )
    body = [_row(arm, results.verdicts.get(arm.arm.name), metric.digits) for arm in results.arms]
    first = len(head) - _COSTS
    kept = [n for n in range(len(head)) if n < first or any(row[n] != ABSENT for row in body)]
    return [tuple(row[n] for n in kept) for row in (head, *body)]


def _row(arm: ArmResult, judged: Difference | None, digits: int) -> tuple[str, ...]:
    score = number(arm.mean, digits) + (f" ± {number(arm.sd, digits)}" if arm.sd is not None else "")
    found = ("", "", "")
    if judged is not None:
        difference = f"{signed(judged.difference, digits)} {interval(judged.low, judged.high, digits)}"
        verdict = judged.verdict_text + (" (control)" if judged.is_control else "")
        found = (difference, p_value(judged.p_holm), verdict)
    cost = arm.cost
    return (
        arm.arm.name,
        score,
        *found,
        count(cost.parameters if cost else arm.parameters),
        count(cost.macs if cost else None),
        milliseconds(cost.latency.median if cost else None),
    )


def _notes(results: StudyResults) -> list[str]:
    """What must be known beside the figures, and what the controls tell."""
    controls = (f"Control {kind}: {tells}." for kind, tells in results.controls.items())
    return [*(note.text for note in results.notes), *controls]


def _escaped(text: str) -> str:
    """``text`` for LaTeX, where every character stands for itself."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], escaping.printable(text))
