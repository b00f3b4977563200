"""The data, the recipe and the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, final

from saccade.runfiles import Environment, read
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.sections.base import Context, Section
from saccade.study.run_notes import RunResult

__all__ = ["Origin"]


@final
class Origin(Section):
    """What the images are, beneath it recipe and environment side by side."""

    title = "Data, recipe, environment"
    order = 90
    template = """
{%- if description %}
<p class="how">{{ description }}</p>
{%- endif %}
<div class="origin">
<div><h3>Recipe; {{ own }} and seed are each run’s own</h3><pre>{{ recipe }}</pre></div>
<div><h3>Environment</h3>
<dl class="facts">
{%- for term, value in environment.items() %}
<dt>{{ term }}</dt><dd>{{ value }}</dd>
{%- endfor %}
</dl></div>
</div>
{%- if settings %}
<h3>What each arm has instead</h3>
<dl class="facts">
{%- for name, words in settings %}
<dt>{{ name }}</dt><dd>{{ words }}</dd>
{%- endfor %}
</dl>
{%- endif %}
"""

    def content(self, context: Context) -> Mapping[str, Any] | None:
        results, task, study = context.results, context.task, context.results.study
        if study is None:
            return None
        toml = study.base.to_toml()
        return {
            "description": f"{task.data.description.rstrip('.')}." if task else None,
            "own": "mechanism" if context.attends else "settings of the arm",
            "settings": [] if context.attends else [_settings(arm) for arm in study.arms[1:]],
            "recipe": re.sub(r"(?m)^\[[\w.]+\]\n(?=\n|\Z)\n?", "", toml).strip(),  # without empty tables
            "environment": _environment(study, results.runs),
        }


def _settings(arm: Arm) -> tuple[str, str]:
    return arm.name, ", ".join(f"{key} = {value}" for key, value in arm.settings.items())


def _environment(study: Study, runs: Sequence[RunResult]) -> dict[str, str]:
    """Of the first finished run; where runs differ, a note says so."""
    folders = (study.folder / run.folder for run in runs if run.status == "done")
    found = (read(folder / "environment.json", Environment) for folder in folders)
    return next((_flat(values) for values in found if values), {})


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value)
        elif value is not None:
            found[key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
