"""Trainable parameters of a phase, and the loss."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import saccade
from saccade.errors import UserError
from saccade.tasks.base import Phase
from saccade.training.divergence import DivergenceError
from saccade.training.module import TaskModule, train_only, training_loss


def test_a_phase_trains_what_it_names_and_nothing_that_was_frozen():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    network[2].bias.requires_grad_(False)

    def learning():
        return [name for name, p in network.named_parameters() if p.requires_grad]

    before = learning()
    with train_only(network, Phase("head", 1, ("2.*",))) as frozen:
        assert learning() == ["2.weight"]
        assert frozen == [network[0], network[1]]
    assert learning() == before
    with train_only(network, Phase("all", 1)) as frozen:
        assert (learning(), frozen) == (before, [])
    with (
        pytest.raises(
            UserError, match=r"'neck' trains neck\.\*: these globs match no trainable parameter.* begin with 0, 1, 2"
        ),
        train_only(network, Phase("neck", 1, ("neck.*",))),
    ):
        pass
    with train_only(network, Phase("body", 1, ("!2.*",))):
        assert learning() == ["0.weight", "0.bias", "1.weight", "1.bias"]
    with train_only(network, Phase("some", 1, ("!0.*", "*.weight"))):
        assert learning() == ["1.weight", "2.weight"]
    with pytest.raises(UserError, match="'none' trains"), train_only(network, Phase("none", 1, ())):
        pass
    assert learning() == before


def test_what_has_no_parameter_is_frozen_inside_a_frozen_module_alone():
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.Dropout(0.5))
    head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 3, 1))
    network = nn.Sequential(body, nn.ReLU(), head)
    with train_only(network, Phase("head", 1, ("2.*",))) as frozen:
        assert frozen == [body, *body]
    with train_only(network, Phase("body", 1, ("0.*",))) as frozen:
        assert frozen == [head, *head]


def test_a_frozen_norm_keeps_its_statistics_while_its_plug_learns():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network[1].plug = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(0.5))
    with train_only(network, Phase("plugs", 1, ("*.plug.*",))) as frozen:
        assert frozen == [network[0], network[1]]
        TaskModule(network, None, Phase("plugs", 1), steps_per_epoch=1, frozen=frozen).on_train_epoch_start()
    assert [m.training for m in (network, *network)] == [True, False, False]
    assert [name for name, module in network[1].plug.named_modules() if not module.training] == []


def test_a_network_s_own_loss_comes_first():
    class Given:
        def loss(self, network, images, targets):
            return {"task": images + targets}

        def network_targets(self, targets):
            return 10 * targets

    network = nn.Identity()
    assert training_loss(Given(), network, 2, 3) == {"task": 5}
    network.training_loss = lambda images, targets: {"own": images * targets}
    assert training_loss(Given(), network, 2, 3) == {"own": 60}


class _Drawing(nn.Module):
    """Network whose training loss draws ``count`` random numbers in each step and appends the first to ``drawn``."""

    def __init__(self, count, drawn):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.count, self.drawn = count, drawn

    def forward(self, images):
        return torch.zeros(len(images), 10) + self.weight

    def training_loss(self, images, targets):
        self.drawn.append(torch.rand(self.count)[0].item())
        return {"own": self.weight * 1.0}


def _first_draws(count, folder):
    drawn = []
    saccade.train(
        model=lambda num_classes: _Drawing(count, drawn), out=folder, device="cpu", notify=lambda event: None,
        settings={"training.epochs": 2, "training.batch_size": 8, "data.train_images": 24, "data.test_images": 10},
    )  # fmt: skip
    return drawn


def test_random_numbers_of_a_step_do_not_depend_on_those_of_earlier_steps(tmp_path):
    drawn = _first_draws(1, tmp_path / "one")
    assert len(drawn) == len(set(drawn)) == 6
    assert _first_draws(7, tmp_path / "seven") == drawn


def test_a_loss_that_fails_on_nan_is_a_divergence():
    network, images = nn.Conv2d(1, 2, 1), torch.zeros(2, 1, 4, 4)

    def refuse(*batch):
        raise ValueError("matrix contains invalid numeric entries")

    module = TaskModule(network, SimpleNamespace(loss=refuse), Phase("all", 1), steps_per_epoch=1)
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), current_epoch=0)
    with pytest.raises(ValueError, match="invalid numeric"):
        module.training_step((images, None), 0)
    network.bias.data[1] = math.nan
    with pytest.raises(DivergenceError, match=r"the parameter of bias is not finite"):
        module.training_step((images, None), 0)
