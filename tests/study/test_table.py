"""The table in both forms: the same figures, and no word of the user's that ends a cell or becomes a command."""

import html
import re

import pytest

from saccade.controls import CONTROLS
from saccade.escaping import printable
from saccade.study.report.table import latex, markdown
from saccade.study.report.typeset import NARROW

NAMES = ("none", "eca:kernel_size=[3,5]", "extra for eca:kernel_size=[3,5]")


def _arm(mean, sd, control=None, cost=True):
    measured = {"parameters": 36_908_204, "macs": 5.84e9, "latency_ms": {"median": 12.345}}
    return {"mean": mean, "sd": sd, "control": control, "parameters": 1234, "cost": measured if cost else None}


def _difference(name, difference, low, high, p, verdict, is_control=False):
    return {"name": name, "difference": difference, "low": low, "high": high, "p_holm": p, "verdict": verdict,
            "is_control": is_control}  # fmt: skip


def _results(names=NAMES, notes=(), controls=("extra",), seeds=(0, 1, 2), model="resnet10_small", source="digits"):
    return {
        "study": {
            "name": "s", "baseline": "none", "seeds": list(seeds),
            "controls": {kind: CONTROLS[kind].shows for kind in controls},
            "recipe": {"model": {"name": model}, "data": {"source": source}},
        },
        "arms": {names[0]: _arm(70.0, 5.0), names[1]: _arm(85.125, None), names[2]: _arm(None, None, "extra", False)},
        "analysis": {
            "differences": [
                _difference(names[1], 15.125, -0.5, 30.75, 0.0004, "helps"),
                _difference(names[2], -1.5, None, None, None, "not decided", True),
            ]
        },
        "notes": list(notes),
    }  # fmt: skip


def _rows_of_markdown(text):
    lines = text.partition("\n\n")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    return [[html.unescape(cell.strip().replace("\\|", "|")) for cell in row] for row in rows if "---" not in row[0]]


_PLAIN = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#", r"\_": "_",
    r"\{": "{", r"\}": "}", "{[}": "[", "{]}": "]", "{*}": "*", "$-$": "−", r"$\pm$": "±", r"\,": NARROW, "--": "–",
}  # fmt: skip


def _read(text):
    """What a reader of the typeset ``text`` sees; fails at a command that is none of ours."""
    found = re.sub("|".join(map(re.escape, _PLAIN)), lambda m: "\0" * len(_PLAIN[m[0]]), text)
    assert not set("\\{}$&%#_~^") & set(found), found
    return re.sub("|".join(map(re.escape, _PLAIN)), lambda m: _PLAIN[m[0]], text)


def _rows_of_latex(text):
    body = text.partition("\\toprule\n")[2].partition("\\bottomrule")[0].replace("\\midrule\n", "")
    lines = body.splitlines()
    assert all(line.endswith(r" \\") for line in lines)
    return [[_read(cell.strip()) for cell in re.split(r"(?<!\\)&", line[: -len(r" \\")])] for line in lines]


def test_both_hold_the_same_figures():
    results = _results()
    rows = _rows_of_markdown(markdown(results))
    assert _rows_of_latex(latex(results)) == rows
    assert [len(row) for row in rows] == [8] * 4
    assert rows[1] == ["none", "70.00 ± 5.00", "", "", "", f"36.91{NARROW}M", f"5.840{NARROW}G", "12.3"]
    assert rows[2][:5] == [NAMES[1], "85.12", "+15.12 [−0.50, +30.75]", f"<{NARROW}0.001", "helps"]
    assert rows[3] == [NAMES[2], "–", "−1.50 no interval", "–", "not decided (control)", f"1.234{NARROW}k", "–", "–"]


def test_the_latex_of_a_small_table():
    text = latex(_results(notes=["One seed_0 failed."], seeds=(4,)))
    assert text == "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{resnet10\_small on digits: top-1 of the last epoch, mean $\pm$ standard deviation over 1 seed; "
        r"difference to none in points with its 95 \% interval.}",
        r"\begin{tabular}{lrrrlrrr}",
        r"\toprule",
        r"  mechanism & top-1, \% & difference to none {[}95 \%{]} & p (Holm) & verdict & parameters & MACs & "
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
        r"\par\smallskip {\footnotesize Control extra: a plain bottleneck without attention, of the number of "
        r"parameters nearest to the mechanism's that one of at least one unit can have; a mechanism that does no "
        r"better was helped by its parameters.\par}",
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
def test_words_of_the_user_stand_for_themselves(word):
    results = _results(names=("none", word, f"extra for {word}"), notes=[f"{word} seed 0 failed."], model=word)
    rows = _rows_of_latex(latex(results))
    assert [row[0] for row in rows] == ["mechanism", "none", word, f"extra for {word}"]
    assert [len(row) for row in rows] == [8] * 4
    assert rows == _rows_of_markdown(markdown(results))
    (caption,) = re.findall(r"\\caption\{(.*)\}\n", latex(results))
    assert _read(caption).startswith(f"{word} on digits: top-1 ")
    note = re.findall(r"\{\\footnotesize (.*)\\par\}", latex(results))[0]
    assert _read(note) == f"{word} seed 0 failed."


def test_what_each_control_tells_stands_below():
    results = _results(controls=("noise", "shuffled"), notes=["First."])
    for text in (markdown(results), latex(results)):
        places = [
            text.index(words) for words in ("First.", "Control noise: a random gate", "Control shuffled: the mech")
        ]
        assert places == sorted(places)
        assert "Control extra" not in text


def test_a_study_without_verdicts_has_a_table():
    results = _results() | {"analysis": None}
    assert _rows_of_latex(latex(results)) == _rows_of_markdown(markdown(results))
    assert _rows_of_latex(latex(results))[2][2:5] == ["", "", ""]


def test_places_of_data_are_named_by_their_folder():
    assert "resnet50 on my\\_photos: top-1" in latex(_results(model="resnet50", source="/home/somebody/my_photos"))


def test_hostile_words_are_harmless_in_every_table():
    word = "se\x1b[31m\n<script>a</script>|\u202e[x](y)"
    results = _results(names=("none", word, f"extra for {word}"), notes=[f"{word} seed 0 failed."], model=word)
    for text in (markdown(results), latex(results)):
        assert printable(text, keep="\n") == text
        assert text.count("\\u202e") + text.count("textbackslash{}u202e") >= 3
    assert "<script" not in markdown(results)
    assert "](" not in markdown(results)
    assert len(_rows_of_markdown(markdown(results))) == 4
