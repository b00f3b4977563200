"""Movement of each plug's gate during training, on a fixed set of test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, final

from markupsafe import Markup

from saccade.study.report.charts import ArmStyle, mean_curve, plot_area, subsample
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.svg import Scale, element, padded_range, polyline, svg_chart
from saccade.study.report.typeset import format_number, format_signed

__all__ = ["GatesSection"]

MAX_SITES = 12
"""Maximum number of sites drawn per arm."""
_KINDS = {
    "gate": ("effective gate", 1.0),
    "context": ("magnitude of the added context", 0.0),
    "change": ("relative change of the map", 0.0),
}
"""Maps a kind of measurement to its label and its value for a plug that changes nothing."""


@final
class GatesSection(Section):
    """One panel per arm, one strip per site; all panels of one kind share their range."""

    title = "How far the gates moved"
    order = 40
    template = """
<p class="how">Effect of each plug on 16 test images, from before training to the last epoch. One line per seed: the
mean over channels, positions and images; the band is the standard deviation. An effective gate of 1 (dashed) passes the
map unchanged; the dotted line is the value before training.</p>
<div class="panels wide">
{%- for panel in panels %}
<div class="panel"><h3>{{ arm_label(panel.style) }}</h3>
<p class="caption">{{ panel.kind }}, {{ panel.start }}; every strip spans {{ panel.range }}</p>
{%- for name, summary, chart in panel.sites %}
<div class="site"><div class="line"><code>{{ name }}</code><span>{{ summary }}</span></div>{{ chart }}</div>
{%- endfor %}
{%- if panel.sites | length < panel.total %}
<p class="caption">{{ panel.sites | length }} of {{ panel.total }} sites, evenly spaced; all are in metrics.jsonl.</p>
{%- endif %}
</div>
{%- endfor %}
</div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        epochs = context.last_epoch
        sites_by_arm = {
            row.arm: sites
            for row in context.results.arms
            if (sites := _sites_by_name(context.epochs_by_seed(row.arm.name)))
        }
        every_site = [site for sites in sites_by_arm.values() for site in sites.values()]
        ranges = {kind: _value_range([site for site in every_site if site.kind == kind]) for kind in _KINDS}
        panels = []
        for arm, sites in sites_by_arm.items():
            style, kind = context.styles[arm.name], next(iter(sites.values())).kind
            names = list(sites)
            shown_names = [names[int(i * max(1.0, len(names) / MAX_SITES))] for i in range(min(MAX_SITES, len(names)))]
            starts_neutral = any(site.mean_a is not None for site in sites.values())
            starts_at_zero = arm.control == "extra" or all(site.starts_at_zero for site in sites.values())
            paper_or_zero = "starts at zero" if starts_at_zero else "the paper’s initialisation"
            start = "neutral start" if starts_neutral else paper_or_zero
            panels.append({
                "style": style, "kind": _KINDS[kind][0], "total": len(names),
                "start": start,
                "range": " to ".join(map(format_number, ranges[kind])),
                "sites": [
                    (name, sites[name].summary, gate_chart(style, sites[name], ranges[kind], epochs))
                    for name in shown_names
                ],
            })  # fmt: skip
        return {"panels": panels} if panels else None


