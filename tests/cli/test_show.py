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


def test_an_architecture_is_shown_with_its_options(run):
    code, out, _ = run("show", "resnet10_small")
    assert (code, "arXiv:1512.03385" in out) == (0, True)
    assert re.search(r"^options +.*width = 16, stem_stride = 1", out, re.MULTILINE)
    _, out, _ = run("show", "se_resnet18")
    assert re.search(r"^options +block = basic, layers = \(2, 2, 2, 2\), ", out, re.MULTILINE)
    _, out, _ = run("show", "ran92")
    assert re.search(r"^options +modules = \(1, 2, 3\), .*\nparameters +52.466 M", out, re.MULTILINE)
    code, _, err = run("show", "resnet10_smal")
    assert (code, "Did you mean 'resnet10_small'?" in err) == (2, True)
