"""``saccade compare``: does attention help this network on these images?"""

from __future__ import annotations

import json
from typing import Any

import click

from saccade.cli import _trust
from saccade.escaping import printable
from saccade.events import Event, StudyPlanned

__all__ = ["command"]


@click.command("compare")
@click.option("--recipe", "recipe_file", metavar="FILE", help="A recipe, or the name of one that comes with saccade.")
@click.option("--data", metavar="FOLDER", help="Images in any layout of docs/data.md.  [default: digits]")
@click.option("--model", metavar="NAME", help="The host: any name of timm's, or my.module:function of your own.")
@click.option("--pretrained", is_flag=True, help="Start from the host's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Start from the weights of a safetensors file.")
@click.option(
    "--attention",
    metavar="LIST",
    help="Mechanisms, name:option=value:where=position.  [default: none,se,cbam,das]",
)
@click.option(
    "--arm",
    "others",
    metavar="TEXT",
    multiple=True,
    help="Any difference of recipe: 'wide: model=resnet50 attention=se training.lr=0.01'; repeatable.",
)
@click.option("--task", metavar="NAME", help="What is learnt.  [default: what the labels are for]")
@click.option("--controls", metavar="LIST", default="", help="extra, noise, shuffled: of each; noise:das: of das.")
@click.option("--seeds", metavar="N | LIST", help="How many, or which.  [default: 3 on digits, 5 on your images]")
@click.option("--skip-bad", is_flag=True, help="Leave out image files that cannot be read, and count them.")
@click.option(
    "--margin",
    metavar="NUMBER",
    type=float,
    help="Differences up to this are equal, in the metric's unit.  [default: the metric's own]",
)
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change the recipe: training.epochs=5.")
@click.option(
    "--tune",
    metavar="KEY[=LIST]",
    multiple=True,
    help="Let every arm choose on validation images first: training.lr=0.01,0.03,0.1; lr alone tries ×1/3, ×1, ×3.",
)
@click.option(
    "--tune-seeds",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="Tuning runs of each arm and value, for each seed.",
)
@click.option("--out", metavar="FOLDER", help="The study's folder; the same command goes on there.  [default: runs/…]")
@click.option("--slots", metavar="N", type=int, help="Runs at a time.  [default: what cores or accelerators allow]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the runs are done: processes of this machine, or a Ray cluster.",
)
@click.option(
    "--address", metavar="HOST:PORT", help="Of the cluster, or auto.  [default: RAY_ADDRESS, or one is started]"
)
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Print the number of runs, minutes, disk and the smallest difference to be found; train nothing.",
)
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout; all else on stderr.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe_file: str | None,
    data: str | None,
    model: str | None,
    pretrained: bool,
    checkpoint: str | None,
    attention: str | None,
    others: tuple[str, ...],
    task: str | None,
    controls: str,
    seeds: str | None,
    skip_bad: bool,
    margin: float | None,
    settings: tuple[str, ...],
    tune: tuple[str, ...],
    tune_seeds: int,
    out: str | None,
    slots: int | None,
    engine: str,
    address: str | None,
    device: str,
    only_plan: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Train mechanisms and the plain network with several seeds; say for each whether it helps.

    Controls stand at the sites of a mechanism in its place: extra is a plain bottleneck of about as many parameters,
    noise a random constant gate, shuffled the mechanism with the gate of another image.

    Writes report.html, table.md, table.tex and results.json. Without options: the embedded digits, minutes on two
    cores. Started again, the same command goes on where it stopped. Exit code 1 if runs failed.
    """
    from saccade.comparison import compare, forecast

    asked: dict[str, Any] = {
        "data": data, "model": model, "attention": attention, "seeds": seeds, "controls": controls, "arms": others,
        "recipe": recipe_file, "task": task, "pretrained": pretrained, "checkpoint": checkpoint, "settings": settings,
        "skip_bad": skip_bad, "margin": margin, "tune": tune, "tune_seeds": tune_seeds, "out": out,
        "slots": slots, "engine": engine, "address": address, "device": device, "trust": trust,
    }  # fmt: skip
    if only_plan:
        from saccade.study.memory import keep_freed_memory

        keep_freed_memory()  # as the workers of a study do: their steps are timed here

        def show(event: Event) -> None:
            if isinstance(event, StudyPlanned):
                click.echo(printable(event.description), err=as_json)

        ahead = forecast(**asked, notify=show)
        click.echo(json.dumps(ahead.to_json(), indent=2) if as_json else printable(ahead.text(), keep="\n"))
        return

    from saccade.screen import Screen

    screen = Screen(err=as_json)
    try:
        with screen:
            results = compare(**asked, notify=screen)
    except KeyboardInterrupt:
        if screen.folder is not None:
            click.echo(f"stopped; the same command goes on in {printable(screen.folder)}", err=True)
        raise
    assert screen.folder is not None  # the study was planned
    failed = sum(run.status == "failed" for run in results.runs)
    if failed < len(results.runs):
        if as_json:
            click.echo((screen.folder / "results.json").read_text(encoding="utf-8"), nl=False)
        else:
            screen.show(results)
            click.echo(f"\n{printable(screen.folder / 'report.html')}")
    if failed:
        click.echo(f"{failed} of {len(results.runs)} runs failed; the same command tries them again", err=True)
        ctx.exit(1)
