"""Judgement of scores from other trainers."""

import dataclasses
import json

import example_studies
import numpy as np
import pytest
from score_files import table, write_images, write_long, write_rows

import saccade
from saccade import UserError, judge
from saccade.study import stats
from saccade.study.report.writing import json_text, write_files


class TestVerdicts:
    def test_verdicts_equal_those_of_analyse(self, tmp_path):
        scores = {
            name: np.asarray(own).round(6).tolist() for name, own in example_studies.draw(5, gains=(0, 9)).items()
        }
        found = judge(write_long(tmp_path / "s.csv", scores), unit="%", margin=0.8)
        direct = stats.analyse(scores, metric=example_studies.TOP1, margin=0.8)
        assert found.analysis.differences == direct.differences
        assert found.verdicts["m1"].verdict == "helps"
        assert (found.study, found.seeds, found.margin, found.metric.unit) == (None, (0, 1, 2), 0.8, "%")
        assert [(run.arm, run.seed, run.status) for run in found.runs[:2]] == [("none", 0, "done"), ("m1", 0, "done")]

    def test_images_and_groups_add_to_the_error(self, tmp_path):
        groups = [f"p{n % 3}" for n in range(90)]
        plain, rows = write_images(tmp_path, count=90)
        grouped, _ = write_images(tmp_path, groups, count=90, name="g.csv")
        means = {(arm, seed): np.mean([row[3] for row in rows if row[:2] == [arm, seed]]) for arm, seed, *_ in rows}
        alone = write_rows(tmp_path / "r.csv", [[*key, mean] for key, mean in means.items()], "arm,seed,score")
        by_image, by_group, by_run = judge(plain), judge(grouped), judge(alone)
        for found in (by_image, by_group):
            assert [row.mean for row in found.arms] == pytest.approx([row.mean for row in by_run.arms])
        assert by_image.analysis.images == by_group.analysis.images == 90
        assert (by_image.origin["Images"], by_group.origin["Images"]) == ("90", "90, in 3 groups")
        assert "Images" not in by_run.origin
        assert by_run.analysis.images is None
        assert 0 == by_run.verdicts["se"].se_images < by_image.verdicts["se"].se_images
        assert by_group.verdicts["se"].se_images > 1.5 * by_image.verdicts["se"].se_images
        assert "column 'image'" in "\n".join(note.text for note in by_run.notes)
        assert "column 'image'" not in "\n".join(note.text for note in by_image.notes)

    def test_controls_are_not_corrected(self, tmp_path):
        scores = table(1, ("none", "das", "extra for das", "odd"), gains=(0, 0.02, 0, 0))
        path = write_long(tmp_path / "s.csv", scores)
        assert [row.is_control for row in judge(path).verdicts.values()] == [False, True, False]
        found = judge(path, controls=["odd"])
        assert [row.is_control for row in found.verdicts.values()] == [False, True, True]
        assert found.verdicts["das"].comparisons == 1
        assert list(found.controls) == ["extra"]

    def test_a_baseline_that_has_not_learnt_gets_no_verdict(self, tmp_path):
        found = judge(table(), trivial=0.76)
        assert {row.verdict for row in found.verdicts.values()} == {None}
        assert found.alarm.startswith("none scores 0.7")
        assert "the trivial answer (as given) 0.7600: the host has not learnt the task" in found.alarm
        assert judge(table(), trivial=0.1).alarm is None

    def test_missing_runs(self):
        rows = [{"arm": a, "seed": s, "score": v} for a, own in table().items() for s, v in enumerate(own)]
        rows = [row for row in rows if (row["arm"], row["seed"]) != ("das", 1)]
        found = judge(rows)
        assert found.arms[2].scores[1] is None
        assert not found.complete
        notes = "\n".join(note.text for note in found.notes)
        assert "Without a score: das at seed 1. The model is fitted to the other runs" in notes

    def test_one_seed_decides_nothing(self):
        found = judge({"none": [0.7], "se": [0.9]})
        assert found.verdicts["se"].sentence() == (
            "se: not decided. +0.200 against none. One seed does not measure the variation between runs: use two or "
            "more."
        )


class TestRefused:
    def test_an_unknown_control(self):
        with pytest.raises(UserError, match=r"no arm 'sse' can be a control\. Did you mean 'se'"):
            judge(table(), controls=["sse"])

    def test_another_baseline(self):
        found = judge({"plain": [0.7, 0.72], "se": [0.8, 0.83]}, baseline="plain")
        assert (found.baseline, found.verdicts["se"].baseline) == ("plain", "plain")
        assert "difference to plain" in found.table()
        with pytest.raises(UserError, match=r"is called 'plian'\. Did you mean 'plain'\?"):
            judge({"plain": [0.7, 0.72], "se": [0.8, 0.83]}, baseline="plian")


class TestShown:
    def test_the_report_omits_unknown_sections(self, tmp_path):
        found = judge(write_long(tmp_path / "my <scores>.csv", table()))
        write_files(found, tmp_path / "out")
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "report.html", "results.json", "table.md", "table.tex",
        ]  # fmt: skip
        page = (tmp_path / "out" / "report.html").read_text()
        ids = [part.partition('"')[0] for part in page.split('<section id="')[1:]]
        assert ids == ["verdicts", "difference", "runs", "method", "given_scores"]
        assert "What beats none in my &lt;scores&gt;.csv?" in page
        assert "The scores are taken as given" in page
        assert "seed fixes a host" not in page
        said = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
        assert said == json.loads(json_text(found))
        assert said["study"]["origin"]["Column"] == "score"
        assert (said["arms"]["se"]["mechanism"], said["arms"]["se"]["slug"]) == (None, None)
        assert said["arms"]["se"]["scores"] == table()["se"]
        head = (tmp_path / "out" / "table.md").read_text().splitlines()[0]
        assert head == "| arm | score | difference to none [95 %] | p (Holm) | verdict |"
        assert r"\caption{my \textless{}scores\textgreater{}.csv: score, mean" in found_tex(tmp_path)

    def test_a_report_needs_a_path(self, tmp_path):
        found = judge(table())
        with pytest.raises(UserError, match="judged scores have no study folder"):
            found.report()
        with pytest.raises(UserError, match="only those of a study can be written"):
            found.scores(tmp_path / "x.csv")
        assert found.report(tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")

    def test_judge_is_public(self):
        assert saccade.judge is judge
        assert "judge" in saccade.__all__


def found_tex(tmp_path):
    return (tmp_path / "out" / "table.tex").read_text()


def test_the_inferred_metric_computes_scores():
    import torch

    metric = judge(table()).metric
    assert metric.compute({"score": torch.tensor([0.5, 1.0])}) == 0.75
    assert dataclasses.replace(metric, margin=2.0).margin == 2.0
