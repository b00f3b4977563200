"""Damaged files, hostile names and absurd settings for ``hostile_runs.py``."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["NETWORK_FILES", "mutate", "names", "prepare_name", "settings"]

NETWORK_FILES = ("config.json", "model.safetensors")
"""Files of a saved network; the others are those of the run and of the study."""


class _Shell:
    """Object whose unpickling runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _nested(depth: int, text: bool) -> bytes:
    return (b"x = " if text else b"") + b"[" * depth + b"]" * depth


_HOSTILE_CONTENTS = (
    b"", b"null", b"[]", b"{}", b"3", b'"text"', b"NaN", b"\xff\xfe\x00", b"{" * 3, b"\x00" * 64, b'{"a": 1e999}',
    b'{"scores": "\\ud800"}', b'{"scores": ' + b"9" * 5000 + b"}", b'{"top1": 3.0}', b"x = " + b"9" * 5000, b"= 3\n",
    b'x = "\\u0000"',
    _nested(100_000, False), _nested(100_000, True), _nested(400, False), pickle.dumps(_Shell()), b"\x80\x02garbage",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**18, 2**80, -1e308, 1e308, float("nan"), float("inf"), "", "text", "\x1b[31m\u202e\n", [], {},
    [[[[]]]], {"a": {"b": 1}}, ["os:system", "true"], "../../etc/passwd", "\ud800", "<script>alert(1)</script>",
)  # fmt: skip


def mutate(folder: Path, rng: random.Random, network: bool = True) -> str:
    """Damage one file of the study ``s`` in ``folder``; return a description of the damage.

    Args:
        folder: copy of the folder with a study.
        rng: random generator that chooses the file and the damage.
        network: True to include the files of saved networks.
    """
    files = sorted(
        path
        for path in (folder / "s").rglob("*")
        if path.is_file() and path.suffix in (".toml", ".json", ".jsonl", ".safetensors", ".pt")
    )
    path = rng.choice([path for path in files if network or path.name not in NETWORK_FILES])
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
    path.write_bytes(rng.choice(_HOSTILE_CONTENTS))


def _swap(path: Path, rng: random.Random, files: list[Path]) -> None:
    other = rng.choice(files)
    content, other_content = path.read_bytes(), other.read_bytes()
    path.write_bytes(other_content)
    other.write_bytes(content)


def _replace_by_special_file(path: Path, rng: random.Random, files: list[Path]) -> None:
    path.unlink()
    rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: None))()


def _change_value(path: Path, rng: random.Random, files: list[Path]) -> None:
    """Change or delete one key of a JSON, JSON lines or TOML file, or of the header of a tensor file."""
    import tomllib

    import tomli_w

    value = rng.choice(_VALUES)

    def change(values: Any) -> Any:
        table = values
        while isinstance(table, dict) and table:
            key = rng.choice(list(table))
            inner = table[key]
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                inner = inner[0]
            if isinstance(inner, dict) and inner and rng.random() < 0.7:
                table = inner
            elif rng.random() < 0.2:
                del table[key]
                break
            else:
                table[key] = value
                break
        return values

    if path.suffix == ".toml":
        with contextlib.suppress(TypeError, UnicodeEncodeError):  # TOML has no None, no lone surrogate
            path.write_text(tomli_w.dumps(change(tomllib.loads(path.read_text()))))
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(rng.choice(lines))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    elif path.suffix == ".safetensors":
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        head = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + size :])
    else:
        import torch

        torch.save(change(torch.load(path, weights_only=True)), path)


_KINDS: dict[str, Callable[[Path, random.Random, list[Path]], None]] = {
    "a flipped bit": _flip, "truncation": _cut, "other content": _replace, "an exchange": _swap,
    "another kind": _replace_by_special_file, "another value": _change_value, "another value once more": _change_value,
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
    """Yield hostile names: each part alone, then pairs of parts."""
    for number in range(count):
        yield _PARTS[number] if number < len(_PARTS) else (rng.choice(_PARTS) + rng.choice(_PARTS))[:200]


def prepare_name(template: Path, name: str, number: int) -> tuple[str, ...]:
    """Use ``name`` in one of nine ways in the folder with the study ``s``; return the command to run."""
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
    """Yield commands with absurd settings."""
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


# Where a setting is valid after all, the command fails soon, because there is no such network.
_QUICK = ("--set", "model.name=no_such_network")
