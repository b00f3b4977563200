"""Phases of a training, from the recipe or the network, and the loss of a network."""

import dataclasses
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from saccade.data.samples import ImageSet
from saccade.errors import UserError
from saccade.tasks.base import Phase
from saccade.training import build, loaders, train
from saccade.training.fingerprint import fingerprint_with_val
from saccade.training.schedules import lr_factor
from tiny_runs import TINY, Killed, after, assert_same_run, done, listener, rows, same_run

# Rates at which the head soon gets worse again: the epoch that is kept is not the last.
RECIPE = TINY.with_overrides({"training.lr": 3.0, "task.metric": "NLL", "training.warmup_epochs": 0.5})
HEAD = Phase("head", 3, ("fc.*",), choose=True)
LAST_STAGE = Phase("last stage", 2, ("layer4.*",))


@pytest.fixture(scope="module")
def three(split):
    """Images with three splits."""
    count = 30
    pictures = torch.stack([split.train.raw_image(i) for i in range(count)])
    targets = [split.train.target(i) for i in range(count)]
    return dataclasses.replace(split, val=ImageSet(pictures, targets, split.mean, split.std))


@pytest.fixture
def train_in(monkeypatch, three):
    """Function that trains in given phases."""

    def call(folder, *phases, notify=None, split=three, recipe=RECIPE):
        def phased(task):
            network = build(task)
            network.training_phases = lambda: phases
            return network

        monkeypatch.setattr("saccade.training.preparing.build", phased)
        return train(recipe, folder, device="cpu", notify=notify, opener=lambda *_: split)

    return call


@pytest.fixture(scope="module")
def phased(tmp_path_factory, three):
    """Folder of a run with two phases, and the network after each epoch."""
    folder, networks = tmp_path_factory.mktemp("phased"), []

    def listen(event):
        if any(after(epoch)(event) for epoch in range(6)):
            networks.append(torch.load(folder / "resume.pt", weights_only=True)["network"])

    with pytest.MonkeyPatch.context() as patch:

        def two(task):
            network = build(task)
            network.training_phases = lambda: (HEAD, LAST_STAGE)
            return network

        patch.setattr("saccade.training.preparing.build", two)
        train(RECIPE, folder, device="cpu", notify=listen, opener=lambda *_: three)
    return folder, networks


def moved(one, other):
    """Return the first parts of the names of tensors that differ."""
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], other[name])}


def test_what_is_frozen_does_not_move_and_keeps_its_statistics(phased):
    _, networks = phased
    before, *head = networks[:4]
    assert [moved(one, other) for one, other in pairwise([before, *head])] == [{"fc"}] * 3
    assert moved(networks[3], networks[5]) >= {"layer4"}
    assert moved(networks[4], networks[5]) == {"layer4"}
    last = {name for name in before if name.startswith("layer4.") and not torch.equal(networks[4][name], before[name])}
    assert {"layer4.0.conv2.weight", "layer4.0.bn2.running_mean", "layer4.0.bn2.weight"} <= last


def best_of(folder):
    """Return the epoch of the first phase with the best validation score."""
    return min(rows(folder)[1:4], key=lambda row: row["val"]["NLL"])["epoch"]


def test_training_goes_on_from_the_best_epoch(phased):
    folder, networks = phased
    best = best_of(folder)
    assert best < 3
    final = load_file(folder / "model.safetensors")
    torch.testing.assert_close(final["fc.weight"], networks[best]["fc.weight"], rtol=0, atol=0)
    assert not torch.equal(final["fc.weight"], networks[3]["fc.weight"])
    assert done(folder)["epochs"] == 5


def test_the_rows_name_their_phase(phased):
    table = rows(phased[0])
    assert [row["phase"] for row in table] == ["head"] * 4 + ["last stage"] * 2
    assert ["val" in row for row in table] == [False, True, True, True, False, False]
    # Each phase has a schedule of its own, of three steps an epoch.
    part = RECIPE.training
    expected = [lr_factor(step, 3, 3, part) for step in (2, 5, 8)] + [lr_factor(step, 3, 2, part) for step in (2, 5)]
    assert [row["lr"] for row in table[1:]] == pytest.approx([3.0 * factor for factor in expected])


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_run_killed_within_or_between_phases_ends_in_the_same_bytes(phased, tmp_path, train_in, epoch):
    _, listen = listener(until=after(epoch))
    with pytest.raises(Killed):
        train_in(tmp_path, HEAD, LAST_STAGE, notify=listen)
    heard, listen = listener()
    train_in(tmp_path, HEAD, LAST_STAGE, notify=listen)
    assert heard[0].epoch == epoch
    assert_same_run(phased[0], tmp_path)


