"""The rates of a schedule, and the parameters a phase trains."""

import pytest
from torch import nn

from saccade.tasks.base import Phase
from saccade.training.module import TaskModule, only_trainable, rate, training_loss


def test_rates():
    shape = [rate(step, 10, 4, "cosine") for step in range(10)]
    assert shape[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shape[4] == 1.0
    assert shape[7] == pytest.approx(0.5)
    assert shape == sorted(shape[:4]) + sorted(shape[4:], reverse=True)
    assert 0 < shape[9] < 0.1
    assert [rate(step, 4, 0, "constant") for step in range(4)] == [1.0] * 4
    assert rate(0, 4, 2, "constant") == 0.5
    assert rate(0, 2, 8, "cosine") == 0.125  # a warm-up longer than the run


def test_a_phase_trains_what_it_names_and_nothing_that_was_frozen():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    network[2].bias.requires_grad_(False)

    def learning():
        return [name for name, p in network.named_parameters() if p.requires_grad]

    before = learning()
    with only_trainable(network, Phase("head", 1, ("2.*",))) as frozen:
        assert learning() == ["2.weight"]
        assert frozen == [network[0], network[1]]
    assert learning() == before
    with only_trainable(network, Phase("all", 1)) as frozen:
        assert (learning(), frozen) == (before, [])
    with (
        pytest.raises(ValueError, match=r"'neck' trains neck\.\*: no parameter"),
        only_trainable(network, Phase("neck", 1, ("neck.*",))),
    ):
        pass
    assert learning() == before


def test_what_has_no_parameter_is_frozen_inside_a_frozen_module_alone():
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.Dropout(0.5))
    head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 3, 1))
    network = nn.Sequential(body, nn.ReLU(), head)
    with only_trainable(network, Phase("head", 1, ("2.*",))) as frozen:
        assert frozen == [body, *body]
    with only_trainable(network, Phase("body", 1, ("0.*",))) as frozen:
        assert frozen == [head, *head]


def test_a_frozen_norm_keeps_its_statistics_while_its_plug_learns():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network[1].plug = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(0.5))
    with only_trainable(network, Phase("plugs", 1, ("*.plug.*",))) as frozen:
        assert frozen == [network[0], network[1]]
        TaskModule(network, None, Phase("plugs", 1), steps=1, frozen=frozen).on_train_epoch_start()
    assert [m.training for m in (network, *network)] == [True, False, False]
    assert all(m.training for m in network[1].plug.modules())


def test_a_network_s_own_loss_comes_first():
    class Given:
        def loss(self, network, images, targets):
            return {"task": images + targets}

    network = nn.Identity()
    assert training_loss(Given(), network, 2, 3) == {"task": 5}
    network.training_loss = lambda images, targets: {"own": images * targets}
    assert training_loss(Given(), network, 2, 3) == {"own": 6}
