"""The study as one table, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from pathlib import Path

from saccade import escaping
from saccade.study.arms import BASELINE
from saccade.study.findings import Difference
from saccade.study.report.typeset import NARROW, count, heading, interval, milliseconds, number, p_value, signed
from saccade.study.results import ArmResult, StudyResults

__all__ = ["latex", "markdown"]

_WORDS = (0, 4)
"""The columns that hold words; the others hold numbers, and are set to the right."""
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
    """A row an arm: score (mean ± standard deviation over seeds), difference and verdict, cost; then the notes."""
    # A name is a word of the user's: it must not end the cell, nor be taken for a tag.
    head, *rows = [tuple(map(escaping.markdown, row)) for row in _rows(results)]
    rule = tuple("---" if n in _WORDS else "--:" for n in range(len(head)))
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]
    return "\n".join(lines) + "\n" + "".join(f"\n{escaping.markdown(note)}\n" for note in _notes(results))


def latex(results: StudyResults) -> str:
    """The table of :func:`markdown`, figure for figure, as a float for a document that loads ``booktabs``."""
    study, metric = results.study, results.metric
    cells = _rows(results)
    head, *rows = ["  " + " & ".join(map(_escaped, row)) + r" \\" for row in cells]
    columns = "".join("l" if n in _WORDS else "r" for n in range(len(cells[0])))
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    points = f" in {metric.points}" if metric.points else ""
    caption = (
        f"{study.base.model.name} on {Path(study.base.data.source).name}: {metric.name} of the last epoch, mean ± "
        f"standard deviation over {seeds}; difference to {BASELINE}{points} with its 95 % interval."
    )
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
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {{\footnotesize {_escaped(note)}\par}}" for note in _notes(results)),
            r"\end{table}",
            "",
        ]
    )


def _rows(results: StudyResults) -> list[tuple[str, ...]]:
    metric = results.metric
    better = "" if metric.higher_is_better else ", + is better"
    head = (
        "arm",
        heading(metric.name, metric.unit),
        f"difference to {BASELINE} [95 %]{better}",
        "p (Holm)",
        "verdict",
        "parameters",
        "MACs",
        "latency, ms",
    )
    judged = {row.name: row for row in results.analysis.differences} if results.analysis else {}
    return [head, *(_row(arm, judged.get(arm.arm.name), metric.digits) for arm in results.arms)]


def _row(arm: ArmResult, judged: Difference | None, digits: int) -> tuple[str, ...]:
    score = number(arm.mean, digits) + (f" ± {number(arm.sd, digits)}" if arm.sd is not None else "")
    found = ("", "", "")
    if judged is not None:
        difference = f"{signed(judged.difference, digits)} {interval(judged.low, judged.high, digits)}"
        verdict = judged.verdict + (" (control)" if judged.is_control else "")
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
    told = (f"Control {kind}: {tells}." for kind, tells in results.controls.items())
    return [*(note.text for note in results.notes), *told]


def _escaped(text: str) -> str:
    """``text`` for LaTeX, where every character stands for itself."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], escaping.printable(text))
