"""The HTML page: a header with the facts of the study, then the sections."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saccade.data.normalisation import format_channels
from saccade.escaping import printable
from saccade.study.report import charts, sections
from saccade.study.report.sections.base import ReportContext
from saccade.study.report.typeset import group_thousands, typeset_sentence

if TYPE_CHECKING:
    from saccade.study.plan import Study

__all__ = ["render_page", "style_sheet", "template_environment"]


def render_page(context: ReportContext) -> str:
    """Return the page as HTML; sections without content are left out."""
    environment = template_environment()
    rendered = []
    for name, section in sections.ordered().items():
        content = section.content(context)
        if content is not None:
            markup = Markup(environment.from_string(section.template).render(content))
            rendered.append((name, section.title, markup))
    results = context.results
    not_learnt_warning = results.analysis.not_learnt if results.analysis else None
    return environment.get_template("report.html.j2").render(
        title=_title(context),
        alarm=typeset_sentence(not_learnt_warning or ""),
        advice=results.advice,
        from_scores=results.study is None,
        facts=_shared_facts(context) if results.study is None else _study_facts(context, results.study),
        sections=rendered,
        css=style_sheet(),
    )


def template_environment() -> Environment:
    """Return the environment of all templates, which escapes values and raises for unknown names."""
    environment = Environment(
        loader=PackageLoader("saccade.study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        finalize=_escape_control_characters,
    )
    environment.globals["arm_label"] = charts.arm_label
    return environment


def style_sheet() -> Markup:
    """Return the style sheet of the report."""
    return Markup(files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8"))


def _escape_control_characters(value: Any) -> Any:
    """Return a template value with control characters escaped; Markup and non-strings pass unchanged."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _title(context: ReportContext) -> str:
    results = context.results
    if results.study is None:
        return f"What beats {results.baseline} in {results.name}?"
    base = results.study.base
    data = Path(base.data.source).name or base.data.source
    return f"{'Does attention help' if context.compares_attention_only else 'What helps'} {base.model.name} on {data}?"


def _study_facts(context: ReportContext, study: Study) -> list[tuple[str, str]]:
    """Return the header of a study: host, task, images, pixels, arms, seeds, training, runs."""
    model, training = study.base.model, study.base.training
    weight_sources = {
        "pretrained": model.pretrained,
        "from a checkpoint": model.checkpoint,
        "from a run": model.init_from,
    }
    weight_source = next((text for text, value in weight_sources.items() if value), "from random weights")
    facts = [("Host", f"{model.name}, {weight_source}")]
    facts.append(("Task", f"{context.results.task}, judged by {context.results.metric.name}"))
    if context.task is not None:
        data = context.task.data
        counts_text = f"{group_thousands(len(data.train))} to train, {group_thousands(len(data.test))} to test"
        facts.append(("Images", f"{counts_text}, {len(data.classes)} classes" if data.classes else counts_text))
        origin = "of the training images" if context.task.recipe.data.mean is None else "as stated"
        facts.append(
            ("Pixels", f"mean {format_channels(data.mean)}, standard deviation {format_channels(data.std)}, {origin}")
        )
    _metric, *arm_facts, runs = _shared_facts(context)
    return [*facts, *arm_facts, ("Training", f"{training.epochs} epoch{'s' * (training.epochs > 1)}"), runs]


def _shared_facts(context: ReportContext) -> list[tuple[str, str]]:
    """Return the header facts of a study or of given scores."""
    results = context.results
    arms = [row.arm for row in results.arms[1:]]
    facts = [("Judged by", results.metric.name)]
    mechanisms = ", ".join(arm.name for arm in arms if arm.control is None)
    facts.append(("Mechanisms" if context.compares_attention_only else "Arms", mechanisms))
    if controls := ", ".join(arm.name for arm in arms if arm.control is not None):
        facts.append(("Controls", controls))
    n_done = sum(run.status == "done" for run in results.runs)
    facts.append(("Seeds", ", ".join(map(str, results.seeds))))
    return [*facts, ("Runs", f"{n_done} of {len(results.runs)} {'finished' if results.study else 'given'}")]
