"""Runs of the controls ``noise`` and ``shuffled``: initialisation, weights and order of test images."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

import saccade
from saccade.recipe import Recipe
from saccade.training import train
from saccade.training.network import actual_start, requested_start
from tiny_runs import Killed, after, assert_weights_equal, listener, network_of, opened, rows

TINY = Recipe().with_overrides(
    {
        "data.size": 24,
        "data.train_images": 60,
        "data.test_images": 37,
        "model.options": {"width": 4},
        "attention.mechanism": "se:rd_ratio=0.5",
        "attention.where": "stage",
        "training.epochs": 2,
        "training.batch_size": 9,  # the last of five test batches holds one image
    }
)


@pytest.fixture(scope="module")
def split():
    return opened(TINY)


@pytest.mark.parametrize(
    ("mechanism", "control", "starts"),
    [
        ("se:rd_ratio=0.5", None, ("paper", "paper", "neutral")),
        ("se:rd_ratio=0.5", "extra", ("neutral", "neutral", "neutral")),
        ("se:rd_ratio=0.5", "noise", ("paper", "paper", "neutral")),
        ("se:rd_ratio=0.5", "shuffled", ("paper", "paper", "neutral")),
        ("gc", None, ("neutral", "neutral", "neutral")),  # the identity by itself; what stands in its place is, too
        ("gc", "extra", ("neutral", "neutral", "neutral")),
        ("gc", "noise", ("neutral", "neutral", "neutral")),
        ("gc", "shuffled", ("neutral", "neutral", "neutral")),
    ],
)
def test_how_it_started_is_read_off_the_plugs(split, mechanism, control, starts):
    """The actual start is read from the network, whatever the recipe requests."""
    plain = network_of(TINY.with_overrides({"attention.mechanism": "none"}), split).eval()
    x = torch.stack([split.test[n][0] for n in range(6)])
    assert actual_start(plain) is None
    for start, said in zip(("auto", "paper", "neutral"), starts, strict=True):
        asked = {"attention.mechanism": mechanism, "attention.control": control, "attention.start": start}
        network = network_of(TINY.with_overrides(asked), split).eval()
        assert actual_start(network) == said
        assert torch.equal(network(x), plain(x)) is (said == "neutral")


def test_what_is_asked_of_a_control_is_asked_of_its_mechanism():
    for control in (None, "extra", "noise", "shuffled"):
        asked = TINY.with_overrides({"attention.control": control})
        recipes = [asked.with_overrides({"attention.start": start}) for start in ("auto", "paper", "neutral")]
        starts = [requested_start(recipe) for recipe in recipes]
        assert starts == ["paper", "paper", "neutral"]
        assert requested_start(asked.with_overrides({"model.pretrained": True})) == "neutral"


@pytest.mark.parametrize("control", ["extra", "noise", "shuffled"])
def test_over_a_checkpoint_a_control_starts_as_that_host(split, tmp_path, control):
    host = network_of(TINY.with_overrides({"attention.mechanism": "none", "training.seed": 9}), split).eval()
    saccade.save(host, tmp_path / "host", classes=split.classes)
    recipe = TINY.with_overrides({
        "model.checkpoint": str(tmp_path / "host" / "model.safetensors"), "attention.start": "neutral",
        "attention.control": control, "training.epochs": 1,
    })  # fmt: skip
    network = network_of(recipe, split).eval()
    assert_weights_equal(network.state_dict(), host.state_dict())
    x = torch.stack([split.test[n][0] for n in range(6)])
    torch.testing.assert_close(network(x), host(x), rtol=0, atol=0)
    result = train(recipe, tmp_path / "run", device="cpu")
    assert result["start"] == "neutral"
    trained = saccade.load(tmp_path / "run").eval()
    assert not torch.equal(trained(x), host(x))
    # noise is fixed; what learns is its share, and the bottleneck, and the gate of the neighbour
    moved = [row.module.a for row in saccade.plugs(trained)]
    assert [a for a in moved if (a is not None if control == "extra" else a.item() == 0)] == []


@pytest.mark.parametrize("control", ["noise", "shuffled"])
def test_a_killed_run_of_a_control_ends_as_one_that_was_not(tmp_path, control):
    recipe = TINY.with_overrides({"attention.control": control, "attention.start": "neutral", "training.lr": 0.01})

    _, kill = listener(until=after(1))
    train(recipe, tmp_path / "straight", device="cpu")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", device="cpu", notify=kill)
    assert (tmp_path / "killed/resume.pt").exists()
    train(recipe, tmp_path / "killed", device="cpu")
    train(recipe.with_overrides({"training.seed": 1}), tmp_path / "other", device="cpu")
    for name in ("model.safetensors", "rows.safetensors"):
        straight, killed, other = ((tmp_path / run / name).read_bytes() for run in ("straight", "killed", "other"))
        assert straight == killed
        assert straight != other


@pytest.mark.parametrize("control", ["noise", "shuffled"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_the_host_under_a_control_is_that_of_its_block(split, control, start):
    plain = network_of(TINY.with_overrides({"attention.mechanism": "none"}), split)
    network = network_of(TINY.with_overrides({"attention.control": control, "attention.start": start}), split)
    state = network.state_dict()
    assert_weights_equal(state, plain.state_dict())
    x = torch.stack([split.test[n][0] for n in range(6)])
    assert torch.equal(network.eval()(x), plain.eval()(x)) is (start == "neutral")


def test_a_shuffled_mechanism_has_the_weights_of_the_arm_it_controls(split):
    real, control = (
        network_of(TINY.with_overrides({"attention.control": which}), split) for which in (None, "shuffled")
    )
    for one, other in zip(saccade.plugs(real), saccade.plugs(control), strict=True):
        ours, theirs = one.module.mechanism.state_dict(), other.module.mechanism.mechanism.state_dict()
        assert_weights_equal(theirs, ours)


def test_noise_is_drawn_once_per_seed_and_stays(split, tmp_path):
    recipe = TINY.with_overrides({"attention.control": "noise"})
    before, again, other = (
        [
            row.module.mechanism.noise
            for row in saccade.plugs(network_of(recipe.with_overrides({"training.seed": seed}), split))
        ]
        for seed in (0, 0, 1)
    )
    torch.testing.assert_close(again, before, rtol=0, atol=0)
    assert not any(map(torch.equal, before, other))
    result = train(recipe, tmp_path / "run", device="cpu")
    after = [row.module.mechanism.noise for row in saccade.plugs(saccade.load(tmp_path / "run"))]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert result["start"] == "paper"


def test_a_shuffled_run_sees_the_test_images_mixed_and_reports_them_in_their_order(split, tmp_path):
    folder, patients = tmp_path / "run", [f"patient {7 * n % 10}" for n in range(37)]
    grouped = copy.copy(split.test)
    grouped.groups = patients
    recipe, images = TINY.with_overrides({"attention.control": "shuffled"}), dataclasses.replace(split, test=grouped)
    result = train(recipe, folder, device="cpu", opener=lambda *_: images)
    network = saccade.load(folder)
    saved = load_file(folder / "rows.safetensors")
    assert saved["label"].tolist() == [split.test.target(n) for n in range(37)]
    assert saved["group"].dtype == torch.int64
    assert [f"patient {code}" for code in saved["group"].tolist()] == patients
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0)).tolist()

    def predicted(order):
        found = {}
        for start in range(0, 37, 9):
            batch = order[start : start + 9]
            with torch.no_grad():
                scores = network(torch.stack([split.test[n][0] for n in batch]))
            found |= dict(zip(batch, scores.argmax(1).tolist(), strict=True))
        return [found[n] for n in range(37)]

    assert saved["predicted"].tolist() == predicted(order)
    right = (saved["predicted"] == saved["label"]).double()
    assert result["scores"]["top-1"] == pytest.approx(100 * right.mean().item())
    assert {site["kind"] for row in rows(folder) for site in row["gates"].values()} == {"gate"}


def test_other_runs_see_them_as_they_lie():
    from saccade.training.loaders import shuffled_order

    for control in (None, "extra", "noise"):
        assert shuffled_order(TINY.with_overrides({"attention.control": control}), 37) is None
    order = shuffled_order(TINY.with_overrides({"attention.control": "shuffled"}), 37)
    assert sorted(order) == list(range(37))
    assert order != sorted(order)
    assert order == shuffled_order(TINY.with_overrides({"attention.control": "shuffled", "training.seed": 5}), 37)
