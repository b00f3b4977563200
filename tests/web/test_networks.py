"""Networks of a page."""

import dataclasses
import shutil

import pytest
from timm import create_model

import saccade
from saccade.errors import UserError
from saccade.web import networks
from saccade.web.networks import open_networks


@pytest.fixture(scope="module")
def opened(study, saved):
    return {network.name: network for network in open_networks([study, saved, study / "cbam" / "seed0"])}


def test_a_study_gives_its_arms_and_other_folders_themselves(opened, study):
    assert list(opened) == ["none", "cbam", "saved", "cbam, seed 0"]
    none, cbam, saved, run = opened.values()
    assert [n.task for n in opened.values()] == ["classify", "classify", "", "classify"]
    assert (none.size, saved.size) == ((1, 24, 24), (3, 48, 40))
    assert cbam.parameters == run.parameters > none.parameters
    assert none.macs == saccade.measure(none.prepared.module, none.size, runs=1).macs
    assert saved.rows is None
    assert len(none.rows["predicted"]) == 40


def test_names_of_classes_are_unique(opened):
    none, saved = opened["none"], opened["saved"]
    assert (saved.label(0), saved.class_index("<b>cat</b>")) == ("<b>cat</b>", 0)
    assert (none.label(7), none.class_index("7")) == ("7", 7)
    with pytest.raises(UserError, match="no class '2'"):
        saved.class_index("2")
    nameless = dataclasses.replace(saved, labels=())
    assert (nameless.label(1), nameless.class_index("class 1")) == ("class 1", 1)
    prepared = dataclasses.replace(saved.prepared, class_names=("crane, bird", "crane, machine", "cat"))
    assert networks._labels(prepared) == ("crane (0)", "crane (1)", "cat")


def test_folders_without_a_network_are_refused(study, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no folder"):
        open_networks([tmp_path / "nothing"])
    shutil.copytree(study, tmp_path / "study")
    for done in (tmp_path / "study").glob("*/seed0/done.json"):
        done.unlink()
    with pytest.raises(UserError, match="no finished run"):
        open_networks([tmp_path / "study"])
    saccade.save(create_model("test_resnet", num_classes=2, in_chans=5), tmp_path / "five", input=(5, 48, 40))
    with pytest.raises(UserError, match="5 channels; 1 or 3 are needed"):
        open_networks([tmp_path / "five"])
    monkeypatch.setattr(networks, "MAX_NETWORKS", 1)
    with pytest.raises(UserError, match="2 networks are too many"):
        open_networks([study])
