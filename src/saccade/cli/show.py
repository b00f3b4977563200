"""``saccade show``: print the facts of one mechanism."""

from __future__ import annotations

import json

import click

from saccade import catalog, source

__all__ = ["command"]


@click.command("show")
@click.argument("mechanism")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def command(mechanism: str, as_json: bool) -> None:
    """Print equation, shapes, source, options, limits and published results of MECHANISM."""
    name, _ = catalog.parse(mechanism)
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
