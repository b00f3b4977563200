"""The page of hosts: what it counts, what it names, and that one reason stands there once."""

import json
import logging
import sys

import pytest

import hosts
from saccade import UserError


def row(host, mechanism, refused=None, wrong=None):
    tried = [] if refused else ["f32", "keys"]
    return {"host": host, "mechanism": mechanism, "tried": tried, "wrong": wrong or {}, "refused": refused}


NARROW = "at {}: se: channels * rd_ratio must be at least 1, got 8 * 0.0625"
ROWS = [
    row("timm lcnet", "das"),
    row("timm lcnet", "se", NARROW.format("blocks.0.0.bn2")),
    row("own fork", "das"),
    row("own fork", "se", NARROW.format("stem")),
    row("own spoon", "das"),
    row("own spoon", "se"),
]


def page(rows):
    return hosts.page({(each["host"], each["mechanism"]): each for each in rows}, "the command")


def test_hosts_and_mechanisms_are_counted_from_the_same_rows():
    text = page(ROWS)
    assert "4 of 6 pairs hold, 2 are refused, 0 fail: 3 hosts, 1 of them from timm, and\n2 mechanisms" in text
    assert "```\nthe command\n```" in text
    assert "f32 3, keys 3." in text
    for line in (
        "| host | holds | refused |",
        "| timm lcnet | 1 of 2 | se (1) |",
        "| own spoon | 2 of 2 |  |",
        "| mechanism | holds | refused |",
        "| das | 3 of 3 |  |",
        "| se | 1 of 3 | 2 hosts (1) |",
    ):
        assert line in text.splitlines()


def test_one_reason_of_two_hosts_stands_there_once():
    reasons = page(ROWS).partition("## Refusals\n\n")[2].splitlines()
    assert reasons == ["1. se: channels * rd_ratio must be at least 1, got 8 * 0.0625"]
    others = [*ROWS, row("own knife", "se", NARROW.format("a").replace("got 8", "got 4"))]
    text = page(others)
    assert "| own knife | 0 of 1 | se (1) |" in text
    assert "| se | 1 of 4 | 3 hosts (1) |" in text
    assert text.endswith("1. se: channels * rd_ratio must be at least 1, got 8 * 0.0625; or 4 * 0.0625")
    text = page([*others, row("own ladle", "se", "the host does not run")])
    assert "| se | 1 of 5 | 3 hosts (1), 1 host (2) |" in text
    assert text.endswith("\n2. se: the host does not run")


def test_what_fails_is_named_three_times():
    text = page([*ROWS, row("own knife", "das", wrong={"learns": "1 of 3: a.b"})])
    assert "4 of 7 pairs hold, 2 are refused, 1 fail" in text
    assert "| own knife | 0 of 1 |  | das |" in text
    assert "| das | 3 of 4 |  | own knife |" in text
    assert text.endswith("## Failures\n\n- own knife, das, learns: 1 of 3: a.b")


@pytest.fixture
def _logging():
    """The log as loud after a run of the benchmark as before it."""
    logger = logging.getLogger("saccade")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_logging")
def test_kept_rows_are_not_done_again_and_the_page_says_how_it_was_made(tmp_path, monkeypatch, capsys):
    kept, name = tmp_path / "rows.jsonl", "torchvision resnet18"
    kept.write_text("".join(json.dumps(row(name, mechanism)) + "\n" for mechanism in ("se", "das")))
    before = kept.read_text()
    monkeypatch.setattr(hosts, "Case", None)  # what would be called to try a pair
    monkeypatch.setattr(sys, "argv", ["hosts.py", "--hosts", name, "--mechanisms", "se", "--keep", str(kept)])
    assert hosts.main() == 0
    out = capsys.readouterr().out
    assert "1 of 1 pairs hold" in out
    assert f"python benchmarks/hosts.py --hosts '{name}' --mechanisms se > docs/hosts.md" in out
    assert kept.read_text() == before
    monkeypatch.setattr(sys, "argv", ["hosts.py", "--hosts", name, "--mechanisms", "gc", "--keep", str(kept)])
    with pytest.raises(TypeError):  # the twin: a pair that was not kept is tried
        hosts.main()


def test_a_refused_pair_is_a_row(monkeypatch):
    class Refusing:
        bare = None

        def plug(self, host, mechanism):
            raise UserError("at a: se: too narrow")

    assert hosts.pair(Refusing(), "se", {}) == {"tried": [], "wrong": {}, "refused": "at a: se: too narrow"}
