"""Score on the test images after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.arms import BASELINE
from saccade.study.report.charts import ArmStyle, CurvesBySeed, gridlines, marker, mean_curve, plot_area, subsample
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.svg import Scale, element, padded_range, polyline, svg_chart, ticks
from saccade.study.report.typeset import format_number, unit_phrase, with_unit

__all__ = ["LearningSection"]


@final
class LearningSection(Section):
    """One panel per arm; all panels share one range."""

    title = "Learning curves"
    order = 30
    template = """
<p class="how">Test {{ name }} after each epoch: one thin line per seed, their mean in bold, the plain host’s mean in
grey. All panels share one range; the first, steep epochs may lie outside. The score is that of the last epoch, or of
the epoch chosen on validation images; never the best epoch on test images.</p>
<div class="panels">
{%- for style, last, chart in panels %}
<figure class="panel"><div class="line"><h3>{{ arm_label(style) }}</h3><span class="last">{{ last }}</span></div>
{{- chart }}</figure>
{%- endfor %}
</div>
{%- if references %}
<div class="legend">
{%- for name, score in references %}
<span><svg class="dash" viewBox="0 0 24 8" aria-hidden="true"><path class="level" d="M0,4h24"/></svg>
{{- name }}, {{ score }}</span>
{%- endfor %}
</div>
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        if context.results.study is None:
            return None
        results, metric = context.results, context.results.metric
        curves = {
            name: {
                seed: [(row["epoch"], score) for row in subsample(rows, 150)
                       if (score := row["scores"].get(metric.name)) is not None]
                for seed, rows in context.epochs_by_seed(name).items()
            }
            for name in context.styles
        }  # fmt: skip
        bounds = score_range(list(curves.values()), metric.margin)
        references = {
            name: score for name, score in results.reference_scores(metric).items() if Scale(*bounds).contains(score)
        }
        epochs = context.last_epoch
        panels = []
        for row in results.arms:
            name, style = row.arm.name, context.styles[row.arm.name]
            mean = with_unit(format_number(row.mean, metric.digits), metric.unit)
            chart = learning_chart(style, curves[name], curves[BASELINE], references, bounds, epochs, metric)
            panels.append((style, mean if curves[name] else "no finished run", chart))
        return {
            "name": metric.name + unit_phrase(metric.unit),
            "panels": panels,
            "references": [
                (name, with_unit(format_number(score, metric.digits), metric.unit))
                for name, score in references.items()
            ],
        }


def score_range(curves: Sequence[CurvesBySeed], min_span: float) -> tuple[float, float]:
    """Return the range of scores over the later half of the epochs; the steep first half would hide differences."""
    points = [point for curves_by_seed in curves for run in curves_by_seed.values() for point in run]
    start = ceil(max((epoch for epoch, _ in points), default=0) / 2)
    return padded_range([value for epoch, value in points if epoch >= start], min_span=min_span)


def learning_chart(
    style: ArmStyle,
    curves: CurvesBySeed,
    baseline: CurvesBySeed,
    references: Mapping[str, float],
    bounds: tuple[float, float],
    epochs: int,
    metric: Metric,
) -> Markup:
    """Return a chart with one thin line per seed, their bold mean, and the plain host's mean in grey.

    The scores of ``references``, which must lie in ``bounds``, are dashed lines.
    """
    height = 170.0
    x_scale = Scale(1, max(epochs, 2))
    viewbox_y_scale, pixel_y_scale = Scale(*bounds, 100.0, 0.0), Scale(*bounds, height, 0.0)
    lines = []
    if baseline is not curves:
        reference = [(x_scale(e), viewbox_y_scale(v)) for e, v in mean_curve(baseline) if e]
        lines.append(polyline(reference, class_="mean arm c0 reference"))
    for points in curves.values():
        lines.append(
            polyline([(x_scale(e), viewbox_y_scale(v)) for e, v in points if e], class_=f"seed {style.classes}")
        )
    mean = [(e, v) for e, v in mean_curve(curves) if e]
    lines.append(polyline([(x_scale(e), viewbox_y_scale(v)) for e, v in mean], class_=f"mean {style.classes}"))
    elements = [*gridlines(pixel_y_scale), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    for name, score in references.items():
        tip = element("title", f"{name}: {with_unit(format_number(score, metric.digits), metric.unit)}")
        y = pixel_y_scale(score)
        elements.append(element("line", tip, x1=0, x2="100%", y1=y, y2=y, class_="level"))
    for epoch in _labelled_epochs(epochs):
        elements.append(
            element("text", epoch, x=x_scale.percent(epoch), y=height + 17, text_anchor="middle", class_="tick")
        )
    end_marker = (
        [marker(style, x_scale.percent(mean[-1][0]), pixel_y_scale(mean[-1][1]))]
        if mean and pixel_y_scale.contains(mean[-1][1])
        else []
    )
    last_text = "no finished epoch"
    if mean:
        last_text = f"{with_unit(format_number(mean[-1][1], metric.digits), metric.unit)} after epoch {mean[-1][0]}"
    label = f"{style.name}: test {metric.name} over the epochs, mean {last_text}"
    return svg_chart(*elements, plot_area(*lines, height=height), *end_marker, height=height + 22, label=label)


def _labelled_epochs(last: int) -> list[int]:
    """Return the epochs to label on the axis: the first, the last, and round numbers between."""
    if last <= 2:
        return list(range(1, max(last, 2) + 1))
    inner = [int(tick) for tick in ticks(1, last, 4) if tick == int(tick) and 1 + last * 0.1 < tick < last * 0.9]
    return [1, *inner, last]
