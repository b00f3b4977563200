"""From the results of a study to what the page shows: words, numbers, charts; nothing is computed anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median
from typing import Any

from markupsafe import Markup

from saccade.data import Split
from saccade.runfiles import Environment, read, read_rows
from saccade.study.plan import Study
from saccade.study.report import charts
from saccade.study.report.charts import Look, Point, Row
from saccade.study.report.pictures import COLOURS, Examples
from saccade.study.report.svg import extent
from saccade.study.report.typeset import (
    count,
    duration,
    grouped,
    interval,
    magnitude,
    milliseconds,
    number,
    p_value,
    prose,
    relative,
    signed,
)  # fmt: skip
from saccade.study.stats import METHOD

__all__ = ["contents"]

_VERDICTS = {"helps": "helps", "hurts": "hurts", "equal": "equal", "not decided": "open"}
"""Verdict to class of the style sheet."""
_STATUSES = {"diverged": "diverged", "failed": "failed", "missing": "is not run yet"}
SITES = 12
"""At most so many sites of an arm are drawn."""

Json = Mapping[str, Any]


def contents(
    study: Study, results: Json, split: Split | None, shown: Examples | None, reason: str | None
) -> dict[str, Any]:
    """Everything the template asks for.

    Args:
        study: the plan.
        results: what :func:`saccade.study.results.collect` gives; at least one run of it is finished.
        split: the images, None where they could not be opened again.
        shown: the example images, None without images or networks.
        reason: why there are no example images.
    """
    look = charts.looks(results["study"]["arms"])
    metrics = {
        row["folder"]: read_rows(study.folder / row["folder"] / "metrics.jsonl")
        for row in results["runs"]
        if row["status"] == "done"
    }
    return {
        "title": f"Does attention help {study.base.model.name} on {_data_name(study)}?",
        "asked": _asked(study, results, split),
        "notices": _notices(study, results),
        "verdicts": _verdicts(results, look),
        "forest": _forest(results, look, study.margin),
        "costs": _cost_charts(results, look),
        "learning": _learning(results, look, metrics),
        "gates": _gates(results, look, metrics),
        "table": _cost_table(results, look),
        "examples": shown,
        "no_examples": reason,
        "arms": {name: (arm, charts.key(arm)) for name, arm in look.items()},
        "css": Markup(files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8")),
        "ramp": Markup(", ".join(COLOURS)),
        "runs": _runs(results, look),
        "diagnostics": prose(results["analysis"]["diagnostics"]) if results["analysis"] else None,
        "description": f"{split.description.rstrip('.')}." if split else None,
        "recipe": re.sub(r"(?m)^\[[\w.]+\]\n(?=\n|\Z)\n?", "", study.base.to_toml()).strip(),  # without empty tables
        "environment": _environment(study, results),
        "method": prose(METHOD),
    }


def _data_name(study: Study) -> str:
    return Path(study.base.data.source).name or study.base.data.source


def _asked(study: Study, results: Json, split: Split | None) -> list[tuple[str, str]]:
    model, training = study.base.model, study.base.training
    start = "pretrained" if model.pretrained else "from a checkpoint" if model.checkpoint else "from random weights"
    mechanisms = [arm.name for arm in study.arms if arm.name != "none" and arm.control is None]
    controls = [arm.name for arm in study.arms if arm.control is not None]
    done = sum(row["status"] == "done" for row in results["runs"])
    facts = [("Host", f"{model.name}, {start}")]
    if split is not None:
        sizes = f"{grouped(len(split.train))} to train, {grouped(len(split.test))} to test"
        facts.append(("Images", f"{sizes}, {len(split.classes)} classes"))
    facts.append(("Mechanisms", ", ".join(mechanisms)))
    if controls:
        facts.append(("Controls", ", ".join(controls)))
    facts += [
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Training", f"{training.epochs} epoch{'s' * (training.epochs > 1)}"),
        ("Runs", f"{done} of {len(results['runs'])} finished"),
    ]
    return facts


def _notices(study: Study, results: Json) -> list[tuple[str, str]]:
    """(class, sentence) of all a reader must know beside the verdicts."""
    found: list[tuple[str, str]] = []
    unscored = [row for row in results["runs"] if row["status"] != "done"]
    if unscored:
        named = [
            f"{row['arm']} seed {row['seed']} {_STATUSES[row['status']]}"
            + (f" ({row['reason']})" if row["reason"] else "")
            for row in unscored
        ]
        found.append(("alarm", f"{len(unscored)} of {len(results['runs'])} runs have no score: {'; '.join(named)}."))
    first = results["analysis"] and results["analysis"]["first_look"]
    if first and not any("first look" in note for note in results["notes"]):
        found.append(("", f"{len(study.seeds)} seeds are a first look; five or more make a study."))
    said_above = re.compile(r": \d+ of \d+ runs ")  # the runs without a score, which are named above with their reasons
    return found + [("", prose(note)) for note in results["notes"] if not said_above.search(note)]


def _verdicts(results: Json, look: Mapping[str, Look]) -> list[dict[str, Any]]:
    if not results["analysis"]:
        return []
    found = []
    for row in results["analysis"]["differences"]:
        # "das: helps. +1.2 points (95 % interval …", or a reason where there is no interval
        head, colon, rest = row["sentence"].partition(". ")
        figure, bracket, rest = rest.partition(" (") if rest[:1] in "+-0" else ("", "", rest)
        found.append({
            "look": look[row["name"]], "key": charts.key(look[row["name"]]), "verdict": row["verdict"],
            "class": _VERDICTS[row["verdict"]], "head": prose(f"{head}{colon}"), "figure": prose(figure),
            "rest": prose(f"{bracket}{rest}"), "control": row["is_control"],
            "badge": f"equal within ±{row['margin']:g}" if row["verdict"] == "equal" else row["verdict"],
        })  # fmt: skip
    return found


def _forest(results: Json, look: Mapping[str, Look], margin: float) -> dict[str, Any] | None:
    if not results["analysis"]:
        return None
    scores = {name: arm["top1"] for name, arm in results["arms"].items()}
    lines = []
    for row in results["analysis"]["differences"]:
        both = zip(results["study"]["seeds"], scores[row["name"]], scores[row["baseline"]], strict=True)
        raw = [(seed, mine - plain) for seed, mine, plain in both if mine is not None and plain is not None]
        lines.append((row, Row(look[row["name"]], row["difference"], row["low"], row["high"], raw)))
    scale = charts.forest_scale([line for _, line in lines], margin)
    rows = [
        {
            "look": line.look, "key": charts.key(line.look), "chart": charts.forest_row(line, scale, margin),
            "difference": signed(row["difference"]), "interval": interval(row["low"], row["high"]),
            "p": p_value(row["p_holm"]), "verdict": row["verdict"], "class": _VERDICTS[row["verdict"]],
            "control": row["is_control"],
        }
        for row, line in lines
    ]  # fmt: skip
    return {
        "mechanisms": [row for row in rows if not row["control"]],
        "controls": [row for row in rows if row["control"]],
        "tells": results["study"]["controls"],
        "axis": charts.forest_axis(scale, margin),
        "margin": f"{margin:g}",
    }


def _cost_charts(results: Json, look: Mapping[str, Look]) -> list[dict[str, Any]]:
    """Accuracy against multiply-adds, and against the latency at batch 1."""
    macs, latency = [], []
    for name, arm in results["arms"].items():
        if arm["mean"] is None or not arm["cost"]:
            continue
        value, time = arm["cost"]["macs"], arm["cost"]["latency_ms"]
        macs.append((look[name], value, arm["mean"], arm["sd"] or 0.0))
        latency.append(Point(look[name], time["median"], time["low"], time["high"], arm["mean"], arm["sd"] or 0.0))
    if not macs:
        return []
    power, letter = magnitude(max(value for _, value, _, _ in macs))
    unit = {"": "", "k": "thousand ", "M": "million ", "G": "billion ", "T": "trillion "}[letter] + "MACs"
    counted = [Point(arm, v / power, v / power, v / power, top1, sd) for arm, v, top1, sd in macs]
    return [
        {"title": "Multiply-adds of one image", "chart": charts.cost(counted, unit), "under": unit},
        {"title": "Latency of one image", "chart": charts.cost(latency, "ms"), "under": "ms, batch 1"},
    ]


def _by_seed(results: Json, metrics: Mapping[str, Any], arm: str) -> dict[int, list[dict[str, Any]]]:
    """For each seed, the epochs of the finished runs of an arm."""
    rows = [row for row in results["runs"] if row["arm"] == arm and row["status"] == "done"]
    return {row["seed"]: found for row in rows if (found := metrics[row["folder"]])}


def _learning(results: Json, look: Mapping[str, Look], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    curves = {
        name: {
            seed: [
                (row["epoch"], row["test_top1"]) for row in charts.thinned(rows, 150) if row["test_top1"] is not None
            ]
            for seed, rows in _by_seed(results, metrics, name).items()
        }
        for name in look
    }
    bounds = charts.learning_range(list(curves.values()))
    epochs = results["study"]["recipe"]["training"]["epochs"]
    baseline = curves[results["study"]["baseline"]]
    return [
        {
            "look": arm, "key": charts.key(arm),
            "last": f"{number(results['arms'][name]['mean'])} %" if curves[name] else "no finished run",
            "chart": charts.learning(arm, curves[name], baseline, bounds, epochs),
        }
        for name, arm in look.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """What a plug's movement measures, and the value that means no attention."""

    words: str
    none: float


