"""Markdown and LaTeX tables hold the same numbers and escape all text from the user."""

import html
import re
from dataclasses import replace

import pytest
from made_results import ERROR, TOP1, arm, made

from saccade.escaping import printable
from saccade.study.costs import ArmCost, Latency
from saccade.study.report.table import to_latex, to_markdown
from saccade.study.report.typeset import NARROW_SPACE
from saccade.study.run_notes import StudyNote

NAMES = ("none", "eca:kernel_size=[3,5]", "extra for eca:kernel_size=[3,5]")
TIME = Latency(12.345, 12.0, 13.0)
COST = ArmCost(36_908_204, 5_840_000_000, TIME, 16, TIME, 1, "cpu")


def _results(names=NAMES, notes=(), controls=("extra",), seeds=3, model="resnet10_small", source="digits", metric=TOP1):
    arms = [arm("none"), arm("eca"), *(arm("eca", control) for control in controls)]
    scores = {each.name: [70.0] * seeds for each in arms}
    data = {"model__name": model, "data__source": source}
    found = made(scores, metric, arms, notes=[StudyNote("environment", text) for text in notes], **data)
    figures = [
        {"mean": 70.0, "sd": 5.0, "cost": COST},
        {"mean": 85.125, "sd": None, "cost": COST},
        {"mean": None, "sd": None},
    ]
    rows = [
        replace(row, arm=replace(row.arm, name=name), **more)  # a study refuses some of these names
        for row, name, more in zip(found.arms, names, figures, strict=False)
    ]
    first, second, *_ = found.analysis.differences
    judged = (
        replace(first, name=names[1], difference=15.125, low=-0.5, high=30.75, p_holm=0.0004, verdict="helps"),
        replace(second, name=names[2], difference=-1.5, low=None, high=None, p_holm=None, verdict="not decided"),
    )
    return replace(found, arms=(*rows, *found.arms[len(rows) :]), analysis=replace(found.analysis, differences=judged))


def _rows_of_markdown(text):
    lines = text.partition("\n\n")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    return [[html.unescape(cell.strip().replace("\\|", "|")) for cell in row] for row in rows if "---" not in row[0]]


_PLAIN = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#", r"\_": "_",
    r"\{": "{", r"\}": "}", "{[}": "[", "{]}": "]", "{*}": "*", "$-$": "−", r"$\pm$": "±", r"\,": NARROW_SPACE,
    "--": "–",
}  # fmt: skip


def _read(text):
    """Return the plain text of LaTeX ``text``; fail at an unknown command."""
    found = re.sub("|".join(map(re.escape, _PLAIN)), lambda m: "\0" * len(_PLAIN[m[0]]), text)
    assert not set("\\{}$&%#_~^") & set(found), found
    return re.sub("|".join(map(re.escape, _PLAIN)), lambda m: _PLAIN[m[0]], text)


def _rows_of_latex(text):
    body = text.partition("\\toprule\n")[2].partition("\\bottomrule")[0].replace("\\midrule\n", "")
    lines = body.splitlines()
    assert [line for line in lines if not line.endswith(r" \\")] == []
    return [[_read(cell.strip()) for cell in re.split(r"(?<!\\)&", line[: -len(r" \\")])] for line in lines]


def test_reference_predictions_follow_the_arms():
    references = {"half | viewers": {"top-1": 78.456}, "unknown": {"top-1": None}}
    results, plain = (replace(_results(), references=found) for found in (references, {}))
    rows = _rows_of_markdown(to_markdown(results))
    assert rows[:-1] == _rows_of_markdown(to_markdown(plain))
    assert rows[-1] == ["half | viewers (for comparison)", "78.46", "", "", "", "–", "–", "–"]
    assert _rows_of_latex(to_latex(results)) == rows


def test_markdown_and_latex_hold_the_same_numbers():
    results = _results()
    rows = _rows_of_markdown(to_markdown(results))
    assert _rows_of_latex(to_latex(results)) == rows
    assert [len(row) for row in rows] == [8] * 4
    assert rows[1] == ["none", "70.00 ± 5.00", "", "", "", f"36.91{NARROW_SPACE}M", f"5.840{NARROW_SPACE}G", "12.3"]
    assert rows[2][:5] == [NAMES[1], "85.12", "+15.12 [−0.50, +30.75]", f"<{NARROW_SPACE}0.001", "helps"]
    assert rows[3] == [
        NAMES[2],
        "–",
        "−1.50 no interval",
        "–",
        "not decided (control)",
        f"1.234{NARROW_SPACE}k",
        "–",
        "–",
    ]


