"""Damaged files, hostile names and absurd settings: every one must end in a sentence, and nothing else may happen.

    python tests/fuzz/hostile_runs.py [--mutations 300] [--names 100] [--settings 60] [--seed 0]

A small study is trained once. Then a file of a copy of it is damaged, or a name or a setting is made hostile, and a
command of ``saccade`` runs on it in this process. Counted are tracebacks, commands run and network calls (seen by an
audit hook), files left half-written, and control characters or tags in what is printed and in the tables. Each count
must be 0; the exit code is 1 where one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
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

__all__ = ["COUNTS", "Outcome", "attack", "mutated", "names", "settings", "study"]

COUNTS = ("tracebacks", "commands run", "network calls", "half-written files", "control characters", "tags")
_RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn", "subprocess.Popen")
_CALLED = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
_LONGEST = 120
"""Seconds of a command, after which it counts as a traceback."""
_SETTINGS = {"data.train_images": 40, "data.test_images": 20, "training.batch_size": 20, "training.epochs": 1}
NETWORK = ("config.json", "model.safetensors")
"""The files of a saved network; the others are those of the run and of the study."""

_watching = False
_seen: list[str] | None = None
"""Audit events while a command runs."""


def watch() -> None:
    """Have commands and network calls counted; a hook cannot be taken away again, and sees nothing between attacks."""
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in (*_RUN, *_CALLED):
        _seen.append(event)


@dataclass
class Outcome:
    """What a command did: its exit code, what it printed, and what it must not have done."""

    code: int = 0
    printed: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    trace: str = ""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end after {_LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attack(folder: Path, *words: str) -> Outcome:
    """Run ``saccade WORDS`` in this process with ``folder`` as the working directory, and look at what it left."""
    global _seen
    from saccade.cli import main

    watch()
    outcome, before, home = Outcome(), _files(folder), os.getcwd()
    arguments, sys.argv = sys.argv, ["saccade", *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    os.chdir(folder)
    _seen = []
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _in_time():
            main()
    except SystemExit as end:
        outcome.code = int(end.code or 0)
    except BaseException:
        outcome.counts["tracebacks"] += 1
        outcome.trace = traceback.format_exc()
    finally:
        events, _seen = _seen, None
        os.chdir(home)
        sys.argv = arguments
    for stream in (out, err):
        stream.flush()
        outcome.printed += stream.buffer.getvalue().decode("utf-8")
    outcome.counts["commands run"] += sum(event in _RUN for event in events)
    outcome.counts["network calls"] += sum(event in _CALLED for event in events)
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


class _Shell:
    """Runs a command where a pickle of it is opened."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _nested(depth: int, text: bool) -> bytes:
    return (b"x = " if text else b"") + b"[" * depth + b"]" * depth


_TREACHEROUS = (
    b"", b"null", b"[]", b"{}", b"3", b'"text"', b"NaN", b"\xff\xfe\x00", b"{" * 3, b"\x00" * 64, b'{"a": 1e999}',
    b'{"scores": "\\ud800"}', b'{"scores": ' + b"9" * 5000 + b"}", b'{"top1": 3.0}', b"x = " + b"9" * 5000, b"= 3\n",
    b'x = "\\u0000"',
    _nested(100_000, False), _nested(100_000, True), _nested(400, False), pickle.dumps(_Shell()), b"\x80\x02garbage",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**18, 2**80, -1e308, 1e308, float("nan"), float("inf"), "", "text", "\x1b[31m\u202e\n", [], {},
    [[[[]]]], {"a": {"b": 1}}, ["os:system", "true"], "../../etc/passwd", "\ud800", "<script>alert(1)</script>",
)  # fmt: skip


def mutated(folder: Path, rng: random.Random, network: bool = True) -> str:
    """Damage one file of the study ``s`` in ``folder``; what was done, in words.

    Args:
        folder: a copy of what :func:`study` made.
        rng: chooses the file and the damage.
        network: whether the files of saved networks are among them.
    """
    files = sorted(
        path
        for path in (folder / "s").rglob("*")
        if path.is_file() and path.suffix in (".toml", ".json", ".jsonl", ".safetensors", ".pt")
    )
    path = rng.choice([path for path in files if network or path.name not in NETWORK])
    kind = rng.choice(list(_KINDS))
    _KINDS[kind](path, rng, files)
    return f"{kind} of {path.relative_to(folder)}"


def _flip(path: Path, rng: random.Random, files: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, rng: random.Random, files: list[Path]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _replace(path: Path, rng: random.Random, files: list[Path]) -> None:
    path.write_bytes(rng.choice(_TREACHEROUS))


def _swap(path: Path, rng: random.Random, files: list[Path]) -> None:
    other = rng.choice(files)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def _become(path: Path, rng: random.Random, files: list[Path]) -> None:
    path.unlink()
    rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: None))()


