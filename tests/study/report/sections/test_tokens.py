"""Section of the token maps: networks that have them, strongest tokens first, and the reason if there are none."""

import pytest
import torch
from made_results import context, made
from torch import nn

import saccade
from saccade.bases import TokenTap
from saccade.data import open_data
from saccade.study.report.sections import tokens
from saccade.tasks.classify import Classify


class Tokens(nn.Module):
    """Four maps of which the last is the sharpest and the first uniform."""

    def __init__(self, tap):
        super().__init__()
        self.tap = tap

    def forward(self, x):
        maps = torch.stack([(k * x[:, 0, ::2, ::2]).flatten(1).softmax(1) for k in range(4)], 1)
        return self.tap(maps.unflatten(2, (8, 8)))


@pytest.fixture
def section(tmp_path, monkeypatch):
    """Return a function that renders the section for the networks of two arms, by name."""
    data = {"data__size": 16, "data__train_images": 16, "data__test_images": 12}
    results = made({"none": [70.0], "se": [72.0]}, folder=tmp_path / "study", **data)
    for run in results.runs:
        (tmp_path / "study" / run.folder).mkdir(parents=True)
        (tmp_path / "study" / run.folder / "model.safetensors").touch()
    recipe = results.study.base
    task = Classify(recipe, open_data(recipe.data, "label"))

    def render(networks, check=lambda *_: None):
        monkeypatch.setattr(tokens, "load", lambda folder, trust: networks[folder.parent.name])
        monkeypatch.setattr(tokens, "check_saved", check)
        return tokens.TokensSection().content(context(results, task=task))

    return render


def test_tables_of_networks_with_token_maps(section):
    content = section({"none": nn.Sequential(Tokens(nn.Identity())), "se": nn.Sequential(Tokens(TokenTap()))})
    (table,) = content["tables"]
    assert table["style"].name == "se"
    assert [token["number"] for token in table["tokens"]] == [3, 2, 1]
    assert {token["path"] for token in table["tokens"]} == {"0"}
    assert {token["uniform"] for token in table["tokens"]} == {"4.16"}  # ln 64
    assert all(float(token["entropy"]) < 4.16 for token in table["tokens"])
    assert [len(token["cells"]) for token in table["tokens"]] == [4, 4, 4]
    assert section({"none": nn.Identity(), "se": Tokens(nn.Identity())}) is None


def test_first_and_last_tokenizer(section):
    class Nine(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(Tokens(TokenTap()) for _ in range(11))

        def forward(self, x):
            for part in self.parts[2:]:
                part(x)

    (table,) = section({"none": nn.Identity(), "se": Nine()})["tables"]
    assert [token["path"] for token in table["tokens"]] == ["parts.2"] * 3 + ["parts.10"] * 3
    assert table["tokenizers"] == [("parts.2", "4.16", 3), ("parts.10", "4.16", 3)]


def test_reason_is_shown(section):
    def refuse(*_):
        raise saccade.UserError("config.json: other classes")

    networks = {"none": nn.Identity(), "se": Tokens(TokenTap())}
    assert section(networks, refuse) == {"error": "config.json: other classes"}
    assert section({"none": nn.Identity(), "se": nn.Identity()}, refuse) is None
