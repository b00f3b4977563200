"""The recipe ``chestxray14`` takes its steps on a small copy of its data, in the form in which they are published."""

import numpy as np
from PIL import Image

from saccade.recipe import builtin_recipe
from saccade.training import train

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
N_TRAIN = 8


def test_it_takes_its_steps(tmp_path):
    (tmp_path / "images").mkdir()
    lines, names, random = [HEADER], [], np.random.default_rng(0)
    for i in range(N_TRAIN + 30):
        names.append(f"{i:08}_000.png")
        Image.fromarray(random.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "images" / names[-1])
        lines.append(f"{names[-1]},{('No Finding', 'Edema|Mass')[i % 2]},0,{i},58,M,{('PA', 'AP')[i // 2 % 2]}")
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines))
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:N_TRAIN]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[N_TRAIN:]))
    smaller = {"training.epochs": 1, "training.milestones": [], "training.schedule": "constant", "training.workers": 0}
    fixed = {
        "training.precision": "32",
        "training.memory_format": "contiguous",
        "training.batch_size": 4,
        "training.lr": 1e-3,
    }
    recipe = builtin_recipe("chestxray14").with_overrides(
        {"data.source": str(tmp_path), "data.size": 64, "model.pretrained": False, **smaller, **fixed}
    )
    result = train(recipe, tmp_path / "run")
    assert (result["task"], result["metric"], result["diverged"]) == ("multilabel", "AUROC", None)
    assert result["by"]["column"] == "View Position"
    assert 0 <= result["scores"]["AUROC"] <= 1
