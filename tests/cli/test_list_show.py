"""``saccade list`` and ``saccade show`` say what the files say; a misspelt word ends in one message."""

import json
import re

import pytest

from saccade import catalog


def test_list_has_a_line_for_each(run):
    code, out, _ = run("list")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(catalog.list_mechanisms())]] == catalog.list_mechanisms()
    assert "2018" in next(line for line in lines if line.startswith("cbam"))


def test_list_as_json(run):
    _, out, _ = run("list", "--json")
    assert json.loads(out)["das"]["position"] == {"default": "stage"}


@pytest.mark.parametrize("name", catalog.list_mechanisms())
def test_show_tells_equation_source_and_options(run, name):
    code, out, _ = run("show", name)
    assert code == 0
    assert re.search(r"^ +y += .+", out, re.MULTILINE)
    assert "Source: " in out
    for option in catalog.options(name):
        assert f"{option} = " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "cbma"), "no mechanism is called 'cbma'. Did you mean 'cbam'"),
        (("shwo", "das"), "there is no verb 'shwo'. Did you mean 'show'?"),
        (("show",), "Missing argument 'MECHANISM'"),
        (("list", "--jsno"), "--jsno"),
    ],
)
def test_wrong_words_end_in_one_message(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_an_option_without_a_default_is_shown(run):
    name = "saccade.surgery.controls.extra:ExtraBottleneck"
    code, out, _ = run("show", name, "--json")
    assert code == 0
    assert (json.loads(out)["options"], json.loads(out)["required"]) == ({}, ["width"])
    assert "width (required)" in run("show", name)[1]
    told = json.loads(run("show", "das", "--json")[1])
    assert (told["options"], told["required"]) == ({"alpha": 0.2}, [])
