"""The page: a head that says what was asked, then the sections."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saccade.data.normalisation import listed
from saccade.escaping import printable
from saccade.study.report import charts, sections
from saccade.study.report.sections.base import Context
from saccade.study.report.typeset import grouped

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
    study = context.results.study
    model, data = study.base.model.name, Path(study.base.data.source).name or study.base.data.source
    return environment.get_template("report.html.j2").render(
        title=f"{'Does attention help' if context.attends else 'What helps'} {model} on {data}?",
        asked=_asked(context),
        sections=written,
        css=Markup(files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8")),
    )


def _shown(value: Any) -> Any:
    """What a page shows for a value of its template: text without control characters."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _asked(context: Context) -> list[tuple[str, str]]:
    results = context.results
    study, model, training = results.study, results.study.base.model, results.study.base.training
    starts = {"pretrained": model.pretrained, "from a checkpoint": model.checkpoint, "from a run": model.init_from}
    start = next((words for words, value in starts.items() if value), "from random weights")
    facts = [("Host", f"{model.name}, {start}"), ("Task", f"{results.task}, judged by {results.metric.name}")]
    if context.task is not None:
        data = context.task.data
        sizes = f"{grouped(len(data.train))} to train, {grouped(len(data.test))} to test"
        facts.append(("Images", f"{sizes}, {len(data.classes)} classes" if data.classes else sizes))
        whose = "of the training images" if context.task.recipe.data.mean is None else "as stated"
        facts.append(("Pixels", f"mean {listed(data.mean)}, standard deviation {listed(data.std)}, {whose}"))
    compared = ", ".join(arm.name for arm in study.arms[1:] if arm.control is None)
    facts.append(("Mechanisms" if context.attends else "Arms", compared))
    if controls := ", ".join(arm.name for arm in study.arms if arm.control is not None):
        facts.append(("Controls", controls))
    done = sum(run.status == "done" for run in results.runs)
    return [
        *facts,
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Training", f"{training.epochs} epoch{'s' * (training.epochs > 1)}"),
        ("Runs", f"{done} of {len(results.runs)} finished"),
    ]
