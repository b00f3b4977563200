"""The study as one Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.study.report.typeset import count, interval, milliseconds, number, p_value, signed

__all__ = ["markdown"]

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


def markdown(results: Mapping[str, Any]) -> str:
    """A row an arm: top-1 (mean ± standard deviation over seeds), difference and verdict, cost; then the notes.

    Args:
        results: what :func:`saccade.study.results.collect` gives.
    """
    analysis = results["analysis"]
    judged = {row["name"]: row for row in analysis["differences"]} if analysis else {}
    rows = [_HEAD, *(_row(name, arm, judged.get(name)) for name, arm in results["arms"].items())]
    rule = ["---"] + ["--:"] * 3 + ["---"] + ["--:"] * 3
    lines = ["| " + " | ".join(cells) + " |" for cells in (rows[0], rule, *rows[1:])]
    notes = "".join(f"\n{note}\n" for note in results["notes"])
    return "\n".join(lines) + "\n" + notes


def _row(name: str, arm: Mapping[str, Any], judged: Mapping[str, Any] | None) -> tuple[str, ...]:
    cost = arm["cost"] or {}
    score = number(arm["mean"]) + (f" ± {number(arm['sd'])}" if arm["sd"] is not None else "")
    difference = f"{signed(judged['difference'])} {interval(judged['low'], judged['high'])}" if judged else ""
    latency = milliseconds(cost["latency_ms"]["median"]) if cost else "–"
    return (
        # A name is a word of the user's: it must not end the cell.
        name.replace("|", "\\|"),
        score,
        difference,
        p_value(judged["p_holm"]) if judged else "",
        judged["verdict"] + (" (control)" if judged["is_control"] else "") if judged else "",
        count(cost.get("parameters", arm["parameters"])),
        count(cost.get("macs")),
        latency,
    )
