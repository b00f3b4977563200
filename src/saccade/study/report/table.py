"""The study as one table, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade import escaping
from saccade.study.report.typeset import NARROW, count, interval, milliseconds, number, p_value, signed

__all__ = ["latex", "markdown"]

_HEAD = (
    "mechanism",
    "top-1, %",
    "difference to none [95 %]",
    "p (Holm)",
    "verdict",
    "parameters",
    "MACs",
    "latency, ms",
)
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


def markdown(results: Mapping[str, Any]) -> str:
    """A row an arm: top-1 (mean ± standard deviation over seeds), difference and verdict, cost; then the notes.

    Args:
        results: what :func:`saccade.study.results.collect` gives.
    """
    # A name is a word of the user's: it must not end the cell, nor be taken for a tag.
    rows = [tuple(map(escaping.markdown, row)) for row in _rows(results)]
    rule = tuple("---" if n in _WORDS else "--:" for n in range(len(_HEAD)))
    lines = ["| " + " | ".join(cells) + " |" for cells in (rows[0], rule, *rows[1:])]
    return "\n".join(lines) + "\n" + "".join(f"\n{escaping.markdown(note)}\n" for note in _notes(results))


def latex(results: Mapping[str, Any]) -> str:
    """The table of :func:`markdown`, figure for figure, as a float for a document that loads ``booktabs``.

    Args:
        results: what :func:`saccade.study.results.collect` gives.
    """
    study = results["study"]
    head, *rows = ["  " + " & ".join(map(_escaped, row)) + r" \\" for row in _rows(results)]
    columns = "".join("l" if n in _WORDS else "r" for n in range(len(_HEAD)))
    seeds = f"{len(study['seeds'])} seed{'s' * (len(study['seeds']) > 1)}"
    model, source = study["recipe"]["model"]["name"], Path(study["recipe"]["data"]["source"])
    caption = (
        f"{model} on {source.name}: top-1 of the last epoch, mean ± standard deviation over {seeds}; "
        f"difference to {study['baseline']} in points with its 95 % interval."
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


def _rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    analysis = results["analysis"]
    judged = {row["name"]: row for row in analysis["differences"]} if analysis else {}
    return [_HEAD, *(_row(name, arm, judged.get(name)) for name, arm in results["arms"].items())]


def _row(name: str, arm: Mapping[str, Any], judged: Mapping[str, Any] | None) -> tuple[str, ...]:
    cost = arm["cost"] or {}
    score = number(arm["mean"]) + (f" ± {number(arm['sd'])}" if arm["sd"] is not None else "")
    difference = f"{signed(judged['difference'])} {interval(judged['low'], judged['high'])}" if judged else ""
    latency = milliseconds(cost["latency_ms"]["median"]) if cost else "–"
    return (
        name,
        score,
        difference,
        p_value(judged["p_holm"]) if judged else "",
        judged["verdict"] + (" (control)" if judged["is_control"] else "") if judged else "",
        count(cost.get("parameters", arm["parameters"])),
        count(cost.get("macs")),
        latency,
    )


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What must be known beside the figures, and what the controls tell."""
    return [*results["notes"], *(f"Control {kind}: {tells}." for kind, tells in results["study"]["controls"].items())]


def _escaped(text: str) -> str:
    """``text`` for LaTeX: what it would take for a command, or for the end of a paragraph, stands for itself."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], escaping.printable(text))