_KINDS = {
    "gate": _Kind("effective gate", 1.0),
    "context": _Kind("size of what is added", 0.0),
    "change": _Kind("relative change of the map", 0.0),
}


def _gates(results: Json, look: Mapping[str, Look], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A panel an arm, a line a site; all panels of one kind share their range."""
    epochs = results["study"]["recipe"]["training"]["epochs"]
    moved = {name: _movement(_by_seed(results, metrics, name)) for name in look}
    spans = {
        kind: extent(
            [v for sites in moved.values() for site in sites.values() if site["kind"] == kind
             for rows in site["seeds"].values() for _, mean, std in rows for v in (mean - std, mean + std)],
            least=0.1,
        )
        for kind in _KINDS
    }  # fmt: skip
    ranges = {kind: (max(low, 0.0), high) for kind, (low, high) in spans.items()}
    panels = []
    for name, sites in moved.items():
        if not sites:
            continue
        step = max(1.0, len(sites) / SITES)
        names = [list(sites)[int(i * step)] for i in range(min(SITES, len(sites)))]
        kind = next(iter(sites.values()))["kind"]
        neutral = any(site["a"] is not None for site in sites.values())
        zero = results["arms"][name]["control"] == "extra" or _starts_at_zero(sites)
        panels.append({
            "look": look[name], "key": charts.key(look[name]), "kind": _KINDS[kind].words,
            "start": "neutral start" if neutral else "starts at zero" if zero else "the paper’s start",
            "range": f"{number(ranges[kind][0])} to {number(ranges[kind][1])}",
            "omitted": len(sites) - len(names), "total": len(sites),
            "sites": [_site(look[name], site, sites[site], ranges[kind], epochs) for site in names],
        })  # fmt: skip
    return panels


def _starts_at_zero(sites: Mapping[str, dict[str, Any]]) -> bool:
    """Did nothing change the map before training, but for rounding? So it is with a kernel that a convolution keeps."""
    return all(
        site["kind"] == "change" and all(rows[0][0] == 0 and rows[0][1] < 1e-4 for rows in site["seeds"].values())
        for site in sites.values()
    )


def _movement(runs: Mapping[int, Sequence[Json]]) -> dict[str, dict[str, Any]]:
    """For each site its kind, the last ``a`` (mean over seeds) and, by seed, (epoch, mean, std)."""
    sites: dict[str, dict[str, Any]] = {}
    for seed, rows in runs.items():
        for row in charts.thinned(rows, 60):
            for name, gate in row["gates"].items():
                site = sites.setdefault(name, {"kind": gate.get("kind", "gate"), "seeds": {}, "a": None, "last": {}})
                if gate["mean"] is not None and gate["std"] is not None:
                    site["seeds"].setdefault(seed, []).append((row["epoch"], gate["mean"], gate["std"]))
                site["last"][seed] = gate["a"]
    for site in sites.values():
        known = [a for a in site["last"].values() if a is not None]
        site["a"] = fmean(known) if known else None
    return {name: site for name, site in sites.items() if site["seeds"]}


def _site(arm: Look, name: str, site: Json, bounds: tuple[float, float], epochs: int) -> dict[str, Any]:
    first = fmean(rows[0][1] for rows in site["seeds"].values())
    last, spread = (fmean(rows[-1][i] for rows in site["seeds"].values()) for i in (1, 2))
    scale = "" if site["a"] is None else f", a = {signed(site['a'])}"
    return {
        "name": name,
        "chart": charts.gate(arm, site["seeds"], bounds, epochs, _KINDS[site["kind"]].none),
        "moved": f"{number(first)} → {number(last)} ± {number(spread)}{scale}",
    }


def _cost_table(results: Json, look: Mapping[str, Look]) -> dict[str, Any]:
    def seconds(name: str) -> float | None:
        known = [row["seconds"] for row in results["runs"] if row["arm"] == name and row["seconds"] is not None]
        return median(known) if known else None

    found: dict[str, dict[str, Any]] = {}
    for name, arm in results["arms"].items():
        cost = arm["cost"] or {}
        one, many = cost.get("latency_ms", {}), cost.get("batched", {}).get("latency_ms", {})
        found[name] = {
            "parameters": cost.get("parameters", arm["parameters"]), "macs": cost.get("macs"),
            "one": one.get("median"), "many": many.get("median"), "seconds": seconds(name),
            "one spread": _spread(one), "many spread": _spread(many),
        }  # fmt: skip
    plain = results["study"]["baseline"]

    def cell(name: str, key: str, say: Callable[[float | None], str]) -> tuple[str, str]:
        against = "" if name == plain else relative(found[name][key], found[plain][key])
        return say(found[name][key]), " · ".join(filter(None, (against, found[name].get(f"{key} spread"))))

    columns = (
        ("parameters", count),
        ("macs", count),
        ("one", milliseconds),
        ("many", milliseconds),
        ("seconds", duration),
    )
    rows = [
        {"look": arm, "key": charts.key(arm), "cells": [cell(name, key, say) for key, say in columns]}
        for name, arm in look.items()
    ]
    measured = [arm["cost"] for arm in results["arms"].values() if arm["cost"]]
    if not measured:
        return {"rows": rows, "batch": None, "where": None}
    threads = measured[0]["threads"]
    where = f"{measured[0]['device']}, {threads} thread{'s' * (threads > 1)}"
    return {"rows": rows, "batch": measured[0]["batched"]["batch"], "where": where}


def _spread(time: Json) -> str:
    return f"{milliseconds(time['low'])}–{milliseconds(time['high'])}" if time else ""


def _runs(results: Json, look: Mapping[str, Look]) -> dict[str, Any]:
    """Every score: arms down, seeds across."""
    cells = {(row["arm"], row["seed"]): row for row in results["runs"]}
    seeds = results["study"]["seeds"]
    rows = []
    for name, arm in results["arms"].items():
        of = [cells[name, seed] for seed in seeds]
        rows.append({
            "look": look[name], "key": charts.key(look[name]),
            "cells": [number(row["top1"]) if row["status"] == "done" else row["status"] for row in of],
            "bad": [row["status"] != "done" for row in of],
            "mean": number(arm["mean"]), "sd": number(arm["sd"]),
        })  # fmt: skip
    return {"seeds": seeds, "rows": rows}


def _environment(study: Study, results: Json) -> list[tuple[str, str]]:
    """Of the first finished run; where runs differ, a note says so."""
    for row in results["runs"]:
        if row["status"] != "done":
            continue
        if found := read(study.folder / row["folder"] / "environment.json", Environment):
            return list(_flat(found).items())
    return []


def _flat(values: Json) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value)
        elif value is not None:
            found[key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
