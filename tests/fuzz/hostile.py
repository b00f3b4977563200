"""Damage the folder of a saved network in many ways; count tracebacks, commands, connections and written files.

``python tests/fuzz/hostile.py --count 300 --seed 0``: each mutation is loaded by ``saccade.load``, which may refuse
it (UserError) or load it where the damage is harmless. Anything else is a finding; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import collections
import copy
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import UserError, load, plug, replace, save
from saccade.surgery import plug_control

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZE = (3, 16, 16)
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    3,
    1.5,
    10**9,
    -(10**9),
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "se",
    "none",
    "os:system",
    "pydoc:pipepager",
    "subprocess:Popen",
    "builtins:exec",
    "hf-hub:owner/name",
    "hf_hub:owner/name",
    "../../../../etc/passwd",
    "https://example.org/model.safetensors",
    "a\x1b[31mb\r\n",
    "\ud800",
    "x" * 100_000,
    [],
    {},
    [None],
    [[[[]]]],
    {"mechanism": "os:system"},
    {"": {}},
    [10**9, 10**9],
]
"""What a value of a file may be exchanged for."""
OPTIONS: dict[str, Any] = {
    "pretrained": True,
    "pretrained_cfg": {"url": "https://example.org/x"},
    "pretrained_cfg_overlay": {"hf_hub_id": "a/b"},
    "weights": "DEFAULT",
    "weights_backbone": "DEFAULT",
    "encoder_weights": "imagenet",
    "checkpoint_path": "/etc/passwd",
    "cache_dir": "/tmp/elsewhere",
    "trust_remote_code": True,
    "auto_map": {"AutoModel": "evil.Net"},
    "num_classes": 10**9,
    "in_chans": 10**9,
    "width": 10**6,
    "act_layer": "os:system",
    "features_only": True,
    "nonsense": 1,
}
"""Options that a host of a file may be given."""
HOSTS: list[dict[str, Any]] = [
    {"call": "os:system", "options": {"command": "touch hostile"}},
    {"call": "subprocess:run", "options": {"args": "true"}},
    {"timm": "hf-hub:owner/name"},
    {"timm": "local-dir:/etc"},
    {"torchvision": "resnet18", "options": {"weights": "DEFAULT"}},
    {"call": "timm.models:create_model", "options": {"model_name": "hf-hub:owner/name"}},
    {"call": "torchvision.datasets.utils:download_url", "options": {"url": "https://example.org", "root": "."}},
    {"call": "torch.hub:load", "options": {"repo_or_dir": "owner/name", "model": "x"}},
    {"timm": "resnet10_small", "call": "os:abort"},
    {
        "call": "segmentation_models_pytorch.decoders.unet.model:Unet",
        "options": {"encoder_name": "tu-hf_hub:owner/name"},
    },
    {"torchvision": "vit_b_16", "options": {"image_size": 10**6}},
    {"timm": "vit_tiny_patch16_224", "options": {"depth": 10**6}},
]
_FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "shutil.rmtree",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation."""

    what: str
    """The damage, in words."""
    kind: str
    """``refused``, ``loaded``, ``traceback``."""
    message: str
    acts: tuple[str, ...]
    """Commands, connections and writes that were tried meanwhile."""

    @property
    def bad(self) -> bool:
        """Whether it is a finding."""
        return self.kind == "traceback" or bool(self.acts)


_acts: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _acts is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in _FORBIDDEN or writes:
        _acts.append(f"{event} {str(arguments)[:200]}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """Inside, commands, connections and files opened for writing are put down, as Python's own audit reports them."""
    global _acts
    if not getattr(sys, "_saccade_hostile", False):
        sys.addaudithook(_hook)
        sys._saccade_hostile = True  # type: ignore[attr-defined]
    _acts = []
    try:
        yield _acts
    finally:
        _acts = None


def sample(folder: Path) -> None:
    """Save a small network with a plug, a control and a replaced convolution into ``folder``."""
    torch.manual_seed(0)
    host = timm.create_model("resnet10_small", num_classes=3, width=16)
    plug(host, "cbam", where="layer1", input=SIZE)
    plug(host, "eca", where="layer2", input=SIZE)
    plug_control(host, "shuffled", "se", where="layer3", input=SIZE)
    replace(host, "dcn2", where="layer4.0.conv1", input=SIZE)
    for tensor in host.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    options = {"num_classes": 3, "width": 16}
    save(host, folder, host={"timm": "resnet10_small", "options": options}, input=SIZE, classes=list("abc"), note="x")


def mutate(source: Path, target: Path, draw: random.Random) -> str:
    """Copy the folder ``source`` to ``target`` and damage it; return the damage in words."""
    shutil.copytree(source, target)
    return draw.choices((_bytes, _value, _host, _weights, _missing), (2, 8, 3, 4, 1))[0](target, draw)


def _bytes(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice((CONFIG, WEIGHTS))
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content) if path.name == CONFIG else min(len(content), 4000))
    match draw.randrange(4):
        case 0:
            content[place] ^= 1 << draw.randrange(8)
        case 1:
            del content[place:]
        case 2:
            content[place:place] = draw.randbytes(9)
        case _:
            content = bytearray(draw.choice((b"", b"\xff\xfe", b"[" * 100_000, b"null", b"{}", b'{"format": 1}')))
    path.write_bytes(content)
    if path.name == WEIGHTS and draw.random() < 0.8:
        _sign(folder)
    return f"bytes of {path.name} from {place}"


