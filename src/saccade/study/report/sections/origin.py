"""Data, recipe and environment of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, final

from saccade.runfiles import Environment, read
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.run_notes import RunResult

__all__ = ["OriginSection"]


@final
class OriginSection(Section):
    """A description of the images; below it, recipe and environment side by side."""

    title = "Data, recipe, environment"
    order = 90
    template = """
{%- if description %}
<p class="how">{{ description }}</p>
{%- endif %}
<div class="origin">
<div><h3>Recipe ({{ varied_settings }} and seed differ between runs)</h3><pre>{{ recipe }}</pre></div>
<div><h3>Environment</h3>
<dl class="facts">
{%- for term, value in environment.items() %}
<dt>{{ term }}</dt><dd>{{ value }}</dd>
{%- endfor %}
</dl></div>
</div>
{%- if settings %}
<h3>Settings of each arm that differ from the recipe</h3>
<dl class="facts">
{%- for name, text in settings %}
<dt>{{ name }}</dt><dd>{{ text }}</dd>
{%- endfor %}
</dl>
{%- endif %}
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        results, task, study = context.results, context.task, context.results.study
        if study is None:
            return None
        toml = study.base.to_toml()
        return {
            "description": f"{task.data.description.rstrip('.')}." if task else None,
            "varied_settings": "mechanism" if context.compares_attention_only else "settings of the arm",
            "settings": [] if context.compares_attention_only else [_arm_settings(arm) for arm in study.arms[1:]],
            "recipe": re.sub(r"(?m)^\[[\w.]+\]\n(?=\n|\Z)\n?", "", toml).strip(),  # without empty tables
            "environment": _environment(study, results.runs),
        }


def _arm_settings(arm: Arm) -> tuple[str, str]:
    """Return the name of an arm and its settings as text."""
    return arm.name, ", ".join(f"{key} = {value}" for key, value in arm.settings.items())


def _environment(study: Study, runs: Sequence[RunResult]) -> dict[str, str]:
    """Return the environment of the first finished run that recorded one."""
    folders = (study.folder / run.folder for run in runs if run.status == "done")
    environments = (read(folder / "environment.json", Environment) for folder in folders)
    return next((_flatten(values) for values in environments if values), {})


def _flatten(values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value)
        elif value is not None:
            flat[key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
