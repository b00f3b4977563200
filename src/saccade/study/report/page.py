"""The page: a head that says what was asked, then the sections."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saccade.data.normalisation import format_channels
from saccade.escaping import printable
from saccade.study.report import charts, sections
from saccade.study.report.sections.base import Context
from saccade.study.report.typeset import grouped, prose

if TYPE_CHECKING:
    from saccade.study.plan import Study

__all__ = ["page"]


def page(context: Context) -> str:
    """The whole page as HTML; sections without content are left out."""
    environment = Environment(
        loader=PackageLoader("saccade.study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        finalize=_shown,
    )
    environment.globals["named"] = charts.named
    written = []
    for name, section in sections.ordered().items():
        content = section.content(context)
        if content is not None:
            markup = Markup(environment.from_string(section.template).render(content))
            written.append((name, section.title, markup))
    results = context.results
    return environment.get_template("report.html.j2").render(
        title=_title(context),
        alarm=prose(results.analysis.not_learnt or "") if results.analysis else "",
        advice=results.advice,
        judged=results.study is None,
        asked=_asked(context) if results.study is None else _planned(context, results.study),
        sections=written,
        css=Markup(files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8")),
    )


def _shown(value: Any) -> Any:
    """What a page shows for a value of its template: text without control characters."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _title(context: Context) -> str:
    results = context.results
    if results.study is None:
        return f"What beats {results.baseline} in {results.name}?"
    base = results.study.base
    data = Path(base.data.source).name or base.data.source
    return f"{'Does attention help' if context.attends else 'What helps'} {base.model.name} on {data}?"


def _planned(context: Context, study: Study) -> list[tuple[str, str]]:
    """The head of the report of a study: host, task and images first, the training before the runs."""
    model, training = study.base.model, study.base.training
    starts = {"pretrained": model.pretrained, "from a checkpoint": model.checkpoint, "from a run": model.init_from}
    start = next((words for words, value in starts.items() if value), "from random weights")
    facts = [("Host", f"{model.name}, {start}")]
    facts.append(("Task", f"{context.results.task}, judged by {context.results.metric.name}"))
    if context.task is not None:
        data = context.task.data
        sizes = f"{grouped(len(data.train))} to train, {grouped(len(data.test))} to test"
        facts.append(("Images", f"{sizes}, {len(data.classes)} classes" if data.classes else sizes))
        whose = "of the training images" if context.task.recipe.data.mean is None else "as stated"
        facts.append(
            ("Pixels", f"mean {format_channels(data.mean)}, standard deviation {format_channels(data.std)}, {whose}")
        )
    *asked, runs = _asked(context)
    return [*facts, *asked[1:], ("Training", f"{training.epochs} epoch{'s' * (training.epochs > 1)}"), runs]


def _asked(context: Context) -> list[tuple[str, str]]:
    """Metric, arms, controls, seeds and runs."""
    results = context.results
    arms = [row.arm for row in results.arms[1:]]
    facts = [("Judged by", results.metric.name)]
    compared = ", ".join(arm.name for arm in arms if arm.control is None)
    facts.append(("Mechanisms" if context.attends else "Arms", compared))
    if controls := ", ".join(arm.name for arm in arms if arm.control is not None):
        facts.append(("Controls", controls))
    done = sum(run.status == "done" for run in results.runs)
    facts.append(("Seeds", ", ".join(map(str, results.seeds))))
    return [*facts, ("Runs", f"{done} of {len(results.runs)} {'finished' if results.study else 'given'}")]