def test_a_chosen_average_is_what_is_handed_on_also_after_a_kill(phased, tmp_path, train_in):
    averaged = RECIPE.with_overrides({"training.ema_decay": 0.9})
    folders, states = [tmp_path / "straight", tmp_path / "killed"], {}

    def listen(event):
        for epoch in (1, 2, 3, 4):
            if after(epoch)(event):
                states[epoch] = torch.load(folders[0] / "resume.pt", weights_only=True)

    train_in(folders[0], HEAD, LAST_STAGE, recipe=averaged, notify=listen)
    best = best_of(folders[0])
    torch.testing.assert_close(states[4]["network"]["fc.weight"], states[best]["average"]["fc.weight"], rtol=0, atol=0)
    assert not torch.equal(states[4]["network"]["fc.weight"], states[best]["network"]["fc.weight"])
    _, stop = listener(until=after(3))
    with pytest.raises(Killed):
        train_in(folders[1], HEAD, LAST_STAGE, recipe=averaged, notify=stop)
    train_in(folders[1], HEAD, LAST_STAGE, recipe=averaged)
    assert_same_run(*folders)
    assert not same_run(phased[0], folders[0])


def test_the_phases_of_a_recipe_are_those_of_a_network(phased, tmp_path, three):
    """The same two phases, written in the recipe, end in the same bytes."""
    phases = [
        {"name": "head", "epochs": 3, "trainable": ["fc.*"], "choose": True},
        {"name": "last stage", "epochs": 2, "trainable": ["layer4.*"]},
    ]
    recipe = RECIPE.with_overrides({"training.phases": phases, "training.epochs": 5})
    train(recipe, tmp_path / "run", device="cpu", opener=lambda *_: three)
    assert_same_run(phased[0], tmp_path / "run")
    slower = [{**phases[0], "lr": 0.03}, phases[1]]
    train(recipe.with_overrides({"training.phases": slower}), tmp_path / "slow", device="cpu", opener=lambda *_: three)
    assert not same_run(phased[0], tmp_path / "slow")
    rates = [[row["lr"] for row in rows(folder)[1:]] for folder in (phased[0], tmp_path / "slow")]
    assert rates[1] == pytest.approx([0.01 * rate for rate in rates[0][:3]] + rates[0][3:])


