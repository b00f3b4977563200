"""JSON of the results of a study."""

import json
from dataclasses import replace

import pytest
from finished_runs import finished_study

from saccade.study.collecting import collect
from saccade.study.report.writing import json_text


@pytest.fixture
def study(tmp_path):
    return finished_study(tmp_path / "s")


def test_results_are_written_as_strict_json(study):
    found = collect(study.folder)
    said = json.loads(json_text(found), parse_constant=pytest.fail)
    assert said == json.loads(json.dumps(found.to_json()))
    assert (said["study"]["baseline"], said["study"]["complete"], said["metric"]["name"]) == ("none", True, "top-1")
    assert said["arms"]["se"]["scores"] == [91.0, 93.0, 92.0]
    assert said["trivial"] == {"answer": "the most frequent class", "score": 10.0}
    assert said["analysis"]["differences"][0]["sentence"] == found.analysis.differences[0].sentence()
    assert [other["metric"] for other in said["others"]] == ["top-5", "NLL"]
    assert "references" not in said


def test_reference_predictions_are_written(study):
    references = {"experts": {"top-1": 99.5, "NLL": None}}
    found = replace(collect(study.folder), references=references)
    assert json.loads(json_text(found))["references"] == references
