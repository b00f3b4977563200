"""Every value of config.json is checked."""

import json
import os

import pytest

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import UserError, load
from saccade.saving import describe
from saved_folders import change_config, refusal


def test_the_facts_are_there(saved):
    config = describe(saved[0])
    assert config["host"] == {"timm": "resnet10_small", "options": {"num_classes": 5, "in_chans": 1}}
    assert (config["classes"], config["input"], config["facts"]) == (
        ["a", "b", "c", "d", "e"], [1, 32, 24], {"epochs": 3, "note": "x"},
    )  # fmt: skip
    assert [row["site"]["path"] for row in config["plugs"]] == [f"layer{n}.0.bn2" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9; this version reads format 1"),
        (
            {"host": {"timm": "resnt10_small"}},
            "config.json: timm has no network 'resnt10_small'. Did you mean 'resnet10_small'",
        ),
        (
            {"host": {"call": "nowhere:Net"}},
            "would import and run the module 'nowhere'. If you trust the file, say trust=True",
        ),
        ({"host": {"call": "builtins:dict"}}, "names the host 'builtins:dict', which is not one of Saccade's"),
        ({"host": {"name": "x"}}, "host = .*one of the keys timm, torchvision, call"),
        ({"plugs": [{"mechanism": "se"}]}, "config.json: plugs.0.options is missing; plugs.0.neutral is missing"),
        ({"plugs": None}, "config.json: plugs = None: input should be a valid list"),
        ({"replacements": 3}, "config.json: replacements = 3: input should be a valid list"),
        ({"plugs": []}, r"another network than ResNetSmall: the network has no layer1.0.bn2.saccade"),
    ],
)
def test_configurations_that_are_wrong(saved, change, message):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no saved network: config.json is missing$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "wide"}, "config.json: input = 'wide': input should be a valid list"),
        ({"input": [3, -1, 2]}, "input.1 = -1: input should be greater than or equal to 1"),
        ({"classes": {"a": 1}}, "classes = {'a': 1}: input should be a valid list"),
        ({"facts": []}, "facts = []: input should be a valid dictionary"),
        ({"sha256": 3}, "sha256 = 3: input should be a valid string"),
        ({"host": {"timm": 3}}, "host.timm = 3: input should be a valid string"),
        ({"host": {"timm": "resnet18", "options": []}}, "host.options = []: input should be a valid dictionary"),
        ({"host": {"timm": "a\x1b[31m"}}, "host.timm = 'a\\x1b[31m': a name has at most 500 characters, all printable"),
    ],
)
def test_wrong_types_are_named(folder, change, message):
    change_config(folder, **change)
    found = refusal(folder)
    assert message in found
    assert "\n" not in found


def test_nested_too_deep(folder):
    (folder / "config.json").write_text("[" * 200_000)
    assert "nested too deep" in refusal(folder)


def test_a_pipe_in_the_place_of_a_file_is_refused(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "is not a regular file" in refusal(folder)
