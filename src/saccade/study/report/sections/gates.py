"""What every plug does to the same images, from before training to the last epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, final

from markupsafe import Markup

from saccade.study.report.charts import Style, mean_curve, stretched, thinned
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.svg import Scale, curve, element, extent, picture
from saccade.study.report.typeset import number, signed

__all__ = ["Gates"]

SITES = 12
"""At most so many sites of an arm are drawn."""
_KINDS = {
    "gate": ("effective gate", 1.0),
    "context": ("size of what is added", 0.0),
    "change": ("relative change of the map", 0.0),
}
"""What a plug's movement measures, and the value that means no attention."""


@final
class Gates(Section):
    """A panel an arm, a strip a site; all panels of one kind share their range."""

    title = "How far the gates moved"
    order = 40
    template = """
<p class="how">What each plug does to 16 test images, from before training to the last epoch: a line a seed, its mean
over channels, places and images; the band is the spread over them. An effective gate of 1 (dashed) lets the map pass
unchanged; the dotted line is where training began.</p>
<div class="panels wide">
{%- for panel in panels %}
<div class="panel"><h3>{{ named(panel.style) }}</h3>
<p class="under">{{ panel.kind }}, {{ panel.start }}; every strip spans {{ panel.range }}</p>
{%- for name, moved, chart in panel.sites %}
<div class="site"><div class="line"><code>{{ name }}</code><span>{{ moved }}</span></div>{{ chart }}</div>
{%- endfor %}
{%- if panel.sites | length < panel.total %}
<p class="under">{{ panel.sites | length }} of {{ panel.total }} sites, evenly chosen; all are in metrics.jsonl.</p>
{%- endif %}
</div>
{%- endfor %}
</div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        epochs = context.last_epoch
        moved = {row.arm: sites for row in context.results.arms if (sites := _sites(context.by_seed(row.arm.name)))}
        ranges = {kind: _range([site for sites in moved.values() for site in sites.values() if site.kind == kind])
                  for kind in _KINDS}  # fmt: skip
        panels = []
        for arm, sites in moved.items():
            style, kind = context.styles[arm.name], next(iter(sites.values())).kind
            names = list(sites)
            shown = [names[int(i * max(1.0, len(names) / SITES))] for i in range(min(SITES, len(names)))]
            neutral = any(site.scale is not None for site in sites.values())
            zero = arm.control == "extra" or all(site.starts_at_zero for site in sites.values())
            panels.append({
                "style": style, "kind": _KINDS[kind][0], "total": len(names),
                "start": "neutral start" if neutral else "starts at zero" if zero else "the paper’s start",
                "range": " to ".join(map(number, ranges[kind])),
                "sites": [
                    (name, sites[name].words, gate(style, sites[name], ranges[kind], epochs)) for name in shown
                ],
            })  # fmt: skip
        return {"panels": panels} if panels else None


@dataclass
class Site:
    """What the plug of one site does.

    Attributes:
        kind: a key of ``_KINDS``.
        seeds: seed -> (epoch, mean, standard deviation).
        last: seed -> the scale ``a`` of a neutral start after the last epoch, None for another start.
    """

    kind: str
    seeds: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)
    last: dict[int, float | None] = field(default_factory=dict)

    @property
    def scale(self) -> float | None:
        """``a``, mean over seeds."""
        known = [a for a in self.last.values() if a is not None]
        return fmean(known) if known else None

    @property
    def starts_at_zero(self) -> bool:
        """Whether only rounding changed the map before training, as with a kernel that a convolution keeps."""
        return self.kind == "change" and all(rows[0][0] == 0 and rows[0][1] < 1e-4 for rows in self.seeds.values())

    @property
    def words(self) -> str:
        """The first mean, the last with its spread, and ``a``."""
        first = fmean(rows[0][1] for rows in self.seeds.values())
        last, spread = (fmean(rows[-1][i] for rows in self.seeds.values()) for i in (1, 2))
        scale = "" if self.scale is None else f", a = {signed(self.scale)}"
        return f"{number(first)} → {number(last)} ± {number(spread)}{scale}"


def _sites(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Site]:
    """The sites of an arm from the epochs of its runs, by name."""
    sites: dict[str, Site] = {}
    for seed, rows in runs.items():
        for row in thinned(rows, 60):
            for name, found in row["gates"].items():
                site = sites.setdefault(name, Site(found.get("kind", "gate")))
                if found["mean"] is not None and found["std"] is not None:
                    site.seeds.setdefault(seed, []).append((row["epoch"], found["mean"], found["std"]))
                site.last[seed] = found["a"]
    return {name: site for name, site in sites.items() if site.seeds}


def _range(sites: Sequence[Site]) -> tuple[float, float]:
    rows = [row for site in sites for rows in site.seeds.values() for row in rows]
    low, high = extent([v for _, mean, std in rows for v in (mean - std, mean + std)], least=0.1)
    return max(low, 0.0), high


def gate(style: Style, site: Site, bounds: tuple[float, float], epochs: int) -> Markup:
    """One site over the epochs: the mean of every seed, the spread as a band, a line where nothing is done."""
    height, nothing = 42.0, _KINDS[site.kind][1]
    across, plane, down = Scale(0, max(epochs, 1)), Scale(*bounds, 100.0, 0.0), Scale(*bounds, height, 0.0)
    upper, lower = (
        mean_curve({seed: [(e, m + sign * s) for e, m, s in rows] for seed, rows in site.seeds.items()})
        for sign in (1, -1)
    )
    shape = " ".join(f"{across(e):.2f},{plane(v):.2f}" for e, v in [*upper, *reversed(lower)])
    lines = [element("polygon", points=shape, class_=f"gateband {style.classes}")]
    for rows in site.seeds.values():
        lines.append(curve([(across(e), plane(m)) for e, m, _ in rows], class_=f"gateline {style.classes}"))
    start = fmean(rows[0][1] for rows in site.seeds.values())
    marks = [(nothing, "one")] if down.holds(nothing) else []
    rulers = [element("line", x1=0, x2="100%", y1=down(v), y2=down(v), class_=c) for v, c in (*marks, (start, "from"))]
    ground = element("rect", x=0, y=0, width="100%", height=height, class_="ground")
    words = f"{style.name}: gate movement from epoch 0 to {epochs}"
    return picture(ground, *rulers, stretched(*lines, height=height), height=height, label=words, class_="strip")