def test_latex_of_a_small_table():
    text = to_latex(_results(notes=["One seed_0 failed."], seeds=1))
    assert text == "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{resnet10\_small on digits: top-1 of the last epoch, mean $\pm$ standard deviation over 1 seed; "
        r"difference to none in points with its 95 \% interval.}",
        r"\begin{tabular}{lrrrlrrr}",
        r"\toprule",
        r"  arm & top-1, \% & difference to none {[}95 \%{]} & p (Holm) & verdict & parameters & MACs & "
        r"latency, ms \\",
        r"\midrule",
        r"  none & 70.00 $\pm$ 5.00 &  &  &  & 36.91\,M & 5.840\,G & 12.3 \\",
        r"  eca:kernel\_size={[}3,5{]} & 85.12 & +15.12 {[}$-$0.50, +30.75{]} & \textless{}\,0.001 & helps & "
        r"36.91\,M & 5.840\,G & 12.3 \\",
        r"  extra for eca:kernel\_size={[}3,5{]} & -- & $-$1.50 no interval & -- & not decided (control) & 1.234\,k & "
        r"-- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip {\footnotesize One seed\_0 failed.\par}",
        r"\par\smallskip {\footnotesize Control extra: a plain bottleneck without attention whose width brings its "
        r"number of parameters closest to the mechanism's; a mechanism that does no better was helped by its "
        r"parameters.\par}",
        r"\end{table}",
        "",
    ])  # fmt: skip


@pytest.mark.parametrize(
    "word",
    [
        r"\input{secret}", "a & b", "50%", "$x^2$", "#1", "a_b", "{", "}", "~", "^", r"\\", "|", "<b>", "[2cm]", "*",
        r"my.module:Class_\&%$#_{}~^|[*]<>",
    ],
)  # fmt: skip
def test_text_of_the_user_is_escaped(word):
    results = _results(names=("none", word, f"extra for {word}"), notes=[f"{word} seed 0 failed."], model=word)
    rows = _rows_of_latex(to_latex(results))
    assert [row[0] for row in rows] == ["arm", "none", word, f"extra for {word}"]
    assert [len(row) for row in rows] == [8] * 4
    assert rows == _rows_of_markdown(to_markdown(results))
    (caption,) = re.findall(r"\\caption\{(.*)\}\n", to_latex(results))
    assert _read(caption).startswith(f"{word} on digits: top-1 ")
    note = re.findall(r"\{\\footnotesize (.*)\\par\}", to_latex(results))[0]
    assert _read(note) == f"{word} seed 0 failed."


def test_controls_are_explained_below():
    results = _results(controls=("noise", "shuffled"), notes=["First."])
    for text in (to_markdown(results), to_latex(results)):
        places = [text.index(words) for words in ("First.", "Control noise: a random", "Control shuffled: the mech")]
        assert places == sorted(places)
        assert "Control extra" not in text


def test_table_without_verdicts():
    results = replace(_results(), analysis=None)
    assert _rows_of_latex(to_latex(results)) == _rows_of_markdown(to_markdown(results))
    assert _rows_of_latex(to_latex(results))[2][2:5] == ["", "", ""]


def test_data_is_named_by_its_folder():
    assert "resnet50 on my\\_photos: top-1" in to_latex(_results(model="resnet50", source="/home/somebody/my_photos"))


def test_hostile_text_is_harmless():
    word = "se\x1b[31m\n<script>a</script>|\u202e[x](y)"
    results = _results(names=("none", word, f"extra for {word}"), notes=[f"{word} seed 0 failed."], model=word)
    for text in (to_markdown(results), to_latex(results)):
        assert printable(text, keep="\n") == text
        assert text.count("\\u202e") + text.count("textbackslash{}u202e") >= 3
    assert "<script" not in to_markdown(results)
    assert "](" not in to_markdown(results)
    assert len(_rows_of_markdown(to_markdown(results))) == 4


def test_table_names_the_metric():
    for text in (to_markdown(_results(metric=ERROR)), to_latex(_results(metric=ERROR))):
        for words in ("error, px", ", + is better", "70.000", "+15.125"):
            assert words in text
        assert "top-1" not in text
        assert "points" not in text
    assert "difference to none in px with its" in to_latex(_results(metric=ERROR))
    assert "is better" not in to_markdown(_results())
