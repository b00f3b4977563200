"""Statistical method of the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study import tuning
from saccade.study.report.sections.base import ReportContext, Section
from saccade.study.report.typeset import typeset_sentence
from saccade.study.stats import METHOD, METHOD_FOR_SCORES

__all__ = ["MethodSection"]


@final
class MethodSection(Section):
    """The statistical method, as one paragraph."""

    title = "How this was computed"
    order = 80
    template = "<p>{{ method }}</p>"

    def content(self, context: ReportContext) -> Mapping[str, Any]:
        tuned = "" if context.results.tuned is None else f" {tuning.METHOD}"
        return {"method": typeset_sentence(METHOD_FOR_SCORES if context.results.study is None else METHOD + tuned)}
