"""Stored map scores: used again, and made anew after any change or damage."""

from dataclasses import replace

import pytest
import torch
from looking_studies import looking_study, save_network
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saccade.explanation.map_scores import find_examples
from saccade.study import looking_rows
from saccade.study.looking_rows import FILE, MapSettings, run_rows


@pytest.fixture
def run_folder(tmp_path):
    results, task = looking_study(tmp_path, {"none": [70.0]})
    return results.study.folder / "none/seed0", find_examples(task, [0, 1]), task


@pytest.fixture
def measured(monkeypatch):
    """Return the list that grows by one at each computation."""
    calls, original = [], looking_rows.map_score_rows
    monkeypatch.setattr(looking_rows, "map_score_rows", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def test_scores_are_computed_once(run_folder, measured):
    home, examples, _ = run_folder
    first, second = (run_rows(home, examples, MapSettings(0), 0, False) for _ in range(2))
    assert measured == [1]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name][key], second[name][key]) for name in first for key in first[name])


def test_any_change_is_noticed(run_folder, measured):
    home, examples, task = run_folder
    run_rows(home, examples, MapSettings(0), 0, False)
    changed = [
        (replace(examples, images=examples.images + 0.1), MapSettings(0), 0),
        (replace(examples, regions=~examples.regions), MapSettings(0), 0),
        (replace(examples, classes=examples.classes[::-1]), MapSettings(0), 0),
        (examples, MapSettings(0, layer="layer2"), 0),
        (examples, MapSettings(0), 1),
    ]
    for n, arguments in enumerate(changed, 2):
        run_rows(home, *arguments, False)
        assert len(measured) == n
    save_network(task, home, 9)
    run_rows(home, examples, MapSettings(0), 1, False)
    assert len(measured) == len(changed) + 2


@pytest.mark.parametrize("damage", ["text", "shorter", "unknown", "dtype", "folder"])
def test_a_damaged_file_is_made_anew(run_folder, measured, damage):
    home, examples, _ = run_folder
    first = run_rows(home, examples, MapSettings(0), 0, False)
    path = home / FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if damage == "text":
        path.write_text("nothing of the kind")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        if damage == "shorter":
            tensors["own.sfd"] = tensors["own.sfd"][:1].clone()
        elif damage == "unknown":
            tensors["else.sfd"] = tensors["own.sfd"].clone()
        else:
            tensors["own.sfd"] = tensors["own.sfd"].float()
        save_file(tensors, path, metadata)
    again = run_rows(home, examples, MapSettings(0), 0, False)
    assert len(measured) == 2
    assert torch.equal(again["own"]["sfd"], first["own"]["sfd"])
