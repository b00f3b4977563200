"""The differences to the baseline as a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.findings import Difference as Finding
from saccade.study.report.charts import Style, marker
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.svg import Scale, decimals, element, extent, picture, ticks
from saccade.study.report.typeset import capital, interval, measure, p_value, signed

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["Difference"]


@final
class Difference(Section):
    """A row an arm on one axis; controls below."""

    title = "Difference to the baseline"
    order = 10
    template = """
{%- macro forest_row(row) -%}
<div class="row">
  <div>{{ named(row.style) }}{% if row.shares_host is false %}<span class="second">another host</span>{% endif %}</div>
  <div class="plot">{{ row.chart }}</div>
  <div class="figures"><span class="big">{{ row.difference }}</span><span>{{ row.interval }}</span>
    <span class="second">p {{ row.p if row.p.startswith("<") else "= " ~ row.p }} ·
    <span class="word {{ row.class }}">{{ row.verdict }}</span></span></div>
</div>
{%- endmacro -%}
<p class="how">{{ name }}{{ on }} against <b>{{ baseline }}</b>{{ unit }}. {{ turned }}Bar: 95&#8239;%
interval of the mean. Dots: each seed’s own difference. Shaded: ±{{ margin }}, within which two networks count as equal.
{%- if hosts %} Another host shares seed, data order and augmentation with {{ baseline }}, not the first
weights.{% endif %}</p>
<div class="forest">
<div class="row head"><span class="empty"></span>
<span class="between plot"><span>← worse than {{ baseline }}</span><span>better than {{ baseline }} →</span></span>
<span class="figures empty"><span>{{ points }}</span><span>95&#8239;% interval</span></span></div>
{%- for row in mechanisms %}
{{ forest_row(row) }}
{%- endfor %}
{%- if controls %}
<p class="controls">Controls at the same places, outside the correction.
{%- for name, shows in kinds.items() %} <b>{{ name }}</b>: {{ shows }}.{% endfor %}</p>
{%- for row in controls %}
{{ forest_row(row) }}
{%- endfor %}
{%- endif %}
<div class="row"><span class="empty"></span><div class="plot">{{ axis }}</div><span class="empty"></span></div>
</div>
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        results, metric = context.results, context.results.metric
        if not results.analysis:
            return None
        lines = [
            Line(context.styles[row.name], row.difference, row.low, row.high, _by_seed(results, row))
            for row in results.analysis.differences
        ]
        scale = forest_scale(lines, results.margin)
        shares_host = {row.arm.name: row.shares_host for row in results.arms}
        rows = [
            {
                "style": line.style, "chart": forest_row(line, scale, results.margin, metric),
                "difference": signed(row.difference, metric.digits), "p": p_value(row.p_holm),
                "interval": interval(row.low, row.high, metric.digits),
                "verdict": row.verdict_text, "class": row.verdict or "unjudged",
                "shares_host": shares_host[row.name], "control": row.is_control,
            }
            for row, line in zip(results.analysis.differences, lines, strict=True)
        ]  # fmt: skip
        unit = "percentage points" if metric.unit == "%" else metric.unit
        return {
            "name": capital(metric.name),
            "on": " on the test images" if results.study else "",
            "unit": f", in {unit}" if unit else "",
            "turned": "" if metric.higher_is_better else f"Lower {metric.name} is better, so + stands for lower. ",
            "points": metric.points or "difference",
            "hosts": False in shares_host.values(),
            "baseline": results.baseline,
            "mechanisms": [row for row in rows if not row["control"]],
            "controls": [row for row in rows if row["control"]],
            "kinds": results.controls,
            "axis": forest_axis(scale, results.margin, unit),
            "margin": f"{results.margin:g}",
        }


def _by_seed(results: StudyResults, row: Finding) -> list[tuple[int, float]]:
    """(seed, difference) of every pair of finished runs."""
    scores = {arm.arm.name: arm.scores for arm in results.arms}
    pairs = zip(results.seeds, scores[row.name], scores[row.baseline], strict=True)
    seeds = [seed for seed, mine, plain in pairs if mine is not None and plain is not None]
    return list(zip(seeds, row.raw, strict=True))


@dataclass(frozen=True)
class Line:
    """One line of the forest plot: differences to the baseline, + is better."""

    style: Style
    difference: float | None
    low: float | None
    high: float | None
    raw: Sequence[tuple[int, float]]


def forest_scale(lines: Sequence[Line], margin: float) -> Scale:
    """The one axis of all lines: it holds every interval, every dot and the band of ± ``margin``."""
    values = [v for line in lines for v in (line.low, line.high, line.difference, *(d for _, d in line.raw))]
    return Scale(*extent([*values, -margin, margin], least=2 * margin))


def forest_row(line: Line, scale: Scale, margin: float, metric: Metric) -> Markup:
    """Estimate and interval above, the raw differences as dots below."""
    height, middle, dots, style = 50, 17, 36, line.style
    left, right = scale(-margin), scale(margin)
    parts = [element("rect", x=f"{left:.2f}%", width=f"{right - left:.2f}%", y=0, height=height, class_="band")]
    for t in ticks(scale.low, scale.high, 7):
        x = scale.percent(t)
        parts.append(element("line", x1=x, x2=x, y1=0, y2=height, class_="zero" if t == 0 else "grid"))
    if line.low is not None and line.high is not None:
        ends = {"x1": scale.percent(line.low), "x2": scale.percent(line.high), "y1": middle, "y2": middle}
        parts.append(element("line", **ends, class_=f"interval {style.classes}"))
    for order, (seed, value) in enumerate(line.raw):
        said = measure(signed(value, metric.digits), metric.points)
        tip = element("title", f"{style.name}, seed {seed}: {said}")
        low = dots + 4 * (order % 3 - 1)  # at one height, equal differences would hide one another
        parts.append(element("circle", tip, cx=scale.percent(value), cy=low, r=3.2, class_=f"dot {style.classes}"))
    words = "no pair of finished runs"
    if line.difference is not None:
        said = measure(signed(line.difference, metric.digits), metric.points)
        words = f"{said}, {interval(line.low, line.high, metric.digits)}"
        parts.append(marker(style, scale.percent(line.difference), middle, words))
    return picture(*parts, height=height, label=f"{style.name} against the baseline: {words}", class_="strip")


def forest_axis(scale: Scale, margin: float, unit: str) -> Markup:
    """The numbers below the rows."""
    marks = [
        element("text", signed(t, decimals([t])), x=scale.percent(t), y=16, text_anchor="middle", class_="tick")
        for t in ticks(scale.low, scale.high, 7)
    ]
    band = element("line", x1=scale.percent(-margin), x2=scale.percent(margin), y1=1, y2=1, class_="bandline")
    return picture(band, *marks, height=22, label=f"differences in {unit}" if unit else "differences", class_="strip")