@dataclass
class SiteGates:
    """Measurements of the plug at one site.

    Attributes:
        kind: a key of ``_KINDS``.
        rows_by_seed: maps a seed to its (epoch, mean, standard deviation) rows.
        final_a: maps a seed to the factor ``a`` of a neutral plug after the last epoch; else to None.
        final_gamma: maps a seed to the mechanism's own factor γ after the last epoch; empty without one.
    """

    kind: str
    rows_by_seed: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)
    final_a: dict[int, float | None] = field(default_factory=dict)
    final_gamma: dict[int, float] = field(default_factory=dict)

    @property
    def mean_a(self) -> float | None:
        """Mean factor ``a`` over the seeds; None without one."""
        values = [a for a in self.final_a.values() if a is not None]
        return fmean(values) if values else None

    @property
    def starts_at_zero(self) -> bool:
        """True if the plug changed the map only by rounding before training."""
        return self.kind == "change" and all(
            rows[0][0] == 0 and rows[0][1] < 1e-4 for rows in self.rows_by_seed.values()
        )

    @property
    def summary(self) -> str:
        """First mean, last mean with its standard deviation, ``a`` and γ, as text."""
        first = fmean(rows[0][1] for rows in self.rows_by_seed.values())
        last, spread = (fmean(rows[-1][i] for rows in self.rows_by_seed.values()) for i in (1, 2))
        a_text = "" if self.mean_a is None else f", a = {format_signed(self.mean_a)}"
        gamma_text = f", γ = {format_signed(fmean(self.final_gamma.values()))}" if self.final_gamma else ""
        return f"{format_number(first)} → {format_number(last)} ± {format_number(spread)}{a_text}{gamma_text}"


def _sites_by_name(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, SiteGates]:
    """Return the sites of an arm by name, from the epochs of its runs."""
    sites: dict[str, SiteGates] = {}
    for seed, rows in runs.items():
        for row in subsample(rows, 60):
            for name, gate in row["gates"].items():
                site = sites.setdefault(name, SiteGates(gate.get("kind", "gate")))
                if gate["mean"] is not None and gate["std"] is not None:
                    site.rows_by_seed.setdefault(seed, []).append((row["epoch"], gate["mean"], gate["std"]))
                site.final_a[seed] = gate["a"]
                if gate.get("gamma") is not None:
                    site.final_gamma[seed] = gate["gamma"]
    return {name: site for name, site in sites.items() if site.rows_by_seed}


def _value_range(sites: Sequence[SiteGates]) -> tuple[float, float]:
    """Return the range of mean ± standard deviation over all sites, cut at 0."""
    rows = [row for site in sites for rows in site.rows_by_seed.values() for row in rows]
    low, high = padded_range([v for _, mean, std in rows for v in (mean - std, mean + std)], min_span=0.1)
    return max(low, 0.0), high


def gate_chart(style: ArmStyle, site: SiteGates, bounds: tuple[float, float], epochs: int) -> Markup:
    """Return the chart of one site over the epochs.

    It shows the mean of each seed, the standard deviation as a band, and a line at the neutral value.
    """
    height, neutral_value = 42.0, _KINDS[site.kind][1]
    x_scale = Scale(0, max(epochs, 1))
    viewbox_y_scale, pixel_y_scale = Scale(*bounds, 100.0, 0.0), Scale(*bounds, height, 0.0)
    upper, lower = (
        mean_curve({seed: [(e, m + sign * s) for e, m, s in rows] for seed, rows in site.rows_by_seed.items()})
        for sign in (1, -1)
    )
    band_points = " ".join(f"{x_scale(e):.2f},{viewbox_y_scale(v):.2f}" for e, v in [*upper, *reversed(lower)])
    lines = [element("polygon", points=band_points, class_=f"gateband {style.classes}")]
    for rows in site.rows_by_seed.values():
        lines.append(
            polyline([(x_scale(e), viewbox_y_scale(m)) for e, m, _ in rows], class_=f"gateline {style.classes}")
        )
    start = fmean(rows[0][1] for rows in site.rows_by_seed.values())
    neutral_line = [(neutral_value, "neutral")] if pixel_y_scale.contains(neutral_value) else []
    reference_lines = [
        element("line", x1=0, x2="100%", y1=pixel_y_scale(v), y2=pixel_y_scale(v), class_=c)
        for v, c in (*neutral_line, (start, "start"))
    ]
    background = element("rect", x=0, y=0, width="100%", height=height, class_="ground")
    label = f"{style.name}: gate movement from epoch 0 to {epochs}"
    return svg_chart(
        background, *reference_lines, plot_area(*lines, height=height), height=height, label=label, class_="strip"
    )
