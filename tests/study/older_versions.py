"""Study folders as version 0.1 wrote them, made from those of today."""

import json
import tomllib

import numpy as np
import tomli_w
from safetensors.numpy import load_file, save_file


def as_before(study):
    """Make the files of ``study`` and of its runs those of version 0.1."""
    for run in study.runs():
        if (run.folder / "done.json").exists():
            _run(run.folder)
    path = study.folder / "study.toml"
    values = tomllib.loads(path.read_text())
    values["arms"] = [{"name": arm["name"], "mechanism": arm["name"]} for arm in values["arms"]]
    path.write_text(tomli_w.dumps({"margin": 1.0, **values, "recipe": _recipe(values["recipe"])}))


def _recipe(values):
    """A recipe without the keys that there were not."""
    del values["task"], values["data"]["layout"], values["data"]["resize"]
    return values


def _run(folder):
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(_recipe(tomllib.loads(path.read_text()))))
    rows = load_file(folder / "rows.safetensors")
    (folder / "rows.safetensors").unlink()
    kept = {key: rows[key].astype(np.int64) for key in ("predicted", "label")}
    save_file(kept, folder / "predictions.safetensors")
    path = folder / "done.json"
    done = json.loads(path.read_text())
    new = ("task", "metric", "score", "scores", "by_class", "trivial")
    top1, loss = done["scores"]["top-1"], done["scores"]["NLL"]
    done = {key: value for key, value in done.items() if key not in new}
    path.write_text(json.dumps(done | {"top1": top1, "test_loss": loss}))
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(json.dumps(_epoch(json.loads(line))) + "\n" for line in lines))


def _epoch(row):
    losses, scores = row.pop("losses"), row.pop("scores")
    return row | {"train_loss": losses.get("cross-entropy"), "test_loss": scores["NLL"], "test_top1": scores["top-1"]}
