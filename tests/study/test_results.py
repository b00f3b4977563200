"""JSON of the results of a study."""

import json

import pytest
from finished_runs import finish

from saccade import Recipe
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.study.report.writing import json_text

SCORES = {("none", 0): 90.0, ("none", 1): 91.0, ("none", 2): 92.0, ("se", 0): 91.0, ("se", 1): 93.0, ("se", 2): 92.0}


@pytest.fixture
def study(tmp_path):
    plan = Study(Recipe(), arms(["se"]), (0, 1, 2), tmp_path / "s", 1.0)
    plan.write()
    for run in plan.runs():
        finish(run, SCORES[run.arm.name, run.seed])
    return plan


def test_results_are_written_as_strict_json(study):
    found = collect(study.folder)
    said = json.loads(json_text(found), parse_constant=pytest.fail)
    assert said == json.loads(json.dumps(found.to_json()))
    assert (said["study"]["baseline"], said["study"]["complete"], said["metric"]["name"]) == ("none", True, "top-1")
    assert said["arms"]["se"]["scores"] == [91.0, 93.0, 92.0]
    assert said["trivial"] == {"answer": "the most frequent class", "score": 10.0}
    assert said["analysis"]["differences"][0]["sentence"] == found.analysis.differences[0].sentence()
    assert [other["metric"] for other in said["others"]] == ["top-5", "NLL"]