def _value(path: Path, rng: random.Random, files: list[Path]) -> None:
    """Another value at a key, or no key: in JSON, in each line of JSON lines, in TOML or in the head of tensors."""
    import tomllib

    import tomli_w

    value = rng.choice(_VALUES)

    def changed(values: Any) -> Any:
        place = values
        while isinstance(place, dict) and place:
            key = rng.choice(list(place))
            inner = place[key]
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                inner = inner[0]
            if isinstance(inner, dict) and inner and rng.random() < 0.7:
                place = inner
            elif rng.random() < 0.2:
                del place[key]
                break
            else:
                place[key] = value
                break
        return values

    if path.suffix == ".toml":
        with contextlib.suppress(TypeError, UnicodeEncodeError):  # TOML has no None, no lone surrogate
            path.write_text(tomli_w.dumps(changed(tomllib.loads(path.read_text()))))
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        changed(rng.choice(lines))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    elif path.suffix == ".safetensors":
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        head = json.dumps(changed(json.loads(content[8 : 8 + size]))).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + size :])
    else:
        import torch

        torch.save(changed(torch.load(path, weights_only=True)), path)


_KINDS: dict[str, Callable[[Path, random.Random, list[Path]], None]] = {
    "a flipped bit": _flip, "truncation": _cut, "other content": _replace, "an exchange": _swap,
    "another kind": _become, "another value": _value, "another value once more": _value,
}  # fmt: skip

_PARTS = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "two\nlines", "carriage\rreturn", "tab\tbed", "\u202ereversed",
    "\u2066iso\u2069",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a|b|c", "=cmd|' !A0", "+1+1", "-2+3", "@SUM(1)",
    "{{7*7}}", "{% raw %}", "{0.__class__}", "%s%n", "\\input{secret}", "\\write18{true}", "$x^2_3$", "#hash~", "`id`",
    "$(true)", "; true", "[/red]", "[bold]", "[x](javascript:alert(1))", "&amp;&#x41;", "'quote\"", "--help", "-x",
    "\u200bzero", "e\u0301", "猫", "🐱", "\x7f", "\x9b31m", "..", "a" * 200, "os:system", "a\udcffb", "\udce9t\udce9",
)  # fmt: skip


def names(rng: random.Random, count: int) -> Iterator[str]:
    """Hostile names: each part alone, then pairs of parts."""
    for number in range(count):
        yield _PARTS[number] if number < len(_PARTS) else (rng.choice(_PARTS) + rng.choice(_PARTS))[:200]


def named(template: Path, name: str, number: int) -> tuple[str, ...]:
    """Use ``name`` in one of several ways in the folder that holds the study ``s``; the command to run."""
    folder, use = template / "s", number % 9
    as_file = name.replace("/", "_")
    if use == 0:
        folder.rename(template / f"x{as_file}")
        return ("report", f"x{as_file}")
    if use == 1:
        run = folder / "none/seed0"
        shutil.copytree(run, template / f"x{as_file}")
        return ("train", f"x{as_file}/recipe.toml", "--device", "cpu", "--out", f"x{as_file}")
    if use == 2:
        path = folder / "none/seed0/environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cpu": name, "python": name, name: name}))
        return ("report", "s")
    if use == 3:
        path = folder / "se/seed1/failed.json"
        path.write_text(json.dumps({"reason": name, "traceback": name}))
        path = folder / "se/seed0/done.json"
        left = {"left_out": {"train": {name: 3}}, "diverged": {"message": name}}
        path.write_text(json.dumps(json.loads(path.read_text()) | left))
        return ("report", "s")
    if use == 4:
        return (
            ("compare", "--data", name, "--out", "new") if not name.startswith("-") else ("compare", f"--data={name}")
        )
    if use == 5:
        return ("compare", f"--attention={name}", f"--model={name}", "--out", "new")
    if use == 6:
        return ("train", f"--set=data.source={name!r}", f"--set=model.name={name!r}", "--out", "new")
    if use == 7:
        from PIL import Image

        for part in ("train", "test"):
            for k in range(2):
                path = template / "photos" / part / f"x{as_file}" / f"{k}{as_file}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16), 90 * k).save(path.with_name(f"{k}.png"))
            (template / "photos" / part / f"x{as_file}" / f"bad{as_file}.png").write_bytes(b"no image")
        return ("data", "photos")
    return (name, name) if not name.startswith("-") else ("train", name)


