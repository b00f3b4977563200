"""The page of ``saccade gates``: a table of the channel gates, and a chart of each by class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from saccade.errors import UserError, did_you_mean
from saccade.explanation.class_gates import SATURATED, ClassGates, GateSpread
from saccade.files import make_folders, write_atomically
from saccade.study.report.charts import gridlines, plot_area, subsample
from saccade.study.report.page import style_sheet, template_environment
from saccade.study.report.svg import Scale, element, padded_range, polyline, svg_chart
from saccade.study.report.typeset import NARROW_SPACE, group_thousands
from saccade.study.report.writing import report_write_errors

__all__ = ["MAX_CHANNELS", "check_class_count", "render_class_gates", "write_class_gates"]

MAX_CHANNELS = 256
"""Largest number of channels drawn."""
_MAX_CLASSES = 5
"""Number of classes drawn by default."""
_COLOURS = tuple(f"c{i}" for i in range(1, 8))
_HEIGHT = 120.0


def write_class_gates(gates: ClassGates, path: Path, classes: Sequence[str] | None = None) -> None:
    """Write the page of ``gates`` as ``path``; arguments as for :func:`render_class_gates`.

    Raises:
        UserError: the page cannot be written, or as for :func:`render_class_gates`.
    """
    page = render_class_gates(gates, classes)
    with report_write_errors(path.parent):
        make_folders(path.parent)
        write_atomically(path, page)


def check_class_count(names: Sequence[str]) -> None:
    """Raise UserError unless the page can draw this many classes."""
    if not 1 <= len(set(names)) <= len(_COLOURS):
        raise UserError(f"from 1 to {len(_COLOURS)} classes can be drawn, got {len(set(names))}")


def render_class_gates(gates: ClassGates, classes: Sequence[str] | None = None) -> str:
    """Return the page as HTML.

    Args:
        gates: gates of a run.
        classes: up to seven classes to draw; None for the first five.

    Raises:
        UserError: a class has no images, or there are more than seven.
    """
    shown = gates.classes[:_MAX_CLASSES] if classes is None else list(dict.fromkeys(classes))
    check_class_count(shown)
    for name in shown:
        if name not in gates.classes:
            raise UserError(f"no test image has the class {name!r}.{did_you_mean(name, gates.classes)}")
    indices = [gates.classes.index(name) for name in shown]
    values = [float(v) for gate in gates.gates for v in (gate.class_means.min(), gate.class_means.max())]
    bounds = padded_range([*values, 0.0, 1.0], min_span=1.0, margin=0.02)
    has_neutral = any(gate.class_means.max() > 1 for gate in gates.gates)
    stages = [
        (stage, [(gate.path, _summary(gate), _chart(gate, indices, shown, bounds, has_neutral)) for gate in rows])
        for stage, rows in groupby(gates.gates, key=lambda gate: gate.stage)
    ]
    n_images = f"{group_thousands(sum(gates.counts))} of {len(gates.classes)} classes"
    facts = [("Run", gates.name), ("Network", gates.model), ("Attention", gates.attention), ("Test images", n_images)]
    return (
        template_environment()
        .get_template("gates.html.j2")
        .render(
            title=f"Which channels does {gates.model} let pass for each class?",
            css=style_sheet(),
            facts=facts,
            saturated=SATURATED,
            observations=_observations(gates),
            rows=[_row(gate) for gate in gates.gates],
            subsampled=any(gate.class_means.shape[1] > MAX_CHANNELS for gate in gates.gates),
            max_channels=MAX_CHANNELS,
            has_neutral=has_neutral,
            n_classes=len(gates.classes),
            curves=list(zip(shown, _COLOURS, strict=False)),
            stages=stages,
        )
    )


def _observations(gates: ClassGates) -> list[str]:
    """Return sentences that compare the first and last stage, by what Hu et al. observe in SE-ResNet-50."""
    first, last = gates.stages[0], gates.stages[-1]
    highest = max(gates.gates, key=lambda gate: gate.mean)
    sentences = []
    if first.stage == last.stage:
        sentences.append(f"All gates are in one stage; their mean is {first.mean:.2f}.")
    elif first.ratio is None or last.ratio is None:
        sentences.append("The gates of the first or the last stage are the same for all images of a class.")
    else:
        sentences.append(
            f"From the first stage to the last, between / within goes from {first.ratio:.2f} to {last.ratio:.2f}: "
            f"the gates of the last stage depend {'more' if last.ratio > first.ratio else 'less'} on the class."
        )
    if first.stage != last.stage:
        sentences.append(
            f"The mean gate goes from {first.mean:.2f} to {last.mean:.2f}, the share above {SATURATED} from "
            f"{_percent(first.saturated)} to {_percent(last.saturated)}."
        )
    sentences.append(
        f"The gate nearest to passing everything is {highest.path}: mean {highest.mean:.2f}, "
        f"{_percent(highest.saturated)} above {SATURATED}."
    )
    return sentences


def _row(gate: GateSpread) -> list[str]:
    ratio = "–" if gate.ratio is None else f"{gate.ratio:.2f}"
    return [
        gate.path, str(gate.stage), "×".join(map(str, gate.size)), str(gate.class_means.shape[1]),
        f"{gate.between:.3f}", f"{gate.within:.3f}", ratio, f"{gate.mean:.2f}", _percent(gate.saturated),
    ]  # fmt: skip


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}{NARROW_SPACE}%"


def _summary(gate: GateSpread) -> str:
    ratio = "the same for every image" if gate.ratio is None else f"between / within {gate.ratio:.2f}"
    return f"{gate.class_means.shape[1]} channels, {ratio}, {_percent(gate.saturated)} above {SATURATED}"


def _chart(
    gate: GateSpread, indices: Sequence[int], names: Sequence[str], bounds: tuple[float, float], has_neutral: bool
) -> Markup:
    """Return the chart of one gate: a line per class along the channels."""
    channels = subsample(range(gate.class_means.shape[1]), MAX_CHANNELS)
    x_scale = Scale(0, max(1, len(channels) - 1))
    y_scale, viewbox_scale = Scale(*bounds, _HEIGHT, 0.0), Scale(*bounds, 100.0, 0.0)
    lines = []
    for index, colour in zip(indices, _COLOURS, strict=False):
        means = gate.class_means[index, channels].tolist()
        points = [(x_scale(i), viewbox_scale(value)) for i, value in enumerate(means)]
        lines.append(polyline(points, class_=f"gateline arm {colour}"))
    neutral = y_scale(1.0)
    line = [element("line", x1=0, x2="100%", y1=neutral, y2=neutral, class_="neutral")] if has_neutral else []
    label = f"{gate.path}: mean gate by channel for the classes {', '.join(names)}"
    children = [*gridlines(y_scale, 2), *line, plot_area(*lines, height=_HEIGHT)]
    return svg_chart(*children, height=_HEIGHT, label=label)
