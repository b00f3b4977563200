"""The command line and recipes import only what is trusted."""

import pytest
from click.testing import CliRunner

from saccade import UserError
from saccade.cli import compare as compare_verb
from saccade.cli import export as export_verb
from saccade.cli import sites as sites_verb
from saccade.cli import train as train_verb
from saccade.models import create_host
from saccade.recipe import Model
from saccade.trust import check_mechanism
from saved_folders import change_config


def test_a_recipe_fetches_by_its_own_keys_alone():
    with pytest.raises(UserError, match="pretrained_cfg_overlay fetches weights"):
        create_host(Model(options={"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}), 3, 3)


@pytest.mark.parametrize(("verb", "arguments"), [(sites_verb, []), (export_verb, ["--format", "torch"])])
def test_verbs_take_trust_from_the_command_line_alone(folder, evil, verb, arguments):
    change_config(folder, host={"call": "evil_package:Net"}, trust=True)
    done = CliRunner().invoke(verb.command, [str(folder), *arguments])
    assert "would import and run the module 'evil_package'" in str(done.exception)
    assert not evil.exists()
    done = CliRunner().invoke(verb.command, [str(folder), *arguments, "--trust"])
    assert "Net has no module" in str(done.exception)
    assert evil.exists()


def test_a_recipe_names_its_mechanism_from_the_catalogue(evil):
    with pytest.raises(UserError, match=r"recipe.toml names the mechanism 'evil_package:Scale'"):
        check_mechanism("evil_package:Scale", {}, "recipe.toml", trust=False)
    check_mechanism("evil_package:Scale", {}, "recipe.toml", trust=True)
    check_mechanism("se", {}, "recipe.toml", trust=False)
    assert not evil.exists()


# Wrappers


@pytest.mark.parametrize(
    "mechanism",
    [
        "evil_package.inner:Scale",
        "se:rd_ratio=0.25,evil_package.inner:Scale",
        "evil_package.inner:where=block:Scale",
        "se,eca:where=block,evil_package.inner:Scale:channels=3",
    ],
)
@pytest.mark.parametrize("verb", [compare_verb, train_verb], ids=["compare", "train"])
def test_a_recipe_imports_no_mechanism_however_it_is_written(evil, tmp_path, verb, mechanism):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[attention]\nmechanism = "{mechanism}"\n')
    where = ["--recipe", str(recipe), "--plan"] if verb is compare_verb else [str(recipe)]
    done = CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError), done.output
    assert "evil_package" in str(done.exception)
    assert not evil.exists()


@pytest.mark.parametrize("verb", [compare_verb, train_verb], ids=["compare", "train"])
def test_a_recipe_imports_no_host(evil, tmp_path, verb):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nname = "evil_package.inner:build"\n')
    where = ["--recipe", str(recipe), "--plan"] if verb is compare_verb else [str(recipe)]
    done = CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out")])
    assert "names the host 'evil_package.inner:build', which is not one of Saccade's" in str(done.exception)
    assert not evil.exists()
    CliRunner().invoke(verb.command, [*where, "--out", str(tmp_path / "out"), "--trust"])
    assert evil.exists()
