"""Source of scores that were given in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study.report.sections.base import ReportContext, Section

__all__ = ["GivenScoresSection"]


@final
class GivenScoresSection(Section):
    """The score files, the score column, and the options used to parse the files."""

    title = "Where the scores come from"
    order = 90
    template = """
<dl class="facts">
{%- for term, value in origin.items() %}
<dt>{{ term }}</dt><dd>{{ value }}</dd>
{%- endfor %}
</dl>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        origin = context.results.origin
        return {"origin": origin} if origin else None
