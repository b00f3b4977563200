"""A plugged network on disk, and back: ``model.safetensors`` and ``config.json``, which says how to rebuild it.

``config.json`` holds ``host`` (how the host is made), ``plugs`` and ``replacements`` (which mechanism with which
options in which carrier, and in the place of which convolution: loading repeats this and searches nothing), ``input``,
``classes``, ``facts`` and the digest of the weights, by which a half-written or mixed-up folder is told. It is written
last.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saccade import catalog
from saccade.errors import UserError
from saccade.probe import example_input, undisturbed
from saccade.surgery.plug import Mechanism, plugs, settle, unplug
from saccade.surgery.plug_module import Plug, carried
from saccade.surgery.replace import again, described
from saccade.surgery.replaced import CHILD, note, originals, replaced
from saccade.surgery.sites import Site

__all__ = ["describe", "load", "rebuild", "save"]

_CONFIG, _WEIGHTS, _FORMAT = "config.json", "model.safetensors", 1
_LOG = logging.getLogger("saccade")


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    host: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``model`` into ``folder``, which is made if needed; files of the same names are replaced.

    Args:
        model: a network, plugged or not.
        folder: where to.
        host: how the network without its plugs is made: ``{"timm": name, "options": {…}}``, ``{"torchvision": name,
            "options": {…}}`` or ``{"call": "package.module:function", "options": {…}}``. None tries timm's own record
            (architecture, classes, input channels), then the class without arguments; a guess counts if what it makes
            has the same keys and shapes and, with these weights, computes the same.
        input: size (C, H, W) the network is meant for.
        classes: their names.
        facts: whatever else JSON can hold.

    Returns:
        what ``config.json`` says. Its ``host`` is None where the host could not be rebuilt: a warning is logged, and
        ``load`` then needs the host.

    Raises:
        UserError: ``host`` makes another network, a fact is no JSON, or the folder cannot be written.
    """
    folder = Path(folder)
    rows = [_row(path, plug) for path, _, plug in carried(model)]
    if rows:
        plugs(model)  # refuses a network that has lost one
    swaps = described(model)
    for name in sorted({row["mechanism"] for row in rows + swaps}):
        try:
            catalog.load(name)
        except UserError as error:
            _LOG.warning("load will need a host that carries its plugs already: %s", error)
    state = _state(model)
    if host is not None:
        made = rebuild(host)
        _compare(_state_of_host(model), made.state_dict(), f"host={dict(host)} makes another network")
    else:
        host = next((guess for guess in _guesses(model) if _same(model, guess, (rows, swaps), state, input)), None)
    config: dict[str, Any] = {
        "format": _FORMAT,
        "host": None if host is None else dict(host),
        "plugs": rows,
        "replacements": swaps,
        "input": None if input is None else list(input),
        "classes": None if classes is None else list(classes),
        "facts": facts,
    }
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise UserError(f"a fact to be saved is no JSON: {error}") from None
    if host is None:
        _LOG.warning(
            "%s cannot be rebuilt from what it says of itself: saccade.load(%r, host=…) will need the host",
            type(model).__name__, str(folder),
        )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, _WEIGHTS, lambda file: save_file(state, file, {"format": "pt"}))
        config["sha256"] = _digest(folder / _WEIGHTS)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        _write(folder, _CONFIG, lambda file: file.write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the network to {folder}: {error}") from None
    return config


def load(folder: str | Path, host: nn.Module | None = None) -> nn.Module:
    """The network that ``save`` wrote into ``folder``, on the CPU, in eval mode.

    Args:
        folder: with ``model.safetensors`` and ``config.json``.
        host: the network without its plugs, for a folder whose ``config.json`` cannot rebuild it; it is plugged, loaded
            and returned. A host that carries plugs already keeps them.

    Raises:
        UserError: a file is missing, broken or does not belong to the other; the host cannot be rebuilt, or its keys or
            shapes are not those of the file. A host that was given is then as it was.
    """
    folder = Path(folder)
    config = describe(folder)
    state = _weights(folder, config)
    own = host is None
    if host is None:
        if config["host"] is None:
            raise UserError(
                f"{folder} does not say how its host is made; give it: saccade.load({str(folder)!r}, host=…)"
            )
        host = rebuild(config["host"])
    bare = next(carried(host), None) is None and next(replaced(host), None) is None
    try:
        if bare:
            _replay(host, config["plugs"], config["replacements"], str(folder))
        _compare(state, host.state_dict(), f"{folder} holds another network than {type(host).__name__}")
    except BaseException:
        if bare and not own:
            unplug(host)
        raise
    for key, value in host.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[key].dtype)
    host.load_state_dict(state)
    for _, convolution in replaced(host):
        note(convolution).known = False
    return host.eval()


