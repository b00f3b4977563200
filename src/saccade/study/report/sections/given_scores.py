"""Source of scores that were given in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study.report.sections.base import ReportContext, Section

__all__ = ["GivenScoresSection"]


@final
class GivenScoresSection(Section):
    """The files, the column and how they were read."""

    title = "Where the scores come from"
    order = 90
    template = """
<dl class="facts">
{%- for term, words in origin.items() %}
<dt>{{ term }}</dt><dd>{{ words }}</dd>
{%- endfor %}
</dl>
"""

    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        origin = context.results.origin
        return {"origin": origin} if origin else None
