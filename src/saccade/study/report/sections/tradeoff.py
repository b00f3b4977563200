"""The score against multiply-adds, and against the latency at batch 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.report.charts import Style, marker, rules
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.svg import Scale, element, extent, picture, ticks
from saccade.study.report.typeset import heading, magnitude, measure, number

__all__ = ["Tradeoff"]


@final
class Tradeoff(Section):
    """A chart a cost."""

    title = "Score against cost"
    order = 20
    template = """
<p class="how">{{ way }} is better, leftwards is cheaper. Vertical bars: standard deviation between seeds. Horizontal
bars: where 90&#8239;% of the timed runs lie.</p>
<div class="legend">{% for style in styles %}<span>{{ named(style) }}</span>{% endfor %}</div>
<div class="pair">
{%- for title, chart, under in charts %}
<figure class="panel"><h3>{{ title }}</h3>{{ chart }}<p class="under middle">{{ under }}</p></figure>
{%- endfor %}
</div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        results = context.results
        arms = [(row, row.cost, row.mean) for row in results.arms]
        known = [(row, cost, mean) for row, cost, mean in arms if cost is not None and mean is not None]
        if not known:
            return None
        power, letter = magnitude(max(cost.macs for _, cost, _ in known))
        unit = {"": "", "k": "thousand ", "M": "million ", "G": "billion ", "T": "trillion "}[letter] + "MACs"
        counted, timed = [], []
        for row, cost, mean in known:
            style, macs, time = context.styles[row.arm.name], cost.macs / power, cost.latency
            counted.append(Point(style, macs, macs, macs, mean, row.sd or 0.0))
            timed.append(Point(style, time.median, time.low, time.high, mean, row.sd or 0.0))
        return {
            "way": "Upwards" if results.metric.higher_is_better else "Downwards",
            "styles": context.styles.values(),
            "charts": [
                ("Multiply-adds of one image", cost_chart(counted, unit, results.metric), unit),
                ("Latency of one image", cost_chart(timed, "ms", results.metric), "ms, batch 1"),
            ],
        }


@dataclass(frozen=True)
class Point:
    """A score with its standard deviation between seeds, and a cost."""

    style: Style
    cost: float
    cost_low: float
    cost_high: float
    score: float
    spread: float


def cost_chart(points: Sequence[Point], unit: str, metric: Metric) -> Markup:
    """The score against a cost, which is in ``unit``, with bars for both spreads."""
    height = 280.0
    largest = max(p.cost for p in points)
    across = Scale(*extent([v for p in points for v in (p.cost_low, p.cost_high)], least=0.1 * largest, margin=0.16))
    ends_ = [v for p in points for v in (p.score - p.spread, p.score + p.spread)]
    down = Scale(*extent(ends_, least=metric.margin / 2), height, 0.0)
    parts = [*rules(down, 5), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    parts.append(element("text", heading(metric.name, metric.unit), x=-30, y=-12, class_="tick"))
    for t in ticks(across.low, across.high, 5):
        x = across.percent(t)
        parts.append(element("text", f"{t:g}", x=x, y=height + 18, text_anchor="middle", class_="tick"))
        parts.append(element("line", x1=x, x2=x, y1=height, y2=height + 4, class_="axis"))
    for p in points:
        x, y = across.percent(p.cost), down(p.score)
        bar = f"spread {p.style.classes}"
        parts.append(element("line", x1=x, x2=x, y1=down(p.score - p.spread), y2=down(p.score + p.spread), class_=bar))
        ends = {"x1": across.percent(p.cost_low), "x2": across.percent(p.cost_high)}
        parts.append(element("line", **ends, y1=y, y2=y, class_=bar))
    for p in points:
        score = measure(f"{number(p.score, metric.digits)} ± {number(p.spread, metric.digits)}", metric.unit)
        tip = f"{p.style.name}: {metric.name} {score}, {p.cost:.3g} {unit}"
        parts.append(marker(p.style, across.percent(p.cost), down(p.score), tip))
    for p, (left, top, anchor) in _labels(points, across, down).items():
        place = {"x": f"{left:.2f}%", "y": top, "text_anchor": anchor}
        parts.append(element("text", p.style.name, **place, class_=f"name {p.style.classes}"))
    return picture(*parts, height=height + 24, label=f"{heading(metric.name, metric.unit)} against {unit}")


def _labels(points: Sequence[Point], across: Scale, down: Scale) -> dict[Point, tuple[float, float, str]]:
    """A free place for each name on a chart 280 pixels wide: what does not collide there collides nowhere.

    A name without a place is left to the legend.
    """
    width, letter, tall = 280.0, 7.0, 15.0
    places = {p: (across(p.cost) * width / 100, down(p.score)) for p in points}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    bars = {p: (x - 2, down(p.score + p.spread), x + 2, down(p.score - p.spread)) for p, (x, _) in places.items()}
    found: dict[Point, tuple[float, float, str]] = {}
    for p in sorted(points, key=lambda p: p.cost):
        x, y = places[p]
        long = letter * len(p.style.name)
        crowded = any(0 <= places[q][0] - x < 70 and abs(places[q][1] - y) < 30 for q in points if q is not p)
        sides = ((-9, "end"), (9, "start")) if crowded else ((9, "start"), (-9, "end"))
        others = [bar for q, bar in bars.items() if q is not p]
        for obstacles, dy, (dx, anchor) in product(([*taken, *others], taken), (-7, 17, -21, 31), sides):
            left = x + dx if anchor == "start" else x + dx - long
            box = (left, y + dy - tall + 3, left + long, y + dy + 3)
            inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= down.start
            if inside and not any(_overlap(box, other) for other in obstacles):
                taken.append(box)
                # The gap in pixels as a part of this width; on a wider chart it grows a little.
                found[p] = (across(p.cost) + 100 * dx / width, y + dy, anchor)
                break
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
