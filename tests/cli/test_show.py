"""``saccade show``."""

import json
import re

import pytest

from saccade import catalog


@pytest.mark.parametrize("name", catalog.list_mechanisms())
def test_show_tells_equation_source_and_options(run, name):
    code, out, _ = run("show", name)
    assert code == 0
    assert re.search(r"^ +([yY]|y_\w+|y\(.+?\)) += .+", out, re.MULTILINE)
    assert "Source: " in out
    for option in catalog.options(name):
        assert f"{option} = " in out


def test_published_numbers_for_other_places_name_the_places(run):
    assert "six positions; where = activated[last] in stage[:-1], activated in stage[-1] (" in run("show", "spm")[1]
    assert "where" not in run("show", "das")[1].rpartition("published")[2]


def test_an_option_without_a_default_is_shown(run):
    name = "saccade.surgery.controls.extra:ExtraBottleneck"
    code, out, _ = run("show", name, "--json")
    assert code == 0
    assert (json.loads(out)["options"], json.loads(out)["required"]) == ({}, ["width"])
    assert "width (required)" in run("show", name)[1]
    told = json.loads(run("show", "das", "--json")[1])
    assert (told["options"]["alpha"], told["options"]["design"], told["required"]) == (0.2, "c", [])


def test_show_says_what_replaces_a_convolution(run):
    _, out, _ = run("show", "dcn2")
    assert re.search(r"kind +conv\n", out)
    assert re.search(r"identity at initialisation +no \(it replaces a convolution\)", out)
