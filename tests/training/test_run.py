"""A run depends only on its recipe, and its folder is complete."""

import dataclasses
import json
import logging
import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import saccade
from saccade.data import open_data
from saccade.data.sampling import EpochSampler
from saccade.errors import UserError
from saccade.events import Caution, EpochEnded, StepTaken, TrainingBegan
from saccade.recipe import Recipe
from saccade.tasks.classify import Classify
from saccade.training import build, train
from saccade.training.schedules import lr_factor
from tiny_runs import (
    FILES,
    TINY,
    Killed,
    after,
    assert_same_run,
    assert_weights_equal,
    done,
    listener,
    network_of,
    rows,
    same_run,
)


def test_the_folder_holds_the_whole_run(straight, split):
    folder, result, _ = straight
    assert {path.name for path in folder.iterdir()} == FILES
    assert Recipe.load(folder / "recipe.toml") == TINY
    assert done(folder) == result
    table = rows(folder)
    assert [row["epoch"] for row in table] == [0, 1, 2]
    assert [list(row["losses"]) for row in table] == [[], ["cross-entropy"], ["cross-entropy"]]
    assert [row["losses"] for row in table if not all(map(math.isfinite, row["losses"].values()))] == []
    assert [row["scores"] for row in table if row["scores"].keys() != {"top-1", "top-5", "NLL"}] == []
    assert [row for row in table if row["seconds"] < 0 or row["memory_mb"] <= 0 or "phase" in row] == []
    assert (result["task"], result["metric"]) == ("classify", "top-1")
    assert result["scores"] == table[-1]["scores"]
    assert result["score"] == f"{result['scores']['top-1']:.2f} %"
    assert (result["epochs"], result["diverged"], result["start"]) == (2, None, "paper")
    assert result["parameters"] == sum(p.numel() for p in network_of(TINY, split).parameters())


