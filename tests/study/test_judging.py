"""Scores of other trainers are judged as a study of our own, or refused in a sentence."""

import dataclasses
import json

import example_studies
import numpy as np
import pytest
from score_files import ARMS, lightning, table, timm, ultralytics, write_long

import saccade
from saccade import UserError, judge
from saccade.study import stats
from saccade.study.report.writing import json_text, write_files


def _rows(path, rows, head="arm,seed,image,score"):
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def _images(tmp_path, groups=None, seeds=2, count=12, name="s.csv"):
    """Right answers; those of se depend on which third the image is of."""
    rng = np.random.default_rng(3)
    rows = [
        [arm, seed, f"i{n}", int(rng.random() < (0.1 + 0.4 * (n % 3) if arm == "se" else 0.5))]
        + ([groups[n]] if groups else [])
        for arm in ARMS for seed in range(seeds) for n in range(count)
    ]  # fmt: skip
    return _rows(tmp_path / name, rows, "arm,seed,image,score" + (",group" if groups else "")), rows


class TestVerdicts:
    def test_they_are_those_of_the_analysis(self, tmp_path):
        scores = {
            name: np.asarray(own).round(6).tolist() for name, own in example_studies.draw(5, gains=(0, 9)).items()
        }
        found = judge(write_long(tmp_path / "s.csv", scores), unit="%", margin=0.8)
        direct = stats.analyse(scores, metric=example_studies.TOP1, margin=0.8)
        assert found.analysis.differences == direct.differences
        assert found.verdicts["m1"].verdict == "helps"
        assert (found.study, found.seeds, found.margin, found.metric.unit) == (None, (0, 1, 2), 0.8, "%")
        assert [(run.arm, run.seed, run.status) for run in found.runs[:2]] == [("none", 0, "done"), ("m1", 0, "done")]

    def test_images_widen_the_error_and_groups_more(self, tmp_path):
        groups = [f"p{n % 3}" for n in range(90)]
        plain, rows = _images(tmp_path, count=90)
        grouped, _ = _images(tmp_path, groups, count=90, name="g.csv")
        means = {(arm, seed): np.mean([row[3] for row in rows if row[:2] == [arm, seed]]) for arm, seed, *_ in rows}
        alone = _rows(tmp_path / "r.csv", [[*key, mean] for key, mean in means.items()], "arm,seed,score")
        by_image, by_group, by_run = judge(plain), judge(grouped), judge(alone)
        for found in (by_image, by_group):
            assert [row.mean for row in found.arms] == pytest.approx([row.mean for row in by_run.arms])
        assert by_image.analysis.images == by_group.analysis.images == 90
        assert (by_image.origin["Images"], by_group.origin["Images"]) == ("90", "90, in 3 groups")
        assert "Images" not in by_run.origin
        assert by_run.analysis.images is None
        assert 0 == by_run.verdicts["se"].se_images < by_image.verdicts["se"].se_images
        assert by_group.verdicts["se"].se_images > 1.5 * by_image.verdicts["se"].se_images
        assert any("column 'image'" in note.text for note in by_run.notes)
        assert not any("column 'image'" in note.text for note in by_image.notes)

    def test_a_control_stands_outside_the_correction(self, tmp_path):
        scores = table(1, ("none", "das", "extra for das", "odd"), gains=(0, 0.02, 0, 0))
        path = write_long(tmp_path / "s.csv", scores)
        assert [row.is_control for row in judge(path).verdicts.values()] == [False, True, False]
        found = judge(path, controls=["odd"])
        assert [row.is_control for row in found.verdicts.values()] == [False, True, True]
        assert found.verdicts["das"].comparisons == 1
        assert list(found.controls) == ["extra"]

    def test_a_host_that_has_learnt_nothing_gets_no_verdict(self, tmp_path):
        found = judge(table(), trivial=0.76)
        assert {row.verdict for row in found.verdicts.values()} == {None}
        assert found.alarm.startswith("none scores 0.7")
        assert "the trivial answer (as given) 0.7600: the host has not learnt the task" in found.alarm
        assert judge(table(), trivial=0.1).alarm is None

    def test_seeds_that_only_some_arms_have(self):
        rows = [{"arm": a, "seed": s, "score": v} for a, own in table().items() for s, v in enumerate(own)]
        rows = [row for row in rows if (row["arm"], row["seed"]) != ("das", 1)]
        found = judge(rows)
        assert found.arms[2].scores[1] is None
        assert not found.complete
        assert any(
            "Without a score: das at seed 1. The model is fitted to the other runs" in n.text for n in found.notes
        )

    def test_one_seed_decides_nothing_and_says_so(self):
        found = judge({"none": [0.7], "se": [0.9]})
        assert found.verdicts["se"].sentence() == (
            "se: not decided. +0.200 against none. One seed does not measure the variation between runs: use two or "
            "more."
        )