def settings(rng: random.Random, count: int) -> Iterator[tuple[str, ...]]:
    """Commands with absurd settings."""
    numbers = (
        "0", "-1", "1e9", "10**9", "1000000000000", "9" * 5000, "nan", "inf", "-inf", "1e400", "None", "'x'", "[]",
        "{}", "0x" + "f" * 5000,
    )  # fmt: skip
    keys = (
        "training.threads", "training.workers", "training.batch_size", "training.epochs", "training.lr",
        "training.momentum", "training.weight_decay", "training.warmup_epochs", "training.label_smoothing",
        "training.seed", "data.train_images", "data.test_images", "data.size", "data.test_part", "data.split_seed",
        "data.options.distractors", "data.options.clutter", "attention.lr_factor", "attention.where",
        "model.options.drop_rate",
    )  # fmt: skip
    fixed = [
        ("compare", "--seeds", "1" + "0" * 5000), ("compare", "--seeds", "10001"), ("compare", "--seeds", "9999"),
        ("compare", "--slots", "1" + "0" * 30), ("compare", "--slots", "-1"), ("compare", "--margin", "1e300"),
        ("compare", "--margin", "nan"), ("measure", "resnet10_small", "--input", "1,99999999,99999999"),
        ("measure", "resnet10_small", "--input", "9" * 5000), ("train", "--seed", "1" + "0" * 40),
        ("train", "--set", "training.lr=" + "(" * 5000), ("train", "--set", "model.options=" + "[" * 90 + "]" * 90),
        ("train", "--set", "data.options={[]: 1}"), ("train", "--device", "cuda:" + "9" * 40),
        ("compare", "--attention", "se:" * 3000), ("compare", "--attention", ",".join(["se:rd_ratio=0.5"] * 2000)),
        ("compare", "--attention", "das:where=" + "x" * 300), ("compare", "--arm", "a: training.lr=1" + "0" * 5000),
        ("compare", "--arm", "a: model.options=" + "[" * 90 + "]" * 90), ("compare", "--arm", "x" * 300 + ": model=a"),
        ("compare", "--task", "x" * 5000), ("train", "--set", "task.metric=" + "x" * 5000),
        ("train", "--set", "data.layout=" + "x" * 5000), ("train", "--out", "/".join(["d"] * 1500)),
        ("train", "--out", "x" * 300), ("compare", "--out", "x/" * 3000),
    ]  # fmt: skip
    for number in range(count):
        if number < len(fixed):
            command = fixed[number]
        else:
            command = ("train", "--set", f"{keys[number % len(keys)]}={rng.choice(numbers)}")
        ends = ("--out", "new") if "--out" not in command and command[0] != "measure" else ()
        yield (*command, *ends, *(_QUICK if command[0] in ("train", "compare") else ()))


# Where a setting is good after all, the command must fail soon for another reason: there is no such network.
_QUICK = ("--set", "model.name=no_such_network")


def main() -> int:
    """Run all attacks and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--settings", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-network", action="store_true", help="Leave out the files of saved networks.")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        template = Path(place, "template")
        study(template)

        def one(number: int, prepare: Callable[[Path], tuple[str, tuple[str, ...]]]) -> None:
            copy = Path(place, str(number))
            shutil.copytree(template, copy)
            what, words = prepare(copy)
            outcome = attack(copy, *words)
            total.update(outcome.counts)
            total[f"exit code {outcome.code}"] += 1
            if any(outcome.counts[name] for name in COUNTS):
                last = outcome.trace.strip().splitlines()[-6:] or outcome.printed.splitlines()[-3:]
                print(f"{what}: {words!r:.200}: {dict(+outcome.counts)}\n   " + "\n   ".join(last), flush=True)
            shutil.rmtree(copy)

        begun, number = time.monotonic(), 0
        for number in range(asked.mutations):
            rng = random.Random(f"{asked.seed}/{number}")
            one(number, lambda copy, rng=rng: (mutated(copy, rng, not asked.without_network), _command(rng)))  # type: ignore[misc]
        for number, name in enumerate(names(random.Random(asked.seed), asked.names)):
            one(number, lambda copy, name=name, number=number: (repr(name), named(copy, name, number)))  # type: ignore[misc]
        for number, words in enumerate(settings(random.Random(asked.seed), asked.settings)):
            one(number, lambda copy, words=words: ("setting", words))  # type: ignore[misc]
    print(
        f"{asked.mutations} mutations, {asked.names} names, {asked.settings} settings "
        f"in {time.monotonic() - begun:.0f} s"
    )
    for name in COUNTS:
        print(f"{name:20} {total[name]}")
    print(", ".join(f"{name}: {count}" for name, count in sorted(total.items()) if name.startswith("exit")))
    return int(any(total[name] for name in COUNTS))


def _command(rng: random.Random) -> tuple[str, ...]:
    """What reads a damaged study: its report, or the end of one of its runs."""
    arm, seed = rng.choice(("none", "se")), rng.choice((0, 1))
    resume = ("train", f"{arm}{seed}.toml", "--device", "cpu", "--out", f"s/{arm}/seed{seed}")
    return rng.choice((("report", "s"), ("report", "s"), resume, ("report", "s", "--json")))


if __name__ == "__main__":
    sys.exit(main())
