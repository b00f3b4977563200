"""Metric of a column of scores, inferred from its name and values."""

import pytest
from score_files import table, write_long

from saccade import UserError, judge, tasks
from saccade.study.scores.column_metric import infer_metric


@pytest.mark.parametrize("metric", [metric for name in tasks.names() for metric in tasks.get(name).metrics])
def test_the_direction_of_each_metric_of_a_task(metric):
    column = f"{metric.name} [{metric.unit}]" if metric.unit else metric.name
    found, _ = infer_metric(column, [0.5, 2.0 if metric.high is None else metric.high], 0.5)
    assert found.higher_is_better == metric.higher_is_better


class TestMeasure:
    @pytest.mark.parametrize(
        ("column", "scale", "options", "expected"),
        [
            ("accuracy", 1, {}, ("", 0.0, 1.0, True, 0.01, 4)),
            ("accuracy", 100, {}, ("%", 0.0, 100.0, True, 1.0, 2)),
            ("top-1 [%]", 100, {}, ("%", 0.0, 100.0, True, 1.0, 2)),
            ("top-1 [%]", 100, {"margin": 0.5}, ("%", 0.0, 100.0, True, 0.5, 2)),
            ("NLL [nats]", 1, {}, ("nats", 0.0, None, False, 0.05, 3)),
            ("val/loss", 1, {}, ("", None, None, False, 0.008, 5)),
            ("score", 100, {}, ("", None, None, True, 0.8, 3)),
            ("score", 100, {"unit": "%"}, ("%", 0.0, 100.0, True, 1.0, 2)),
            ("PSNR", 40, {"unit": "dB", "margin": 0.1}, ("dB", None, None, True, 0.1, 3)),
            ("score", 1, {"bounds": (-1.0, 1.0)}, ("", -1.0, 1.0, True, 0.02, 4)),
            ("score", 1, {"lower_is_better": True}, ("", 0.0, 1.0, False, 0.01, 4)),
        ],
    )  # fmt: skip
    def test_the_inferred_metric(self, tmp_path, column, scale, options, expected):
        scores = {arm: [scale * s for s in own] for arm, own in table().items()}
        found = judge(write_long(tmp_path / "s.csv", scores, head=("arm", "seed", column)), **options)
        m = found.metric
        assert (m.unit, m.low, m.high, m.higher_is_better, found.margin, m.digits) == expected
        sign = 1 if m.higher_is_better else -1
        assert found.verdicts["se"].difference == pytest.approx(sign * scale * 0.02, abs=0.01 * scale)
        way = "higher" if m.higher_is_better else "lower"
        assert found.notes[0].text.startswith(f"Judged by {column}: {way} is better")
        assert ("the default" in found.notes[0].text) == ("margin" not in options)

    def test_scores_outside_their_bounds(self):
        with pytest.raises(UserError, match=r"score: 0\.7\d+ lies outside 0\.8 to 1; give the bounds with --range"):
            judge(table(), bounds=(0.8, 1.0))
        with pytest.raises(UserError, match="the first number must be below the second"):
            judge(table(), bounds=(1.0, 0.0))
        with pytest.raises(UserError, match="set it with --margin"):
            judge({"none": [0.0, 0.0], "se": [2.0, 3.0]}, bounds=None, unit="px")


def test_fractions_with_the_unit_percent_are_refused():
    scores = {"none": [0.90, 0.91], "se": [0.92, 0.93]}
    with pytest.raises(UserError, match=r"the unit is %, but no score is above 0\.93; write 90 for 90 %, or leave"):
        judge(scores, unit="%")
    with pytest.raises(UserError, match="the unit is %"):
        judge([{"arm": arm, "seed": n, "acc [%]": x} for arm, own in scores.items() for n, x in enumerate(own)])
    assert judge(scores).metric.unit == ""
    assert judge(scores, unit="%", lower_is_better=True).metric.unit == "%", "an error may be below 1 %"
