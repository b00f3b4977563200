"""The score on the test images after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.arms import BASELINE
from saccade.study.report.charts import Curves, Style, marker, mean_curve, rules, stretched, thinned
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.svg import Scale, curve, element, extent, picture, ticks
from saccade.study.report.typeset import in_unit, measure, number

__all__ = ["Learning"]


@final
class Learning(Section):
    """A panel an arm; all share one range."""

    title = "Learning curves"
    order = 30
    template = """
<p class="how">Test {{ name }} after each epoch: a thin line a seed, their mean bold, the plain host’s mean in grey. All
panels share one range; the first, steep epochs may lie outside. The last epoch is scored, or the one that
a network’s own training chose on validation images; never the best of these curves.</p>
<div class="panels">
{%- for style, last, chart in panels %}
<figure class="panel"><div class="line"><h3>{{ named(style) }}</h3><span class="last">{{ last }}</span></div>
{{- chart }}</figure>
{%- endfor %}
</div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        if context.results.study is None:
            return None
        results, metric = context.results, context.results.metric
        curves = {
            name: {
                seed: [(row["epoch"], score) for row in thinned(rows, 150)
                       if (score := row["scores"].get(metric.name)) is not None]
                for seed, rows in context.by_seed(name).items()
            }
            for name in context.styles
        }  # fmt: skip
        bounds = learning_range(list(curves.values()), metric.margin)
        epochs = context.last_epoch
        panels = []
        for row in results.arms:
            name, style = row.arm.name, context.styles[row.arm.name]
            mean = measure(number(row.mean, metric.digits), metric.unit)
            chart = learning(style, curves[name], curves[BASELINE], bounds, epochs, metric)
            panels.append((style, mean if curves[name] else "no finished run", chart))
        return {"name": metric.name + in_unit(metric.unit), "panels": panels}


def learning_range(curves: Sequence[Curves], least: float) -> tuple[float, float]:
    """The range of the later half of the epochs: the first, steep part would hide differences."""
    points = [point for curve_ in curves for run in curve_.values() for point in run]
    start = ceil(max((epoch for epoch, _ in points), default=0) / 2)
    return extent([value for epoch, value in points if epoch >= start], least=least)


def learning(
    style: Style, curves: Curves, baseline: Curves, bounds: tuple[float, float], epochs: int, metric: Metric
) -> Markup:
    """A thin line a seed, their mean bold, the plain host's mean in grey behind."""
    height = 170.0
    across = Scale(1, max(epochs, 2))
    plane, down = Scale(*bounds, 100.0, 0.0), Scale(*bounds, height, 0.0)
    lines = []
    if baseline is not curves:
        reference = [(across(e), plane(v)) for e, v in mean_curve(baseline) if e]
        lines.append(curve(reference, class_="mean arm c0 reference"))
    for run in curves.values():
        lines.append(curve([(across(e), plane(v)) for e, v in run if e], class_=f"seed {style.classes}"))
    mean = [(e, v) for e, v in mean_curve(curves) if e]
    lines.append(curve([(across(e), plane(v)) for e, v in mean], class_=f"mean {style.classes}"))
    parts = [*rules(down), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    for t in _epochs(epochs):
        parts.append(element("text", t, x=across.percent(t), y=height + 17, text_anchor="middle", class_="tick"))
    end = [marker(style, across.percent(mean[-1][0]), down(mean[-1][1]))] if mean and down.holds(mean[-1][1]) else []
    last = "no finished epoch"
    if mean:
        last = f"{measure(number(mean[-1][1], metric.digits), metric.unit)} after epoch {mean[-1][0]}"
    words = f"{style.name}: test {metric.name} over the epochs, mean {last}"
    return picture(*parts, stretched(*lines, height=height), *end, height=height + 22, label=words)


def _epochs(last: int) -> list[int]:
    """Epochs to name on an axis: the first, the last, and round ones between."""
    if last <= 2:
        return list(range(1, max(last, 2) + 1))
    between = [int(t) for t in ticks(1, last, 4) if t == int(t) and 1 + last * 0.1 < t < last * 0.9]
    return [1, *between, last]
