"""Score against multiply-adds, and against latency at batch 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.report.charts import ArmStyle, gridlines, marker
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.svg import Scale, element, padded_range, svg_chart, ticks
from saccade.study.report.typeset import format_number, label_with_unit, si_prefix, with_unit

__all__ = ["TradeoffSection"]


@final
class TradeoffSection(Section):
    """One chart per cost."""

    title = "Score against cost"
    order = 20
    template = """
<p class="how">{{ better_direction }} is better, leftwards is cheaper. Vertical bars: standard deviation over seeds.
Horizontal bars: range of the middle 90&#8239;% of the timed runs.</p>
<div class="legend">{% for style in styles %}<span>{{ arm_label(style) }}</span>{% endfor %}</div>
<div class="pair">
{%- for title, chart, x_label in charts %}
<figure class="panel"><h3>{{ title }}</h3>{{ chart }}<p class="caption middle">{{ x_label }}</p></figure>
{%- endfor %}
</div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results = context.results
        arms = [(row, row.cost, row.mean) for row in results.arms]
        measured = [(row, cost, mean) for row, cost, mean in arms if cost is not None and mean is not None]
        if not measured:
            return None
        power, prefix = si_prefix(max(cost.macs for _, cost, _ in measured))
        unit = {"": "", "k": "thousand ", "M": "million ", "G": "billion ", "T": "trillion "}[prefix] + "MACs"
        mac_points, latency_points = [], []
        for row, cost, mean in measured:
            style, macs, time = context.styles[row.arm.name], cost.macs / power, cost.latency
            mac_points.append(CostPoint(style, macs, macs, macs, mean, row.sd or 0.0))
            latency_points.append(CostPoint(style, time.median, time.low, time.high, mean, row.sd or 0.0))
        return {
            "better_direction": "Upwards" if results.metric.higher_is_better else "Downwards",
            "styles": context.styles.values(),
            "charts": [
                ("Multiply-adds of one image", cost_chart(mac_points, unit, results.metric), unit),
                ("Latency of one image", cost_chart(latency_points, "ms", results.metric), "ms, batch 1"),
            ],
        }


@dataclass(frozen=True)
class CostPoint:
    """Score of an arm with its standard deviation over seeds, and its cost with a range."""

    style: ArmStyle
    cost: float
    cost_low: float
    cost_high: float
    score: float
    spread: float


def cost_chart(points: Sequence[CostPoint], unit: str, metric: Metric) -> Markup:
    """Return the chart of score against cost, with bars for both ranges; ``unit`` is the unit of the cost."""
    height = 280.0
    largest = max(point.cost for point in points)
    cost_ends = [v for point in points for v in (point.cost_low, point.cost_high)]
    x_scale = Scale(*padded_range(cost_ends, min_span=0.1 * largest, margin=0.16))
    score_ends = [v for point in points for v in (point.score - point.spread, point.score + point.spread)]
    y_scale = Scale(*padded_range(score_ends, min_span=metric.margin / 2), height, 0.0)
    elements = [*gridlines(y_scale, 5), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    elements.append(element("text", label_with_unit(metric.name, metric.unit), x=-30, y=-12, class_="tick"))
    for tick in ticks(x_scale.low, x_scale.high, 5):
        x = x_scale.percent(tick)
        elements.append(element("text", f"{tick:g}", x=x, y=height + 18, text_anchor="middle", class_="tick"))
        elements.append(element("line", x1=x, x2=x, y1=height, y2=height + 4, class_="axis"))
    for point in points:
        x, y = x_scale.percent(point.cost), y_scale(point.score)
        bar_class = f"spread {point.style.classes}"
        score_bar = {"y1": y_scale(point.score - point.spread), "y2": y_scale(point.score + point.spread)}
        elements.append(element("line", x1=x, x2=x, **score_bar, class_=bar_class))
        cost_bar = {"x1": x_scale.percent(point.cost_low), "x2": x_scale.percent(point.cost_high)}
        elements.append(element("line", **cost_bar, y1=y, y2=y, class_=bar_class))
    for point in points:
        mean, sd = format_number(point.score, metric.digits), format_number(point.spread, metric.digits)
        score = with_unit(f"{mean} ± {sd}", metric.unit)
        tip = f"{point.style.name}: {metric.name} {score}, {point.cost:.3g} {unit}"
        elements.append(marker(point.style, x_scale.percent(point.cost), y_scale(point.score), tip))
    for point, (label_x, label_y, anchor) in _label_positions(points, x_scale, y_scale).items():
        position = {"x": f"{label_x:.2f}%", "y": label_y, "text_anchor": anchor}
        elements.append(element("text", point.style.name, **position, class_=f"name {point.style.classes}"))
    return svg_chart(*elements, height=height + 24, label=f"{label_with_unit(metric.name, metric.unit)} against {unit}")


def _label_positions(
    points: Sequence[CostPoint], x_scale: Scale, y_scale: Scale
) -> dict[CostPoint, tuple[float, float, str]]:
    """Return the position (per cent, pixels, text-anchor) of each point's label, without overlaps.

    The layout assumes a chart 280 pixels wide. A label that does not fit is left out.
    """
    width, letter_width, line_height = 280.0, 7.0, 15.0
    point_xy = {point: (x_scale(point.cost) * width / 100, y_scale(point.score)) for point in points}
    occupied = [(x - 6, y - 6, x + 6, y + 6) for x, y in point_xy.values()]
    bars = {
        point: (x - 2, y_scale(point.score + point.spread), x + 2, y_scale(point.score - point.spread))
        for point, (x, _) in point_xy.items()
    }
    positions: dict[CostPoint, tuple[float, float, str]] = {}
    for point in sorted(points, key=lambda point: point.cost):
        x, y = point_xy[point]
        text_width = letter_width * len(point.style.name)
        is_crowded = any(
            0 <= point_xy[other][0] - x < 70 and abs(point_xy[other][1] - y) < 30
            for other in points
            if other is not point
        )
        sides = ((-9, "end"), (9, "start")) if is_crowded else ((9, "start"), (-9, "end"))
        other_bars = [bar for other, bar in bars.items() if other is not point]
        for obstacles, dy, (dx, anchor) in product(([*occupied, *other_bars], occupied), (-7, 17, -21, 31), sides):
            left = x + dx if anchor == "start" else x + dx - text_width
            box = (left, y + dy - line_height + 3, left + text_width, y + dy + 3)
            is_inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= y_scale.start
            if is_inside and not any(_boxes_overlap(box, other) for other in obstacles):
                occupied.append(box)
                # The gap in pixels as a percentage of this width; it grows slightly on wider charts.
                positions[point] = (x_scale(point.cost) + 100 * dx / width, y + dy, anchor)
                break
    return positions


def _boxes_overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
