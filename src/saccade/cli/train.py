"""``saccade train``: one run of one recipe."""

from __future__ import annotations

import json

import click

from saccade.cli import _trust
from saccade.escaping import brief

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", required=False)
@click.option("--data", metavar="FOLDER", help="Images in any layout of docs/data.md.  [default: digits]")
@click.option("--model", metavar="NAME", help="The host: any name of timm's, or my.module:function of your own.")
@click.option("--pretrained", is_flag=True, help="Start from the host's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Start from the weights of a safetensors file.")
@click.option("--attention", metavar="NAME", help="Plug this mechanism: none, das, das:alpha=0.1, my.module:Class.")
@click.option("--task", metavar="NAME", help="What is learnt.  [default: what the labels are for]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe: training.epochs=3.")
@click.option("--skip-bad", is_flag=True, help="Leave out image files that cannot be read, and count them.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--out", metavar="FOLDER", help="Run folder; runs/RECIPE-ATTENTION-seedN if not given.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The result as JSON and nothing else.")
@click.pass_context
def command(
    context: click.Context,
    recipe: str | None,
    data: str | None,
    model: str | None,
    pretrained: bool,
    checkpoint: str | None,
    attention: str | None,
    task: str | None,
    settings: tuple[str, ...],
    skip_bad: bool,
    seed: int | None,
    device: str,
    out: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Train as RECIPE says: a TOML file, or the name of a recipe that comes with saccade.

    Without RECIPE it is the one that suits images and host. The same command again goes on where a killed run stopped.
    Exits with 1 if the loss became infinite or no number.
    """
    from saccade.one_run import train
    from saccade.screen import RunScreen
    from saccade.study.memory import keep_freed_memory

    keep_freed_memory()
    with RunScreen(quiet=as_json) as screen:
        run = train(
            recipe, data=data, model=model, attention=attention, seed=seed, task=task, pretrained=pretrained,
            checkpoint=checkpoint, settings=settings, skip_bad=skip_bad, out=out, device=device, trust=trust,
            notify=screen,
        )  # fmt: skip
    result = run.result
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        screen.print_line(run.sentence())
        if (constant := result.get("constant")) and not run.diverged:
            screen.print_line(f"note: for every test image the plug does the same at {', '.join(map(brief, constant))}")
    context.exit(1 if run.diverged else 0)