def _value(folder: Path, draw: random.Random) -> str:
    config = json.loads((folder / CONFIG).read_text())
    places = list(_places(config))
    holder, key, name = draw.choice(places)
    match draw.randrange(5):
        case 0 if isinstance(holder, dict):
            del holder[key]
            what = f"without {name}"
        case 1 if isinstance(holder[key], (dict, list)):
            other = copy.deepcopy(draw.choice(places))
            holder[key] = other[0][other[1]]
            what = f"{name} = what {other[2]} is"
        case _:
            holder[key] = value = copy.deepcopy(draw.choice(VALUES))
            what = f"{name} = {str(value)[:60]!r}"
    _write(folder, config)
    return what


def _host(folder: Path, draw: random.Random) -> str:
    config = json.loads((folder / CONFIG).read_text())
    if draw.random() < 0.5:
        config["host"] = draw.choice(HOSTS)
        what = f"host = {config['host']}"
    else:
        key = draw.choice(list(OPTIONS))
        config["host"]["options"][draw.choice((key, key.upper(), key.replace("_", "-")))] = OPTIONS[key]
        what = f"host.options.{key} = {OPTIONS[key]}"
    _write(folder, config)
    return what


def _weights(folder: Path, draw: random.Random) -> str:
    path = folder / WEIGHTS
    state = load_file(path)
    key = draw.choice(list(state))
    what = draw.choice(("nan", "inf", "dtype", "gone", "new", "shape", "empty", "header", "prefix"))
    match what:
        case "nan" | "inf":
            state[key] = torch.full_like(state[key].float(), float(what))
        case "dtype":
            kinds = (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8, torch.float16)
            state[key] = state[key].to(draw.choice(kinds))
        case "gone":
            del state[key]
        case "new":
            state[draw.choice(("x", "a\x1b[31m", "layer1.saccade.x", ""))] = torch.ones(2)
        case "shape":
            state[key] = torch.zeros(*state[key].shape, 2)
        case "empty":
            state[key] = torch.zeros(0)
        case "prefix":
            state = {f"net.{name}": value for name, value in state.items()}
        case _:
            header = draw.choice(
                (b"{}", b"[]", b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}')
            )
            path.write_bytes(struct.pack("<Q", draw.choice((len(header), 2**62))) + header + b"\0" * 4)
    if what != "header":
        save_file({name: value.contiguous() for name, value in state.items()}, path, {"format": "pt"})
    _sign(folder)
    return f"{what} at {key!r} in {WEIGHTS}"


def _missing(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice((CONFIG, WEIGHTS))
    path.unlink()
    if draw.random() < 0.5:
        path.mkdir()
    return f"{path.name} is {'a folder' if path.exists() else 'missing'}"


def _places(value: Any, name: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every value in a JSON tree, as the container, the key and the dotted name."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key, f"{name}.{key}".strip(".")
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key], f"{name}.{key}")


def _write(folder: Path, config: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(config))


def _sign(folder: Path) -> None:
    """Write the digest of the damaged weights into ``config.json``, as an attacker would."""
    config = json.loads((folder / CONFIG).read_text())
    config["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    _write(folder, config)


def trial(what: str, run: Callable[[], object]) -> Outcome:
    """Call ``run`` on damaged files and report what became of it."""
    with watched() as acts:
        try:
            run()
            kind, message = "loaded", ""
        except UserError as error:
            kind, message = "refused", str(error)
            if not message.isprintable() or len(message) > 2000:
                kind = "traceback"  # a terminal would not show it as it is meant
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kind, message = "traceback", "".join(traceback.format_exception(error)[-3:])
    return Outcome(what, kind, message, tuple(acts))


def saved_folders(count: int, seed: int) -> tuple[list[Outcome], float]:
    """The outcomes of ``count`` mutations of a saved network, and by how many MiB the process grew meanwhile."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "source")
        sample(source)
        load(source)  # whatever is imported late is imported now
        before = _largest()
        for number in range(count):
            target = Path(place, "target")
            what = mutate(source, target, random.Random(f"{seed}/{number}"))
            found.append(trial(f"{number}: {what}", lambda: load(target)))  # noqa: B023
            shutil.rmtree(target)
        return found, _largest() - before


def _largest() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    found, grown = saved_folders(asked.count, asked.seed)
    for outcome in found:
        if outcome.bad:
            print(f"{outcome.kind}: {outcome.what}\n  {outcome.message}\n  {outcome.acts}")
    kinds = collections.Counter(outcome.kind for outcome in found)
    acts = sum(len(outcome.acts) for outcome in found)
    print(
        f"{len(found)} mutations: {kinds['refused']} refused, {kinds['loaded']} loaded, {kinds['traceback']} "
        f"tracebacks, {acts} commands, connections or writes; memory grew by {grown:.0f} MiB"
    )
    sys.exit(any(outcome.bad for outcome in found))


if __name__ == "__main__":
    main()
