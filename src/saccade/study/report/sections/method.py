"""How the verdicts were computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from saccade.study import tuning
from saccade.study.report.sections.base import Context, Section
from saccade.study.report.typeset import prose
from saccade.study.stats import METHOD, METHOD_FOR_SCORES

__all__ = ["Method"]


@final
class Method(Section):
    """A paragraph."""

    title = "How this was computed"
    order = 80
    template = "<p>{{ method }}</p>"

    def content(self, context: Context) -> Mapping[str, Any]:
        tuned = "" if context.results.tuned is None else f" {tuning.METHOD}"
        return {"method": prose(METHOD_FOR_SCORES if context.results.study is None else METHOD + tuned)}
