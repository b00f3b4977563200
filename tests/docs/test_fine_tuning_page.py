"""``docs/fine-tuning.md``: the options, keys and values on the page exist."""

import re
from pathlib import Path

import pytest

from saccade.cli.compare import command as compare
from saccade.cli.train import command as train
from saccade.errors import UserError
from saccade.recipe import Data, Recipe, builtin_recipe

PAGE = (Path(__file__).parents[2] / "docs/fine-tuning.md").read_text(encoding="utf-8")
VERBS = {"compare": compare, "train": train}


def test_its_commands_parse():
    lines = re.findall(r"^saccade (\w+) (.*)$", PAGE, re.MULTILINE)
    assert len(lines) == 8
    for verb, rest in lines:
        context = VERBS[verb].make_context(verb, rest.split())
        Recipe().with_overrides(context.params["settings"])
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        Recipe().with_overrides(["data.maen=0.5"])


def test_its_keys_and_values_are_those_of_a_recipe():
    keys = re.findall(r"^\| `data\.(\w+)`(?:, `data\.(\w+)`)?", PAGE, re.MULTILINE)
    assert {key for pair in keys for key in pair if key} <= set(Data.model_fields)
    interpolations = re.search(r"`data.interpolation` \| (.*?) \|", PAGE)[1]
    assert len(re.findall(r"`(\w+)`", interpolations)) == 6
    for name in re.findall(r"`(\w+)`", interpolations):
        Recipe().with_overrides({"data.interpolation": name})
    rows = re.search(r"\| `training.freeze` \|.*?\n\n", PAGE, re.DOTALL)[0]
    values = re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE)[1:]
    assert len(values) == 5
    for value in values:
        Recipe().with_overrides([f"training.freeze={value}"])


def test_its_figures_are_those_of_the_recipe():
    recipe = builtin_recipe("finetune")
    assert f"AdamW at {recipe.training.lr:g}".replace("0.0001", "1e-4") in PAGE
    assert f"{recipe.training.epochs} epochs, batches of {recipe.training.batch_size}" in PAGE
    assert (recipe.training.optimizer, recipe.training.schedule) == ("adamw", "cosine")