def describe(folder: str | Path) -> dict[str, Any]:
    """What ``config.json`` in ``folder`` says: ``host``, ``plugs``, ``replacements``, ``input``, ``classes`` and so on.

    Raises:
        UserError: it is missing, broken or not ours.
    """
    folder = Path(folder)
    path = folder / _CONFIG
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        half = " (the weights are there: saving did not finish)" if (folder / _WEIGHTS).exists() else ""
        raise UserError(f"{folder} holds no saved network: {_CONFIG} is missing{half}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{path} was not written by saccade")
    if config["format"] != _FORMAT:
        raise UserError(f"{path} has format {config['format']}; this version reads format {_FORMAT}")
    lacking = [key for key in ("host", "plugs", "input", "classes", "facts", "sha256") if key not in config]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}")
    config.setdefault("replacements", [])  # a folder of before there were any
    for key in ("plugs", "replacements"):
        if not isinstance(config[key], list):
            raise UserError(f"{path}: {key} is a list of rows, found {config[key]!r}")
    return config


def rebuild(host: Mapping[str, Any]) -> nn.Module:
    """A new network of the kind ``host`` says: see ``save``. The global random state stays as it is.

    Raises:
        UserError: ``host`` names nothing that can be made.
    """
    options = dict(host.get("options") or {})
    with torch.random.fork_rng(devices=[]):
        try:
            made = _maker(host)(**options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the host {dict(host)} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"the host {dict(host)} is a {type(made).__name__}, no torch.nn.Module")
    return made


def _maker(host: Mapping[str, Any]) -> Callable[..., Any]:
    match [key for key in ("timm", "torchvision", "call") if key in host]:
        case ["timm"]:
            import timm

            import saccade.models  # noqa: F401 (its networks are timm's once it is imported)

            return lambda **options: timm.create_model(host["timm"], pretrained=False, **options)
        case ["torchvision"]:
            from torchvision.models import get_model_builder

            builder = get_model_builder(host["torchvision"])
            # The weights come from our file; torchvision would fetch those of a backbone unasked.
            asked = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
            return lambda **options: builder(**{**dict.fromkeys(asked), **options})
        case ["call"]:
            module, _, name = str(host["call"]).partition(":")
            try:
                found: Callable[..., Any] = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise UserError(f"the host {host['call']!r} cannot be imported: {error}") from None
            return found
    raise UserError(f"a host is told by one of the keys timm, torchvision, call; got {dict(host)}")


def _guesses(model: nn.Module) -> list[dict[str, Any]]:
    """How ``model`` may have been made, going by what it says of itself."""
    guesses: list[dict[str, Any]] = []
    facts = getattr(model, "pretrained_cfg", None)
    if isinstance(facts, dict) and facts.get("architecture"):
        options = {"num_classes": getattr(model, "num_classes", None), "in_chans": example_input(model)[0].shape[1]}
        guesses.append({"timm": facts["architecture"], "options": {k: v for k, v in options.items() if v is not None}})
    kind = type(model)
    if kind.__module__ != "__main__" and "<" not in kind.__qualname__ and kind.__module__.partition(".")[0] != "torch":
        guesses.append({"call": f"{kind.__module__}:{kind.__qualname__}", "options": {}})
    return guesses


