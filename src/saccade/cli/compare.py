"""``saccade compare``: does attention help this network on these images?"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saccade.cli import _trust
from saccade.errors import UserError
from saccade.escaping import printable

if TYPE_CHECKING:
    from saccade.recipe import Recipe
    from saccade.study.plan import Study

__all__ = ["command"]

_DEFAULT = "none,se,cbam,das"
_MAX_SLOTS = 1024
"""Each is a process, here or on a node of the cluster."""


@click.command("compare")
@click.option("--recipe", "recipe_file", metavar="FILE", help="A recipe, or the name of one that comes with saccade.")
@click.option("--data", metavar="FOLDER", help="Images: train/<class>/ and test/<class>/, or <class>/. Else digits.")
@click.option("--model", metavar="NAME", help="The host: any name of timm's.")
@click.option(
    "--attention", metavar="LIST", help=f"Mechanisms, name:option=value:where=position.  [default: {_DEFAULT}]"
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
@click.option("--margin", metavar="NUMBER", type=float, help="What counts as equal.  [default: the metric's own]")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Changes the recipe: training.epochs=5.")
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
@click.option("--plan", "only_plan", is_flag=True, help="Say runs, minutes, disk and what could be seen; do nothing.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout; all else on stderr.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe_file: str | None,
    data: str | None,
    model: str | None,
    attention: str | None,
    others: tuple[str, ...],
    task: str | None,
    controls: str,
    seeds: str | None,
    skip_bad: bool,
    margin: float | None,
    settings: tuple[str, ...],
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
    from saccade import catalog
    from saccade.data import layout_of
    from saccade.study.arms import BASELINE
    from saccade.study.arms import arms as arms_of
    from saccade.study.engine import execute, slots_for
    from saccade.study.plan import seeds as seeds_of

    given = [*(["data.skip_bad=true"] if skip_bad else []), *([f"task.name={task}"] if task else [])]
    base = _recipe(recipe_file, data, model, (*settings, *given))
    if recipe_file is not None:
        _trust.check_recipe(base, recipe_file, attention, settings, trust)
    if base.attention.control is not None:
        raise UserError(
            f"the recipe asks for attention.control = {base.attention.control!r}; in a study a control is an arm "
            f"beside its mechanism: leave it out, and say --controls {base.attention.control}"
        )
    if attention is None:
        asked = base.attention.mechanism
        attention = asked if asked != BASELINE else "" if others else _DEFAULT
    arms = arms_of(catalog.split(attention), catalog.split(controls), others)
    numbers = seeds_of(seeds or str(layout_of(base.data).seeds))
    if slots is not None and not 1 <= slots <= _MAX_SLOTS:
        raise UserError(f"slots = {slots}: 1 to {_MAX_SLOTS} runs can go at a time")
    if address is not None and engine != "ray":
        raise UserError(f"address {address!r}: only a Ray cluster has one; it takes --engine ray")
    if only_plan and engine == "ray" and not slots:
        raise UserError("a plan does not ask the cluster for its size; say how many runs at a time: --slots")
    study = _study(base, arms, numbers, margin, out)
    at_a_time = slots or slots_for(base.training.threads, device)
    many = "one per device" if at_a_time is None else f"{min(at_a_time, len(study.runs()))} at a time"
    if engine == "ray" and not slots:
        many = "as many at a time as the cluster has room for"
    names = ", ".join(arm.name for arm in arms)
    click.echo(
        printable(f"{names} × {len(numbers)} seed{'s' * (len(numbers) > 1)} = {len(study.runs())} runs, {many} -> ")
        + printable(study.folder),
        err=as_json,
    )
    if only_plan:
        from saccade.study.forecast import forecast
        from saccade.study.memory import keep_freed_memory

        keep_freed_memory()  # as the workers of a study do: their steps are timed here
        ahead = forecast(study, at_a_time, device)
        click.echo(json.dumps(ahead.to_json(), indent=2) if as_json else printable(ahead.text(), keep="\n"))
        return

    from saccade.cli._screen import Screen

    try:
        with Screen(err=as_json) as screen:
            outcomes = execute(study, slots, device, screen, engine=engine, address=address)
            results = None
            if any(outcome.status != "failed" for outcome in outcomes):
                screen.say("measuring what each arm costs, writing the report")
                from saccade.study.report import write_report  # imports torch: not before the runs

                named = {catalog.named(arm.mechanism) for arm in arms}  # by this command line: its own are trusted
                results = write_report(study.folder, trust=named)
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on in {printable(study.folder)}", err=True)
        raise
    if results is not None and not as_json:
        screen.show(results)
        click.echo(f"\n{printable(study.folder / 'report.html')}")
    elif results is not None:
        click.echo((study.folder / "results.json").read_text(encoding="utf-8"), nl=False)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        click.echo(f"{failed} of {len(outcomes)} runs failed; the same command tries them again", err=True)
        ctx.exit(1)


def _recipe(file: str | None, data: str | None, model: str | None, settings: tuple[str, ...]) -> Recipe:
    """The base recipe: the file's, or the one that suits the images; then the options, then ``--set``.

    Raises:
        UserError: a file, folder or setting is wrong.
    """
    from saccade.data import layout_of
    from saccade.recipe import Recipe, builtin_recipe

    if file is not None:
        named = "/" not in file and "\\" not in file and not file.endswith(".toml") and not Path(file).is_file()
        recipe = builtin_recipe(file) if named else Recipe.load(file)
    else:
        spec = Recipe().with_overrides({"data.source": data or "digits"}).data
        name, suited = layout_of(spec).suited(spec.source)
        recipe = builtin_recipe(name).with_overrides(suited)
    if data is not None:
        recipe = recipe.with_overrides({"data.source": data})
    if model is not None and model != recipe.model.name:  # its options are of another network
        recipe = recipe.with_overrides({"model.name": model, "model.options": {}})
    recipe = recipe.with_overrides(settings)
    # Whole, so that a study goes on from any folder.
    return recipe.with_overrides({"data.source": layout_of(recipe.data).located(recipe.data.source)})


def _study(base: Recipe, arms: Any, seeds: tuple[int, ...], margin: float | None, out: str | None) -> Study:
    """The study in its folder: ``out``, or ``runs/<data>`` with a number after it where others stand there.

    Raises:
        UserError: ``out`` holds another study or cannot be written.
    """
    from saccade.study.plan import Study

    def at(folder: Path) -> Study:
        return Study(base, arms, seeds, folder, margin)

    if out is not None:
        study = at(Path(out))
        return Study.open(out) if study.claim() else study
    home = Path("runs") / Path(base.data.source).name
    for number in count(1):
        study = at(home if number == 1 else home.with_name(f"{home.name}-{number}"))
        try:
            return Study.open(study.folder) if study.claim() else study
        except UserError:
            if (study.folder / "study.toml").exists():
                continue
            raise
    raise AssertionError("count(1) has no end")
