"""Damaged files, hostile names and absurd settings must end in a message.

    python tests/fuzz/hostile_runs.py [--mutations 300] [--names 100] [--settings 60] [--seed 0]

A small study is trained once. Then one file of a copy is damaged, or a name or a setting is made hostile, and a
command of ``saccade`` runs on it in this process. Tracebacks, commands run and network calls (by an audit hook),
half-written files, and control characters or tags in the output and the tables are counted. Each count must be 0;
otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_inputs import mutate, names, prepare_name, settings

__all__ = ["COUNTS", "Outcome", "attack", "study"]

COUNTS = ("tracebacks", "commands run", "network calls", "half-written files", "control characters", "tags")
_COMMAND_EVENTS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn", "subprocess.Popen",
)  # fmt: skip
_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
_TIMEOUT_S = 120
"""Seconds after which a command counts as a traceback."""
_SETTINGS = {"data.train_images": 40, "data.test_images": 20, "training.batch_size": 20, "training.epochs": 1}

_is_watching = False
_events: list[str] | None = None
"""Audit events of the running command; None between commands."""


def watch() -> None:
    """Install the audit hook once; hooks cannot be removed."""
    global _is_watching
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event in (*_COMMAND_EVENTS, *_NETWORK_EVENTS):
        _events.append(event)


@dataclass
class Outcome:
    """Exit code, output, forbidden side effects and traceback of a command."""

    code: int = 0
    printed: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    trace: str = ""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end after {_TIMEOUT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attack(folder: Path, *words: str) -> Outcome:
    """Run ``saccade WORDS`` in this process with ``folder`` as the working directory; return the outcome."""
    global _events
    from saccade.cli import main

    watch()
    outcome, before, home = Outcome(), _files(folder), os.getcwd()
    arguments, sys.argv = sys.argv, ["saccade", *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    os.chdir(folder)
    _events = []
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _time_limit():
            main()
    except SystemExit as end:
        outcome.code = int(end.code or 0)
    except BaseException:
        outcome.counts["tracebacks"] += 1
        outcome.trace = traceback.format_exc()
    finally:
        events, _events = _events, None
        os.chdir(home)
        sys.argv = arguments
    for stream in (out, err):
        stream.flush()
        outcome.printed += stream.buffer.getvalue().decode("utf-8")
    outcome.counts["commands run"] += sum(event in _COMMAND_EVENTS for event in events)
    outcome.counts["network calls"] += sum(event in _NETWORK_EVENTS for event in events)
    outcome.counts["control characters"] += _controls(outcome.printed)
    if "Traceback (most recent call last)" in outcome.printed:
        outcome.counts["tracebacks"] += 1
    after = _files(folder)
    outcome.counts["half-written files"] += sum(
        name.rpartition("/")[2].startswith(".") and not name.endswith((".lock", ".running")) for name in after - before
    )
    for path in folder.rglob("table.*"):
        text = path.read_text(encoding="utf-8")
        outcome.counts["control characters"] += _controls(text)
        if path.suffix == ".md":
            outcome.counts["tags"] += text.count("<script") + text.count("<img")
    for path in folder.rglob("report.html"):
        text = path.read_text(encoding="utf-8")
        outcome.counts["half-written files"] += not text.rstrip().endswith("</html>")
        outcome.counts["tags"] += text.count("<script") + text.count("<img")
    return outcome


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _controls(text: str) -> int:
    from saccade.escaping import printable

    return printable(text, keep="\n") != text


def study(folder: Path) -> Path:
    """Train a study of two arms and two seeds into ``folder/s``, with one run unfinished, and write its report."""
    from saccade import Recipe, training
    from saccade.events import EpochEnded, Event
    from saccade.study.arms import arms
    from saccade.study.plan import Study
    from saccade.study.report import write_report

    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, EpochEnded):
            raise StopError

    plan = Study(Recipe().with_overrides(_SETTINGS), arms(["se"]), (0, 1), folder / "s")
    plan.write()
    *runs, last = plan.runs()
    for run in plan.runs():
        (folder / f"{run.arm.slug}{run.seed}.toml").write_text(run.recipe.to_toml())
    for run in runs:
        training.train(run.recipe, run.folder, device="cpu")
    with contextlib.suppress(StopError):
        training.train(last.recipe, last.folder, device="cpu", notify=stop)
    (last.folder / "failed.json").write_text(json.dumps({"reason": "ValueError: no luck", "traceback": None}))
    write_report(plan.folder)
    return plan.folder


def main() -> int:
    """Run all attacks and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--settings", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-network", action="store_true", help="Leave out the files of saved networks.")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        template = Path(root, "template")
        study(template)

        def run_attack(number: int, prepare: Callable[[Path], tuple[str, tuple[str, ...]]]) -> None:
            copy = Path(root, str(number))
            shutil.copytree(template, copy)
            description, words = prepare(copy)
            outcome = attack(copy, *words)
            total.update(outcome.counts)
            total[f"exit code {outcome.code}"] += 1
            if any(outcome.counts[name] for name in COUNTS):
                last = outcome.trace.strip().splitlines()[-6:] or outcome.printed.splitlines()[-3:]
                print(f"{description}: {words!r:.200}: {dict(+outcome.counts)}\n   " + "\n   ".join(last), flush=True)
            shutil.rmtree(copy)

        start, number = time.monotonic(), 0
        for number in range(options.mutations):
            rng = random.Random(f"{options.seed}/{number}")
            run_attack(number, lambda copy, rng=rng: (mutate(copy, rng, not options.without_network), _command(rng)))  # type: ignore[misc]
        for number, name in enumerate(names(random.Random(options.seed), options.names)):
            run_attack(number, lambda copy, name=name, number=number: (repr(name), prepare_name(copy, name, number)))  # type: ignore[misc]
        for number, words in enumerate(settings(random.Random(options.seed), options.settings)):
            run_attack(number, lambda copy, words=words: ("setting", words))  # type: ignore[misc]
    print(
        f"{options.mutations} mutations, {options.names} names, {options.settings} settings "
        f"in {time.monotonic() - start:.0f} s"
    )
    for name in COUNTS:
        print(f"{name:20} {total[name]}")
    print(", ".join(f"{name}: {count}" for name, count in sorted(total.items()) if name.startswith("exit")))
    return int(any(total[name] for name in COUNTS))


def _command(rng: random.Random) -> tuple[str, ...]:
    """Return a command that reads the study: its report, or the resumption of a run."""
    arm, seed = rng.choice(("none", "se")), rng.choice((0, 1))
    resume = ("train", f"{arm}{seed}.toml", "--device", "cpu", "--out", f"s/{arm}/seed{seed}")
    return rng.choice((("report", "s"), ("report", "s"), resume, ("report", "s", "--json")))


if __name__ == "__main__":
    sys.exit(main())
