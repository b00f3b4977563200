"""Frozen parts of a host: detected or requested, and unchanged by training."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from saccade import tasks
from saccade.errors import UserError
from saccade.events import Caution
from saccade.models import create_host
from saccade.recipe import Model, Recipe
from saccade.surgery.groups import attention_modules, parameter_groups
from saccade.tasks.base import Phase
from saccade.training import train
from saccade.training.freezing import freeze, set_eval
from saccade.training.module import train_only
from tiny_runs import TINY, Killed, after, assert_same_run, assert_weights_equal, done, listener, network_of

NORM = "training.freeze = 'none'"


def norms(network):
    """Normalisation layers of the host by name."""
    own = {id(m) for root in attention_modules(network) for m in root.modules()}
    return {n: m for n, m in network.named_modules() if isinstance(m, _NormBase) and id(m) not in own}


def randomise(network, seed=0):
    """Set weights, biases and statistics to values of a trained network."""
    with torch.no_grad():
        for norm in norms(network).values():
            draw = torch.Generator().manual_seed(seed := seed + 1)
            norm.weight.copy_(1 + 0.3 * torch.randn(norm.weight.shape, generator=draw))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape, generator=draw))
            norm.running_mean.copy_(0.3 * torch.randn(norm.bias.shape, generator=draw))
            norm.running_var.copy_(0.2 + torch.rand(norm.bias.shape, generator=draw))
    return network


def fold(network):
    """Move the scale of each normalisation layer into the convolution before it: the same function in eval mode."""
    convolution = None
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                convolution = module
            elif isinstance(module, _NormBase):
                scale = module.weight / (module.running_var + module.eps).sqrt()
                convolution.weight.mul_(scale[:, None, None, None])
                module.bias.sub_(module.running_mean * scale)
                module.weight.fill_(1)
                module.running_mean.zero_()
                module.running_var.fill_(1 - module.eps)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with two checkpoints of one network: as trained, and folded."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    network = randomise(create_host(Model(options=TINY.model.options), 10, 1)).eval()
    save_file(network.state_dict(), folder / "trained.safetensors")
    x = torch.randn(4, 1, 24, 24)
    with torch.no_grad():
        expected = network(x)
        found = fold(network)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    save_file(network.state_dict(), folder / "folded.safetensors")
    return folder


def recipe_of(path, **settings):
    values = {"model.checkpoint": str(path), "attention.mechanism": "none", "data.augment": []}
    return TINY.with_overrides(values | {key.replace("__", "."): value for key, value in settings.items()})


def after_one_step(network, held):
    """Return the output after a step in train mode with learning rate 0, which changes only statistics."""
    network.train()
    set_eval(held)
    with torch.no_grad():
        return network(2 + 3 * torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("mechanism", ["none", "se:rd_ratio=0.5"])
def test_folded_norms_are_recognised_and_keep_the_function_in_train_mode(files, split, mechanism):
    recipe = recipe_of(
        files / "folded.safetensors", attention__mechanism=mechanism, model__options={"width": 4, "drop_rate": 0.0}
    )
    network = network_of(recipe, split)
    frozen = freeze(network, recipe)
    assert "host, all 12 normalisation layers" in frozen.sentence
    assert set(frozen.modules) == set(norms(network).values())
    x = 2 + 3 * torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = network.eval()(x)
        torch.testing.assert_close(after_one_step(network, frozen.modules), plain, rtol=0, atol=0)
        left = freeze(network, recipe.with_overrides({"training.freeze": "none"}))
        assert NORM in left.sentence
        assert not left.modules
        twin = after_one_step(network, left.modules)
    assert (twin - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("kind", ["trained", "random", "untrained file", "mean one"])
def test_what_is_not_folded_is_left_alone(files, split, tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    match kind:
        case "trained":
            path = files / "trained.safetensors"
        case "untrained file":
            save_file(create_host(Model(options=TINY.model.options), 10, 1).state_dict(), path)
        case "mean one":
            state = load_file(files / "folded.safetensors")
            save_file({k: v + 1 if k.endswith("running_mean") else v for k, v in state.items()}, path)
    recipe = recipe_of(path) if kind != "random" else TINY
    assert freeze(network_of(recipe, split), recipe) == freeze(nn.Linear(1, 1), Recipe())


def test_some_folded_layers_are_frozen_alone(files, split, tmp_path):
    state, trained = load_file(files / "folded.safetensors"), load_file(files / "trained.safetensors")
    state |= {key: value for key, value in trained.items() if key.startswith("layer4.")}
    save_file(state, tmp_path / "half.safetensors")
    recipe = recipe_of(tmp_path / "half.safetensors")
    network = network_of(recipe, split)
    frozen = freeze(network, recipe)
    assert set(frozen.modules) == {m for name, m in norms(network).items() if not name.startswith("layer4.")}
    assert f"{len(frozen.modules)} of the 12" in frozen.sentence


def test_norm_freezes_the_statistics_of_the_host_alone(split):
    recipe = TINY.with_overrides({"attention.mechanism": "bam:rd_ratio=0.5", "training.freeze": "norm"})
    network = network_of(recipe, split)
    assert any(isinstance(m, _NormBase) for root in attention_modules(network) for m in root.modules())
    frozen = freeze(network, recipe)
    assert set(frozen.modules) == set(norms(network).values())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == []


def test_host_leaves_head_and_plugs_to_learn(split):
    recipe = TINY.with_overrides({"training.freeze": "host", "attention.where": "layer*.bn2"})
    network = network_of(recipe, split)
    frozen = freeze(network, recipe)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in network.named_parameters() if ".saccade." in name or name.startswith("fc.")}
    network.train()
    set_eval(frozen.modules)
    for name, module in network.named_modules():
        plugged_or_head = "saccade" in name.split(".") or name.split(".")[0] in ("", "fc")
        assert module.training == plugged_or_head, name


def test_globs_freeze_parameters_of_the_host_and_never_a_plug(split):
    recipe = TINY.with_overrides({"training.freeze": ["conv1*", "bn1*", "layer1*"]})
    network = network_of(recipe, split)
    frozen = freeze(network, recipe)
    still = {name for name, p in network.named_parameters() if not p.requires_grad}
    named = [n for n, _ in network.named_parameters() if n.startswith(("conv1", "bn1", "layer1"))]
    assert still == {name for name in named if ".saccade." not in name}
    assert any(".saccade." in name for name in named)
    network.train()
    set_eval(frozen.modules)
    assert not network.bn1.training
    assert network.layer2[0].bn1.training
    modules = [module for root in attention_modules(network) for module in root.modules()]
    assert [type(module) for module in modules if not module.training] == []
    groups = parameter_groups(network, 0.1)
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters())) - len(still)
    with train_only(network, Phase("late", 1, ("layer[14]*",))):
        assert not any(p.requires_grad for name, p in network.named_parameters() if name in still)
    assert not any(p.requires_grad for name, p in network.named_parameters() if name in still)


def test_globs_leave_folded_layers_frozen_too(files, split):
    recipe = recipe_of(files / "folded.safetensors", training__freeze=["conv1*"])
    network = network_of(recipe, split)
    frozen = freeze(network, recipe)
    assert set(norms(network).values()) <= set(frozen.modules)
    assert "conv1*" in frozen.sentence
    assert "folded" in frozen.sentence


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training.freeze": ["layer9*"]}, "no parameter 'layer9\\*'"),
        ({"training.freeze": ["fc.weigth"]}, "Did you mean 'fc.weight'"),
        ({"training.freeze": ["*"], "attention.mechanism": "none"}, "leave some to train"),
    ],
)
def test_wrong_globs_are_named(split, settings, words):
    recipe = TINY.with_overrides(settings)
    with pytest.raises(UserError, match=words):
        freeze(network_of(recipe, split), recipe)


def test_a_host_that_does_not_name_its_head(split):
    network = network_of(TINY, split)
    del network.default_cfg
    with pytest.raises(UserError, match="does not declare which module"):
        freeze(network, TINY.with_overrides({"training.freeze": "host"}))


def test_a_run_on_folded_weights_says_so_and_keeps_the_statistics(files, tmp_path):
    recipe = recipe_of(files / "folded.safetensors", attention__mechanism="se:rd_ratio=0.5")
    heard, listen = listener()
    result = train(recipe, tmp_path / "run", device="cpu", notify=listen)
    (note,) = result["notes"]
    assert "folded" in note
    assert note in [event.text for event in heard if isinstance(event, Caution)]
    before, now = load_file(files / "folded.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    statistics = [key for key in before if "running" in key]
    assert_weights_equal(now, {key: before[key] for key in statistics})
    biases = [key for key in before if "bn" in key and key.endswith("bias")]
    assert not any(torch.equal(before[key], now[key]) for key in biases)
    train(recipe.with_overrides({"training.freeze": "none"}), tmp_path / "twin", device="cpu")
    twin = load_file(tmp_path / "twin" / "model.safetensors")
    assert not any(torch.equal(before[key], twin[key]) for key in statistics)


@pytest.mark.parametrize("freezing", ["host", ["layer1*"]])
def test_a_killed_run_that_froze_goes_on_to_the_same_network(files, tmp_path, freezing):
    recipe = recipe_of(files / "folded.safetensors", attention__mechanism="se:rd_ratio=0.5", training__freeze=freezing)
    train(recipe, tmp_path / "one", device="cpu")
    _, listen = listener(after(1))
    with pytest.raises(Killed):
        train(recipe, tmp_path / "two", device="cpu", notify=listen)
    train(recipe, tmp_path / "two", device="cpu")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert done(tmp_path / "one")["notes"]
    before, now = load_file(files / "folded.safetensors"), load_file(tmp_path / "one" / "model.safetensors")
    torch.testing.assert_close(before["layer1.0.conv1.weight"], now["layer1.0.conv1.weight"], rtol=0, atol=0)
    assert not torch.equal(before["fc.weight"], now["fc.weight"])


def test_a_random_host_says_nothing_of_itself(straight):
    _, result, _ = straight
    assert "notes" not in result
    assert tasks.resolve(TINY, "label") is TINY


@pytest.mark.parametrize("trained", ["backbone.encoder.*", "roi_heads.*"])
def test_a_detector_with_frozen_heads_gives_all_losses(trained):
    """The heads compute losses in train mode only; what they contain stays in eval mode."""
    host = create_host(Model(name="faster_rcnn", options={"encoder": "resnet10_small", "fpn_channels": 8}), 3, 3)
    host.train()
    with train_only(host, Phase("part", 1, (trained,))) as frozen:
        set_eval(frozen)
        losses = host(
            torch.rand(1, 3, 64, 64), [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.ones(1).long()}]
        )
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    in_eval = {name for name, module in host.named_modules() if not module.training}
    assert ("rpn.head.conv" in in_eval, "roi_heads.box_head.fc6" in in_eval) == (True, trained == "backbone.encoder.*")
    assert ("backbone.encoder.bn1" in in_eval) == (trained == "roi_heads.*")
