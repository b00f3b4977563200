"""Differences to the baseline, as a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from markupsafe import Markup

from saccade.metrics.metric import Metric
from saccade.study.findings import Difference
from saccade.study.report.charts import ArmStyle, marker
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.svg import Scale, element, n_decimals, padded_range, svg_chart, ticks
from saccade.study.report.typeset import capitalise, format_interval, format_p_value, format_signed, with_unit

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["DifferenceSection"]


@final
class DifferenceSection(Section):
    """One row per arm on a shared axis; controls come last."""

    title = "Difference to the baseline"
    order = 10
    template = """
{%- macro forest_row(row) -%}
<div class="row">
  <div>{{ arm_label(row.style) }}
  {%- if row.shares_host is false %}<span class="second">another host</span>{% endif %}</div>
  <div class="plot">{{ row.chart }}</div>
  <div class="figures"><span class="big">{{ row.difference }}</span><span>{{ row.interval }}</span>
    <span class="second">p {{ row.p if row.p.startswith("<") else "= " ~ row.p }} ·
    <span class="word {{ row.class }}">{{ row.verdict }}</span></span></div>
</div>
{%- endmacro -%}
<p class="how">{{ name }}{{ scored_on }} against <b>{{ baseline }}</b>{{ unit }}. {{ sign_note }}Bar: 95&#8239;%
interval of the mean. Dots: difference of each seed. Shaded: ±{{ margin }}, within which two networks count as equal.
{%- if has_other_hosts %} An arm on another host shares seed, data order and augmentation with {{ baseline }}, but not
the initial weights.{% endif %}</p>
<div class="forest">
<div class="row head"><span class="empty"></span>
<span class="between plot"><span>← worse than {{ baseline }}</span><span>better than {{ baseline }} →</span></span>
<span class="figures empty"><span>{{ difference_unit }}</span><span>95&#8239;% interval</span></span></div>
{%- for row in mechanisms %}
{{ forest_row(row) }}
{%- endfor %}
{%- if controls %}
<p class="controls">Controls at the same sites; they are not part of the Holm correction.
{%- for name, meaning in control_meanings.items() %} <b>{{ name }}</b>: {{ meaning }}.{% endfor %}</p>
{%- for row in controls %}
{{ forest_row(row) }}
{%- endfor %}
{%- endif %}
<div class="row"><span class="empty"></span><div class="plot">{{ axis }}</div><span class="empty"></span></div>
</div>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results, metric = context.results, context.results.metric
        if not results.analysis:
            return None
        forest_rows = [
            ForestRow(
                context.styles[finding.name],
                finding.difference,
                finding.low,
                finding.high,
                _differences_by_seed(results, finding),
            )
            for finding in results.analysis.differences
        ]
        scale = forest_scale(forest_rows, results.margin)
        shares_host = {row.arm.name: row.shares_host for row in results.arms}
        rows = [
            {
                "style": forest_row.style, "chart": forest_chart(forest_row, scale, results.margin, metric),
                "difference": format_signed(finding.difference, metric.digits), "p": format_p_value(finding.p_holm),
                "interval": format_interval(finding.low, finding.high, metric.digits),
                "verdict": finding.verdict_text, "class": finding.verdict or "unjudged",
                "shares_host": shares_host[finding.name], "control": finding.is_control,
            }
            for finding, forest_row in zip(results.analysis.differences, forest_rows, strict=True)
        ]  # fmt: skip
        unit = "percentage points" if metric.unit == "%" else metric.unit
        return {
            "name": capitalise(metric.name),
            "scored_on": " on the test images" if results.study else "",
            "unit": f", in {unit}" if unit else "",
            "sign_note": "" if metric.higher_is_better else f"Lower {metric.name} is better, so + means lower. ",
            "difference_unit": metric.difference_unit or "difference",
            "has_other_hosts": False in shares_host.values(),
            "baseline": results.baseline,
            "mechanisms": [row for row in rows if not row["control"]],
            "controls": [row for row in rows if row["control"]],
            "control_meanings": results.controls,
            "axis": forest_axis(scale, results.margin, unit),
            "margin": f"{results.margin:g}",
        }


def _differences_by_seed(results: StudyResults, finding: Difference) -> list[tuple[int, float]]:
    """Return (seed, difference) for each seed whose run and baseline run are finished."""
    scores = {arm.arm.name: arm.scores for arm in results.arms}
    pairs = zip(results.seeds, scores[finding.name], scores[finding.baseline], strict=True)
    seeds = [seed for seed, score, baseline_score in pairs if score is not None and baseline_score is not None]
    return list(zip(seeds, finding.raw, strict=True))  # ``raw``: differences by seed


@dataclass(frozen=True)
class ForestRow:
    """Differences of one arm to the baseline; + is better."""

    style: ArmStyle
    difference: float | None
    low: float | None
    high: float | None
    difference_by_seed: Sequence[tuple[int, float]]


def forest_scale(rows: Sequence[ForestRow], margin: float) -> Scale:
    """Return the shared x scale; it covers every interval, every dot and ± ``margin``."""
    values = [v for row in rows for v in (row.low, row.high, row.difference, *(d for _, d in row.difference_by_seed))]
    return Scale(*padded_range([*values, -margin, margin], min_span=2 * margin))


def forest_chart(row: ForestRow, scale: Scale, margin: float, metric: Metric) -> Markup:
    """Return the chart of one arm: mean and interval, and below them a dot per seed."""
    height, center_y, dots_y, style = 50, 17, 36, row.style
    left, right = scale(-margin), scale(margin)
    elements = [element("rect", x=f"{left:.2f}%", width=f"{right - left:.2f}%", y=0, height=height, class_="band")]
    for tick in ticks(scale.low, scale.high, 7):
        x = scale.percent(tick)
        elements.append(element("line", x1=x, x2=x, y1=0, y2=height, class_="zero" if tick == 0 else "grid"))
    if row.low is not None and row.high is not None:
        interval_line = {"x1": scale.percent(row.low), "x2": scale.percent(row.high), "y1": center_y, "y2": center_y}
        elements.append(element("line", **interval_line, class_=f"interval {style.classes}"))
    for i, (seed, value) in enumerate(row.difference_by_seed):
        difference_text = with_unit(format_signed(value, metric.digits), metric.difference_unit)
        tip = element("title", f"{style.name}, seed {seed}: {difference_text}")
        y = dots_y + 4 * (i % 3 - 1)  # staggered, so that equal differences do not overlap
        elements.append(element("circle", tip, cx=scale.percent(value), cy=y, r=3.2, class_=f"dot {style.classes}"))
    text = "no pair of finished runs"
    if row.difference is not None:
        difference_text = with_unit(format_signed(row.difference, metric.digits), metric.difference_unit)
        text = f"{difference_text}, {format_interval(row.low, row.high, metric.digits)}"
        elements.append(marker(style, scale.percent(row.difference), center_y, text))
    return svg_chart(*elements, height=height, label=f"{style.name} against the baseline: {text}", class_="strip")


def forest_axis(scale: Scale, margin: float, unit: str) -> Markup:
    """Return the tick labels of the shared axis and the margin band."""
    labels = [
        element(
            "text",
            format_signed(tick, n_decimals([tick])),
            x=scale.percent(tick),
            y=16,
            text_anchor="middle",
            class_="tick",
        )
        for tick in ticks(scale.low, scale.high, 7)
    ]
    band = element("line", x1=scale.percent(-margin), x2=scale.percent(margin), y1=1, y2=1, class_="bandline")
    return svg_chart(
        band, *labels, height=22, label=f"differences in {unit}" if unit else "differences", class_="strip"
    )
