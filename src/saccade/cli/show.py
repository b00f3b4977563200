"""``saccade show``: print the facts of one mechanism."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import click

from saccade import catalog, source
from saccade.architecture_files import Architecture, architectures
from saccade.cli._network import unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["command"]


@click.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def command(name: str, as_json: bool) -> None:
    """Print equation, shapes, source, options, limits and published results of the mechanism NAME.

    For an architecture (`saccade list --architectures`): layout, source and options.
    """
    found = architectures()
    if catalog.mechanism_name(name) not in catalog.all_names() and name in found:
        _print_architecture(found[name], as_json)
        return
    if ":" not in name and name not in catalog.all_names():
        raise unknown_name(name)
    name, _ = catalog.parse(name)
    spec, options = catalog.spec(name), catalog.options(name)
    if as_json:
        facts = {**spec.to_json(), "name": name, "parameters": source.function_body(name, "parameters"),
                 "options": {key: value for key, value in options.items() if value is not ...},
                 "required": [key for key, value in options.items() if value is ...]}  # fmt: skip
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    click.echo(catalog.module_docstring(name) + "\n")
    note = "it replaces a convolution" if spec.kind == "conv" else 'plugged as the identity unless start="paper"'
    symmetries = spec.equivariant if isinstance(spec.equivariant, str) else ", ".join(spec.equivariant)
    neutral: dict[bool | str, str] = {True: "yes", False: f"no ({note})"}
    other_names = [alias for alias, short_name in catalog.all_names().items() if short_name == name != alias]
    lines = {
        "also called": ", ".join(other_names) or "–",
        "kind": spec.kind,
        "evidence": spec.evidence,
        "equal to code of": "; ".join(spec.code) or "–",
        "position": ", ".join(" and ".join(spec.positions(host)) + (f" ({host})" if host != "default" else "")
                              for host in spec.position),
        "options": ", ".join(f"{key} (required)" if value is ... else f"{key} = {value}"
                             for key, value in options.items()) or "none",
        "limits": "; ".join(spec.limits) or "none",
        "parameters": source.function_body(name, "parameters") or "not stated",
        "gate range": "no gate" if spec.gate is None else str(spec.gate),
        "commutes with": symmetries or "–",
        "identity at initialisation": neutral.get(spec.neutral, str(spec.neutral)),
        "in timm": spec.timm or "no",
    }  # fmt: skip
    width = max(map(len, lines))
    for key, value in lines.items():
        click.echo(f"{key.ljust(width)}  " + value.replace("\n", "\n".ljust(width + 3)))
    if spec.published:
        click.echo("\npublished")
        for row in spec.published:
            numbers = [f"{row.params} params" if row.params else "", f"{row.macs} MACs" if row.macs else ""]
            numbers = [*filter(None, numbers), *([f"in {row.unit}"] if any(numbers) else [])]
            numbers.append(f"top-1 {row.top1} %" if row.top1 else "")
            note = f"; {row.note}" if row.note else ""
            positions = [row.where] if isinstance(row.where, str) else row.where
            where = "" if row.where == "paper" else f"; where = {', '.join(positions)}"
            click.echo(f"  {row.net}: {', '.join(filter(None, numbers))}{note}{where} ({row.source})")


def _print_architecture(entry: Architecture, as_json: bool) -> None:
    import torch
    from timm.models import model_entrypoint

    import saccade.models  # noqa: F401 (the import registers our networks with timm)

    function = model_entrypoint(entry.name)
    with torch.device("meta"):
        network = function()
    options = _options(function, network)
    n_parameters = sum(p.numel() for p in network.parameters())
    if as_json:
        facts = {"name": entry.name, "file": entry.file, "title": entry.title, "summary": entry.summary(),
                 "parameters": n_parameters, "options": options}  # fmt: skip
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    click.echo(f"{entry.docstring}\n\n{entry.name}: {entry.summary()}\n")
    click.echo(f"options     {', '.join(f'{key} = {value}' for key, value in options.items())}")
    click.echo(f"parameters  {n_parameters / 1e6:.3f} M with these options")


def _options(function: Callable[..., Any], network: nn.Module) -> dict[str, Any]:
    """Return options and defaults of an architecture's function, and of its class if they are passed on.

    Where the function gives the class another value than its default, it is that value.
    """
    module, options = function.__module__, dict[str, Any]()
    classes = [cls for cls in type(network).__mro__ if cls.__module__ == module and "__init__" in vars(cls)]
    callables: list[Callable[..., Any]] = [function, *classes]
    for called in callables:
        parameters = inspect.signature(called).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "pretrained"}
        options = defaults | options
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    if classes:
        options |= {key: value for key, value in _passed(function, classes[0]).items() if key in options}
    return {key: value for key, value in options.items() if not isinstance(value, type)}


def _passed(function: Callable[..., Any], network_class: Any) -> dict[str, Any]:
    """Return the arguments with which ``function`` builds a network of ``network_class``."""
    import torch

    initialise, passed = network_class.__init__, dict[str, Any]()

    def record(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(initialise).bind(self, *args, **kwargs).arguments
        passed.update({key: value for key, value in bound.items() if key != "self"})
        initialise(self, *args, **kwargs)

    setattr(network_class, "__init__", record)  # noqa: B010 (mypy refuses the assignment)
    try:
        with torch.device("meta"):
            function()
    finally:
        setattr(network_class, "__init__", initialise)  # noqa: B010
    return passed