def test_the_phases_of_a_network_and_of_a_recipe_exclude_each_other(tmp_path, train_in):
    recipe = RECIPE.with_overrides({"training.phases": [{"name": "all", "epochs": 2}]})
    with pytest.raises(UserError, match=r"its own training phases \(head, last stage\); remove training\.phases"):
        train_in(tmp_path / "run", HEAD, LAST_STAGE, recipe=recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_last_phase_that_chooses_ends_with_its_best_epoch(phased, tmp_path, train_in):
    result = train_in(tmp_path, HEAD)
    best = best_of(tmp_path)
    assert result["epochs"] == best == best_of(phased[0])
    assert result["scores"] == rows(tmp_path)[best]["scores"] != rows(tmp_path)[3]["scores"]
    saved = load_file(tmp_path / "model.safetensors")
    assert moved(saved, phased[1][best]) == set()
    assert "phase" not in rows(tmp_path)[1]  # there is but one


def test_without_a_validation_part_nothing_can_be_chosen(tmp_path, train_in, split):
    with pytest.raises(
        UserError, match="the phase 'head' chooses its best epoch on validation images; the data have no"
    ):
        train_in(tmp_path / "run", HEAD, LAST_STAGE, split=split)
    assert list(tmp_path.iterdir()) == []


def changed(split, part):
    """Return the images with one pixel or target of a split changed."""
    images = getattr(split, part.removesuffix(" target"))
    pictures = torch.stack([images.raw_image(i) for i in range(len(images))])
    targets = [images.target(i) for i in range(len(images))]
    if part.endswith("target"):
        targets[7] = (targets[7] + 1) % len(split.classes)
    else:
        pictures[7, 0, 3, 3] ^= 1
    return dataclasses.replace(split, val=ImageSet(pictures, targets, split.mean, split.std))


@pytest.mark.parametrize("part", ["val", "val target"])
def test_a_run_that_chooses_knows_the_images_it_chooses_by(tmp_path, train_in, three, part):
    _, listen = listener(until=after(1))
    with pytest.raises(Killed):
        train_in(tmp_path, HEAD, notify=listen)
    with pytest.raises(UserError, match="the images changed since this run began"):
        train_in(tmp_path, HEAD, split=changed(three, part))
    again = dataclasses.replace(three)
    assert train_in(tmp_path, HEAD, split=again)["fingerprint"] == fingerprint_with_val(three) != three.fingerprint


def test_a_run_that_does_not_choose_does_not_look_at_them(tmp_path, train_in, three):
    _, listen = listener(until=after(1))
    with pytest.raises(Killed):
        train_in(tmp_path, LAST_STAGE, notify=listen)
    result = train_in(tmp_path, LAST_STAGE, split=changed(three, "val"))
    assert result["fingerprint"] == three.fingerprint


@pytest.mark.parametrize("control", [None, "shuffled"])
def test_the_images_to_choose_by_are_shuffled_as_those_of_the_test(tmp_path, train_in, three, monkeypatch, control):
    seen = {}

    def spied(images, *args, **order):
        seen[id(images)] = order.get("sampler")
        return loader(images, *args, **order)

    loader = loaders.image_loader
    monkeypatch.setattr(loaders, "image_loader", spied)
    train_in(tmp_path, HEAD, recipe=RECIPE.with_overrides({"attention.control": control}))
    for images in (three.test, three.val):
        assert (seen[id(images)] is None) is (control is None)
        assert sorted(seen[id(images)] or range(len(images))) == list(range(len(images)))


def test_a_phase_that_trains_nothing_is_found_before_training(tmp_path, train_in):
    with pytest.raises(
        UserError,
        match=r"'neck' trains neck\.\*: these globs match no trainable parameter.*begin with conv1, bn1, layer1",
    ):
        train_in(tmp_path / "run", HEAD, Phase("neck", 1, ("neck.*",)))
    assert list(tmp_path.iterdir()) == []


def test_a_phase_of_frozen_parameters_alone_says_what_froze_them(tmp_path, train_in):
    frozen = RECIPE.with_overrides({"training.freeze": ["layer*.conv1.*"]})
    with pytest.raises(UserError, match=r"'early' trains \*\.conv1\.\*: training\.freeze.* layer1\.0\.conv1"):
        train_in(tmp_path / "run", HEAD, Phase("early", 1, ("*.conv1.*",)), recipe=frozen)
    assert list(tmp_path.iterdir()) == []


def train_by(rule, folder, monkeypatch, split):
    def own(task):
        network = build(task)
        network.training_loss = lambda images, labels: rule(F.cross_entropy(network(images), labels))
        return network

    monkeypatch.setattr("saccade.training.preparing.build", own)
    return train(TINY, folder, device="cpu", opener=lambda *_: split)


def test_a_network_may_have_its_own_loss(straight, split, tmp_path, monkeypatch):
    train_by(lambda loss: {"one": loss / 2, "other": loss / 2}, tmp_path / "halves", monkeypatch, split)
    model = "model.safetensors"
    assert (tmp_path / "halves" / model).read_bytes() == (straight[0] / model).read_bytes()
    for row, known in zip(rows(tmp_path / "halves")[1:], rows(straight[0])[1:], strict=True):
        assert row["losses"].keys() == {"one", "other"}
        assert sum(row["losses"].values()) == pytest.approx(known["losses"]["cross-entropy"], rel=1e-12)
        assert row["scores"] == known["scores"]
    train_by(lambda loss: {"more": 1.1 * loss}, tmp_path / "more", monkeypatch, split)
    assert (tmp_path / "more" / model).read_bytes() != (straight[0] / model).read_bytes()


def test_its_own_loss_may_diverge(split, tmp_path, monkeypatch):
    result = train_by(lambda loss: {"one": loss, "other": loss * torch.inf}, tmp_path, monkeypatch, split)
    place = result["diverged"]
    assert (place["epoch"], place["step"], place["what"], place["where"]) == (1, 1, "loss", "")
