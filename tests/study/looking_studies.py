"""Studies of tiny saved networks on digits, for the tests of their heat maps."""

import torch
from made_results import made

import saccade
from saccade.contract.randomize import randomize
from saccade.data import open_data
from saccade.saving import save
from saccade.tasks import get, resolve

SIZE = 24
SETTINGS = {
    "data__size": SIZE, "data__train_images": 20, "data__test_images": 20,
    "model__options": {"width": 16, "stem_stride": 2, "zero_init_last": False},
}  # fmt: skip


def looking_study(folder, scores, name="classify", **settings):
    """Return results of a study whose runs hold only networks, and its task ``name``; ``scores`` are as in ``made``."""
    results = made(scores, folder=folder / "study", **SETTINGS | settings)
    task_class = get(name)
    base = resolve(results.study.base, task_class.target)
    task = task_class(base, open_data(base.data, task_class.target))
    for run in results.runs:
        if run.status == "done":
            save_network(task, results.study.folder / run.folder, run.seed, run.arm)
    return results, task


def save_network(task, folder, seed, mechanism="none"):
    """Save a network with random norms, plugged unless the mechanism is ``none``."""
    torch.manual_seed(seed)
    model = task.recipe.model
    net = randomize(task.build(model), seed + 1)
    if mechanism != "none":
        saccade.plug(net, mechanism, input=(1, SIZE, SIZE), start="paper")
    save(net, folder, host=task.host(model), input=(1, SIZE, SIZE), classes=task.data.classes)
