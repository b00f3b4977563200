"""``saccade compare``: train a network with and without attention, and compare the results."""

from __future__ import annotations

import json
from typing import Any

import click

from saccade.cli._trust import trust_option
from saccade.escaping import printable
from saccade.events import Event, StudyPlanned

__all__ = ["command"]


@click.command("compare")
@click.option(
    "--recipe",
    "recipe_file",
    metavar="FILE",
    help="Recipe file, or name of a built-in recipe.  [default: chosen by data and host]",
)
@click.option("--data", metavar="FOLDER", help="Folder of images in any layout of docs/data.md.  [default: digits]")
@click.option("--model", metavar="NAME", help="Host: a timm model, or my.module:function that builds one.")
@click.option("--pretrained", is_flag=True, help="Start from the host's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Start from the weights of a safetensors file.")
@click.option(
    "--attention",
    metavar="LIST",
    help="Mechanisms, name:option=value:where=position.  [default: none,se,cbam,das]",
)
@click.option(
    "--arm",
    "arms",
    metavar="TEXT",
    multiple=True,
    help="Add an arm that differs from the recipe: 'wide: model=resnet50 attention=se training.lr=0.01'; repeatable.",
)
@click.option("--task", metavar="NAME", help="Task, such as classify.  [default: chosen by the labels]")
@click.option(
    "--controls",
    metavar="LIST",
    default="",
    help="Add controls: extra, noise or shuffled for every mechanism, noise:das for das only.",
)
@click.option(
    "--seeds", metavar="N | LIST", help="Number of seeds, or a list of seeds.  [default: 3 on digits, 5 on your images]"
)
@click.option("--skip-bad", is_flag=True, help="Leave out and count image files that cannot be read.")
@click.option(
    "--margin",
    metavar="NUMBER",
    type=float,
    help="Largest difference that counts as equal, in the metric's unit.  [default: the metric's own]",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a key of the recipe: training.epochs=5; repeatable.",
)
@click.option(
    "--tune",
    metavar="KEY[=LIST]",
    multiple=True,
    help="Tune a key of every arm on validation images first: training.lr=0.01,0.03,0.1. "
    "Without a list, lr tries 1/3, 1 and 3 times the recipe's value.",
)
@click.option(
    "--tune-seeds",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="Number of tuning seeds per seed of the study; every arm tries every value with each.",
)
@click.option(
    "--out", metavar="FOLDER", help="Folder of the study; repeat the command to resume it.  [default: runs/…]"
)
@click.option(
    "--slots", metavar="N", type=int, help="Number of parallel runs.  [default: as cores or accelerators allow]"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Engine of the runs: processes on this machine, or a Ray cluster.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Address of the Ray cluster, or auto.  [default: RAY_ADDRESS, else a new cluster]",
)
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Print runs, minutes, disk space and smallest detectable difference; train nothing.",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout, everything else on stderr.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe_file: str | None,
    data: str | None,
    model: str | None,
    pretrained: bool,
    checkpoint: str | None,
    attention: str | None,
    arms: tuple[str, ...],
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
    """Train a network with and without attention, with several seeds, and judge whether each mechanism helps.

    A control replaces a mechanism at the same sites: extra is a plain bottleneck with about as many parameters, noise
    is a random constant gate, shuffled is the mechanism with the gate of another image.

    Writes report.html, table.md, table.tex and results.json. Without options it trains on built-in images of digits,
    which takes minutes on two cores. Repeat the command to resume an interrupted study. The exit code is 1 if runs
    failed.
    """
    from saccade.comparison import compare, forecast

    arguments: dict[str, Any] = {
        "data": data, "model": model, "attention": attention, "seeds": seeds, "controls": controls, "arms": arms,
        "recipe": recipe_file, "task": task, "pretrained": pretrained, "checkpoint": checkpoint, "settings": settings,
        "skip_bad": skip_bad, "margin": margin, "tune": tune, "tune_seeds": tune_seeds, "out": out,
        "slots": slots, "engine": engine, "address": address, "device": device, "trust": trust,
    }  # fmt: skip
    if only_plan:
        from saccade.study.memory import keep_freed_memory

        keep_freed_memory()  # as in workers, so that steps timed here are as fast as theirs

        def print_plan(event: Event) -> None:
            if isinstance(event, StudyPlanned):
                click.echo(printable(event.description), err=as_json)

        plan = forecast(**arguments, notify=print_plan)
        click.echo(json.dumps(plan.to_json(), indent=2) if as_json else printable(plan.text(), keep="\n"))
        return

    from saccade.screen import Screen

    screen = Screen(err=as_json)
    try:
        with screen:
            results = compare(**arguments, notify=screen)
    except KeyboardInterrupt:
        if screen.folder is not None:
            click.echo(f"stopped; repeat the command to resume {printable(screen.folder)}", err=True)
        raise
    assert screen.folder is not None  # set when the study was planned
    failed = sum(run.status == "failed" for run in results.runs)
    if failed < len(results.runs):
        if as_json:
            click.echo((screen.folder / "results.json").read_text(encoding="utf-8"), nl=False)
        else:
            screen.show(results)
            click.echo(f"\n{printable(screen.folder / 'report.html')}")
    if failed:
        click.echo(f"{failed} of {len(results.runs)} runs failed; repeat the command to try them again", err=True)
        ctx.exit(1)
