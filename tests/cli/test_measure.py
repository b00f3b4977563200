"""``saccade measure``: one row per mechanism, after the plain network."""

import json

import pytest

from saccade.cost import count_macs

SMALL = ("resnet10_small", "--input", "1,20,14", "--batch", "3")


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Limit the number of timed runs."""
    monkeypatch.setattr("saccade.cost.latency.MIN_RUNS", 3)
    monkeypatch.setattr("saccade.cost.latency.MAX_RUNS", 3)


def test_the_table(run):
    code, out, err = run("measure", *SMALL, "--attention", "se:rd_ratio=0.25,das")
    assert code == 0
    assert err == ""
    header, none, se, das, *rest = out.splitlines()
    assert header.split() == ["attention", "parameters", "MACs", "batch", "1", "batch", "3", "memory", "step"]
    assert "%" not in none
    assert none.startswith("none ")
    assert se.startswith("se:rd_ratio=0.25 ")
    assert das.count("%") == 6
    text = "\n".join(rest)
    assert "resnet10_small on 1×20×14, cpu" in text
    assert "das: 4 sites, stage" in text
    assert "not norms" in text
    assert "thop" not in header + text


def test_the_counter_is_named_in_the_heading(run):
    code, out, _ = run("measure", *SMALL, "--attention", "das", "--counter", "thop")
    assert code == 0
    header, none, das, *_ = out.splitlines()
    assert "parameters (thop)  " in header
    assert "MACs (thop)  " in header
    assert none.startswith("none ")
    assert das.startswith("das ")
    assert "as thop reports them" in out


def test_json_holds_what_the_library_says(run):
    import timm

    import saccade

    code, out, _ = run("measure", *SMALL, "--attention", "none,das", "--json")
    assert code == 0
    none, das = json.loads(out)
    host = timm.create_model("resnet10_small", in_chans=1, num_classes=1000)
    for row, sites in ((none, 0), (das, 4)):
        if sites:
            saccade.plug(host, "das", start="paper", input=(1, 20, 14))
        assert row["sites"] == sites == len(saccade.plugs(host))
        assert row["input"] == [1, 20, 14]
        assert row["parameters"] == sum(p.numel() for p in host.parameters())
        assert row["macs"] == count_macs(host, (1, 20, 14))
        assert row["counter"] == "true"
        assert row["memory"] < row["batched"]["memory"] < row["batched"]["step_memory"]
        for timing in (row, row["batched"]):
            spread = timing["latency_ms"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
            assert spread["runs"] == 3
        assert (row["batch"], row["batched"]["batch"]) == (1, 3)


def test_json_of_another_counter(run):
    _, true, _ = run("measure", *SMALL, "--attention", "das", "--json")
    _, thop, _ = run("measure", *SMALL, "--attention", "das", "--json", "--counter", "thop")
    for ours, theirs in zip(json.loads(true), json.loads(thop), strict=True):
        assert theirs["counter"] == "thop"
        assert theirs["memory"] == ours["memory"]
    # a map of 16 channels, 3 of them compressed, and so on: thop does not see the deformable kernels and the shifts
    assert ours["parameters"] - theirs["parameters"] == sum(9 * c * C + C + c for C, c in PAIRS)


PAIRS = [(16, 3), (32, 6), (64, 12), (128, 25)]


def test_one_batch_and_the_neutral_start(run):
    small = ("resnet10_small", "--input", "1,20,14", "--batch", "1", "--json", "--attention", "se")
    _, paper, _ = run("measure", *small)
    _, neutral, _ = run("measure", *small, "--start", "neutral")
    paper, neutral = json.loads(paper)[1], json.loads(neutral)[1]
    assert "batched" not in paper
    assert neutral["parameters"] - paper["parameters"] == neutral["sites"]  # the factor a of each


def test_where(run):
    _, out, _ = run("measure", *SMALL, "--attention", "se", "--where", "stage[-1]", "--json")
    assert json.loads(out)[1]["sites"] == 1


def test_what_replaces_convolutions(run):
    _, out, _ = run("measure", *SMALL, "--attention", "dcn2", "--json")
    plain, dcn = json.loads(out)
    assert (dcn["sites"], dcn["positions"]) == (3, ["conv3x3 in stage[-3:]"])
    assert dcn["parameters"] - plain["parameters"] == sum(27 * (9 * c + 1) for c in (32, 64, 128))
    _, out, _ = run("measure", *SMALL, "--attention", "dcn2", "--where", "conv3x3[0]", "--json")
    assert json.loads(out)[1]["sites"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5",), "no network 'resnet5'. Did you mean"),
        (("resnet10_small", "--attention", "sse"), "no mechanism is called 'sse'. Did you mean 'scse' or 'se'?"),
        (("resnet10_small", "--attention", "das:alpha=0.001", "--input", "1,8,8"), "alpha"),
        (("resnet10_small", "--attention", "se", "--where", "nowhere"), "nowhere"),
        (("resnet10_small", "--input", "3,32"), "--input '3,32' is not a size; write channels,height,width"),
        (("resnet10_small", "--input", "3,32,-1"), "is not a size"),
        (("resnet10_small", "--batch", "0"), "0 is not in the range"),
        (("resnet10_small", "--start", "random"), "'random' is not one of"),
    ],
)
def test_wrong_uses_are_exit_code_2(run, arguments, message):
    code, out, err = run("measure", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
