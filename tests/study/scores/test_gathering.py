"""Scores read from files and from Python, and refused inputs."""

import numpy as np
import pytest
from score_files import table, ultralytics, write_images, write_long, write_rows

from saccade import UserError, judge


class TestForms:
    def test_delimiters_decimal_commas_and_byte_order_marks(self, tmp_path):
        plain = judge(write_long(tmp_path / "a.csv", table())).analysis
        for n, (delimiter, comma, encoding) in enumerate(
            [(";", False, "utf-8"), (";", True, "utf-8-sig"), ("\t", True, "utf-8"), (",", False, "utf-8-sig")]
        ):
            path = write_long(tmp_path / f"{n}.csv", table(), delimiter, comma, encoding=encoding)
            assert judge(path).analysis == plain, (delimiter, comma)

    def test_python_objects(self, tmp_path):
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

    def test_column_names_in_any_case(self, tmp_path):
        head = ("Arm", " SEED", "Dice")
        found = judge(write_long(tmp_path / "a.csv", table(), head=head))
        assert (found.metric.name, found.metric.low, found.metric.high, found.margin) == ("Dice", 0.0, 1.0, 0.01)
        assert found.analysis.differences == judge(table()).analysis.differences

    def test_several_tables_are_joined(self, tmp_path):
        paths = [write_long(tmp_path / f"{a}.csv", {a: own}) for a, own in table().items()]
        found = judge(paths)
        assert found.analysis == judge(table()).analysis
        assert found.name == tmp_path.name

    def test_one_file_per_run(self, tmp_path):
        whole, rows = write_images(tmp_path)
        named = []
        for arm, seed in dict.fromkeys((row[0], row[1]) for row in rows):
            own = [row[2:] for row in rows if row[:2] == [arm, seed]]
            named.append(f"{arm}:{seed}={write_rows(tmp_path / f'{arm}{seed}.csv', own, 'image,score')}")
        assert judge(named).analysis == judge(whole).analysis


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
    ("plain,0,.7\nse,0,.8\n", r"no arm of s\.csv is called 'none'\. .*by --baseline; the arms are plain, se"),
    (
        "none,0,.7\nnone,1,.7\nse,2,.8\nse,3,.8\n",
        r"se has the seeds 2, 3, none has 0, 1\. Only runs with the same seed are",
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
        _, rows = write_images(tmp_path)
        short = write_rows(tmp_path / "a.csv", rows[:-1])
        with pytest.raises(UserError, match=r"das, seed 1 has no score of image i11, which none, seed 0 has; runs are"):
            judge(short)
        more = write_rows(tmp_path / "b.csv", [*rows, ["das", 1, "x", 1], ["das", 1, "y", 1]])
        with pytest.raises(UserError, match=r"none, seed 0 has no score of image x and 1 more, which das, seed 1 has"):
            judge(more)
        twice = write_rows(tmp_path / "c.csv", [*rows, rows[-1]])
        with pytest.raises(UserError, match=r"line 74: das, seed 1, image i11, is repeated"):
            judge(twice)
        one = write_rows(tmp_path / "d.csv", [row for row in rows if row[2] == "i0"])
        with pytest.raises(UserError, match="all scores are of one image, i0"):
            judge(one)

    def test_groups_that_differ(self, tmp_path):
        _, rows = write_images(tmp_path, groups=["a", "b"] * 6, name="g.csv")
        rows[-1][-1] = "a"
        with pytest.raises(UserError, match=r"line 73: image i11 has the group a, and b in an earlier row"):
            judge(write_rows(tmp_path / "a.csv", rows, "arm,seed,image,score,group"))
        rows = [[*row[:-1], "a"] for row in rows]
        with pytest.raises(UserError, match="all scores are of one group, a"):
            judge(write_rows(tmp_path / "b.csv", rows, "arm,seed,image,score,group"))

    def test_paths(self, tmp_path):
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

    def test_objects_that_are_not_tables(self):
        for scores in (3, [1, 2], {"none": 3.0}, []):
            with pytest.raises(UserError, match="needed"):
                judge(scores)
        with pytest.raises(UserError, match="the columns differ in length: arm 1, seed 2, score 1"):
            judge({"arm": ["none"], "seed": [0, 1], "score": [1.0]})


def test_an_arm_name_with_a_comma(tmp_path):
    scores = {"none": [0.7, 0.72], "eca:kernel_size=[3,5]": [0.8, 0.83]}
    path = write_long(tmp_path / "s.csv", scores)
    assert '"eca' in path.read_text()
    assert list(judge(path).verdicts) == ["eca:kernel_size=[3,5]"]
