"""The page and the JSON of ``gpu.py``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["page", "write"]

Row = dict[str, Any]

MEANING = {
    "values": (
        "Float32 on the device (no TF32) against float64 on the CPU: the result and every gradient, relative to their "
        "norm. The error may be three times (ten times for tensors of fewer than 16 values) the larger of the CPU's "
        "float32 error and the change of the float64 result when every operand is rounded once. `of allowed` is the "
        "largest error as a fraction of that limit. Autocast columns: error of the result; every gradient is finite."
    ),
    "speed": (
        "Medians of rounds in turns between CUDA events (on a CPU: of the wall clock), 5 % to 95 % in brackets; kernel "
        "launches are included and the maps stay in the cache. A ratio is the other implementation's time over ours, "
        "with its 95 % bootstrap interval. Peak memory is that of a step, without parameters and map. No TF32, cuDNN "
        "deterministic."
    ),
    "neutral": (
        "A plugged host against the same host without plugs, with random parameters: outputs in eval and training "
        "mode, gradients and buffers, bit for bit. Hosts that do not repeat their own result bit for bit on the device "
        "are compared to rounding and named. With a = 1 each must differ."
    ),
    "compile": "One graph of each mechanism (`fullgraph=True`), forward and backward, against eager on the device.",
    "compare": "`saccade compare` through the command line.",
    "tests": "The tests that need a GPU.",
}


def write(out: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write gpu.json and gpu.md into ``out``, each whole or not at all."""
    texts = {
        "gpu.json": json.dumps({"machine": facts, "rows": list(rows)}, indent=1, ensure_ascii=False) + "\n",
        "gpu.md": page(facts, rows),
    }
    for name, text in texts.items():
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, out / name)


