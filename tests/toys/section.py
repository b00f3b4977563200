"""A section that counts arms."""

from typing import final

from saccade.study.report.sections.base import Section


@final
class Toy(Section):
    """How many there are."""

    title = "How many arms"
    order = 999
    template = "<p>Counted: {{ count }} arms.</p>"

    def content(self, context):
        return {"count": len(context.results.arms)}
