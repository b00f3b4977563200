"""Learning rates equal those of torch.optim.lr_scheduler."""

import pytest
import torch
from torch.optim import lr_scheduler

from saccade.recipe import Training
from saccade.training.schedules import lr_factor

EPOCHS, STEPS = 9, 4


def of_torch(build, by_epoch=True):
    """Return the learning rate of each step under a PyTorch scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    found = []
    for step in range(EPOCHS * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not by_epoch or step % STEPS == STEPS - 1:
            scheduler.step()
    return found


def ours(**training):
    return [lr_factor(step, STEPS, EPOCHS, Training(**training)) for step in range(EPOCHS * STEPS)]


@pytest.mark.parametrize(
    ("training", "build"),
    [
        ({"schedule": "step", "step_epochs": 3}, lambda o: lr_scheduler.StepLR(o, 3)),
        ({"schedule": "step", "step_epochs": 2, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 2, 0.5)),
        ({"schedule": "multistep", "milestones": (2, 3, 7)}, lambda o: lr_scheduler.MultiStepLR(o, [2, 3, 7])),
        (
            {"schedule": "multistep", "milestones": (1, 8), "gamma": 0.2},
            lambda o: lr_scheduler.MultiStepLR(o, [1, 8], 0.2),
        ),
        ({"schedule": "exponential", "gamma": 0.98}, lambda o: lr_scheduler.ExponentialLR(o, 0.98)),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_by_epoch_they_are_those_of_pytorch(training, build):
    assert ours(**training) == pytest.approx(of_torch(build), rel=1e-12)
    twin = {**training, "schedule": "cosine", "gamma": None}
    assert ours(**twin) != pytest.approx(of_torch(build), rel=1e-3)


def test_along_a_cosine_they_are_those_of_pytorch_by_step():
    wanted = of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS), by_epoch=False)
    assert ours(schedule="cosine") == pytest.approx(wanted, rel=1e-9)


def test_the_warm_up_multiplies_what_falls_by_epoch():
    """Multiply the factors, as ChainedScheduler does with LinearLR and another scheduler."""
    plain = ours(schedule="multistep", milestones=(2, 5))
    warm = ours(schedule="multistep", milestones=(2, 5), warmup_epochs=3)
    assert warm[:12] == pytest.approx([(step + 1) / 12 * factor for step, factor in enumerate(plain[:12])])
    assert warm[12:] == plain[12:]
    assert warm[7] == pytest.approx(8 / 12)
    assert warm[8] == pytest.approx(0.1 * 9 / 12)


def test_the_warm_up_of_a_cosine():
    shape = [lr_factor(step, 1, 10, Training(warmup_epochs=4)) for step in range(10)]
    assert shape[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shape[4] == 1.0
    assert shape[7] == pytest.approx(0.5)
    assert shape == sorted(shape[:4]) + sorted(shape[4:], reverse=True)
    assert 0 < shape[9] < 0.1
    assert lr_factor(0, 1, 4, Training(schedule="constant", warmup_epochs=2)) == 0.5
    assert lr_factor(0, 1, 2, Training(warmup_epochs=8)) == 0.125  # a warm-up longer than the run
