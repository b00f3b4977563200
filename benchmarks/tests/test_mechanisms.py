"""The benchmark of mechanisms gives no number to what computes something else, and says which goals are missed."""

import json
import math
import sys

import pytest
import torch
from torch import nn

import mechanisms
from mechanisms import Result, Times, compare, lines, missed
from reference_implementations import ROWS, Row, Swapped, plain, taught
from saccade import list_mechanisms
from timing import by_turns, geometric_mean, middle

SHAPES = ((2, 64, 6, 5),)


class Excite(nn.Module):
    """Squeeze and excitation as anybody writes it; ``wrong`` tells what is not."""

    def __init__(self, ours, wrong=""):
        super().__init__()
        self.down, self.up, self.wrong = nn.Conv2d(64, 4, 1), nn.Conv2d(4, 64, 1), wrong
        taught(self, ours, {"down": "squeeze", "up": "excite"})

    def forward(self, x):
        gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        if self.wrong == "shape":
            return (x * gate)[:, :, 1:]
        if self.wrong == "number":
            return x * gate / (x.amax() - x.amax())
        if self.wrong == "gradient":
            return x * gate.detach()
        return x * (gate * 1.001 if self.wrong == "value" else gate)


def row(wrong=""):
    return Row("somebody's Excite", lambda ours: Excite(ours, wrong))


def test_every_mechanism_has_a_row():
    assert sorted(set(list_mechanisms()) - set(ROWS)) == []
    assert all(r.source == "" or r.public for r in ROWS.values())


def test_what_agrees_is_timed():
    result = compare("se", row(), 5, SHAPES)
    assert result.outcome == "public"
    assert result.error < 1e-12
    (times,) = result.times
    assert all(len(rounds) == 5 and min(rounds) > 0 for rounds in times.rounds.values())
    assert times.memory[1] > times.memory[0] / 10 > 0
    assert f"{times.ratios['step'][0]:.2f}" in "".join(lines(result))