def _same(
    model: nn.Module,
    guess: Mapping[str, Any],
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    state: dict[str, Tensor],
    input: Sequence[int] | None,
) -> bool:
    """Does the guess make the host, and with these weights compute the same?"""
    try:
        made = rebuild(guess)
        _compare(_state_of_host(model), made.state_dict(), "")
        _replay(made, *rows, "")
    except UserError:
        return False
    like = next(model.parameters(), torch.zeros(()))
    for key, value in made.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[key].dtype)
    made.load_state_dict(state)
    made.to(like.device)
    with torch.no_grad():
        arguments = example_input(model, None if input is None else tuple(input))
        outputs = []
        for network in (model, made):
            with undisturbed(network):
                try:
                    outputs.append(network(*arguments))
                except Exception:  # it takes something else: the keys and shapes must do
                    return network is model
    return _close(*outputs)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_close, a, b))
    return type(a) is type(b)


def _row(path: str, plug: Plug) -> dict[str, Any]:
    site = asdict(plug.site)
    prefix = path.removesuffix(site["carrier"]) if path.endswith(site["carrier"]) else ""
    site |= {"path": prefix + site["path"], "carrier": path}
    return {
        "mechanism": plug.name,
        "options": plug.options,
        "neutral": plug.a is not None,
        "position": plug.position,
        "site": site,
        "reads": [prefix + carrier for carrier in plug.reads],
    }


def _replay(host: nn.Module, rows: list[dict[str, Any]], swaps: list[dict[str, Any]], owner: str) -> None:
    """Plug ``host`` and replace in it as the rows of a ``config.json`` say."""
    like = next(host.parameters(), torch.zeros(()))
    new = []
    with torch.random.fork_rng(devices=[]):
        for row in rows:
            try:
                site = Site(**{**row["site"], "size": tuple(row["site"]["size"])})
                name, options, neutral, position = (row[key] for key in ("mechanism", "options", "neutral", "position"))
                reads = tuple(row.get("reads", ()))
            except (KeyError, TypeError) as error:
                raise UserError(f"{owner}: a row of plugs in {_CONFIG} is broken: {error}") from None
            module = Mechanism.of(name).build(site, options)
            plug = Plug(module, site=site, name=name, options=options, position=position, neutral=neutral, reads=reads)
            new.append(plug.to(like.device))
        settle(host, new, lambda: again(host, swaps, owner))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors wants it: contiguous, on the CPU, no two tensors of one memory."""
    state: dict[str, Tensor] = {}
    seen = set()
    for key, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        if tensor.numel():
            seen.add(tensor.untyped_storage().data_ptr())
        state[key] = tensor
    return state


def _state_of_host(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as it was before anything was plugged or replaced."""
    prefixes = tuple(f"{path}.{name}." for path, m in model.named_modules(remove_duplicate=False)
                     for name, child in m.named_children() if isinstance(child, Plug) or name == CHILD)  # fmt: skip
    prefixes = tuple(prefix.removeprefix(".") for prefix in prefixes)
    with originals(model):
        state = model.state_dict()
    return {key: value for key, value in state.items() if not (prefixes and key.startswith(prefixes))}


def _compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], message: str) -> None:
    """Raise a UserError that names the keys and shapes in which two state dicts differ."""
    parts = (
        ("the network has no", [key for key in wanted if key not in found]),
        ("the file has no", [key for key in found if key not in wanted]),
        ("of another shape", [f"{key} {tuple(wanted[key].shape)} for {tuple(found[key].shape)}" for key in wanted
                              if key in found and wanted[key].shape != found[key].shape]),
    )  # fmt: skip
    told = [f"{what} {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for what, keys in parts if keys]
    if told:
        raise UserError(f"{message}: {'; '.join(told)}")


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} is half a checkpoint: {_WEIGHTS} is missing")
    try:
        if _digest(path) != config["sha256"]:
            raise UserError(f"{path} is damaged or not the file that {_CONFIG} was written for: its SHA-256 differs")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    temporary = folder / f".{name}.{os.getpid()}.part"
    try:
        write(temporary)
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
