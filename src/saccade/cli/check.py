"""``saccade check``: test a mechanism or an architecture against its contract, a list of properties called promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from saccade import catalog, source
from saccade.cli._network import parse_input_size, unknown_name
from saccade.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from saccade.contract import Record

__all__ = ["command"]


@click.command("check")
@click.argument("name")
@click.option(
    "--channels", default=64, show_default=True, type=click.IntRange(1),
    help="Number of channels in most trials of a mechanism.",
)  # fmt: skip
@click.option("--input", "size", metavar="C,H,W", help="Image size of an architecture.  [default: the network's own]")
@click.option("--option", "assignments", metavar="KEY=VALUE", multiple=True, help="An option; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def command(name: str, channels: int, size: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Test the mechanism or the architecture NAME against the contract, a list of properties (promises).

    NAME is a mechanism (`saccade list`), package.module:Class of your own, a network of Saccade or timm, or
    package.module:function that builds a network; options are added as name:option=value. A list with one
    value per stage is refused. The exit code is 1 if a promise is broken.
    """
    plain_name = catalog.mechanism_name(name)
    options = catalog.parse_assignments(assignments, name)
    if _is_mechanism(plain_name):
        if size is not None:
            raise click.UsageError("--input is for architectures; a mechanism is tested with maps of --channels")
        promises, records = _examine_mechanism(name, options, channels)
    else:
        options = catalog.parse_assignments(name.removeprefix(plain_name).split(":")[1:], name) | options
        promises, records = _examine_architecture(plain_name, options, size)
    with _progress([promise.__name__ for promise in promises]) as track:
        results = list(track(records))
    if as_json:
        click.echo(json.dumps([asdict(record) for record in results], indent=2))
    else:
        _print_records(name, promises, results)
    if any(record.status == "failed" for record in results):
        click.get_current_context().exit(1)


def _is_mechanism(name: str) -> bool:
    """Return True for a mechanism of the catalogue, and for a third-party class or function with a SPEC.

    Any other third-party function builds a network.
    """
    if ":" not in name:
        return name in catalog.all_names()
    return not source.is_function(name) or source.spec_literal(name) is not None


def _examine_mechanism(
    text: str, more_options: Mapping[str, Any], channels: int
) -> tuple[Sequence[Callable[[Any], None]], Iterator[Record]]:
    name, options = catalog.parse(text)
    catalog.resolve_options(name, more_options)
    options |= more_options
    defaults = catalog.options(name)
    for key, value in options.items():
        if isinstance(value, list) and not isinstance(defaults.get(key), (list, tuple)):
            raise UserError(
                f"{key} = {value} gives one value per stage, but a mechanism alone has no stages; give a single value"
            )
    spec = catalog.declared_spec(name)

    from saccade.contract import PROMISES, examine

    return PROMISES, examine(catalog.load(name), spec, channels=channels, options=options)


def _examine_architecture(
    name: str, options: Mapping[str, Any], size: str | None
) -> tuple[Sequence[Callable[[Any], None]], Iterator[Record]]:
    import timm
    from timm.models import is_model, model_entrypoint

    import saccade.models  # noqa: F401 (the import registers our networks with timm)
    from saccade import builders
    from saccade.contract import ARCHITECTURE_PROMISES, examine_architecture

    make: Callable[..., nn.Module]
    if ":" in name:
        make = builders.find_builder((name, None))
        module = make.__module__
    elif is_model(stem := name.partition(".")[0]):
        make, module = partial(timm.create_model, name), model_entrypoint(stem).__module__
    else:
        raise unknown_name(name)
    known_failures = getattr(sys.modules[module], "KNOWN_FAILURES", {})
    input_size: Any = None if size is None else parse_input_size(size)
    records = examine_architecture(make, input_size=input_size, options=options)
    return ARCHITECTURE_PROMISES, (_excused(record, known_failures) for record in records)


def _excused(record: Record, known_failures: Mapping[str, str]) -> Record:
    """Return ``record``, skipped if it is a known failure; with other options the promise may hold."""
    if record.status != "failed" or record.promise not in known_failures:
        return record
    return replace(record, status="skipped", reason=f"known failure: {known_failures[record.promise]}")


def _print_records(name: str, promises: Sequence[Callable[[Any], None]], records: Sequence[Record]) -> None:
    summary_by_promise = {promise.__name__: (promise.__doc__ or "").strip().splitlines()[0] for promise in promises}
    width = max(len(record.promise) for record in records)
    first_by_reason: dict[str, str] = {}
    for record in records:
        text = record.reason or summary_by_promise[record.promise]
        if record.status == "failed" and first_by_reason.setdefault(text, record.promise) != record.promise:
            text = f"same reason as {_with_spaces(first_by_reason[text])}"
        click.echo(f"{record.status}  {_with_spaces(record.promise).ljust(width)}  {text}")
    counts = {status: sum(r.status == status for r in records) for status in ("passed", "failed", "skipped")}
    click.echo(f"\n{name}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))


@contextmanager
def _progress(promises: Sequence[str]) -> Iterator[Callable[[Iterable[Record]], Iterator[Record]]]:
    """Show a progress bar with the current promise on a terminal; show nothing elsewhere."""
    if not sys.stderr.isatty():
        yield iter
        return
    from rich.console import Console
    from rich.progress import Progress

    # Keep the current stderr: examine() replaces sys.stderr while torch prints.
    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(_with_spaces(promises[0]), total=len(promises))

        def track(records: Iterable[Record]) -> Iterator[Record]:
            for done, record in enumerate(records, 1):
                bar.update(task, completed=done, description=_with_spaces(promises[min(done, len(promises) - 1)]))
                yield record

        yield track


def _with_spaces(promise: str) -> str:
    return promise.replace("_", " ")
