"""Sentences of the findings."""

import json
from dataclasses import replace

from example_studies import BY_HAND, analyse, rows

from saccade.study.stats import METHOD


class TestSentence:
    def sentence(self, **changes):
        return replace(rows(analyse(BY_HAND))["b"], **changes).sentence()

    def test_as_analysed(self):
        a, b = analyse(BY_HAND).differences
        assert a.sentence() == (
            "a: not decided. +2.0 points (95 % interval +0.4 to +3.6, 3 seeds); the interval excludes zero, but the "
            "difference is not significant after correction for 2 comparisons; this study could have detected "
            "differences of 2.6 points; "
            "about 5 seeds would decide."
        )
        assert b.sentence() == (
            "b: not decided. +0.0 points (95 % interval -1.6 to +1.6, 3 seeds); this study could have detected "
            "differences of 2.6 points; about 12 seeds would decide."
        )

    def test_each_verdict(self):
        decided = {"detectable": 1.0, "seeds_needed": None}
        assert self.sentence(verdict="helps", difference=1.9, low=1.1, high=2.7, p_holm=0.0021, **decided) == (
            "b: helps. +1.9 points (95 % interval +1.1 to +2.7, 3 seeds, Holm p = 0.002)."
        )
        assert self.sentence(verdict="hurts", difference=-0.5, low=-0.8, high=-0.2, p_holm=1e-5, **decided) == (
            "b: hurts. -0.5 points (95 % interval -0.8 to -0.2, 3 seeds, Holm p < 0.001); "
            "the loss is real but lies within ±1.0 points."
        )
        assert self.sentence(verdict="equal", difference=0.1, low=-0.6, high=0.8, **decided) == (
            "b: equal to none within ±1.0 points. "
            "+0.1 points (95 % interval -0.6 to +0.8, 3 seeds): it can be left out."
        )
        assert self.sentence(difference=0.4, low=-0.7, high=1.5, detectable=1.6, seeds_needed=9) == (
            "b: not decided. +0.4 points (95 % interval -0.7 to +1.5, 3 seeds); "
            "this study could have detected differences of 1.6 points; about 9 seeds would decide."
        )
        assert self.sentence(seeds_needed=None).endswith("more than 100 seeds would be needed to decide.")
        assert self.sentence(seeds_needed=None, images_needed=True).endswith(
            "no number of seeds would decide, more test images would."
        )

    def test_the_parts_make_the_sentence(self):
        for changes in ({}, {"verdict": "equal", "low": -0.6, "high": 0.8}, {"low": None}, {"difference": None}):
            row = replace(rows(analyse(BY_HAND))["b"], **changes)
            head, figure, rest = row.parts()
            assert " ".join(part for part in (f"{head}.", figure, rest) if part) == row.sentence()
            assert figure == ("" if row.difference is None else "+0.0 points")

    def test_a_control(self):
        said = self.sentence(is_control=True, comparisons=1, verdict="equal", difference=0.1, low=-0.6, high=0.8)
        assert said.startswith("b (control): equal to none")
        assert "left out" not in said
        said = self.sentence(
            is_control=True, comparisons=1, verdict="helps", difference=2.0, low=1.5, high=2.5, p_holm=0.01
        )
        assert ", p = 0.010)" in said

    def test_rounding_never_contradicts_the_verdict(self):
        assert "+0.04 to +2.00" in self.sentence(verdict="helps", difference=1.02, low=0.04, high=2.0)
        assert "-0.96 to +0.97" in self.sentence(verdict="equal", difference=0.005, low=-0.96, high=0.97)
        assert "-0.0 " not in self.sentence(difference=-0.001)

    def test_diagnostics(self):
        line = analyse(BY_HAND).diagnostics()
        assert line.startswith("Residual SD 0.71 points with 4 degrees of freedom; SD between seeds 1.08; ")
        assert "largest studentised residual 1.4 (" in line
        assert analyse({"none": [1], "a": [2]}).diagnostics().startswith("No residual")

    def test_json_is_plain_and_holds_the_sentences(self):
        analysis = analyse({**BY_HAND, "c": [None, 91, 92], "d": [None] * 3}, seeds=[1, 2, 3])
        plain = analysis.to_json()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert [row["sentence"] for row in plain["differences"]] == [row.sentence() for row in analysis.differences]
        assert plain["diagnostics"] == analysis.diagnostics()
        assert plain["arms"][3]["scores"] == [None, 91, 92]

    def test_the_method_is_short(self):
        assert 90 <= len(METHOD.split()) <= 180
        assert "\n" not in METHOD
