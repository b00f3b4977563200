"""Whether each gate needs its own image: gates held at their mean, and gates of another image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.metrics.metric import Metric
from saccade.study.findings import Difference
from saccade.study.gate_costs import REPORT_SECONDS, ArmGates, GateCost
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import (
    format_duration,
    format_interval,
    format_number,
    format_signed,
    group_thousands,
    with_unit,
)

__all__ = ["ConstantGatesSection"]

_WORD_CLASSES = {"constant": "equal", "depends on the image": "helps", "not decided": ""}

_CONCLUSIONS = {
    "constant": ("it could be constant", "they could be constant"),
    "depends on the image": ("it depends on the image", "they depend on the image"),
    "not decided": ("not decided", "not decided"),
}
"""Maps a reading to the end of a sentence on one gate, and on several."""


@final
class ConstantGatesSection(Section):
    """One table per arm whose networks have gates: a row per gate, all gates first."""

    title = "Does the gate look at the image?"
    order = 42
    template = """
{%- macro cost(cell) -%}
{{ cell.difference }}<span class="second">{{ cell.interval }}</span>
{%- if cell.seeds %}<span class="second">{{ cell.seeds }}</span>{% endif %}
{%- endmacro -%}
{%- if error %}
<p class="how">Not measured: {{ error }}</p>
{%- else %}
<p class="how">Each gate of the finished networks is replaced, without training again: by its mean over training images,
one constant for every image, or by the gate that the network computes for another test image. Shown is the change of
{{ metric }} against the network’s own gates{{ unit }}, paired over seeds, with its 95&#8239;% interval and, where they
differ, the seeds; +&nbsp;is better.</p>
<p class="how">A gate <b>could be constant</b> if the whole interval is better than −{{ margin }}; if it also has one
value per channel, it <b>could be folded</b> into a layer beside it, where there is one (<code>saccade fold</code>
does so for plugs). It <b>depends on the image</b> if the whole interval is worse than zero, or if every network by
itself is worse on its test images. Intervals are not corrected for the number of gates. All this is said of networks
trained with the gate; whether one trained with a constant gate does as well is what the controls <code>noise</code>
and <code>shuffled</code> test.</p>
{%- for arm in arms %}
<h3 class="stage">{{ arm_label(arm.style) }}</h3>
{%- if arm.duration %}
<p class="how">Not measured: a report spends {{ limit }} on a network, this one needs about {{ arm.duration }}.
<code>saccade.study.constant_gates.constant_gates("{{ folder }}")</code> measures it for the next report.</p>
{%- else %}
<p class="how finding">{{ arm.summary }}</p>
<div class="scroll"><table>
<thead><tr><th scope="col">gate</th><th scope="col">values<br>mean, sd between images</th>
<th scope="col">held at<br>its mean</th><th scope="col">gate of<br>another image</th><th scope="col">this gate</th></tr>
</thead>
<tbody>
{%- for row in arm.rows %}
<tr><td>{% if row.kind %}<code>{{ row.name }}</code><span class="second">{{ row.kind }}</span>
{%- else %}<b>{{ row.name }}</b>{% endif %}</td>
<td>{{ row.range }}<span class="second">{{ row.moments }}</span></td>
<td>{{ cost(row.held) }}</td><td>{{ cost(row.other) }}</td>
<td><span class="word {{ row.class }}">{{ row.word }}</span></td></tr>
{%- endfor %}
</tbody></table></div>
<p class="caption">{{ arm.images }}
{%- for reason, paths in arm.skipped.items() %} Not changed: {{ paths | join(", ") }} ({{ reason }}).{% endfor %}</p>
{%- endif %}
{%- endfor %}
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results, metric = context.results, context.results.metric
        if context.gates_error is not None:
            return {"error": context.gates_error}
        if not context.gates:
            return None
        assert results.study is not None
        n_test = 0 if context.task is None else len(context.task.data.test)
        return {
            "error": None,
            "metric": metric.name,
            "unit": f" in {metric.difference_unit}" if metric.difference_unit else "",
            "margin": f"{results.margin:g}",
            "limit": format_duration(REPORT_SECONDS),
            "folder": results.study.folder.name,
            "arms": [_arm(arm, context, metric, n_test) for arm in context.gates],
        }