@pytest.mark.parametrize("wrong", ["value", "gradient", "shape", "number"])
def test_what_computes_something_else_gets_no_number(wrong, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(ROWS, "se", row(wrong))
    monkeypatch.setattr(mechanisms, "timed", lambda *_: pytest.fail("it was timed"))
    monkeypatch.setattr(sys, "argv", ["mechanisms.py", "--only", "se", "--json", str(tmp_path / "found.json")])
    threads = torch.get_num_threads()
    try:
        assert mechanisms.main() == 1
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert "| `se` | somebody's Excite | | disagrees (" in said
    assert "Missed: se disagrees." in said
    assert "geometric mean |" not in said
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert (found["outcome"], found["times"]) == ("disagrees", [])


def test_what_does_not_fit_into_memory_has_its_bytes_alone(monkeypatch):
    monkeypatch.setattr(mechanisms, "available", lambda: 1000.0)
    result = compare("se", row(), 5, SHAPES)
    (times,) = result.times
    assert times.ratios == {}
    assert times.memory[1] > 1000
    assert "| does not fit |" in "".join(lines(result))
    assert missed([result]) == []
    assert mechanisms.overall([result]) is None


def test_a_package_that_is_not_installed_is_told():
    def make(_):
        raise ModuleNotFoundError("No module named 'fightingcv_attention'")

    result = compare("se", Row("fightingcv SEAttention", make), 5, SHAPES)
    assert (result.outcome, result.times) == ("not installed", [])
    assert missed([result]) == ["se not installed"]
    assert "| not installed |" in "".join(lines(result))


def test_without_a_public_one_the_plain_definition_is_marked_and_outside_of_the_mean():
    result = compare("self_attention", Row(), 5, SHAPES)
    assert result.outcome == "plain"
    assert "| its plain definition * |" in "".join(lines(result))
    alone = compare("ran", Row(), 5, SHAPES)
    assert (alone.outcome, alone.times) == ("alone", [])
    assert "| none public |" in "".join(lines(alone))


def test_the_plain_definition_is_what_runs():
    ours = mechanisms.created("self_attention", Row(), (1, 64, 6, 5))
    swapped = plain(ours)
    x = torch.randn(1, 64, 6, 5)
    torch.testing.assert_close(swapped(x), ours(x))
    different = Swapped(ours, {"attention": lambda query, key, value, scale: value})
    assert not torch.allclose(different(x), ours(x))
    assert torch.equal(ours(x), mechanisms.created("self_attention", Row(), (1, 64, 6, 5))(x))  # put back


def test_a_weight_that_has_no_name_is_not_left_as_it_was():
    ours = mechanisms.created("se", Row(), (1, 64, 6, 5))
    with pytest.raises(KeyError, match=r"up\.weight has no name in ours"):
        taught(nn.ModuleDict({"up": nn.Linear(4, 64)}), ours, {"down": "squeeze"})


def _times(step, low, high, size=28, memory=(1, 20)):
    ratios = {"forward": (1.0, 0.9, 1.1), "step": (step, low, high)}
    return Times((8, 256, size, size), {}, {}, ratios, {"step": [low, step, high]}, memory)


def test_the_goals():
    def of(name, *times, outcome="public"):
        return Result(name, outcome, "", "", 0.0, list(times))

    assert missed([of("se", _times(1.6, 1.4, 1.7))]) == []
    assert missed([of("se", _times(1.2, 0.9, 1.3))]) == ["the geometric mean is 1.20, not 1.5"]
    slow = missed([of("eca", _times(0.8, 0.7, 0.9)), of("se", _times(9.0, 8.0, 10.0))])
    assert slow == ["eca at 28² is slower: 0.80"]
    assert missed([of("se", _times(0.8, 0.7, 0.9), outcome="plain")]) == []
    large = _times(2.0, 1.9, 2.1, 96, (2, 18))
    assert missed([of("self_attention", large, outcome="plain")]) == [
        "self_attention takes 1/9.0 of the matrix's memory"
    ]
    assert missed([of("se", large)]) == []  # not one that weighs every pixel by every pixel


def test_rounds_by_turns_and_their_ratio():
    order = []
    times = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, 1)
    assert "".join(order) == "abbaabba"
    order.clear()
    by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 0, settle=True)
    assert "".join(order) == "aabbbbaa"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}
    assert middle([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    value, low, high = middle([1.0, 2.0, 4.0, 8.0, 3.0])
    assert (value, low, high) == (3.0, 1.0, 8.0)
    assert geometric_mean([[2.0] * 5, [8.0] * 5]) == pytest.approx((4.0, 4.0, 4.0))


def test_slow_rounds_are_fewer_but_not_below_five(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(mechanisms.time, "perf_counter", lambda: float(next(clock)))
    forms = {"ours": lambda: None, "theirs": lambda: None}  # a second for one run of both
    assert mechanisms.affordable(forms, 15, math.inf) == (15, False)
    assert mechanisms.affordable(forms, 15, 12.0) == (10, False)  # 12 of one second, 2 of them to warm up
    assert mechanisms.affordable(forms, 15, 1.0) == (5, False)
    monkeypatch.setattr(mechanisms, "SHORT", 2.0)
    assert mechanisms.affordable(forms, 15, 24.0) == (10, True)  # 12 of two seconds
    monkeypatch.undo()
    result = compare("se", row(), 9, SHAPES, seconds=0.0)
    assert [len(rounds) for rounds in result.times[0].rounds.values()] == [5, 5]
    assert "| 5 |" in "".join(lines(result))


def test_a_misspelt_name_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mechanisms.py", "--only", "cbma"])
    with pytest.raises(SystemExit):
        mechanisms.main()
    assert "there is no mechanism 'cbma'." in (said := capsys.readouterr().err)
    assert "cbam" in said
