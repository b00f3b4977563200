"""Studies through one Ray cluster of two CPUs, in a process of their own; what came of each is written as JSON.

    python ray_studies.py FOLDER    writes FOLDER/told.json

A process of its own, because Ray's threads do not bear the forks of other tests, and so that what it leaves is seen.
"""

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.simplefilter("error")

from saccade import Recipe, UserError, builders  # noqa: E402
from saccade.events import DataOpened, RunEvent  # noqa: E402
from saccade.study.arms import arms  # noqa: E402
from saccade.study.engine import execute  # noqa: E402
from saccade.study.plan import Study  # noqa: E402

HOME = Path(sys.argv[1])
DEADLY = "import os\nos._exit(3)\n"
SMALL = {"training.epochs": 2, "data.train_images": 100, "data.test_images": 50, "training.batch_size": 50}


def flat(event):
    """An event as JSON: its class beside its values, those of a run's own event beside its run."""
    if isinstance(event, RunEvent):
        return {**flat(event.event), "slot": event.slot, "arm": event.arm, "seed": event.seed}
    return {"event": type(event).__name__, **vars(event)}


def study(name, settings, mechanisms=("se", "das"), seeds=(0, 1), during=None, **more):
    """What came of a study; ``during`` it, once its data are known and nothing is written, something else is done."""
    events, begun = [], time.monotonic()

    def heard(event):
        events.append(flat(event))
        if isinstance(event, DataOpened) and during is not None:
            during()

    plan = Study(Recipe().with_overrides(settings), arms(mechanisms), seeds, HOME / name)
    more = {"slots": 2, "engine": "ray"} | more
    try:
        outcomes = execute(plan, device="cpu", notify=heard, **more)
    except UserError as error:
        return {"error": str(error), "events": events, "seconds": time.monotonic() - begun}
    ended = [(o.run.arm.name, o.run.seed, o.status, o.reason, o.result) for o in outcomes]
    return {"outcomes": ended, "events": events, "seconds": time.monotonic() - begun}


def fake(name, threads=1, training=None, **more):
    how = {key: more.pop(key) for key in ("slots", "train", "check", "during") if key in more}
    how = {"train": "fake_training:train", "check": "fake_training:check"} | how
    return study(name, {"data.options": more, "training.threads": threads, **(training or {})}, **how)


def own_host():
    """The settings of a host that a function of this script builds, which no import finds."""

    def own(num_classes, in_chans):
        from torch import nn

        first = nn.Sequential(nn.Conv2d(in_chans, 16, 3, 2, 1), nn.ReLU())
        return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))

    name, code = builders.identify(own)
    return {"model.name": name, "model.code": code}


def main(short):
    import ray

    from saccade.study.engine import cluster, ray_connection

    os.chdir(HOME)
    sys.path.append(str(HOME))
    Path("deadly.py").write_text(DEADLY)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    ray.init("local", num_cpus=2, object_store_memory=100 * 2**20, _temp_dir=short, **quiet)
    told = {
        "plain": fake("plain", slots=None),
        "again": fake("plain"),
        "open": fake("open", check="fake_training:check_and_decide", training={"training.memory_format": "auto"}),
        "raise": fake("raise", act="raise", arm="se", seed=0),
        "die once": fake("die once", act="die once", arm="se", seed=0),
        "die": fake("die", act="die", arm="das", seed=0),
        "exit": fake("exit", act="exit", arm="se", seed=1),
        "no room for the third": fake("third", slots=3),
        "refuse": fake("refuse", check="fake_training:refuse"),
        "too large": fake("large", threads=64, slots=None),
        "stillborn": fake("stillborn", act="wait", train="deadly:train"),
        "two starts": fake("two", during=lambda: fake("two", slots=1)),
        "ray": study("ray", SMALL, ("se",), (0,), slots=1, train="fake_training:killed_once"),
        "local": study("local", SMALL, ("se",), (0,), slots=1, engine="local"),
        "own": study("own", {**SMALL, "training.epochs": 1, **own_host()}, ("se",), (0,), slots=1),
    }
    ours, cluster.__version__ = cluster.__version__, "0.0.1"
    told["another version"] = fake("version")
    cluster.__version__ = ours
    written, Path.write_text = Path.write_text, lambda *_, **__: 0  # as if on the disk of this node alone
    told["not shared"] = fake("not shared")
    Path.write_text = written
    ray_connection.check_cluster(ray.get_runtime_context().gcs_address)  # a cluster is known as one
    told["still connected"] = ray.is_initialized()
    ray.shutdown()
    (HOME / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as place:
        main(place)
