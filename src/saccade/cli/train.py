"""``saccade train``: one run of one recipe."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saccade import catalog
from saccade.cli import _trust
from saccade.escaping import brief, printable
from saccade.events import (
    Caution,
    EpochEnded,
    Event,
    FilesChecked,
    PicturesNotKept,
    SettingsDecided,
    StepTaken,
    TrainingBegan,
)

if TYPE_CHECKING:
    from rich.console import Console

    from saccade.recipe import Recipe

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", default="digits")
@click.option("--attention", metavar="NAME", help="Plug this mechanism: none, das, das:alpha=0.1, my.module:Class.")
@click.option("--task", metavar="NAME", help="What is learnt.  [default: what the labels are for]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe: training.epochs=3.")
@click.option("--skip-bad", is_flag=True, help="Leave out image files that cannot be read, and count them.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/RECIPE-ATTENTION-seedN if not given.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The result as JSON and nothing else.")
@click.pass_context
def command(
    context: click.Context,
    recipe: str,
    attention: str | None,
    task: str | None,
    settings: tuple[str, ...],
    skip_bad: bool,
    seed: int | None,
    device: str,
    out: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Train as RECIPE says: a TOML file, or the name of a recipe that comes with saccade.

    The same command again goes on where a killed run stopped. Exits with 1 if the loss became infinite or no number.
    """
    given = {
        "attention.mechanism": attention,
        "training.seed": seed,
        "data.skip_bad": skip_bad or None,
        "task.name": task,
    }
    read = _recipe(recipe)
    _trust.check_recipe(read, recipe, attention, settings, trust)
    asked = read.with_overrides({key: value for key, value in given.items() if value is not None})
    asked = asked.with_overrides(settings)
    if asked.attention.mechanism != "none":
        asked = asked.with_overrides({"attention.mechanism": catalog.canonical_text(asked.attention.mechanism)})
    folder = out or Path("runs") / _slug(Path(recipe).stem, asked)

    from rich.console import Console
    from rich.text import Text

    console = Console(quiet=as_json, highlight=False, soft_wrap=True)
    length = _epochs(asked.training.epochs)
    console.print(Text(printable(f"{folder}: {asked.model.name}, attention {_attention(asked)}, {length}")))
    result = _run(asked, folder, device, console)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        console.print(Text(printable(_sentence(result, folder))))
        if (constant := result.get("constant")) and not result["diverged"]:
            same = f"note: for every test image the plug does the same at {', '.join(map(brief, constant))}"
            console.print(Text(printable(same)))
    context.exit(1 if result["diverged"] else 0)


def _recipe(name: str) -> Recipe:
    """The file ``name``, or the recipe of that name that comes with the package."""
    from saccade.recipe import Recipe, builtin_recipe

    path = Path(name)
    return Recipe.load(path) if path.suffix or len(path.parts) > 1 or path.is_file() else builtin_recipe(name)


def _attention(recipe: Recipe) -> str:
    part = recipe.attention
    return f"{part.control} for {part.mechanism}" if part.control else part.mechanism


def _slug(stem: str, recipe: Recipe) -> str:
    """The name of the run folder: recipe, attention and seed in letters that every file system takes."""
    words = (stem, _attention(recipe), f"seed{recipe.training.seed}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in words)


def _run(recipe: Recipe, folder: Path, device: str, console: Console) -> dict[str, Any]:
    """Trains under a bar of steps, with a line for each epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=None)
        steps = epochs = 0

        def listen(event: Event) -> None:
            nonlocal steps, epochs
            match event:
                case FilesChecked(done, total):
                    progress.update(bar, total=total, completed=done, description="looking at the images")
                case Caution(text):
                    console.print(f"caution: {text}", markup=False)
                case PicturesNotKept(reason):
                    console.print(f"decoded images are not kept for the next run: {reason}", markup=False)
                case SettingsDecided():
                    console.print(event.text(), markup=False)
                case TrainingBegan(epochs, steps, epoch):
                    progress.update(bar, total=steps * epochs, completed=steps * epoch, description="epoch 0")
                case StepTaken(epoch, step):
                    done = steps * (epoch - 1) + step
                    progress.update(bar, completed=done, description=f"epoch {epoch}/{epochs}")
                case EpochEnded(epoch, row):
                    progress.update(bar, completed=steps * epoch)
                    console.print(_line(row, epochs), markup=False)

        from saccade.study.memory import keep_freed_memory
        from saccade.training import train

        keep_freed_memory()
        return train(recipe, folder, device=device, notify=listen)


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _line(row: Mapping[str, Any], epochs: int) -> str:
    """One epoch in words."""
    parts = [f"loss {math.fsum(row['losses'].values()):.3f}"] if row["losses"] else []
    parts += [f"{name} {score:.2f}" for name, score in row["scores"].items() if score is not None]
    number = f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}"
    return "   ".join([number, *parts, f"{row['seconds']:.1f} s"])


def _sentence(result: dict[str, Any], folder: Path) -> str:
    """How the run ended."""
    from saccade.imagefiles import left_out

    if result["diverged"]:
        place = result["diverged"]["message"]
        return (
            f"{place}. Kept: the network after epoch {result['epochs']}, {result['metric']} {result['score']}, in "
            f"{folder}. A lower training.lr or a longer training.warmup_epochs often helps."
        )
    words = left_out(result.get("left_out", {}))
    return (
        f"{result['metric']} {result['score']} on the test images after {_epochs(result['epochs'])} in "
        f"{result['seconds']:.0f} s; {result['parameters']:,} parameters; in {folder}{f'; {words}' if words else ''}"
    )