class TestForms:
    def test_delimiters_commas_and_marks_read_alike(self, tmp_path):
        plain = judge(write_long(tmp_path / "a.csv", table())).analysis
        for n, (delimiter, comma, encoding) in enumerate(
            [(";", False, "utf-8"), (";", True, "utf-8-sig"), ("\t", True, "utf-8"), (",", False, "utf-8-sig")]
        ):
            path = write_long(tmp_path / f"{n}.csv", table(), delimiter, comma, encoding=encoding)
            assert judge(path).analysis == plain, (delimiter, comma)

    def test_python_forms_read_alike(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        plain = judge(write_long(tmp_path / "a.csv", table())).analysis
        columns = {"arm": [], "seed": [], "score": []}
        for arm, own in table().items():
            for seed, score in enumerate(own):
                columns["arm"].append(arm)
                columns["seed"].append(np.int64(seed))
                columns["score"].append(np.float64(score))
        frame = pandas.DataFrame(columns)
        by_row = frame.to_dict("records")
        for scores in (table(), columns, frame, by_row, {k: np.array(v) for k, v in columns.items()}):
            assert judge(scores).analysis == plain
        frame["seed"] = frame["seed"].astype(float)
        assert judge(frame).analysis == plain
        frame.loc[2, "score"] = np.nan
        with pytest.raises(UserError, match="scores, row 3: score is empty"):
            judge(frame)

    def test_any_case_of_the_heads_and_any_name_of_the_score(self, tmp_path):
        head = ("Arm", " SEED", "Dice")
        found = judge(write_long(tmp_path / "a.csv", table(), head=head))
        assert (found.metric.name, found.metric.low, found.metric.high, found.margin) == ("Dice", 0.0, 1.0, 0.01)
        assert found.analysis.differences == judge(table()).analysis.differences

    def test_several_tables_are_one(self, tmp_path):
        paths = [write_long(tmp_path / f"{a}.csv", {a: own}) for a, own in table().items()]
        found = judge(paths)
        assert found.analysis == judge(table()).analysis
        assert found.name == tmp_path.name

    def test_a_file_of_images_for_each_run(self, tmp_path):
        whole, rows = _images(tmp_path)
        named = []
        for arm, seed in dict.fromkeys((row[0], row[1]) for row in rows):
            own = [row[2:] for row in rows if row[:2] == [arm, seed]]
            named.append(f"{arm}:{seed}={_rows(tmp_path / f'{arm}{seed}.csv', own, 'image,score')}")
        assert judge(named).analysis == judge(whole).analysis


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
    def test_what_a_column_measures(self, tmp_path, column, scale, options, expected):
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


class TestLogs:
    @pytest.mark.parametrize("padded", [False, True])
    def test_ultralytics(self, tmp_path, padded):
        paths = [
            ultralytics(tmp_path / f"{arm}-seed{seed}" / "results.csv", [0.9, 0.1, s], padded)
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(paths)
        assert found.metric.name == "metrics/mAP50-95(B)"
        assert [row.scores for row in found.arms] == [tuple(own) for own in table().values()]
        assert (found.analysis.differences, found.margin) == (judge(table()).analysis.differences, 0.01)
        assert found.scored == "the last epoch"
        assert "mAP50-95(B) of the last epoch" in found.report(tmp_path / "r.html").read_text()
        said = " ".join(note.text for note in found.notes)
        assert "The last epoch of every run is scored. The best epoch would be chosen on the images" in said
        assert found.origin["Column"].startswith("metrics/mAP50-95(B), chosen by its name; not read: ")
        assert found.origin["se, seed 1"] == str(paths[4])

    def test_masks_and_classes_of_ultralytics(self, tmp_path):
        masks = [
            f"{arm}:{seed}={ultralytics(tmp_path / f'm{arm}{seed}' / 'results.csv', [s], end='(M)')}"
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        assert judge(masks).metric.name == "metrics/mAP50-95(M)"
        assert judge(masks).arms[0].scores == tuple(table()["none"])
        assert judge(masks, metric="metrics/mAP50-95(B)").arms[0].mean == pytest.approx(0.1)
        with pytest.raises(UserError, match=r"'mAP50-95' may be metrics/mAP50-95\(B\) or metrics/mAP50-95\(M\)"):
            judge(masks, metric="mAP50-95")
        classes = [
            ultralytics(tmp_path / f"{arm}_s{seed}" / "results.csv", [s], task="classify")
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(classes)
        assert (found.metric.name, found.metric.unit) == ("metrics/accuracy_top1", "")
        assert found.analysis.differences == judge(table()).analysis.differences

    def test_timm(self, tmp_path):
        percent = {arm: [100 * s for s in own] for arm, own in table().items()}
        paths = [
            timm(tmp_path / arm / f"seed{seed}" / "summary.csv", [10.0, 99.0, s])
            for arm, own in percent.items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(paths)
        assert (found.metric.name, found.metric.unit, found.margin) == ("eval_top1", "%", 1.0)
        assert [row.scores for row in found.arms] == [tuple(own) for own in percent.values()]
        loss = judge(paths, metric="eval_loss")
        assert (loss.metric.higher_is_better, loss.arms[0].mean) == (False, pytest.approx(1 / 3))
        with pytest.raises(UserError, match=r"has no column 'eval_tpo1'\. Did you mean 'eval_top1'"):
            judge(paths, metric="eval_tpo1")

    def test_lightning(self, tmp_path):
        paths = [
            lightning(tmp_path, arm, [0.2, s], version=seed)
            for arm, own in table().items()
            for seed, s in enumerate(own)
        ]
        text = paths[0].read_text()
        assert ",," in text, "rows of training and of validation have empty cells"
        found = judge(paths)
        assert found.metric.name == "val_acc"
        assert found.analysis.differences == judge(table()).analysis.differences
        assert any("seed is the number of the logger's version folder" in note.text for note in found.notes)
        tested = [
            lightning(tmp_path, f"{arm}-seed{seed}", [0.2], test=s)
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(tested)
        assert (found.metric.name, found.arms[0].scores) == ("test_acc", tuple(table()["none"]))
        assert not any("version" in note.text for note in found.notes)

    def test_runs_that_end_at_other_epochs_are_named(self, tmp_path):
        named = [
            f"{a}:{s}={ultralytics(tmp_path / f'{a}{s}.csv', [0.5] * (5 - (a == 'se')))}" for a in ARMS for s in (0, 1)
        ]
        (note,) = (note.text for note in judge(named).notes if "before the others" in note.text)
        assert note == ("Some runs ended before the others, which ended at epoch 5: se seed 0 at 4, se seed 1 at 4.")

    def test_a_log_of_another_tool(self, tmp_path):
        named = []
        for arm, own in table().items():
            for seed, s in enumerate(own):
                path = tmp_path / f"{arm}-seed{seed}.csv"
                path.write_text(f"epoch,quality,speed\n1,0.1,3\n2,{s},4\n")
                named.append(path)
        with pytest.raises(UserError, match="name the column of the scores with --metric: quality, speed"):
            judge(named)
        assert judge(named, metric="quality").arms[1].scores == tuple(table()["se"])


REFUSED = [
    ("none,0,.7\nse,0,.8\nse,0,.9\n", r"line 4: se, seed 0 is repeated; per-image scores need a column 'image'"),
    ("none,0,.7\nse,0,good\n", r"line 3: score is 'good'; a number is needed"),
    ("none,0,.7\nse,0,91.5 %\n", r"line 3: score is '91\.5 %'; a number is needed; write the number without its unit"),
    ("none,0,.7\nse,0,nan\n", r"line 3: score is nan; a finite number is needed\. Leave out the row"),
    ("none,0,.7\nse,0,\n", r"line 3: score is empty"),
    ("none,0,.7\n,0,.8\n", r"line 3: arm is empty"),
    ("none,first,.7\nse,0,.8\n", r"line 2: seed is 'first'; a whole number is needed"),
    ("none,0.5,.7\nse,0,.8\n", r"line 2: seed is '0\.5'; a whole number is needed"),
    ("none,0,.7\nse,0\n", r"line 3: 2 cells, but 3 columns \(arm, seed, score\)"),
    ("none,0,.7\nnone,1,.8\n", r"holds only the arm 'none'; a comparison needs another arm"),
    ("plain,0,.7\nse,0,.8\n", r"no arm of s\.csv is called 'none'\. .*by --baseline; there are plain, se"),
    (
        "none,0,.7\nnone,1,.7\nse,2,.8\nse,3,.8\n",
        r"se has the seeds 2, 3, none has 0, 1: runs of one seed are",
    ),
    ("", r"has the names of columns, but no row below them"),
]


class TestRefused:
    @pytest.mark.parametrize(("rows", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
    def test_rows(self, tmp_path, rows, words):
        path = tmp_path / "s.csv"
        path.write_text("arm,seed,score\n" + rows)
        with pytest.raises(UserError, match=words) as refused:
            judge(path)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty; a line with the names of the columns"),
            (
                b"arm|seed|score\nnone|0|1\n",
                r"has one column, 'arm\|seed\|score'; columns separated by comma",
            ),
            (
                b"arm,sede,score\nnone,0,1\n",
                r"has no column 'seed'\. Did you mean 'sede'\? Needed are arm",
            ),
            (b"arm,seed\nnone,0\n", "has no column of scores; it has arm, seed"),
            (b"arm,seed,a,b\nnone,0,1,2\n", "which column is the score. Name it with --metric: a, b"),
            (b"arm,seed,seed,score\nnone,0,0,1\n", "has 2 columns 'seed'"),
            ("arm,seed,score\nné,0,1\n".encode("latin-1"), "byte 16 is not UTF-8; save the file as UTF-8"),
            ("arm,seed,score\nnone,0,1\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
            (b"PK\x03\x04rest", "is a spreadsheet, not a CSV"),
            (b"arm,seed,score,group\nnone,0,1,a\n", "has a column 'group' but no column 'image'"),
        ],
    )
    def test_files(self, tmp_path, content, words):
        path = tmp_path / "s.csv"
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            judge(path)

    def test_images_that_differ(self, tmp_path):
        _, rows = _images(tmp_path)
        short = _rows(tmp_path / "a.csv", rows[:-1])
        with pytest.raises(UserError, match=r"das, seed 1 has no score of image i11, which none, seed 0 has; runs are"):
            judge(short)
        more = _rows(tmp_path / "b.csv", [*rows, ["das", 1, "x", 1], ["das", 1, "y", 1]])
        with pytest.raises(UserError, match=r"none, seed 0 has no score of image x and 1 more, which das, seed 1 has"):
            judge(more)
        twice = _rows(tmp_path / "c.csv", [*rows, rows[-1]])
        with pytest.raises(UserError, match=r"line 74: das, seed 1, image i11, is repeated"):
            judge(twice)
        one = _rows(tmp_path / "d.csv", [row for row in rows if row[2] == "i0"])
        with pytest.raises(UserError, match="all scores are of one image, i0"):
            judge(one)

    def test_groups_that_differ(self, tmp_path):
        _, rows = _images(tmp_path, groups=["a", "b"] * 6, name="g.csv")
        rows[-1][-1] = "a"
        with pytest.raises(UserError, match=r"line 73: image i11 has the group a, and b in an earlier row"):
            judge(_rows(tmp_path / "a.csv", rows, "arm,seed,image,score,group"))
        rows = [[*row[:-1], "a"] for row in rows]
        with pytest.raises(UserError, match="all scores are of one group, a"):
            judge(_rows(tmp_path / "b.csv", rows, "arm,seed,image,score,group"))

    def test_places(self, tmp_path):
        with pytest.raises(UserError, match="cannot be read: No such file"):
            judge(tmp_path / "gone.csv")
        ultralytics(tmp_path / "x" / "results.csv", [0.5])
        with pytest.raises(UserError, match=r"is a folder; give the score files in it, for example .*/\*/results\.csv"):
            judge(tmp_path)
        with pytest.raises(UserError, match=r"the arm and the seed of .*train2/results\.csv are unknown"):
            judge([ultralytics(tmp_path / "train2" / "results.csv", [0.5])])
        log, other = f"se:0={tmp_path / 'x' / 'results.csv'}", write_long(tmp_path / "s.csv", table())
        with pytest.raises(UserError, match="are both of se, seed 0; one file per run"):
            judge([log, log])
        with pytest.raises(UserError, match=r"names the arms itself, in a column; give the file without se:0="):
            judge([f"se:0={other}"])
        with pytest.raises(UserError, match="is the log of one run, others are tables"):
            judge([log, other])

    def test_what_is_no_table(self):
        for scores in (3, [1, 2], {"none": 3.0}, []):
            with pytest.raises(UserError, match="needed"):
                judge(scores)
        with pytest.raises(UserError, match="the columns differ in length: arm 1, seed 2, score 1"):
            judge({"arm": ["none"], "seed": [0, 1], "score": [1.0]})

    def test_a_control_that_is_no_arm(self):
        with pytest.raises(
            UserError, match=r"there is no arm 'sse' besides 'none' to be a control\. Did you mean 'se'"
        ):
            judge(table(), controls=["sse"])

    def test_another_baseline(self):
        found = judge({"plain": [0.7, 0.72], "se": [0.8, 0.83]}, baseline="plain")
        assert (found.baseline, found.verdicts["se"].baseline) == ("plain", "plain")
        assert "difference to plain" in found.table()
        with pytest.raises(UserError, match=r"is called 'plian'\. Did you mean 'plain'\?"):
            judge({"plain": [0.7, 0.72], "se": [0.8, 0.83]}, baseline="plian")


class TestShown:
    def test_the_report_leaves_out_what_is_not_known(self, tmp_path):
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

    def test_a_report_needs_a_place(self, tmp_path):
        found = judge(table())
        with pytest.raises(UserError, match="judged scores have no study folder"):
            found.report()
        with pytest.raises(UserError, match="only those of a study can be written"):
            found.scores(tmp_path / "x.csv")
        assert found.report(tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")

    def test_it_is_a_public_name(self):
        assert saccade.judge is judge
        assert "judge" in saccade.__all__


def found_tex(tmp_path):
    return (tmp_path / "out" / "table.tex").read_text()


def test_the_metric_of_given_scores_reads_them():
    import torch

    metric = judge(table()).metric
    assert metric.of({"score": torch.tensor([0.5, 1.0])}) == 0.75
    assert dataclasses.replace(metric, margin=2.0).margin == 2.0


def test_csv_of_a_name_with_a_comma(tmp_path):
    scores = {"none": [0.7, 0.72], "eca:kernel_size=[3,5]": [0.8, 0.83]}
    path = write_long(tmp_path / "s.csv", scores)
    assert '"eca' in path.read_text()
    assert list(judge(path).verdicts) == ["eca:kernel_size=[3,5]"]


def test_shares_under_the_unit_percent_are_refused():
    scores = {"none": [0.90, 0.91], "se": [0.92, 0.93]}
    with pytest.raises(UserError, match=r"the unit is %, but no score is above 0\.93; write 90 for 90 %, or leave"):
        judge(scores, unit="%")
    with pytest.raises(UserError, match="the unit is %"):
        judge([{"arm": arm, "seed": n, "acc [%]": x} for arm, own in scores.items() for n, x in enumerate(own)])
    assert judge(scores).metric.unit == ""
    assert judge(scores, unit="%", lower_is_better=True).metric.unit == "%", "an error may be below 1 %"