def page(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the Markdown page of all rows so far, in the order of their names."""
    rows = sorted(rows, key=lambda row: (str(row.get("name")), str(row.get("detail"))))
    card = facts.get("driver") or facts.get("accelerator") or facts["cpu"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    parts = [
        "# On a GPU",
        f"This command makes the page:\n\n```\n{facts['command']}\n```",
        f"Measured on {card}; CUDA {facts['cuda']}, Python {facts['python']}, {versions}; {facts['cpu']}, "
        f"{facts['cores']} cores." + (" Tiny maps: a trial of the script." if facts.get("small") else ""),
        _table(["part", "ok", "off", "error", "refused", "skipped", "not reached"], _counts(rows)),
    ]
    for name, meaning in MEANING.items():
        own = [row for row in rows if row["part"] == name]
        if own:
            parts += [f"## {name.capitalize()}", meaning, *SECTIONS[name](own)]
    wrong = [row for row in rows if row["status"] in ("off", "error")]
    if wrong:
        lines = [f"- {row['part']}, {row['name']} {row['detail']}: {row['status']}. {row['note']}" for row in wrong]
        parts += ["## What does not hold", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _counts(rows: Sequence[Row]) -> Iterator[list[str]]:
    for part in dict.fromkeys(row["part"] for row in rows):
        found = [row["status"] for row in rows if row["part"] == part]
        kinds = ("ok", "off", "error", "refused", "skipped", "not reached")
        yield [part, *(str(found.count(kind)) for kind in kinds)]


def _table(head: Sequence[str], lines: Iterator[list[str]]) -> str:
    every = [list(head), ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in every)


def _number(row: Row, key: str) -> str:
    return f"{row[key]:.1e}" if key in row else ""


def _values(rows: Sequence[Row]) -> Iterator[str]:
    head = ["", "mode", "", "error", "of the CPU", "of allowed", "repeats", "channels_last", "bfloat16", "float16"]
    yield _table(
        head,
        (
            [
                f"`{row['name']}`", row["detail"], row["status"], _number(row, "error"), _number(row, "cpu_error"),
                f"{row['of_allowed']:.2f}" if "of_allowed" in row else "",
                {True: "yes", False: "no"}.get(row.get("repeats", ""), ""),
                _number(row, "channels_last"), _number(row, "bfloat16"), _number(row, "float16"),
            ]
            for row in rows
        ),
    )  # fmt: skip


def _speed(rows: Sequence[Row]) -> Iterator[str]:
    mechanisms = [row for row in rows if not row["name"].startswith("op ")]
    yield _table(
        ["mechanism", "map", "forward + backward, ms", "theirs", "ratio", "forward, ms", "theirs", "ratio",
         "peak, MB", "theirs", "against"],
        (
            [
                f"`{row['name']}`", row["detail"], *_cells(row, "step"), *_cells(row, "forward"), _peak(row, "ours"),
                _peak(row, "theirs"), "; ".join(filter(None, [row.get("against", row["status"]), row["note"]])),
            ]
            for row in mechanisms
        ),
    )  # fmt: skip
    operators = [row for row in rows if row["name"].startswith("op ")]
    yield _table(
        ["operator", "operands", "form", "forward + backward, ms", "by ours", "peak, MB"],
        (
            [row["name"][3:], row["detail"], form, _ms(row["step"]["ms"][form]),
             _ratio(row["step"]["ratios"][form]) if form in row["step"]["ratios"] else "", _peak(row, form)]
            for row in operators if "step" in row
            for form in row["step"]["ms"]
        ),
    )  # fmt: skip


def _ms(spread: Sequence[float]) -> str:
    return f"{spread[0]:.3g} ({spread[1]:.3g} – {spread[2]:.3g})"


def _ratio(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} – {ratio[2]:.2f})"


def _cells(row: Row, what: str) -> list[str]:
    if what not in row:
        return ["", "", ""]
    found = row[what]
    theirs = found["ms"].get("theirs")
    return [
        _ms(found["ms"]["ours"]), _ms(theirs) if theirs else "", _ratio(found["ratios"]["theirs"]) if theirs else ""
    ]  # fmt: skip


def _peak(row: Row, form: str) -> str:
    peak = row.get("peak", {}).get(form)
    return "" if peak is None else f"{peak / 1e6:.1f}"


def _neutral(rows: Sequence[Row]) -> Iterator[str]:
    yield _table(
        [
            "host",
            "ok",
            "refused",
            "off or error",
            "not reached",
            "not repeated by the host",
            "most peak memory by bare",
        ],
        (
            _host_line(host, [row for row in rows if row["name"] == host])
            for host in dict.fromkeys(r["name"] for r in rows)
        ),
    )


def _host_line(host: str, rows: Sequence[Row]) -> list[str]:
    loose = sorted({what for row in rows for what in row.get("not_repeated_by_the_host", ())})
    peaks = {row["detail"]: row["peak_mb"][1] / row["peak_mb"][0] for row in rows if row.get("peak_mb", [0])[0]}
    most = max(peaks, key=lambda name: peaks[name], default=None)
    status = {name: [row["detail"] for row in rows if row["status"] == name] for name in
              ("ok", "refused", "off", "error", "not reached")}  # fmt: skip
    return [
        host, str(len(status["ok"])), ", ".join(status["refused"]), ", ".join(status["off"] + status["error"]),
        str(len(status["not reached"])), ", ".join(loose), f"{peaks[most]:.2f} ({most})" if most else "",
    ]  # fmt: skip


def _compile(rows: Sequence[Row]) -> Iterator[str]:
    yield _table(
        ["mechanism", "", "error against eager", "seconds"],
        ([f"`{r['name']}`", r["status"], _number(r, "error"), str(r.get("seconds", ""))] for r in rows),
    )


def _command(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield f"{row['status']} {row['note']} {row.get('seconds', '')} s: `{row.get('command', '')}`"
        yield "```\n" + "\n".join(row.get("output", [])) + "\n```"


SECTIONS = {
    "values": _values, "speed": _speed, "neutral": _neutral, "compile": _compile, "compare": _command,
    "tests": _command,
}  # fmt: skip