def _arm(arm: ArmGates, context: ReportContext, metric: Metric, n_test: int) -> dict[str, Any]:
    """Return the variables of one arm."""
    style = context.styles[arm.arm]
    if arm.seconds is not None:
        return {"style": style, "duration": format_duration(arm.seconds)}
    skipped: dict[str, list[str]] = {}
    for path, reason in arm.skipped.items():
        skipped.setdefault(reason, []).append(path)
    scores = [score for score in arm.own if score is not None]
    mean = format_number(sum(scores) / len(scores) if scores else None, metric.digits)
    shown = group_thousands(arm.n_images)
    images = (
        f"Own gates: {metric.name} {with_unit(mean, metric.unit)} on "
        f"{f'all {shown}' if arm.n_images == n_test else f'{shown} of {group_thousands(n_test)}'} test images"
        f"{'' if arm.n_images == n_test else ', evenly spaced'}; means over {group_thousands(arm.n_training)} training "
        f"images; {len(arm.seeds)} seed{'s' * (len(arm.seeds) > 1)}."
    )
    return {
        "style": style, "duration": None, "summary": _summary(arm, metric), "images": images, "skipped": skipped,
        "rows": [_row(gate, metric) for gate in arm.gates],
    }  # fmt: skip


def _summary(arm: ArmGates, metric: Metric) -> str:
    """Return the sentence on all gates together, and on those changed alone."""
    first, *others = arm.gates
    held = first.held
    noun = "The gate" if arm.n_gates == 1 else f"All {arm.n_gates} gates"
    change = with_unit(format_signed(held.difference, metric.digits), metric.difference_unit)
    interval = "" if held.low is None else f" {format_interval(held.low, held.high, metric.digits)}"
    sentence = f"{noun} held constant: {change}{interval}; {_CONCLUSIONS[first.reading][arm.n_gates > 1]}."
    if not others:
        return sentence
    n_constant = sum(gate.reading == "constant" for gate in others)
    alone = f"{len(others)} of the {arm.n_gates}" if len(others) < arm.n_gates else f"the {arm.n_gates}"
    return f"{sentence} Of {alone} gates changed alone, {n_constant or 'none'} could be constant."


def _row(gate: GateCost, metric: Metric) -> dict[str, Any]:
    facts = gate.facts
    return {
        "name": gate.path,
        "kind": None if facts is None else _kind(facts.shape),
        "range": "" if facts is None else f"{format_number(facts.low)} to {format_number(facts.high)}",
        "moments": "" if facts is None else f"{format_number(facts.mean)}, {format_number(facts.spread, 3)}",
        "held": _cost(gate.held, metric), "other": _cost(gate.other, metric),
        "word": _word(gate), "class": _WORD_CLASSES[gate.reading],
    }  # fmt: skip


def _kind(shape: tuple[int, ...]) -> str:
    """Return the shape of a gate in words, such as ``64 channels, 5×5``."""
    channels = f"{shape[0]} channels" if shape[0] > 1 else ""
    size = "×".join(map(str, shape[1:])) if any(n > 1 for n in shape[1:]) else ""
    return ", ".join(filter(None, (channels, size))) or "one value"


def _word(gate: GateCost) -> str:
    """Return the reading in words; only a gate without places can be folded."""
    if gate.reading != "constant":
        return gate.reading
    if gate.facts is not None and gate.facts.constant:
        return "the same for every image"
    is_foldable = gate.facts is not None and not any(n > 1 for n in gate.facts.shape[1:])
    return "could be folded" if is_foldable else "could be constant"


def _cost(difference: Difference, metric: Metric) -> dict[str, str]:
    """Return difference, interval, and the range over the seeds if the interval is wider than the metric's margin."""
    raw = difference.raw
    is_wide = len(raw) > 1 and difference.low is not None and max(raw) - min(raw) > difference.margin
    return {
        "difference": format_signed(difference.difference, metric.digits),
        "interval": format_interval(difference.low, difference.high, metric.digits),
        "seeds": f"seeds {', '.join(format_signed(value, 1) for value in raw)}" if is_wide and len(raw) <= 5 else "",
    }
