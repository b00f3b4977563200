"""Study of pretrained hosts: each arm gets the preprocessing of its host, and the report says so."""

import itertools
import logging

import pytest
import torch
from safetensors.torch import save_file

from saccade.errors import UserError
from saccade.events import Caution
from saccade.models import create_host
from saccade.recipe import Model, Recipe
from saccade.study import forecast as forecasting
from saccade.study.arms import Arm
from saccade.study.images import open_once
from saccade.study.plan import Study
from saccade.study.report import write_report
from saccade.study.worker import OncePerMessage, check_study
from saccade.training import train

BASE = Recipe().with_overrides(
    {
        "data.size": 24, "data.train_images": 60, "data.test_images": 40, "model.options": {"width": 4},
        "training.epochs": 1, "training.batch_size": 30,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """Weights of the small host whose normalisation layers are the identity except for a bias."""
    path = tmp_path_factory.mktemp("weights") / "folded.safetensors"
    torch.manual_seed(1)
    state = create_host(Model(options={"width": 4}), 10, 1).state_dict()
    for key, value in state.items():
        if "bn" in key and key.endswith("bias"):
            value.uniform_(-0.5, 0.5)
        elif key.endswith("running_var"):
            value.fill_(1 - 1e-5)
    save_file(state, path, {"mean": "0.25", "std": "0.5"})
    return path


@pytest.fixture(scope="module")
def study(folded, tmp_path_factory):
    arms = (Arm("none"), Arm("trained", {"model.checkpoint": str(folded)}))
    found = Study(BASE, arms, (0,), tmp_path_factory.mktemp("study") / "s")
    found.write()
    return found


def test_arms_with_other_preprocessing_are_reported(study):
    for run in study.runs():
        train(run.recipe, run.folder, device="cpu", opener=open_once)
        assert run.done_record
    results = write_report(study.folder)
    notes = [note.text for note in results.notes if note.kind == "hosts"]
    (taken,) = (text for text in notes if text.startswith("trained: Set to the values"))
    assert "data.mean = [0.25]" in taken
    folded = [text for text in notes if "folded into the convolutions. Their running statistics are frozen" in text]
    assert [text.partition(":")[0] for text in folded] == ["trained"]
    page = (study.folder / "report.html").read_text()
    assert "No pictures" not in page
    assert "folded into the convolutions" in page
    assert "of the training images" in page  # of the baseline, whose host is random


def test_the_check_opens_the_data_of_each_arm(study):
    found = []
    recipes = [run.recipe.model_dump(mode="json") for run in study.runs()]
    check_study(recipes[::-1], None, "cpu", found.append)
    assert "shown with mean 0.25, std 0.5" in "\n".join(getattr(event, "description", "") for event in found)
    assert ["folded" in event.text for event in found if isinstance(event, Caution)] == [True]
    wrong = study.runs()[1].recipe.with_overrides({"training.freeze": ["layer9*"]}).model_dump(mode="json")
    with pytest.raises(UserError, match="no parameter 'layer9"):
        check_study([recipes[0], wrong], None, "cpu", found.append)


def test_the_forecast_times_a_step_with_the_same_layers_frozen(study, monkeypatch):
    modes = []
    plain = forecasting.training_steps

    def watched(network, *rest, **more):
        for step in plain(network, *rest, **more):
            modes.append({m.training for name, m in network.named_modules() if name.endswith("bn1")})
            yield step

    monkeypatch.setattr(forecasting, "training_steps", watched)
    ahead = forecasting.forecast_study(study, 1, "cpu")
    assert set(ahead.step_ms) == {"none", "trained"}
    assert [mode for mode, _ in itertools.groupby(modes)] == [{True}, {False}]


def test_a_process_repeats_no_warning(caplog):
    logger, once = logging.getLogger("saccade"), OncePerMessage()
    said = ["the head is left out", "the head is left out", "another"]
    for text in said:
        logger.warning(text)
    assert caplog.messages == said
    caplog.clear()
    logger.addFilter(once)
    try:
        for text in said:
            logger.warning("%s", text)
    finally:
        logger.removeFilter(once)
    assert caplog.messages == ["the head is left out", "another"]
