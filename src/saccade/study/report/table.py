"""The study as one table, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from saccade import escaping
from saccade.study.findings import Difference
from saccade.study.report.typeset import (
    ABSENT,
    NARROW_SPACE,
    format_count,
    format_interval,
    format_milliseconds,
    format_number,
    format_p_value,
    format_signed,
    label_with_unit,
)

if TYPE_CHECKING:
    from saccade.study.results import ArmResult, StudyResults

__all__ = ["table_rows", "to_latex", "to_markdown"]

_TEXT_COLUMNS = (0, 4)
"""Indices of the columns of text; the others hold numbers and are right-aligned."""
_N_COST_COLUMNS = 3
"""Number of cost columns at the end; a column without a value is left out."""
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the \\ of a row, [ would begin its optional length
    "]": "{]}",
    "*": "{*}",  # after the \\ of a row, * would forbid a page break
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "’": "'",
    NARROW_SPACE: r"\,",
    "\u00a0": "~",
}


def to_markdown(results: StudyResults) -> str:
    """Return one row per arm: score (mean ± standard deviation over seeds), difference, verdict, cost; then the notes.

    Reference predictions follow the arms.

    If the host has not learnt the task, a warning precedes the table.
    """
    # Arm names come from the user, so they are escaped.
    head, *body = [tuple(map(escaping.escape_markdown, row)) for row in table_rows(results)]
    rule = tuple("---" if n in _TEXT_COLUMNS else "--:" for n in range(len(head)))
    lines = []
    if results.analysis and results.analysis.not_learnt:
        lines = [
            f"**{escaping.escape_markdown(results.analysis.not_learnt)}** {escaping.escape_markdown(results.advice)}",
            "",
        ]
    lines += ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
    return "\n".join(lines) + "\n" + "".join(f"\n{escaping.escape_markdown(note)}\n" for note in _notes(results))


def to_latex(results: StudyResults) -> str:
    """Return the numbers of :func:`to_markdown` as a LaTeX ``table``; the document must load ``booktabs``."""
    metric = results.metric
    cells = table_rows(results)
    head, *body = ["  " + " & ".join(map(_escape_latex, row)) + r" \\" for row in cells]
    columns = "".join("l" if n in _TEXT_COLUMNS else "r" for n in range(len(cells[0])))
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) > 1)}"
    unit_text = f" in {metric.difference_unit}" if metric.difference_unit else ""
    scored_epoch_text = f" of {results.scored_epoch}" if results.scored_epoch else ""
    caption = (
        f"{_subject(results)}: {metric.name}{scored_epoch_text}, mean ± standard deviation over {seeds}; difference to "
        f"{results.baseline}{unit_text} with its 95 % interval."
    )
    if results.alarm:
        caption = f"{results.alarm} {caption}"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {{\footnotesize {_escape_latex(note)}\par}}" for note in _notes(results)),
            r"\end{table}",
            "",
        ]
    )


def _subject(results: StudyResults) -> str:
    """Return the names of network and data, or of the file of scores."""
    if results.study is None:
        return results.name
    base = results.study.base
    return f"{base.model.name} on {Path(base.data.source).name}"


def table_rows(results: StudyResults) -> list[tuple[str, ...]]:
    """Return the header, one row per arm and reference prediction; cost columns without a value are left out."""
    metric = results.metric
    better = "" if metric.higher_is_better else ", + is better"
    head = (
        "arm",
        label_with_unit(metric.name, metric.unit),
        f"difference to {results.baseline} [95 %]{better}",
        "p (Holm)",
        "verdict",
        "parameters",
        "MACs",
        "latency, ms",
    )
    findings = results.verdicts
    body = [_arm_row(row, findings.get(row.arm.name), metric.digits) for row in results.arms]
    for name, score in results.reference_scores(metric).items():
        cells = (f"{name} (for comparison)", format_number(score, metric.digits))
        body.append(cells + ("",) * (len(head) - _N_COST_COLUMNS - len(cells)) + (ABSENT,) * _N_COST_COLUMNS)
    first_cost = len(head) - _N_COST_COLUMNS
    columns = [n for n in range(len(head)) if n < first_cost or any(row[n] != ABSENT for row in body)]
    return [tuple(row[n] for n in columns) for row in (head, *body)]


def _arm_row(arm: ArmResult, finding: Difference | None, digits: int) -> tuple[str, ...]:
    score = format_number(arm.mean, digits) + (f" ± {format_number(arm.sd, digits)}" if arm.sd is not None else "")
    comparison = ("", "", "")
    if finding is not None:
        difference = f"{format_signed(finding.difference, digits)} {format_interval(finding.low, finding.high, digits)}"
        verdict = finding.verdict_text + (" (control)" if finding.is_control else "")
        comparison = (difference, format_p_value(finding.p_holm), verdict)
    cost = arm.cost
    return (
        arm.arm.name,
        score,
        *comparison,
        format_count(cost.parameters if cost else arm.parameters),
        format_count(cost.macs if cost else None),
        format_milliseconds(cost.latency.median if cost else None),
    )


def _notes(results: StudyResults) -> list[str]:
    """Return the notes on the runs, then one sentence per control."""
    controls = (f"Control {kind}: {meaning}." for kind, meaning in results.controls.items())
    return [*(note.text for note in results.notes), *controls]


def _escape_latex(text: str) -> str:
    """Return ``text`` with the special characters of LaTeX escaped."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], escaping.printable(text))