def test_the_score_is_that_of_the_network_it_saved(straight, split):
    folder, result, _ = straight
    network = saccade.load(folder)
    images = torch.stack([split.test[i][0] for i in range(37)])
    labels = torch.tensor([split.test.target(i) for i in range(37)])
    with torch.no_grad():
        logits = torch.cat([network(part) for part in images.split(31)])
    answers = load_file(folder / "rows.safetensors")
    assert "group" not in answers  # of images without groups
    torch.testing.assert_close(answers["label"].long(), labels, rtol=0, atol=0)
    torch.testing.assert_close(answers["predicted"].long(), logits.argmax(1), rtol=0, atol=0)
    right = (logits.argmax(1) == labels).double()
    assert result["scores"]["top-1"] == pytest.approx(100 * float(right.mean()), abs=1e-9)
    assert result["scores"]["NLL"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    five = (logits.topk(5).indices == labels[:, None]).any(1).double()
    assert result["scores"]["top-5"] == pytest.approx(100 * float(five.mean()), abs=1e-9)
    assert result["scores"]["top-5"] > result["scores"]["top-1"]
    by_class = [100 * float(right[labels == k].mean()) if bool((labels == k).any()) else None for k in range(10)]
    assert result["by_class"] == {"top-1": pytest.approx(by_class, abs=1e-9)}


def test_the_trivial_answer_stands_beside_the_score(straight, split):
    train_labels = [split.train.target(i) for i in range(90)]
    most = max(range(10), key=lambda label: (train_labels.count(label), -label))
    right = [split.test.target(i) == most for i in range(37)]
    trivial = straight[1]["trivial"]
    assert trivial["answer"] == "the most frequent class"
    assert trivial["scores"]["top-1"] == pytest.approx(100 * sum(right) / 37)


def test_reference_predictions_stand_beside_the_score(tmp_path, straight, split, monkeypatch):
    labels = torch.tensor([split.test.target(i) for i in range(37)]).int()
    right, zeros = torch.arange(37) < 9, torch.zeros(37)
    expert = {"predicted": torch.where(right, labels, -1), "label": labels, "rank": zeros, "nll": zeros + 0.25}
    monkeypatch.setattr(Classify, "references", lambda self: {"an expert": expert})
    result = train(TINY.with_overrides({"training.epochs": 1}), tmp_path / "run", device="cpu")
    scores = {"top-1": pytest.approx(100 * 9 / 37), "top-5": 100.0, "NLL": 0.25}
    assert result["references"] == {"an expert": scores}
    assert done(tmp_path / "run")["references"] == result["references"]
    assert "references" not in straight[1]


def test_it_is_the_loop_anybody_would_write(tmp_path, split):
    """Two epochs in plain PyTorch give the same bits."""
    recipe = TINY.with_overrides(
        {"model.options": {"width": 4}, "training.label_smoothing": 0.1, "attention.lr_factor": 3.0}
    )
    result = train(recipe, tmp_path / "run", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = network_of(recipe, split).train()
    ours = {id(p) for plug in saccade.plugs(network) for p in plug.module.parameters()}
    groups = [[p for p in network.parameters() if (id(p) in ours) is side] for side in (False, True)]
    assert [len(group) for group in groups if not group] == []
    part = recipe.training
    optimizer = torch.optim.SGD(
        [
            {"params": [p], "lr": part.lr * (3 if side else 1), "weight_decay": 5e-4 if p.ndim > 1 else 0.0}
            for side in (0, 1)
            for p in groups[side]
        ],
        momentum=0.9,
    )
    base = [group["lr"] for group in optimizer.param_groups]
    sampler = EpochSampler(split.train, part.seed, part.batch_size)
    step, losses = 0, []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        total = 0.0
        for keys in sampler:
            images, labels = zip(*(split.train[key] for key in keys), strict=True)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * lr_factor(step, len(sampler), 2, part)
            loss = F.cross_entropy(network(torch.stack(images)), torch.tensor(labels), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            total += loss.item() * len(keys)
        losses.append(total / 90)
    torch.set_num_threads(threads)
    found, expected = load_file(tmp_path / "run/model.safetensors"), network.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert [row["losses"] for row in rows(tmp_path / "run")[1:]] == [{"cross-entropy": loss} for loss in losses]
    assert result["diverged"] is None


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(straight, tmp_path):
    folder, _, _ = straight
    train(TINY, tmp_path / "again", device="cpu")
    assert_same_run(folder, tmp_path / "again")
    train(TINY.with_overrides({"training.seed": 1}), tmp_path / "other", device="cpu")
    assert not same_run(folder, tmp_path / "other")


def test_the_result_does_not_depend_on_the_workers(straight, tmp_path):
    folder, _, _ = straight
    train(TINY.with_overrides({"training.workers": 2}), tmp_path / "run", device="cpu")
    assert_same_run(folder, tmp_path / "run")


def test_a_run_that_is_done_is_not_done_again(straight):
    folder, result, _ = straight
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    heard, listen = listener()
    again = train(TINY, folder, device="cpu", notify=listen, opener=lambda *_: pytest.fail("opened the images again"))
    assert (again, heard) == (result, [])
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_events_report_the_run(straight):
    folder, result, heard = straight
    assert heard[0] == TrainingBegan(epochs=2, steps=3, epoch=0)
    ended = [event for event in heard if isinstance(event, EpochEnded)]
    assert [(event.epoch, dict(event.row)) for event in ended] == list(enumerate(rows(folder)))
    assert ended[-1].score == result["score"]
    steps = [(event.epoch, event.step) for event in heard if isinstance(event, StepTaken)]
    assert set(steps) <= {(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)}
    assert len(ended) + len(steps) + 1 == len(heard)


def test_cautions_are_reported_before_training(tmp_path, split):
    heard, listen = listener(until=after(0))
    spoilt = dataclasses.replace(split, cautions=["1 of 37 test images is trained on too"])
    with pytest.raises(Killed):
        train(TINY, tmp_path, device="cpu", notify=listen, opener=lambda *_: spoilt)
    assert heard[0] == Caution("1 of 37 test images is trained on too")


def test_the_recipe_chooses_the_metric_and_the_task_the_targets(tmp_path):
    asked = []

    def opener(data, target, notify):
        asked.append((data, target))
        return open_data(data, target, notify)

    recipe = TINY.with_overrides({"task.metric": "nll", "training.epochs": 1, "attention.mechanism": "none"})
    result = train(recipe, tmp_path, device="cpu", opener=opener)
    assert asked == [(TINY.data, "label")]
    assert result["metric"] == "NLL"
    assert result["score"] == f"{result['scores']['NLL']:.3f} nats"


def test_bf16_and_adamw_run(straight, tmp_path):
    recipe = TINY.with_overrides({"training.precision": "bf16", "training.optimizer": "adamw", "training.lr": 0.002})
    result = train(recipe, tmp_path, device="cpu")
    assert result["diverged"] is None
    assert not same_run(straight[0], tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} <= {
        torch.float32, torch.int64,
    }  # fmt: skip


def test_a_run_that_diverges_says_where_and_keeps_what_it_had(tmp_path, split):
    recipe = TINY.with_overrides({"training.lr": 1e30, "training.warmup_epochs": 0})
    result = train(recipe, tmp_path, device="cpu")
    place = result["diverged"]
    assert (place["epoch"], place["step"], result["epochs"]) == (1, 2, 0)
    assert place["where"] in dict(network_of(recipe, split).named_modules()) or place["what"] != "output"
    assert place["message"].startswith("diverged in epoch 1, at step 2: the ")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    initial = network_of(recipe, split).state_dict()
    saved = load_file(tmp_path / "model.safetensors")
    assert_weights_equal(saved, initial)
    assert result["scores"] == rows(tmp_path)[0]["scores"]
    assert train(recipe, tmp_path, device="cpu") == result


def test_a_network_that_diverges_in_its_last_step_is_found_by_the_test(tmp_path):
    recipe = TINY.with_overrides({
        "training.lr": 1e30, "training.warmup_epochs": 0, "training.batch_size": 90, "training.epochs": 1,
    })  # fmt: skip
    place = train(recipe, tmp_path, device="cpu")["diverged"]
    assert (place["epoch"], place["step"]) == (1, 0)
    assert place["message"].startswith("diverged in epoch 1, at the test images: the ")


def test_a_score_that_is_no_number_before_training_is_not_divergence(tmp_path, split, monkeypatch):
    """Only trained networks diverge; a host may start with one infinite variance."""

    def spoilt(task):
        network = build(task)
        network.fc.bias.data[3] = torch.nan
        return network

    monkeypatch.setattr("saccade.training.preparing.build", spoilt)
    result = train(TINY, tmp_path, device="cpu", opener=lambda *_: split)
    assert rows(tmp_path)[0]["scores"]["NLL"] is None
    assert (result["diverged"]["epoch"], result["diverged"]["step"]) == (1, 1)
    assert result["scores"]["NLL"] is None
    assert json.loads((tmp_path / "done.json").read_text()) == result


class Forbidden:
    """Images that fail the test if they are read."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        raise AssertionError("the validation part was looked at")


def test_the_validation_part_is_neither_trained_on_nor_scored(straight, tmp_path, split):
    three = dataclasses.replace(split, val=Forbidden())
    train(TINY, tmp_path, device="cpu", opener=lambda *_: three)
    assert_same_run(straight[0], tmp_path)
    assert [row for row in rows(tmp_path) if "val" in row] == []


def test_a_plug_that_ignores_the_image_is_named_at_the_end(straight, tmp_path, monkeypatch):
    def dead(task):
        network = build(task)
        saccade.plugs(network)[1].module.mechanism.squeeze.bias.data.fill_(-1e4)
        return network

    assert straight[1]["constant"] == {}
    monkeypatch.setattr("saccade.training.preparing.build", dead)
    result = train(TINY, tmp_path / "run", device="cpu")
    assert result["constant"] == {"layer2": "gate"}
    assert done(tmp_path / "run")["constant"] == {"layer2": "gate"}


def test_nothing_else_is_written_printed_or_changed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    filters, level, threads = warnings.filters[:], logging.getLogger("lightning.pytorch").level, torch.get_num_threads()
    torch.set_num_threads(2)
    train(TINY.with_overrides({"training.epochs": 1}), Path("run"), device="cpu")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert logging.getLogger("lightning.pytorch").level == level
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_mistake_leaves_no_folder(tmp_path):
    for change, device, words in (
        ({"model.name": "nonet"}, "cpu", "nonet"),
        ({}, "cuda:97", "cuda:97"),
        ({"task.metric": "top1"}, "cpu", "no such metric. Did you mean 'top-1'"),
        ({"task.name": "classfy"}, "cpu", "no task 'classfy'. Did you mean 'classify'"),
    ):
        with pytest.raises(UserError, match=words):
            train(TINY.with_overrides(change), tmp_path / "a" / "b", device=device)
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_enough_classes_has_no_top_5(tmp_path, split):
    three = dataclasses.replace(split, classes=["a", "b", "c"])
    assert [metric.name for metric in Classify(TINY, three).applicable_metrics()] == ["top-1", "NLL"]
    recipe = TINY.with_overrides({"task.metric": "top-5"})
    with pytest.raises(UserError, match=r"no such metric.*There are top-1, NLL\."):
        train(recipe, tmp_path / "run", device="cpu", opener=lambda *_: three)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "mechanism", "warns"),
    [("segment", "stn", True), ("segment", "shuffle", False), ("segment", "none", False), ("classify", "stn", False)],
)
def test_a_mechanism_that_moves_features_warns_if_targets_are_positions(tmp_path, task, mechanism, warns):
    recipe = TINY.with_overrides({"task.name": task, "attention.mechanism": mechanism, "attention.where": "stage[0]"})
    heard, listen = listener(until=lambda event: isinstance(event, TrainingBegan))
    with pytest.raises(Killed):
        train(recipe.with_overrides({"data.augment": []}), tmp_path, device="cpu", notify=listen)
    sentences = [event.text for event in heard if isinstance(event, Caution)]
    moved = [sentence for sentence in sentences if "moves features away from their positions" in sentence]
    assert len(moved) == warns, sentences
