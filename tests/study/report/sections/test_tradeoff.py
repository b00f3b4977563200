"""Labels of the cost chart."""

import re

from saccade.study.report.charts import ArmStyle
from saccade.study.report.sections.tradeoff import CostPoint, cost_chart
from saccade.tasks.classify import Classify


def test_labels_do_not_overlap():
    crowd = [
        CostPoint(ArmStyle(f"arm {k}", "c1", "circle"), 10 + 0.01 * k, 10, 10.2, 90 + 0.05 * k, 0.4) for k in range(6)
    ]
    far = CostPoint(ArmStyle("far", "c2", "square"), 20, 19, 21, 93, 0.2)
    chart = cost_chart([*crowd, far], "ms", Classify.metrics[0])
    labels = [
        (float(x) / 100 * 280, float(y), anchor, name)
        for x, y, anchor, name in re.findall(
            r'<text x="([\d.]+)%" y="([\d.-]+)" text-anchor="(start|end)" class="name[^>]*>([^<]+)<', chart
        )
    ]
    assert "far" in [name for *_, name in labels]
    boxes = [((x if a == "start" else x - 7 * len(n)), y, 7 * len(n)) for x, y, a, n in labels]
    for i, (x, y, w) in enumerate(boxes):
        for x2, y2, w2 in boxes[:i]:
            assert x + w <= x2 + 0.1 or x2 + w2 <= x + 0.1 or abs(y - y2) >= 12
