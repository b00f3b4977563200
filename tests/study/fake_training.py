"""Stands in for ``saccade.training`` in tests of the engine: fast, without torch, and it can misbehave on request.

What a run does is written in its recipe: ``data.options.act`` is one of the acts below, for the arm and seed that
``data.options.arm`` and ``data.options.seed`` name (all where they are absent).
"""

import json
import os
import signal
import time
from pathlib import Path

from saccade.events import DataOpened, EpochEnded, TrainingBegan


def check(recipes, margin, device, notify):
    notify(DataOpened(f"{len(recipes)} arms on {device}, margin {margin}"))
    return {"devices": ["cpu"]}


def check_two_devices(recipes, margin, device, notify):
    return {"devices": ["cuda:0", "cuda:1"]}


def check_and_decide(recipes, margin, device, notify):
    """Every setting that a recipe leaves open gets its other value; asked before, it was not decided."""
    values = {"memory_format": "channels_last", "precision": "bf16"}
    open_ = [key for key in values if any(recipe["training"][key] == "auto" for recipe in recipes)]
    settings = {f"training.{key}": values[key] for key in open_}
    decided = {"settings": settings, "step_ms": {"contiguous": 3.5}, "batch": 8} if settings else {}
    notify(DataOpened(f"{len(settings)} settings open"))
    return {"devices": ["cpu"], "decided": decided}


def refuse(recipes, margin, device, notify):
    from saccade.errors import UserError

    raise UserError("class 'dog' is empty")


def crash(recipes, margin, device, notify):
    raise ZeroDivisionError("a bug of ours")


def die(recipes, margin, device, notify):
    os.kill(os.getpid(), signal.SIGKILL)


def train(recipe, folder, *, device, notify):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    attempt = _count(folder)
    notify(TrainingBegan(epochs=2, steps=3, epoch=0))
    options, arm = recipe.data.options, recipe.attention.mechanism
    if options.get("arm", arm) == arm and options.get("seed", recipe.training.seed) == recipe.training.seed:
        _act(options.get("act"), folder, attempt)
    score = 90.0 + recipe.training.seed
    result = {
        "task": "classify",
        "metric": "top-1",
        "score": f"{score:.2f} %",
        "scores": {"top-1": score},
        "epochs": 2,
        "seconds": 0.1,
        "parameters": 7,
        "diverged": {"epoch": 1, "message": "the loss of epoch 1 is nan"} if options.get("act") == "diverge" else None,
        "process": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "device": device,
    }
    notify(EpochEnded(2, {"epoch": 2, "scores": result["scores"], "gates": {}}, result["score"]))
    (folder / "done.json").write_text(json.dumps(result))
    return result


def killed_once(recipe, folder, *, device, notify):
    """The real training; its process is killed once, after the first epoch of se."""
    from saccade.study import series

    mark = Path(folder).parent / "killed"

    def tell(event):
        notify(event)
        ended = isinstance(event, EpochEnded) and event.epoch == 1
        if ended and recipe.attention.mechanism == "se" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return series.train_run(recipe, folder, device=device, notify=tell)


def _count(folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attempts"
    attempts = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(attempts))
    return attempts


def _act(act, folder, attempt):
    if act == "raise":
        raise ValueError("no luck")
    if act == "die" or (act in ("die once", "die, then wait") and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "exit":
        raise SystemExit(3)
    if act == "leave a child":
        child = os.fork()
        if child == 0:  # holds the worker's end of the pipe, as a data loader would
            time.sleep(900)
            os._exit(0)
        with (folder / "children").open("a") as file:
            file.write(f"{child}\n")
        os._exit(3)
    if act in ("wait", "die, then wait"):
        (folder / "process").write_text(str(os.getpid()))
        time.sleep(900)


def by_rate(recipe, folder, *, device, notify):
    """A training whose score is best at a rate of 0.1, of ``se`` at 0.3, with seed 4 at 0.03; 10 diverges.

    With ``data.options.fail`` the first run of each arm at that rate raises.
    """
    rate, best = recipe.training.lr, 0.3 if recipe.attention.mechanism == "se" else 0.1
    if rate == recipe.data.options.get("fail") and _count(Path(folder).parent) == 1:
        raise ValueError("no luck")
    result = train(recipe, folder, device=device, notify=notify)
    if recipe.training.seed == 4:
        best = 0.03
    result["scores"]["top-1"] -= abs(rate - best)
    if rate == 10:
        result["diverged"] = {"epoch": 1, "message": "the loss of epoch 1 is nan"}
    (Path(folder) / "done.json").write_text(json.dumps(result))
    return result
