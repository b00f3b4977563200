"""Each key of a recipe changes the training as in plain PyTorch."""

import dataclasses
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.utils.model_ema import ModelEmaV3
from torchvision.transforms import v2

import saccade
from saccade.data import open_data
from saccade.data.samples import collate
from saccade.data.sampling import EpochSampler, seeded
from saccade.errors import UserError
from saccade.models import create_host
from saccade.recipe import Model
from saccade.surgery import parameter_groups
from saccade.tasks.classify import Classify
from saccade.tasks.segment import Segment
from saccade.training import build, train
from saccade.training.distilling import Teacher
from saccade.training.network import derive_seed
from saccade.training.optimizers import clip_gradients
from tiny_runs import TINY, Killed, after, assert_same_run, assert_weights_equal, listener, network_of, rows, same_run

ONE = TINY.with_overrides({"training.epochs": 1})


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Folder of one epoch of the tiny recipe."""
    folder = tmp_path_factory.mktemp("one")
    train(ONE, folder, device="cpu")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "rmsprop", "lr": 0.001},
        {"nesterov": True},
        {"schedule": "exponential", "gamma": 0.5},
        {"clip_norm": 0.1},
        {"ema_decay": 0.5},
        {"mixup_alpha": 0.4},
        {"cutmix_alpha": 1.0},
        {"phases": [{"name": "all", "epochs": 1, "lr": 0.01}]},
        {"phases": [{"name": "host", "epochs": 1, "trainable": ["!*.saccade.*"]}]},
        {"data.augment": ["crop", "randaugment"]},
        {"data.augment": ["crop", "trivialaugment"]},
        {"data.augment": ["crop", "autoaugment_cifar10"]},
        {"model.options": {"width": 4, "drop_rate": 0.2, "drop_path_rate": 0.5}},
    ],
    ids="-".join,
)
def test_it_changes_the_training(one, tmp_path, changes):
    settings = {key if "." in key else f"training.{key}": value for key, value in changes.items()}
    train(ONE.with_overrides(settings), tmp_path, device="cpu")
    model = "model.safetensors"
    assert (tmp_path / model).read_bytes() != (one / model).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 1e9},
        {"schedule": "constant", "warmup_epochs": 0.0, "phases": [{"name": "all", "epochs": 1, "lr": 0.05}]},
    ],
    ids="-".join,
)
def test_what_never_comes_into_play_changes_no_bit(tmp_path, changes):
    still = {key: value for key, value in changes.items() if key in ("schedule", "warmup_epochs")}
    folders = []
    for name, some in (("with", changes), ("without", still)):
        folders.append(tmp_path / name)
        train(ONE.with_overrides({f"training.{k}": v for k, v in some.items()}), folders[-1], device="cpu")
    assert_same_run(*folders)


def test_gradients_are_clipped_in_float32_under_bf16_too(tmp_path, monkeypatch):
    seen = []

    def spied(parameters, norm):
        parameters = [p for p in parameters if p.grad is not None]
        before = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        clip_gradients(parameters, norm)
        after_it = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        seen.append((float(before), float(after_it), {p.grad.dtype for p in parameters}))

    monkeypatch.setattr("saccade.training.module.clip_gradients", spied)
    train(ONE.with_overrides({"training.precision": "bf16", "training.clip_norm": 0.1}), tmp_path, device="cpu")
    assert len(seen) == 3
    for before, after_it, dtypes in seen:
        assert before > 0.2
        assert after_it == pytest.approx(0.1, rel=1e-3)
        assert dtypes == {torch.float32}


def test_it_is_the_loop_anybody_would_write(straight, tmp_path, split):
    """Two epochs in plain PyTorch and timm give the same bits."""
    recipe = TINY.with_overrides({
        "data.augment": ["randaugment"], "model.options": {"width": 4}, "attention.lr_factor": 3.0,
        "training.optimizer": "rmsprop", "training.rmsprop_alpha": 0.9, "training.eps": 0.01, "training.lr": 0.02,
        "training.schedule": "step", "training.step_epochs": 1, "training.gamma": 0.5, "training.warmup_epochs": 0,
        "training.clip_norm": 0.5, "training.mixup_alpha": 0.4, "training.ema_decay": 0.6,
        "training.teacher": str(straight[0]), "training.distill_alpha": 0.3, "training.distill_temperature": 2.0,
    })  # fmt: skip
    train(recipe, tmp_path / "run", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = network_of(recipe, split).train()
    teacher, average = saccade.load(straight[0]), ModelEmaV3(network, decay=0.6, use_warmup=True)
    optimizer = torch.optim.RMSprop(
        parameter_groups(network, 0.02, 0.06, 5e-4), lr=0.02, alpha=0.9, eps=0.01, momentum=0.9
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    mix = v2.RandomChoice([v2.MixUp(alpha=0.4, num_classes=10)])
    sampler = EpochSampler(split.train, 0, 31)
    split.train.augmentations, before = ("randaugment",), split.train.augmentations
    number, losses = 0, []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        total = 0.0
        for step, keys in enumerate(sampler):
            images, labels = zip(*(split.train[key] for key in keys), strict=True)
            with seeded(derive_seed(0, "mix", epoch, step)):
                images, shares = mix(torch.stack(images), torch.tensor(labels))
            logits = network(images)
            with torch.no_grad():
                known = (teacher(images) / 2).log_softmax(1)
            distilled = F.kl_div((logits / 2).log_softmax(1), known, reduction="none", log_target=True).sum(1).mean()
            loss = (1 - 0.3) * F.cross_entropy(logits, shares) + 0.3 * 2.0**2 * distilled
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            number += 1
            average.update(network, step=number)
            total += loss.item() * len(keys)
        scheduler.step()
        losses.append(total / 90)
    split.train.augmentations = before
    torch.set_num_threads(threads)
    found, expected = load_file(tmp_path / "run/model.safetensors"), average.module.state_dict()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert any(not torch.equal(found[key], value) for key, value in network.state_dict().items())
    assert [sum(row["losses"].values()) for row in rows(tmp_path / "run")[1:]] == pytest.approx(losses, rel=1e-6)
    assert rows(tmp_path / "run")[1]["losses"].keys() == {"cross-entropy", "distillation"}


def test_the_average_is_what_is_scored_and_what_a_phase_hands_on(tmp_path, split):
    phases = [{"name": "one", "epochs": 1}, {"name": "other", "epochs": 1, "trainable": ["fc.*"]}]
    recipe = TINY.with_overrides({"training.ema_decay": 0.9, "training.phases": phases})
    states = []

    def listen(event):
        if any(after(epoch)(event) for epoch in (1, 2)):
            states.append(torch.load(tmp_path / "resume.pt", weights_only=True))

    train(recipe, tmp_path, device="cpu", notify=listen)
    first, second = states
    name = "layer1.0.conv1.weight"
    assert not torch.equal(first["network"][name], first["average"][name])
    torch.testing.assert_close(second["network"][name], first["average"][name], rtol=0, atol=0)  # frozen since
    saved = load_file(tmp_path / "model.safetensors")
    assert_weights_equal(saved, second["average"])
    task = Classify(recipe, split)
    network = build(task)
    for state, equal in ((first["average"], True), (first["network"], False)):
        network.load_state_dict(state)
        with torch.no_grad():
            logits = network.eval()(task.images(range(37)))
        found = float(F.cross_entropy(logits, first["test"]["label"].long()))
        assert (found == pytest.approx(rows(tmp_path)[1]["scores"]["NLL"], rel=1e-5)) is equal


def test_the_average_forgets_the_first_weights_of_a_short_run(tmp_path, split):
    """A constant decay of 0.9999 would hardly change the initial weights."""
    recipe = ONE.with_overrides({"training.ema_decay": 0.9999, "training.schedule": "constant"})
    state = {}

    def listen(event):
        if after(1)(event):
            state.update(torch.load(tmp_path / "resume.pt", weights_only=True))

    train(recipe, tmp_path, device="cpu", notify=listen)
    first = network_of(recipe, split).state_dict()
    name = "layer4.0.conv2.weight"
    moved = (state["network"][name] - first[name]).norm()
    assert (state["average"][name] - first[name]).norm() > 0.3 * moved > 0


# ---- stochastic depth


def test_stochastic_depth_reaches_a_network_of_timm_and_leaves_its_answers_alone():
    images = torch.rand(4, 3, 32, 32)
    networks = []
    for rate in (0.0, 0.5):
        torch.manual_seed(0)
        networks.append(create_host(Model(name="resnet18", options={"drop_path_rate": rate}), 10, 3))
    plain, deep = networks
    for value in plain.state_dict().values():  # fresh, every residual branch would be 0
        if value.is_floating_point():
            value.uniform_(0.1, 0.3)
    deep.load_state_dict(plain.state_dict())
    assert sum(isinstance(m, timm.layers.DropPath) and m.drop_prob > 0 for m in deep.modules()) == 7
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), deep.eval()(images), rtol=0, atol=0)
        assert not torch.equal(plain.train()(images), deep.train()(images))


def test_a_host_without_stochastic_depth_says_so():
    with pytest.raises(UserError, match="VGG has no option 'drop_path_rate'"):
        create_host(Model(name="vgg11", options={"drop_path_rate": 0.1}), 10, 3)


# ---- a teacher


def test_a_teacher_may_be_a_network_of_timm_with_its_weights(straight, tmp_path, split):
    """A teacher gives the same result as a folder and as a file."""
    bare = TINY.with_overrides({"attention.mechanism": "none", "model.options": {}, "training.epochs": 1})
    train(bare, tmp_path / "teacher", device="cpu")
    folder, file = str(tmp_path / "teacher"), str(tmp_path / "teacher" / "model.safetensors")
    by_folder = ONE.with_overrides({"training.teacher": folder})
    by_file = ONE.with_overrides({"training.teacher": "resnet10_small", "training.teacher_checkpoint": file})
    train(by_folder, tmp_path / "one", device="cpu")
    train(by_file, tmp_path / "other", device="cpu")
    assert_same_run(tmp_path / "one", tmp_path / "other")
    assert not same_run(straight[0], tmp_path / "one")


def test_a_teacher_of_masks_teaches_pixel_by_pixel(tmp_path):
    dense = ONE.with_overrides({"task.name": "segment", "attention.mechanism": "none"})
    train(dense, tmp_path / "teacher", device="cpu")
    recipe = dense.with_overrides({"training.teacher": str(tmp_path / "teacher"), "training.seed": 1})
    data = open_data(recipe.data, "mask")
    task = Segment(recipe, data)
    network, teacher = build(task).eval(), saccade.load(tmp_path / "teacher")
    images, masks = collate([data.train[i] for i in range(4)])
    with torch.no_grad():
        parts = Teacher.from_task(task).loss(task, network, images, masks)
        plain = task.loss(network, images, masks)
        learnt, known = ((n(images) / 4).log_softmax(1) for n in (network, teacher))
    divergence = (known.exp() * (known - learnt)).sum(1).mean()
    assert float(parts["distillation"]) == pytest.approx(0.5 * 16 * float(divergence), rel=1e-4)
    assert float(parts["cross-entropy"]) == pytest.approx(0.5 * float(plain["cross-entropy"]))
    assert train(recipe, tmp_path / "run", device="cpu")["diverged"] is None


def test_a_teacher_of_other_colours_sees_its_own(straight, tmp_path, split):
    recipe = TINY.with_overrides({"training.teacher": str(straight[0])})
    other = dataclasses.replace(split, mean=(0.1,) * len(split.mean), std=(0.7,) * len(split.std))
    image = torch.rand(2, len(split.mean), 24, 24)
    shown = [(image - torch.tensor(s.mean)[:, None, None]) / torch.tensor(s.std)[:, None, None] for s in (split, other)]
    teachers = [Teacher.from_task(Classify(recipe, s)) for s in (split, other)]
    answers = [teacher._logits(images) for teacher, images in zip(teachers, shown, strict=True)]
    assert torch.allclose(*answers, atol=1e-5)
    assert not torch.allclose(answers[0], teachers[0]._logits(shown[1]), atol=1e-2)


def test_a_run_does_not_go_on_with_another_teacher(straight, one, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((straight[0] / name).read_bytes())
    recipe = TINY.with_overrides({"training.teacher": str(tmp_path)})
    _, listen = listener(until=after(1))
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", device="cpu", notify=listen)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((one / name).read_bytes())
    with pytest.raises(UserError, match="the teacher changed since this run began"):
        train(recipe, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher": "nowhere"}, "neither a folder nor a timm model"),
        ({"teacher": "resnet18"}, r"set training\.teacher_checkpoint to the file"),
        ({"teacher": "resnet18", "teacher_checkpoint": "none.safetensors"}, "not a readable safetensors file"),
        ({"teacher": "resnet18", "teacher_checkpoint": "{run}/model.safetensors"}, "does not fit a resnet18"),
        ({"teacher": "{run}", "teacher_checkpoint": "{run}/model.safetensors"}, "has weights"),
        ({"teacher": "{here}"}, "holds no saved network"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(straight, tmp_path, settings, words):
    filled = {f"training.{k}": v.format(run=straight[0], here=tmp_path) for k, v in settings.items()}
    with pytest.raises(UserError, match=words):
        train(TINY.with_overrides(filled), tmp_path / "run", device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("facts", [{"mean": "abc"}, {"mean": [0.1, 0.2]}, {"std": [0.0]}, {"std": 0.3}], ids=str)
def test_a_teacher_of_damaged_colours_is_refused(straight, tmp_path, facts):
    folder = tmp_path / "teacher"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((straight[0] / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["facts"] |= facts
    (folder / "config.json").write_text(json.dumps(config))
    recipe = TINY.with_overrides({"training.teacher": str(folder)})
    with pytest.raises(UserError, match=rf"trained on images of {next(iter(facts))} = .*1 channels.* above 0"):
        train(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("memory_format", ["contiguous", "auto"])
def test_a_teacher_with_code_of_its_own_needs_trust(straight, tmp_path, memory_format):
    folder = tmp_path / "teacher"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((straight[0] / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["plugs"][0]["mechanism"] = "nowhere_at_all:Module"
    (folder / "config.json").write_text(json.dumps(config))
    recipe = TINY.with_overrides({"training.teacher": str(folder), "training.memory_format": memory_format})
    with pytest.raises(UserError, match="it would import and run the module 'nowhere_at_all'"):
        train(recipe, tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match="nowhere_at_all") as found:
        train(recipe, tmp_path / "run", device="cpu", trust=True)
    assert "would import" not in str(found.value)  # it was imported, and is not there


def test_a_teacher_of_other_classes_is_refused(straight, tmp_path, split):
    recipe = TINY.with_overrides({"training.teacher": str(straight[0])})
    renamed = dataclasses.replace(split, classes=[f"class {k}" for k in range(10)])
    with pytest.raises(UserError, match=r"was trained on the classes 0, 1.*\(10\); the images have class 0"):
        train(recipe, tmp_path / "run", device="cpu", opener=lambda *_: renamed)


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha", "teacher"])
def test_a_loss_of_its_own_is_not_changed(straight, tmp_path, monkeypatch, key):
    def own(task):
        network = build(task)
        network.training_loss = lambda images, labels: {"own": network(images).square().mean()}
        return network

    monkeypatch.setattr("saccade.training.preparing.build", own)
    value = str(straight[0]) if key == "teacher" else 0.5
    with pytest.raises(UserError, match=rf"training\.{key}: \w+ computes its own loss"):
        train(TINY.with_overrides({f"training.{key}": value}), tmp_path / "run", device="cpu")
    assert list(tmp_path.iterdir()) == []
