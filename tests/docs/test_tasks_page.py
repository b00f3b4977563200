"""``docs/tasks.md``: each task has a section that names its metrics and what its network gives."""

import re
from pathlib import Path

import pytest

from saccade import tasks

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def missing_from(page, name):
    """Return what the section of task ``name`` lacks: its metrics, its command and the rows of its table."""
    section = f"{page}\n## ".partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    metrics = re.findall(r"^\| (.+?) \| .+ \|$", section.partition("| metric | is |")[2], re.MULTILINE)
    listed = {part for cell in metrics for part in cell.split(", ")}
    facts = ["data", "network gives", "loss", "trivial answer"]
    facts += ["reference predictions"] * (tasks.get(name).references is not tasks.base.Task.references)
    return [
        *[metric.name for metric in tasks.get(name).metrics if metric.name not in listed],
        *[fact for fact in facts if f"\n| {fact} | " not in section],
        *["command"] * (f"saccade compare --task {name} " not in section),
        *["overview"] * (f"\n| [`{name}`](#{name}) | " not in page),
    ]


@pytest.mark.parametrize("name", tasks.names())
def test_each_task_has_its_section(name):
    assert missing_from(PAGE, name) == []


def test_the_overview_names_the_metric_that_decides():
    decisive = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| .+ \| (.+) \|$", PAGE, re.MULTILINE))
    wrong = {name: decisive[name] for name in tasks.names() if decisive[name] != tasks.get(name).metrics[0].name}
    assert wrong == {}


def test_what_is_missing_is_found():
    changed = PAGE.replace("| mIoU | TP", "| IoU | TP").replace(
        "| loss | cross-entropy + 1", "| costs | cross-entropy + 1"
    )
    assert missing_from(changed, "segment") == ["mIoU", "loss"]
    without = PAGE.partition("## segment")[0]
    assert len(missing_from(without, "segment")) == 8
