"""``saccade train``: train one network as a recipe says."""

from __future__ import annotations

import json

import click

from saccade.cli._trust import trust_option
from saccade.escaping import brief

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", required=False)
@click.option("--data", metavar="FOLDER", help="Folder of images in any layout of docs/data.md.  [default: digits]")
@click.option("--model", metavar="NAME", help="Host: a timm model, or my.module:function that builds one.")
@click.option("--pretrained", is_flag=True, help="Start from the host's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Start from the weights of a safetensors file.")
@click.option("--attention", metavar="NAME", help="Insert this mechanism: none, das, das:alpha=0.1, my.module:Class.")
@click.option("--task", metavar="NAME", help="Task, such as classify.  [default: chosen by the labels]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the recipe: training.epochs=3; repeatable.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out and count image files that cannot be read.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--out", metavar="FOLDER", help="Folder of the run.  [default: runs/RECIPE-ATTENTION-seedN]")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print only the result, as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
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
    """Train one network as RECIPE says: a TOML file, or the name of a built-in recipe.

    Without RECIPE, the one that suits images and host is used. Repeat the command to resume an interrupted run. The
    exit code is 1 if the loss became infinite or NaN.
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
        if (constant_sites := result.get("constant")) and not run.diverged:
            screen.print_line(
                f"note: the gate or context is the same for all test images at {', '.join(map(brief, constant_sites))}"
            )
    ctx.exit(1 if run.diverged else 0)
